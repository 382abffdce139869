"""Boxes and poses from files, which are written here by hand: what they say is what comes out."""

import hashlib
import json
import pickle

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posec3d.given import Given, given_poses
from posec3d.video import write_video

FRAMES, FPS, HEIGHT, WIDTH = 12, 10.0, 48, 64


def points(x, y, score=1.0):
    """17 keypoints on a diagonal from (x, y) to (x + 16, y + 32), as a file has them."""
    return [value for joint in range(17) for value in (x + joint, y + 2 * joint, score)]


def parquet(path, rows, **settings):
    pq.write_table(pa.Table.from_pylist(rows), path, **settings)
    return str(path)


def coco(path, images, annotations, **more):
    path.write_text(json.dumps({"images": images, "annotations": annotations, **more}))
    return str(path)


def boxed(video, frame, x, **more):
    return {"video": video, "frame": frame, "x1": x, "y1": 10.0, "x2": x + 20, "y2": 40.0, **more}


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "wave" / "x.mp4"
    path.parent.mkdir()
    write_video(path, [np.full((HEIGHT, WIDTH, 3), 10 * t, np.uint8) for t in range(FRAMES)], FPS)
    return str(path)


def test_boxes_of_a_parquet_file_come_by_frame_best_first(tmp_path):
    rows = [boxed("x", 7, 0.0, score=0.25), boxed("x", 7, 5.0, score=0.5), boxed("y", 7, 9.0), boxed("x", 3, 1.5)]
    boxes = Given(parquet(tmp_path / "b.parquet", rows)).boxes("/videos/x.mp4")
    assert sorted(boxes) == [3, 7] and boxes[3].dtype == np.float32
    np.testing.assert_array_equal(boxes[3], [[1.5, 10, 21.5, 40, 1]])  # no score is 1
    np.testing.assert_array_equal(boxes[7], [[5, 10, 25, 40, 0.5], [0, 10, 20, 40, 0.25]])


def test_without_boxes_the_extent_of_the_keypoints_that_are_there_is_the_box(tmp_path):
    keypoints = points(10, 20)
    keypoints[:3] = [0, 0, 0]  # absent
    keypoints[3:5] = [float("nan"), 3.0]  # absent too
    people = Given(parquet(tmp_path / "k.parquet", [{"video": "x", "frame": 0, "keypoints": keypoints}])).poses("x.avi")
    np.testing.assert_array_equal(people[0].boxes, [[12, 24, 26, 52, 1]])
    np.testing.assert_array_equal(people[0].keypoints[0, :3], [[0, 0, 0], [0, 0, 0], [12, 24, 1]])
    assert people[0].tracks is None


def test_a_row_with_neither_box_nor_keypoint_is_nobody(tmp_path):
    rows = [
        {"video": "x", "frame": 0, "person": None, "keypoints": [0.0] * 51},
        {"video": "y", "frame": 0, "person": None, "keypoints": None},
        {"video": "y", "frame": 1, "person": 7, "keypoints": points(1, 1)},
    ]
    given = Given(parquet(tmp_path / "k.parquet", rows))
    assert given.boxes("x.mp4") == {} and list(given.boxes("y.mp4")) == [1]


def test_a_video_in_whose_coco_images_nobody_is_gives_a_clip_of_nobody(tmp_path, video):
    given = Given(coco(tmp_path / "c.json", [{"id": 0, "file_name": "x/0.jpg"}], []))
    assert given.boxes(video) == {} and given_poses(video, given).num_persons == 0


