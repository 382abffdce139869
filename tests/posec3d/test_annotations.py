"""Poses of others: what each format says arrives in the clips, and what is wrong with a file is said of that clip."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
from scipy.io import savemat

from posec3d.annotations import FORMATS, Options, SourceError, matlab, open_annotations, source
from posec3d.skeletons import SKELETONS

RNG = np.random.default_rng(0)


def written(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(folder)


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


def read(name, uri, **options):
    """Clips and errors by clip_id."""
    found = {}
    for entry in open_annotations(name, uri, Options(**options)).entries:
        try:
            found[entry.clip_id] = entry.read()
        except SourceError:
            raise
        except Exception as error:
            found[entry.clip_id] = error
    return found


def only(found):
    (clip,) = found.values()
    if isinstance(clip, Exception):
        raise clip
    return clip


def mat(**variables):
    file = io.BytesIO()
    savemat(file, variables)
    return file.getvalue()


# PYSKL and MMAction2


def annotation(name="a", m=2, t=4, v=17, **changes):
    return {
        "frame_dir": name,
        "total_frames": t,
        "img_shape": (120, 160),
        "original_shape": (120, 160),
        "label": 0,
        "keypoint": (RNG.integers(0, 400, (m, t, v, 2)) / 4).astype(np.float16),  # quarter pixels
        "keypoint_score": (RNG.integers(0, 256, (m, t, v)) / 255).astype(np.float32),
    } | changes


def pickled(tmp_path, content, name="a.pkl"):
    return written(tmp_path, {name: pickle.dumps(content, 4)}) + f"/{name}"


def test_pyskl_splits_labels_and_sizes_arrive(tmp_path):
    first, second = annotation("a", label=3), annotation("b", m=1, label=np.int64(1), img_shape=np.array([480, 640]))
    uri = pickled(
        tmp_path, {"split": {"train": ["a"], "val": ["b"], "all": ["a", "b"]}, "annotations": [first, second]}
    )
    found = read("pyskl", uri, fps=25.0)
    a, b = found["a"], found["b"]
    assert list(found) == ["a", "b"]
    assert (a.label, a.label_name, a.splits) == (3, "3", ("train", "all"))
    assert (b.label, b.label_name, b.splits) == (1, "1", ("val", "all"))
    assert (a.height, a.width, b.height, b.width) == (120, 160, 480, 640)
    assert (a.num_frames, a.num_persons, a.skeleton, a.fps, a.video) == (4, 2, "coco17", 25.0, "")
    np.testing.assert_array_equal(a.keypoints, first["keypoint"])
    np.testing.assert_array_equal(a.scores, first["keypoint_score"])


def test_pyskl_a_list_has_no_splits(tmp_path):
    assert only(read("pyskl", pickled(tmp_path, [annotation()]))).splits == ()


def test_pyskl_a_split_is_matched_by_filename_if_the_first_annotation_has_one(tmp_path):
    items = [annotation("a", filename="x.mp4"), annotation("x.mp4", filename="y.mp4")]
    found = read("pyskl", pickled(tmp_path, {"split": {"train": ["x.mp4"]}, "annotations": items}))
    assert {name: clip.splits for name, clip in found.items()} == {"a": ("train",), "x.mp4": ()}


def test_pyskl_splits_may_come_after_the_annotations(tmp_path):
    content = {"annotations": [annotation("a"), annotation("b")], "split": {"val": ["b"]}}
    assert [clip.splits for clip in read("pyskl", pickled(tmp_path, content)).values()] == [(), ("val",)]


def test_missing_people_and_points_have_score_0(tmp_path):
    keypoint, score = np.ones((2, 3, 17, 2), np.float32), np.ones((2, 3, 17), np.float32)
    keypoint[1, 2], score[1, 2] = 0, 0  # as PYSKL writes somebody who is not there
    keypoint[0, 0, 5] = np.nan, 3
    keypoint[0, 1, 6] = np.inf
    keypoint[0, 2, 7] = 1e6, 1
    clip = only(read("pyskl", pickled(tmp_path, [annotation(t=3, keypoint=keypoint, keypoint_score=score)])))
    wanted = score.copy()
    wanted[0, [0, 1, 2], [5, 6, 7]] = 0
    np.testing.assert_array_equal(clip.scores, wanted)
    assert np.isfinite(clip.keypoints).all()


def test_without_scores_a_point_that_is_not_0_0_is_there(tmp_path):
    keypoint = np.full((1, 2, 17, 2), 5.0)
    keypoint[0, 0, 0], keypoint[0, 1, 1] = (0, 0), (0, 7)
    item = annotation(t=2, keypoint=keypoint)
    del item["keypoint_score"]
    clip = only(read("pyskl", pickled(tmp_path, [item])))
    assert np.argwhere(clip.scores == 0).tolist() == [[0, 0, 0]]


def test_three_channels_are_metres_for_ntu25_and_a_score_for_others(tmp_path):
    xyz = np.zeros((1, 2, 25, 3), np.float32)
    xyz[0, 0, 3] = 0.5, 0.25, 2  # xyz[0, 0, 4] and all others are missing
    item = {"frame_dir": "a", "total_frames": 2, "label": 1, "keypoint": xyz}
    clip = only(read("pyskl", pickled(tmp_path, [item])))
    assert (clip.skeleton, clip.height, clip.width) == ("ntu25", 424, 512)
    np.testing.assert_array_equal(clip.keypoints_3d, xyz)
    assert clip.keypoints[0, 0, 3].tolist() == [256 + 366 * 0.25, 208 - 366 * 0.125]
    assert np.argwhere(clip.scores).tolist() == [[0, 0, 3]]

    joints = np.full((1, 2, 17, 3), (8, 9, 0.5), np.float32)
    clip = only(read("pyskl", pickled(tmp_path, [item | {"keypoint": joints, "img_shape": (60, 80)}])))
    assert clip.keypoints_3d is None
    assert clip.keypoints[0, 1, 2].tolist() == [8, 9]
    assert (clip.scores == 0.5).all()


def test_a_number_of_joints_that_fits_two_skeletons_asks_for_one(tmp_path):
    uri = pickled(tmp_path, [annotation(v=25)])
    with pytest.raises(SourceError, match="25 joints may be ntu25 or openpose25; say which by --skeleton"):
        read("pyskl", uri)
    assert only(read("pyskl", uri, skeleton="openpose25")).skeleton == "openpose25"
    with pytest.raises(ValueError, match="25 joints, but the skeleton coco17 has 17"):
        only(read("pyskl", uri, skeleton="coco17"))


def test_a_number_of_joints_that_fits_one_skeleton_is_that(tmp_path):
    for joints, name in ((13, "penn13"), (18, "openpose18"), (20, "utd20"), (26, "halpe26"), (33, "blazepose33")):
        assert only(read("pyskl", pickled(tmp_path, [annotation(v=joints)]))).skeleton == name


def test_labels_get_the_names_of_the_file(tmp_path):
    uri = pickled(tmp_path, [annotation(label=1)])
    assert only(read("pyskl", uri, labels=("walk", "run"))).label_name == "run"
    with pytest.raises(SourceError, match="label 1, but the labels file has 1 names"):
        read("pyskl", uri, labels=("walk",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keypoint": np.zeros((2, 4, 17))}, r"keypoint has shape \(2, 4, 17\), wanted \(M, T, V, 2\)"),
        ({"keypoint": np.zeros((2, 4, 17, 4))}, r"keypoint has shape"),
        ({"keypoint": None}, "keypoint has a NoneType"),
        ({"keypoint": np.zeros((2, 4, 16, 2))}, "poses of 16 joints; the known skeletons have 13, 15, 17"),
        ({"keypoint": np.zeros((2, 4, 17, 2), "U3")}, "keypoints of shape .* type <U3, wanted numbers"),
        ({"keypoint_score": np.zeros((2, 5, 17))}, r"scores? of shape \(2, 5, 17\)|keypoints of shape"),
        ({"keypoint_score": [1.0]}, "keypoint_score is a list, wanted an array"),
        ({"keypoint": np.zeros((2, 4, 17, 3))}, "3 channels and keypoint_score is there too"),
        ({"total_frames": 9}, "4 frames of keypoints, but total_frames is 9"),
        ({"keypoint": np.zeros((2, 0, 17, 2)), "keypoint_score": np.zeros((2, 0, 17)), "total_frames": 0}, "0 frames"),
        ({"img_shape": None, "original_shape": None}, "say it by --size HxW"),
        ({"img_shape": (0, 10)}, "0 x 10 pixels, wanted at least one"),
        ({"label": [0, 1]}, "label is a list, wanted one number"),
        ({"label": -1}, "a label that is not from 0 to 99999"),
        ({"label": 10**30}, "a label that is not from 0"),
        ({"label": "walk"}, "label is a str"),
    ],
)
def test_pyskl_what_is_wrong_with_a_clip_is_said_and_the_others_go_on(tmp_path, changes, message):
    bad = annotation("bad") | changes
    found = read("pyskl", pickled(tmp_path, [annotation("a"), bad, annotation("z")]))
    assert list(found) == ["a", "bad", "z"]
    assert found["a"].num_persons == found["z"].num_persons == 2
    with pytest.raises(ValueError, match=message):
        raise found["bad"]


def test_nobody_in_a_clip_is_a_row_without_people(tmp_path):
    assert only(read("pyskl", pickled(tmp_path, [annotation(m=0)]))).num_persons == 0


def test_an_annotation_without_a_name_or_that_is_no_dict(tmp_path):
    item = annotation()
    del item["frame_dir"]
    (error,) = read("pyskl", pickled(tmp_path, [item])).values()
    assert "without frame_dir" in str(error)
    (error,) = read("pyskl", pickled(tmp_path, {"split": {}, "annotations": [3]})).values()
    assert "no annotations" in str(error)
    (error,) = read("pyskl", pickled(tmp_path, [])).values()
    assert "no annotations" in str(error)


def test_a_damaged_pickle_fails_and_the_others_of_the_folder_go_on(tmp_path):
    whole = pickle.dumps([annotation("b")])
    found = read("pyskl", written(tmp_path, {"a.pkl": whole[:-40], "b.pkl": whole, "c.pkl": b"text"}))
    assert "cut off" in str(found["a.pkl"])
    objects = annotation("z", keypoint=np.array([None]))
    late = read("pyskl", pickled(tmp_path, [annotation("y"), objects, annotation("x")], "d.pkl"))
    assert late["y"].num_persons == 2
    assert "after 1 clips: a NumPy array of Python objects" in str(late["d.pkl"])
    assert "damaged" in str(found["c.pkl"])
    assert found["b"].num_persons == 2


# The compressed form of Kinetics-400


def compressed(name, frames, raw_file="kp/1.pkl", **changes):
    item = {"frame_dir": name, "total_frames": 9, "img_shape": (60, 80), "original_shape": (60, 80), "label": 0}
    item |= {"frame_inds": np.array(frames, np.int16), "box_score": np.ones(len(frames)), "valid": {0.5: 3}}
    return item | {"raw_file": raw_file} | changes


def rows(count, v=17):
    joints = np.zeros((count, v, 3), np.float16)
    joints[..., 0] = np.arange(count)[:, None]  # x says which row it was
    joints[..., 2] = (np.arange(count)[:, None] + 1) / 16
    return joints


def test_compressed_people_fill_the_slots_in_the_order_of_the_rows(tmp_path):
    toc = {"split": {"val": ["a"]}, "annotations": [compressed("a", [2, 2, 5, 7, 7, 7])]}
    files = {
        "k400.pkl": pickle.dumps(toc),
        "kp/1.pkl": pickle.dumps({"z": {"keypoint": rows(2)}, "a": {"keypoint": rows(6)}}),
    }
    clip = only(read("pyskl", written(tmp_path, files)))
    # By hand: frames 2, 5 and 7 become 0, 1 and 2.
    assert clip.scores[..., 0].tolist() == [[1 / 16, 3 / 16, 4 / 16], [2 / 16, 0, 5 / 16], [0, 0, 6 / 16]]
    assert clip.keypoints[..., 0, 0].tolist() == [[0, 2, 3], [1, 0, 4], [0, 0, 5]]
    assert clip.splits == ("val",)


def test_compressed_too_many_people_are_cut_by_their_scores(tmp_path):
    frames = [0] * 12 + [1] * 2
    files = {
        "k.pkl": pickle.dumps([compressed("a", frames)]),
        "x/kp/1.pkl": pickle.dumps({"a": {"keypoint": rows(14)}}),
    }
    clip = only(read("pyskl", written(tmp_path, files)))
    assert clip.num_persons == 10
    assert clip.keypoints[:, 0, 0, 0].tolist() == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]
    assert clip.keypoints[:2, 1, 0, 0].tolist() == [13, 12]  # sorted too, once any frame has too many
    assert only(read("pyskl", str(tmp_path), max_persons=1)).keypoints[..., 0, 0].tolist() == [[11, 13]]


def test_compressed_files_of_one_clip_are_found_by_its_name(tmp_path):
    item = compressed("a", [0, 1])
    del item["raw_file"]
    files = {"toc.pkl": pickle.dumps([item]), "skeletons/a.pkl": pickle.dumps({"keypoint": rows(2)})}
    assert only(read("pyskl", zipped(tmp_path / "a.zip", files))).num_frames == 2


def test_compressed_clips_of_own_videos_have_their_keypoints_beside_them(tmp_path):
    item = compressed("a", [2, 2, 5], keypoint=rows(3))
    del item["raw_file"]
    clip = only(read("pyskl", written(tmp_path, {"mine.pkl": pickle.dumps([item])})))
    assert clip.keypoints[..., 0, 0].tolist() == [[0, 2], [1, 0]]


def test_a_damaged_pickle_in_a_zip_is_a_failure_and_the_others_are_read(tmp_path):
    clips = {f"{name}.pkl": pickle.dumps([annotation(name) for _ in range(3)]) for name in "abc"}
    uri = zipped(tmp_path / "a.zip", clips)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"b.pkl") + 300] ^= 255
    (tmp_path / "a.zip").write_bytes(content)
    found = read("pyskl", uri)
    assert [name for name, one in found.items() if not isinstance(one, Exception)] == ["a", "c"]
    assert "damaged" in str(found["b.pkl"])


def test_compressed_clips_without_their_keypoints_fail(tmp_path):
    items = [compressed("a", [0]), compressed("b", [0], "kp/2.pkl"), compressed("c", [0, 1]), compressed("d", [3, 1])]
    items += [compressed("e", [0]), compressed("f", [])]
    kept = {"a": rows(1), "c": rows(3), "d": rows(2), "e": np.array([[None]]), "f": rows(0)}
    kept = {name: {"keypoint": value} for name, value in kept.items()}
    objects = {name: kept.pop(name) for name in ("e",)}
    found = read("pyskl", written(tmp_path, {"toc.pkl": pickle.dumps(items), "kp/1.pkl": pickle.dumps(kept)}))
    assert found["a"].num_persons == 1
    assert (found["f"].num_persons, found["f"].num_frames) == (0, 9)
    assert "keypoints are not among" in str(found["b"])
    assert "frame_inds of shape (2,), wanted (3,)" in str(found["c"])
    assert "in order" in str(found["d"])
    assert "keypoints are not among" in str(found["e"])
    found = read("pyskl", written(tmp_path, {"kp/1.pkl": pickle.dumps(kept | objects)}))
    assert found["a"].num_persons == 1
    assert "Python objects" in str(found["e"])


def test_keypoints_without_their_table_of_contents(tmp_path):
    with pytest.raises(SourceError, match="no annotations among its pickles"):
        read("pyskl", pickled(tmp_path, {"a": {"keypoint": rows(2)}}))


# NTU RGB+D

BODY = "7205{} 0 1 1 1 1 0 -0.1 0.2 2"


def skeleton_file(frames):
    """frames: for each, {body: function of the joint's number -> x y z ... colorX colorY ... state}."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, joint in bodies.items():
            lines += [BODY.format(body), "25", *(joint(v) for v in range(25))]
    return "\n".join(lines) + "\n"


def joint(x=0.0, state=2, colour="100 200"):
    return lambda v: f"{x + v / 100} {v / 10} 3.0 11 12 {colour} 0.1 0.2 0.3 0.4 {state}"


def test_ntu_bodies_are_people_by_their_ids(tmp_path):
    still, moving = joint(), [joint(x, 2 - x, f"{100 + x} 200.5") for x in (0, 1, 2)]
    frames = [{7: still}, {8: moving[0], 7: still}, {}, {8: moving[1]}, {7: still, 8: moving[2]}]
    clip = only(read("ntu", written(tmp_path, {"S001C002P003R002A013.skeleton": skeleton_file(frames)})))
    assert (clip.clip_id, clip.num_frames, clip.height, clip.width) == ("S001C002P003R002A013", 5, 1080, 1920)
    assert (clip.label, clip.label_name, clip.skeleton) == (12, "A013", "ntu25")
    # Body 8 moves more and comes first; its states are 2, 1 and 0.
    assert clip.scores[..., 4].tolist() == [[0, 1, 0, 0.5, 0], [1, 1, 0, 0, 1]]
    assert clip.keypoints[0, :, 9].tolist() == [[0, 0], [100, 200.5], [0, 0], [101, 200.5], [102, 200.5]]
    assert clip.keypoints_3d[0, 3, 10].tolist() == pytest.approx([1.1, 1.0, 3.0])


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("S001C001P001R001A001", {"xsub_train", "xview_val", "xset_val"}),
        ("S017C002P003R002A060", {"xsub_val", "xview_train", "xset_val"}),
        ("S016C003P040R001A001", {"xsub_val", "xview_train", "xset_train"}),
        ("S018C003P103R001A061", {"xsub_train", "xset_train"}),
        ("S031C001P106R001A120", {"xsub_val", "xset_val"}),
    ],
)
def test_ntu_splits_are_those_of_the_authors(tmp_path, name, splits):
    clip = only(read("ntu", written(tmp_path, {f"{name}.skeleton": skeleton_file([{7: joint()}])})))
    assert set(clip.splits) == splits