def test_coco_with_a_list_of_videos(tmp_path):
    flags = points(30, 5)
    flags[2::3] = [0, 1, 2] + [2] * 14
    path = coco(
        tmp_path / "c.json",
        [{"id": 5, "video_id": 1, "frame_id": 4, "file_name": "a.jpg"}, {"id": 6, "video_id": 1, "frame_index": 8}],
        [
            {"image_id": 5, "category_id": 3, "bbox": [1, 2, 30, 40], "keypoints": flags, "track_id": 12, "score": 0.5},
            {"image_id": 5, "category_id": 3, "bbox": [0, 0, 64, 48], "iscrowd": 1},
            {"image_id": 5, "category_id": 4, "bbox": [0, 0, 9, 9]},
            {"image_id": 6, "category_id": 3, "bbox": [3, 3, 5, 5], "keypoints": [0] * 51, "track_id": 13},
        ],
        videos=[{"id": 1, "name": "wave/x"}],
        categories=[{"id": 3, "name": "person"}, {"id": 4, "name": "dog"}],
    )
    given = Given(path)
    boxes, poses = given.boxes("s3://bucket/wave/x.mp4"), given.poses("s3://bucket/wave/x.mp4")
    assert {frame: b.tolist() for frame, b in boxes.items()} == {4: [[1, 2, 31, 42, 0.5]], 8: [[3, 3, 8, 8, 1]]}
    assert list(poses) == [4]  # in frame 8 there is a person, but no pose
    assert poses[4].keypoints[0, :, 2].tolist() == [0] + [1] * 16  # hidden is as good as visible
    np.testing.assert_array_equal(poses[4].keypoints[0, 1:, :2], np.reshape(flags, (17, 3))[1:, :2])
    assert poses[4].tracks.tolist() == [12]


def test_coco_whose_file_names_say_video_and_frame(tmp_path):
    images = [{"id": i, "file_name": f"images/val/001_mpii/{i:06}.jpg"} for i in range(3)]
    path = coco(tmp_path / "c.json", images, [{"image_id": 2, "bbox": [1, 1, 2, 2]}])
    assert list(Given(path).boxes("/data/images/val/001_mpii.mp4")) == [2]


def test_json_and_parquet_of_the_same_people_give_the_same(tmp_path):
    annotation = {"image_id": 0, "bbox": [1, 2, 3, 4], "keypoints": points(1, 1, 0.5), "score": 0.7, "track_id": 2}
    row = {"video": "v", "frame": 5, "person": 2, "x1": 1, "y1": 2, "x2": 4, "y2": 6, "score": 0.7}
    files = (
        coco(tmp_path / "a.json", [{"id": 0, "file_name": "v/5.png"}], [annotation]),
        parquet(tmp_path / "a.parquet", [row | {"keypoints": points(1, 1, 0.5)}]),
    )
    one, other = (Given(file).poses("v.mp4")[5] for file in files)
    for name in ("boxes", "keypoints", "tracks"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("entry", ["x.mp4", "x", "b/x.mp4", "b/x", "/a/b/x", "./b/x", "file:///a/b/x.mp4"])
def test_an_entry_is_for_the_video_whose_path_ends_with_it(tmp_path, entry):
    given = Given(parquet(tmp_path / "b.parquet", [boxed(entry, 0, 1.0)]))
    assert list(given.boxes("/a/b/x.mp4")) == [0] and given.check(["/a/b/x.mp4"]) == []


@pytest.mark.parametrize("entry", ["x.avi", "c/x", "X", "ax", "/z/a/b/x", "b"])
def test_an_entry_is_for_no_other_video(tmp_path, entry):
    given = Given(parquet(tmp_path / "b.parquet", [boxed(entry, 0, 1.0)]))
    assert given.check(["/a/b/x.mp4"]) == ["/a/b/x.mp4"]
    with pytest.raises(ValueError, match=f"no entry for /a/b/x.mp4; wanted 'x' .* 1 entries, such as '{entry}'"):
        given.boxes("/a/b/x.mp4")


def test_two_entries_for_one_video_are_refused(tmp_path):
    given = Given(parquet(tmp_path / "b.parquet", [boxed("x", 0, 1.0), boxed("b/x.mp4", 0, 1.0)]))
    with pytest.raises(ValueError, match=r"the entries 'b/x.mp4' and 'x' are all for /a/b/x.mp4; wanted one"):
        given.boxes("/a/b/x.mp4")


def test_two_videos_for_one_entry_are_refused_by_a_check_of_all(tmp_path):
    given = Given(parquet(tmp_path / "b.parquet", [boxed("x", 0, 1.0)]))
    with pytest.raises(ValueError, match=r"entry 'x' is for /jump/x.mp4 and for /wave/x.mp4; put as many folders into"):
        given.check(["/jump/x.mp4", "/wave/x.mp4"])


def test_a_query_reads_only_the_row_groups_of_its_video(tmp_path):
    rows = [boxed("x", t, 1.0) for t in range(10)] + [boxed("y", t, 1.0) for t in range(10)]
    path = parquet(tmp_path / "b.parquet", rows, row_group_size=10)
    given, file = Given(path), pq.ParquetFile(path)
    second = file.metadata.row_group(1).column(0).dictionary_page_offset
    with (tmp_path / "b.parquet").open("r+b") as raw:
        raw.seek(second)
        raw.write(bytes(100))
    assert len(given.boxes("x.mp4")) == 10
    with pytest.raises(OSError):
        given.boxes("y.mp4")


def test_what_was_read_once_travels_to_workers_that_cannot_see_a_json_file(tmp_path):
    path = coco(tmp_path / "c.json", [{"id": 0, "file_name": "x/3.jpg"}], [{"image_id": 0, "bbox": [1, 1, 2, 2]}])
    sent = pickle.dumps(Given(path))
    (tmp_path / "c.json").unlink()
    assert list(pickle.loads(sent).boxes("x.mp4")) == [3]  # noqa: S301 - our own bytes


def test_the_name_has_the_file_s_name_and_the_digest_of_its_content():
    content = json.dumps({"images": [], "annotations": []}).encode()
    fsspec.filesystem("memory").pipe_file("/given/truth.json", content)
    assert Given("memory://given/truth.json").name == f"file:truth.json@{hashlib.sha256(content).hexdigest()[:8]}"


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of boxes or poses at .*nothing\.json"):
        Given(str(tmp_path / "nothing.json"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,frame\nx,1\n", "neither Parquet nor JSON"),
        ("[]", "a list; wanted COCO's object with images and annotations"),
        ('{"images": []}', "an object with images; wanted"),
        ({"images": [{"file_name": "x/1.jpg"}]}, "the field 'id' is missing"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}]}, "'1.jpg' is of no known video and frame; wanted file names"),
        ({"images": [{"id": 1, "file_name": "x/a1.jpg"}]}, "'x/a1.jpg' is of no known video and frame"),
        ({"annotations": [{"image_id": 9}]}, "an annotation is of image 9, which is not among the images"),
        ({"annotations": [{"image_id": 0, "bbox": [1, 2, 3]}]}, "a bbox of 3 values, wanted x y width height"),
        ({"annotations": [{"image_id": 0, "keypoints": "none"}]}, "not COCO keypoints"),
        ({"annotations": [7]}, "not COCO keypoints"),
        ({"categories": [{"id": 1, "name": "dog"}]}, "categories are dog; wanted one called person"),
    ],
)
def test_a_malformed_json_file_is_refused_with_the_reason(tmp_path, content, message):
    good = {"images": [{"id": 0, "file_name": "x/1.jpg"}], "annotations": []}
    text = content if isinstance(content, str) else json.dumps(good | content)
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=f"c.json: .*{message}"):
        Given(str(tmp_path / "c.json"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"video": "x", "x1": 1.0}], "columns video, x1; wanted video, frame, and x1 y1 x2 y2 or keypoints"),
        ([{"video": "x", "frame": 1, "x1": 1.0}], "columns frame, video, x1; wanted"),
        ([boxed("x", 1, 1.0), boxed(None, 2, 1.0)], "rows without a video"),
        ([boxed("x", {"a": 1}, 1.0)], "column frame is struct<a: int64>, wanted int64"),
    ],
)
def test_a_parquet_file_of_something_else_is_refused_with_the_reason(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        Given(parquet(tmp_path / "b.parquet", rows))


def test_a_damaged_parquet_file_is_said_to_be_damaged(tmp_path):
    path = parquet(tmp_path / "b.parquet", [boxed("x", 0, 1.0)])
    (tmp_path / "b.parquet").write_bytes((tmp_path / "b.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"b.parquet: damaged Parquet file"):
        Given(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"video": "x", "frame": 2, "keypoints": [1.0] * 34}],
            "frame 2: 34 keypoint values, wanted 51: x y score",
        ),
        ([{"video": "x", "frame": 2, "keypoints": points(1, 1, 3.0)}], "frame 2: a keypoint has the score 3, wanted"),
        ([{"video": "x", "frame": -1, "keypoints": points(1, 1)}], "frame -1: frames count from 0"),
        ([{"video": "x", "frame": None, "keypoints": points(1, 1)}, boxed("x", 0, 1.0)], "1 rows have no frame"),
        ([{"video": "x", "frame": 1.5, "keypoints": points(1, 1)}], "column frame is double, wanted int64"),
        ([boxed("x", 3, 1.0) | {"x2": 0.5}], "frame 3: a box with x2 < x1 or y2 < y1; wanted two corners"),
        ([boxed("x", 0, 1.0, person=1), boxed("x", 4, 1.0, person=None)], "frame 4: a person without a track"),
        ([boxed("x", 4, 1.0, person=1), boxed("x", 4, 9.0, person=1)], "frame 4: two people with the same track"),
    ],
)
def test_impossible_values_are_refused_with_their_frame(tmp_path, rows, message):
    given = Given(parquet(tmp_path / "b.parquet", rows))
    with pytest.raises(ValueError, match=message):
        given.boxes("x.mp4")