@pytest.mark.parametrize("name", ["old_S001C001P001R001A001", "S001C001P001R001A001 (1)"])
def test_of_ntu_a_copy_is_not_imported_a_second_time(tmp_path, name):
    body = skeleton_file([{7: joint()}])
    uri = written(tmp_path, {"S001C001P001R001A001.skeleton": body, f"{name}.skeleton": body})
    found = read("ntu", uri)
    assert found["S001C001P001R001A001"].label == 0
    assert f"the name is {name}.skeleton, wanted SsssCcccPpppRrrrAaaa.skeleton" in str(found[name])


def test_ntu_keeps_two_bodies_unless_told_otherwise(tmp_path):
    uri = written(tmp_path, {"S001C001P001R001A001.skeleton": skeleton_file([{b: joint() for b in range(4)}])})
    assert only(read("ntu", uri)).num_persons == 2
    assert only(read("ntu", uri, max_persons=3)).num_persons == 3


def test_ntu_values_that_are_none(tmp_path):
    frames = [{1: joint(colour="NaN -inf")}, {1: joint(x=float("nan"))}]
    clip = only(read("ntu", written(tmp_path, {"S001C001P001R001A001.skeleton": skeleton_file(frames)})))
    assert clip.scores[0, :, 0].tolist() == [0, 1]
    assert np.isfinite(clip.keypoints).all()
    assert np.isfinite(clip.keypoints_3d).all()