def test_boxes_alone_are_no_poses(tmp_path, video):
    with pytest.raises(ValueError, match="boxes without keypoints; use it in place of a detector"):
        given_poses(video, Given(parquet(tmp_path / "b.parquet", [boxed("x", 0, 1.0)])))


def test_a_clip_of_given_tracks_has_them_as_they_are_the_main_one_first(tmp_path, video):
    """Somebody small all the time (11 times a root of 10 x 20), somebody large in two frames (2 times 40 x 40)."""

    def row(frame, person, x, y, width, height):
        corners = {"x1": x, "y1": y, "x2": x + width, "y2": y + height}
        return {"video": "wave/x", "frame": frame, "person": person, **corners, "keypoints": points(x, y, 0.5)}

    rows = [row(t, 900, 3, 4, 10, 20) for t in range(FRAMES) if t != 5] + [row(t, 8, 20, 8, 40, 40) for t in (5, 11)]
    given = Given(parquet(tmp_path / "p.parquet", rows))
    clip = given_poses(video, given)
    assert clip.keypoints.shape == (2, FRAMES, 17, 2) and clip.skeleton == "coco17"
    assert (clip.height, clip.width, clip.fps, clip.num_frames) == (HEIGHT, WIDTH, FPS, FRAMES)
    assert clip.video == video and clip.pose_model == clip.detector == given.name
    present = [[t != 5 for t in range(FRAMES)], [t in (5, 11) for t in range(FRAMES)]]
    np.testing.assert_array_equal(clip.scores, np.repeat(np.array(present)[..., None] * 0.5, 17, 2))
    small, large = (np.reshape(points(x, y), (17, 3))[:, :2] for x, y in ((3, 4), (20, 8)))
    np.testing.assert_array_equal(clip.keypoints[0, 0], small)
    np.testing.assert_array_equal(clip.keypoints[1, 11], large)
    np.testing.assert_array_equal(clip.boxes[1, [5, 6]], [[20, 8, 60, 48], [0, 0, 0, 0]])
    assert given_poses(video, given, max_persons=1).num_persons == 1


def test_people_without_tracks_are_linked(tmp_path, video):
    rows = [{"video": "x", "frame": t, "keypoints": points(x + t, 5)} for t in range(FRAMES) for x in (0, 40)]
    clip = given_poses(video, Given(parquet(tmp_path / "p.parquet", rows)))
    assert sorted(clip.keypoints[:, 0, 0, 0].tolist()) == [0, 40]
    np.testing.assert_array_equal(np.diff(clip.keypoints[:, :, 0, 0], axis=1), 1)


def test_a_pose_beyond_the_video_is_refused(tmp_path, video):
    rows = [{"video": "x", "frame": t, "keypoints": points(1, 1)} for t in range(1, FRAMES + 1)]
    with pytest.raises(
        ValueError, match=r"a pose in frame 12 of .*x\.mp4, which has frames 0 to 11; count frames from 0"
    ):
        given_poses(video, Given(parquet(tmp_path / "p.parquet", rows)))