def test_ntu_files_that_cannot_be_used_fail(tmp_path):
    whole = skeleton_file([{1: joint()}, {1: joint()}])
    names = [f"S001C001P001R001A{i:03d}" for i in range(1, 6)]
    files = [
        skeleton_file([{}, {}]),
        whole[: len(whole) * 2 // 3],
        whole.replace("25\n", "24\n"),
        "",
        whole.replace("3.0", "x"),
    ]
    contents = {f"{name}.skeleton": content for name, content in zip(names, files, strict=True)}
    found = [str(error) for error in read("ntu", written(tmp_path, contents | {"walk.skeleton": whole})).values()]
    messages = ["nobody in any of its 2 frames", "cut off", "24 joints", "ends in frame 0", "could not convert",
                "wanted Ssss"]  # fmt: skip
    for error, message in zip(found, messages, strict=True):
        assert message in error


# SBU, UTD-MHAD, Penn Action, J-HMDB


def test_sbu_by_hand(tmp_path):
    values = np.full((2, 2, 15, 3), (0.5, 0.5, 1.5625))  # the centre of the frame, 2 m away
    values[1, 1, 4] = 0.75, 0.25, 0.78125
    lines = [",".join(map(str, [i, *row.ravel()])) + (",\r" if i else "\r") for i, row in enumerate(values)]
    uri = zipped(tmp_path / "sbu.zip", {"s06s04/07/002/skeleton_pos.txt": "\n".join(lines)})
    clip = only(read("sbu", uri))
    assert (clip.clip_id, clip.label, clip.label_name) == ("s06s04_07_002", 6, "07 exchanging objects")
    assert clip.splits == ("fold1",)
    assert (clip.height, clip.width, clip.num_persons, clip.num_frames) == (480, 640, 2, 2)
    assert clip.keypoints_3d[0, 0, 0].tolist() == [0, 0, 2]
    assert clip.keypoints[0, 0, 0].tolist() == [320, 240]
    # X = 1280 - 1920 = -640 mm, Y = 960 - 480 = 480 mm, Z = 1000 mm
    assert clip.keypoints_3d[1, 1, 4].tolist() == pytest.approx([-0.64, 0.48, 1.0])
    assert clip.keypoints[1, 1, 4].tolist() == pytest.approx([320 - 575 * 0.64, 240 - 575 * 0.48])


def test_utd_mhad_by_hand(tmp_path):
    joints = np.zeros((20, 3, 2))
    joints[...] = np.array([0.5, 0.25, 2.5])[:, None]
    joints[3, :, 1] = 0
    found = read(
        "utd-mhad",
        written(tmp_path, {"a27_s4_t2_skeleton.mat": mat(d_skel=joints), "a1_s1_t1_skeleton.mat": mat(d_skel=joints)}),
    )
    clip = found["a27_s4_t2"]
    assert (clip.label, clip.label_name, clip.splits) == (26, "27 squat", ("test", "subject4"))
    assert found["a1_s1_t1"].splits == ("train", "subject1")
    assert clip.keypoints[0, 0, 0].tolist() == [160 + 285 * 0.2, 120 - 285 * 0.1]
    assert np.argwhere(clip.scores == 0).tolist() == [[0, 1, 3]]
    assert clip.keypoints_3d[0, 0, 0].tolist() == [0.5, 0.25, 2.5]


def penn(**changes):
    x = np.full((3, 13), 250, np.uint8)
    return {
        "x": x, "y": x, "visibility": np.eye(3, 13, dtype=np.uint8), "action": "squat", "train": -1,
        "dimensions": np.array([270, 480, 3], np.uint16), "nframes": 3,
    } | changes  # fmt: skip


def test_penn_action_visibility_is_the_score(tmp_path):
    clip = only(read("penn-action", written(tmp_path, {"0007.mat": mat(**penn())})))
    assert (clip.clip_id, clip.label, clip.label_name, clip.splits) == ("0007", 11, "squat", ("test",))
    assert (clip.height, clip.width, clip.num_frames) == (270, 480, 3)
    np.testing.assert_array_equal(clip.scores[0], np.eye(3, 13))
    assert (clip.keypoints == 250).all()  # not what a sum of 8 bits would be


def test_matlab_files_that_cannot_be_used_fail(tmp_path):
    without = penn()
    del without["visibility"]
    files = {
        "0001.mat": mat(**penn(x=np.zeros((3, 12)))),
        "0002.mat": mat(**without),
        "0003.mat": mat(**penn(action="dance")),
        "0004.mat": mat(**penn())[:300],
        "0005.mat": b"",
        "0006.mat": b"MATLAB 7.3 MAT-file, Platform: GLNXA64" + bytes(600),
        "0007.mat": b"\x80\x04cos\nsystem\n",
        "0008.mat": mat(**penn(x=np.array([{"a": 1}] * 39, object).reshape(3, 13))),
        "0009.mat": mat(**penn(dimensions=3)),
    }
    found = read("penn-action", written(tmp_path, files))
    messages = ["wanted (T, 13)", "without visibility", "'dance' is none of", "not a MATLAB file", "not a MATLAB file",
                "7.3", "not a MATLAB file", "type object", "h and w in dimensions"]  # fmt: skip
    for error, message in zip(found.values(), messages, strict=True):
        assert isinstance(error, ValueError | TypeError)
        assert message in str(error) or message == "type object"


def test_jhmdb_as_its_authors_publish_it(tmp_path):
    pixels = RNG.integers(0, 200, (2, 15, 6)).astype(float)
    files = {
        "joint_positions/wave/clip_1/joint_positions.mat": mat(pos_img=pixels, pos_world=pixels / 100, scale=1.0),
        "joint_positions/clap/clip_2/joint_positions.mat": mat(pos_img=pixels, scale=1.0),
        "joint_positions/clap/clip_3/joint_positions.mat": mat(pos_img=pixels[:, :14]),
        "splits/wave_test_split1.txt": "clip_1.avi 2\nother.avi 1\n",
        "splits/wave_test_split2.txt": "clip_1.avi 1\n",
        "splits/clap_test_split1.txt": "clip_2.avi 0\n",
    }
    found = read("jhmdb", zipped(tmp_path / "j.zip", files))
    wave, clap = found["wave/clip_1"], found["clap/clip_2"]
    assert (wave.label, wave.label_name, wave.splits) == (1, "wave", ("split1_test", "split2_train"))
    assert (clap.label, clap.splits) == (0, ())
    assert (wave.height, wave.width, wave.skeleton) == (240, 320, "jhmdb15")
    assert wave.keypoints[0, 4, 7].tolist() == pixels[:, 7, 4].tolist()
    assert "pos_img has shape (2, 14, 6)" in str(found["clap/clip_3"])


def test_jhmdb_pickles_name_a_clip_once_with_all_its_splits(tmp_path):
    poses = [RNG.normal(0, 1, (4, 15, 2)) for _ in range(3)]
    files = {
        "GT_train_1.pkl": {"pose": poses[:2], "label": ["run", "clap"]},
        "GT_test_1.pkl": {"pose": poses[2:], "label": ["run"]},
        "GT_train_2.pkl": {"pose": [poses[2], poses[1]], "label": ["run", "clap"]},
        "GT_test_2.pkl": {"pose": [poses[0]], "label": ["run"]},
    }
    uri = written(tmp_path, {name: pickle.dumps(content, 3) for name, content in files.items()})
    annotations = open_annotations("jhmdb", uri, Options())
    clips = [entry.read() for entry in annotations.entries]
    by_splits = {clip.splits: clip for clip in clips}
    assert len(clips) == 3
    assert sorted((*clip.splits, clip.label_name, clip.label) for clip in clips) == [
        ("split1_test", "split2_train", "run", 1),
        ("split1_train", "split2_test", "run", 1),
        ("split1_train", "split2_train", "clap", 0),
    ]
    note = json.loads(annotations.notes["posec3d.normalised"])
    clip = by_splits["split1_train", "split2_train"]
    np.testing.assert_allclose((clip.keypoints[0] - note["origin"]) / note["scale"], poses[1], atol=1e-5)
    assert min(clip.height, clip.width) >= 256


def test_jhmdb_pickles_that_do_not_agree(tmp_path):
    pose = np.ones((4, 15, 2))
    files = {"GT_train_1.pkl": {"pose": [pose], "label": ["run"]}, "GT_test_1.pkl": {"pose": [pose], "label": ["clap"]}}
    files = {name: pickle.dumps(content) for name, content in files.items()}
    with pytest.raises(SourceError, match="'run' here and 'clap' elsewhere"):
        read("jhmdb", written(tmp_path, files))
    files["GT_test_1.pkl"] = pickle.dumps({"pose": [pose], "label": []})
    found = read("jhmdb", written(tmp_path, files))
    assert "1 poses and 0 labels" in str(found.pop("GT_test_1.pkl"))
    assert only(found).splits == ("split1_train",)


# JSON


def openpose_frame(*people, ids=None):
    return json.dumps(
        {
            "version": 1.3,
            "people": [
                {"person_id": [-1 if ids is None else ids[i]], "pose_keypoints_2d": np.ravel(person).tolist()}
                for i, person in enumerate(people)
            ],
        }
    )


def standing(x, v=25):
    """A person 80 pixels high at x."""
    joints = np.full((v, 3), 0.9)
    joints[:, 0], joints[:, 1] = x + 10 * np.arange(v) % 30, np.linspace(20, 100, v)
    joints[3] = 0  # OpenPose's missing joint
    return joints


def test_openpose_folders_are_clips_labels_and_splits(tmp_path):
    files = {
        f"train/walk/v1/v1_{t:012d}_keypoints.json": openpose_frame(standing(50 + t), standing(200))
        for t in range(3, 23)
    } | {f"val/run/v2/v2_{t:012d}_keypoints.json": openpose_frame(standing(5, 18)) for t in range(12)}
    found = read("openpose", written(tmp_path, files), fps=30.0)
    walk, run = found["train/walk/v1"], found["val/run/v2"]
    assert (walk.label, walk.label_name, walk.splits, walk.skeleton) == (1, "walk", ("train",), "openpose25")
    assert (run.label, run.label_name, run.splits, run.skeleton) == (0, "run", ("val",), "openpose18")
    assert (walk.start_frame, walk.num_frames, walk.num_persons) == (3, 20, 2)
    mover = walk.keypoints[:, :, 0, 0]
    assert sorted(mover[:, 0].tolist()) == [53, 200]
    assert sorted(mover[:, -1].tolist()) == [72, 200]
    assert np.argwhere((walk.scores == 0).all((0, 1))).tolist() == [[3]]
    assert (walk.height, walk.width) == (101, 221)  # the last of all points, and the pixel it is in
    sized = read("openpose", str(tmp_path), size=(480, 640))["val/run/v2"]
    assert (sized.height, sized.width) == (480, 640)


def test_an_openpose_folder_called_as_a_video_beside_it_is_a_clip_of_its_own(tmp_path):
    frames = {"a": range(9), "b": range(9), "a/c": range(12)}
    files = {
        f"{video}_{t}_keypoints.json": openpose_frame(standing(5)) for video, count in frames.items() for t in count
    }
    found = read("openpose", written(tmp_path, files))
    assert sorted((name, clip.num_frames) for name, clip in found.items()) == [("a", 9), ("a/c", 12), ("b", 9)]


def test_openpose_files_of_several_videos_in_one_folder(tmp_path):
    files = {f"{v}_{t}_keypoints.json": openpose_frame(standing(5)) for v in ("a", "b_1") for t in range(9)}
    found = read("openpose", written(tmp_path, files))
    assert {name: (clip.label, clip.num_frames) for name, clip in found.items()} == {"a": (None, 9), "b_1": (None, 9)}


def test_openpose_numbers_of_people_are_tracks(tmp_path):
    files = {
        f"v/v_{t}_keypoints.json": openpose_frame(standing(9), standing(90), ids=[t % 2, 1 - t % 2]) for t in range(4)
    }
    clip = only(read("openpose", written(tmp_path, files)))
    assert clip.keypoints[:, :, 0, 0].tolist() == [[9, 90, 9, 90], [90, 9, 90, 9]]


def test_openpose_files_that_cannot_be_used_fail(tmp_path):
    files = {
        "a/a_0_keypoints.json": openpose_frame(),
        "b/b_0_keypoints.json": "{",
        "c/c_0_keypoints.json": json.dumps({"people": [{"pose_keypoints_2d": [1, 2]}]}),
        "d/d_0_keypoints.json": openpose_frame(standing(3) / 300),
        "e/e_0_keypoints.json": openpose_frame(standing(3)),
        "e/e_9999999999_keypoints.json": openpose_frame(standing(3)),
        "f/f_0_keypoints.json": json.dumps({"people": [{"pose_keypoints_2d": ["x"] * 75}]}),
        "g/g_0_keypoints.json": openpose_frame(standing(3), standing(3, 18)),
        "h/h_0_keypoints.json": "[" * 100_000,
        "i/i_0_keypoints.json": json.dumps({"people": [7]}),
    }
    found = read("openpose", written(tmp_path, files))
    messages = ["nobody", "not JSON", "no list of x, y, score", "--keypoint_scale 0", "is a number wrong?",
                "no list of numbers", "[18, 25] joints", "not JSON", ""]  # fmt: skip
    for error, message in zip(found.values(), messages, strict=True):
        assert isinstance(error, Exception)
        assert message in str(error)


def coco_file(**changes):
    images = [
        {"id": 100 * v + t, "file_name": f"walk/v{v}/{t:06d}.jpg", "height": 240, "width": 320}
        for v in (1, 2) for t in range(1, 13)
    ]  # fmt: skip
    annotations = [
        {
            "image_id": image["id"],
            "category_id": 1,
            "bbox": [50, 20, 30, 80],
            "keypoints": np.ravel(standing(50, 17) * [1, 1, 2]).tolist(),
        }
        for image in images[:12]
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    return json.dumps(content | changes)


def test_coco_images_are_frames_of_videos(tmp_path):
    found = read("coco", written(tmp_path, {"poses.json": coco_file()}))
    clip = found["walk/v1"]
    assert (clip.label, clip.label_name, clip.start_frame, clip.num_frames) == (0, "walk", 1, 12)
    assert (clip.height, clip.width, clip.num_persons, clip.skeleton) == (240, 320, 1, "coco17")
    assert clip.keypoints[0, 5, 0].tolist() == [50, 20]
    assert clip.scores[0, 5, :5].tolist() == [1, 1, 1, 0, 1]  # visibilities of 1.8 and 0
    assert "nobody" in str(found["walk/v2"])


def test_coco_files_that_cannot_be_used_fail(tmp_path):
    files = {
        "a.json": "[]",
        "b.json": json.dumps({"people": []}),
        "c.json": coco_file(categories=[{"id": 1, "name": "dog"}]),
        "d.json": coco_file(annotations=[{"image_id": 7, "category_id": 1, "keypoints": [1, 1, 1]}]),
        "e.json": coco_file(images=[{"id": 1, "file_name": "x.jpg"}]),
        "f.json": coco_file(annotations=[{"category_id": 1, "keypoints": [1, 1, 1]}]),
        "g.json": coco_file(images=[{"id": 1, "file_name": f"v/{i}.jpg"} for i in range(2)]),
    }
    found = read("coco", written(tmp_path, files))
    messages = ["a list; wanted COCO's object", "an object with people", "called person", "not among the images",
                "no known video", "'image_id' is missing", "2 images with 1 ids"]  # fmt: skip
    for name, message in zip(files, messages, strict=True):
        assert message in str(found[name])


# Sources


def test_a_folder_a_zip_and_a_zip_in_a_folder_are_the_same(tmp_path):
    files = {f"set/{i:04d}.mat": mat(**penn()) for i in (1, 2)} | {"__MACOSX/0001.mat": b"", "set/.0002.mat": b""}
    folder = written(tmp_path / "folder", files)
    (tmp_path / "deep").mkdir()
    archive = zipped(tmp_path / "deep" / "a.zip", files)
    for uri in (folder, archive, str(tmp_path / "deep"), f"file://{archive}"):
        found = read("penn-action", uri)
        assert list(found) == ["0001", "0002"]
        assert all(clip.num_frames == 3 for clip in found.values())


def test_a_zip_on_an_object_store_is_read_in_place(s3, tmp_path):
    import fsspec

    zipped(tmp_path / "a.zip", {"0001.mat": mat(**penn())})
    with fsspec.open(f"{s3}/data/penn.zip", "wb") as file:
        file.write((tmp_path / "a.zip").read_bytes())
    with fsspec.open(f"{s3}/data/a.pkl", "wb") as file:
        pickle.dump([annotation()], file)
    assert list(read("penn-action", f"{s3}/data/penn.zip")) == ["0001"]
    assert list(read("penn-action", f"{s3}/data")) == ["0001"]
    assert list(read("pyskl", f"{s3}/data/a.pkl")) == ["a"]


@pytest.mark.parametrize("name", ["../../0001.mat", "/etc/0001.mat", "a/../../0001.mat", "..\\0001.mat", "C:/0001.mat"])
def test_a_zip_whose_names_lead_out_of_it_is_refused(tmp_path, name):
    uri = zipped(tmp_path / "a.zip", {"0002.mat": mat(**penn()), name: mat(**penn())})
    with pytest.raises(SourceError, match="leads out of the archive"):
        read("penn-action", uri)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_file_in_a_zip_that_is_far_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAX_BYTES", 10_000)
    uri = zipped(tmp_path / "a.zip", {"0001.mat": bytes(20_000_000), "0002.mat": mat(**penn())})
    found = read("penn-action", uri)
    assert "20000000 bytes, wanted at most 10000" in str(found["0001"])
    assert found["0002"].num_frames == 3


def test_a_matlab_file_that_unpacks_to_far_too_much_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(matlab, "MAX_BYTES", 1_000_000)
    file = io.BytesIO()
    savemat(file, penn(x=np.zeros((100_000, 13))), do_compression=True)
    error = read("penn-action", written(tmp_path, {"0001.mat": file.getvalue()}))["0001"]
    assert len(file.getvalue()) < 20_000
    assert "a variable of 1000000 bytes or more" in str(error)


def test_a_damaged_zip(tmp_path):
    zipped(tmp_path / "a.zip", {"0001.mat": mat(**penn()), "0002.mat": mat(**penn())})
    whole = (tmp_path / "a.zip").read_bytes()
    with pytest.raises(SourceError, match="not a zip that can be read"):
        read("penn-action", written(tmp_path, {"cut.zip": whole[:-30]}) + "/cut.zip")
    flipped = bytearray(whole)
    flipped[60:80] = bytes(20)  # within the first file
    found = read("penn-action", written(tmp_path, {"flipped.zip": bytes(flipped)}) + "/flipped.zip")
    assert isinstance(found["0001"], ValueError)
    assert found["0002"].num_frames == 3


def test_nothing_there_an_empty_folder_and_the_wrong_format(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder there"):
        read("ntu", str(tmp_path / "nothing"))
    with pytest.raises(SourceError, match=r"no files, wanted \*.pkl for the format pyskl"):
        read("pyskl", str(tmp_path))
    uri = written(tmp_path, {"s01s02/01/001/skeleton_pos.txt": "1", "x.txt": ""})
    with pytest.raises(SourceError, match=r"2 of .txt, wanted Ssss.*\.skeleton for the format ntu; it may be sbu"):
        read("ntu", uri)


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_takes_the_files_of_another(name, tmp_path):
    examples = {
        "pyskl": "a.pkl", "ntu": "S001C001P001R001A001.skeleton", "penn-action": "0001.mat",
        "sbu": "s01s02/01/001/skeleton_pos.txt", "utd-mhad": "a1_s1_t1_skeleton.mat", "coco": "poses.json",
        "jhmdb": "wave/clip/joint_positions.mat", "openpose": "v/v_000000000000_keypoints.json",
    }  # fmt: skip
    uri = written(tmp_path, {file: b"" for other, file in examples.items() if other != name})
    with pytest.raises(SourceError, match=f"for the format {name}"):
        read(name, uri)


def test_every_skeleton_that_is_written_is_known():
    assert {"ntu25", "sbu15", "utd20", "penn13", "jhmdb15", "coco17", "openpose25", "openpose18"} <= SKELETONS.keys()


def test_a_coco_video_spread_over_files_is_one_clip_and_a_frame_twice_is_told(tmp_path):
    def part(numbers):
        images = [{"id": n, "file_name": f"train/wave/v1/{n}.jpg", "height": 100, "width": 200} for n in numbers]
        people = [
            {"id": n, "image_id": n, "keypoints": [50 + n, 40, 2] * 17, "bbox": [10, 10, 80, 80]} for n in numbers
        ]
        return json.dumps({"images": images, "annotations": people})

    (tmp_path / "a.json").write_text(part(range(5)))
    (tmp_path / "b.json").write_text(part(range(5, 10)))
    (entry,) = open_annotations("coco", str(tmp_path), Options()).entries
    clip = entry.read()
    assert (clip.start_frame, clip.num_frames) == (0, 10) and (clip.scores > 0).all()
    (tmp_path / "c.json").write_text(part([9]))
    failed, entry = open_annotations("coco", str(tmp_path), Options()).entries
    with pytest.raises(ValueError, match=r"frame 9 of .*v1 is in another file too"):
        failed.read()
    assert entry.read().num_frames == 10


def test_an_openpose_folder_of_two_videos_does_not_rename_the_others(tmp_path):
    frame = json.dumps({"people": [{"pose_keypoints_2d": [50, 40, 1] * 25}]})
    for place in ("wave/one/a", "kick/two/b", "kick/two/c"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{place}_000000_keypoints.json").write_text(frame)
    entries = {
        e.clip_id: e.read() for e in open_annotations("openpose", str(tmp_path), Options(size=(100, 100))).entries
    }
    assert {name: clip.label_name for name, clip in entries.items()}["wave/one"] == "wave"
    assert {"kick/two/b", "kick/two/c"} <= entries.keys()
