"""Importing and exporting poses as jobs: what a table has afterwards, what a second run does, and the exit codes."""

import json
import pickle
import subprocess
import sys
import time
import warnings
from typing import get_args, get_type_hints

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import _job, compact, export_poses, import_poses
from posec3d.annotations import FORMATS, Options, open_annotations
from posec3d.annotations.to_table import ROWS_PER_FILE, import_clips
from posec3d.table import Clip, data_files, read_failures, read_table, summary, write_table

RNG = np.random.default_rng(0)


def annotation(name, **changes):
    return {
        "frame_dir": name,
        "total_frames": 4,
        "img_shape": (120, 160),
        "original_shape": (120, 160),
        "label": 0,
        "keypoint": RNG.integers(0, 400, (2, 4, 17, 2)).astype(np.float32) / 4,
        "keypoint_score": RNG.integers(0, 256, (2, 4, 17)).astype(np.float32) / 255,
    } | changes


def saved(path, annotations, **split):
    path.write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
    return str(path)


def start(*args):
    return _job.main(lambda: _job.parse(import_poses.ImportPoses, [str(arg) for arg in args]), import_poses.run)


def run(source, table, name="pyskl", **flags):
    return import_poses.run(import_poses.ImportPoses(format=name, source=str(source), table=str(table), **flags))


def table_of(uri):
    return {clip.clip_id: clip for clip in read_table(str(uri))}


def test_the_formats_of_the_command_line_are_those_that_can_be_read():
    (formats, *_) = get_args(get_type_hints(import_poses.ImportPoses, include_extras=True)["format"])
    assert set(get_args(formats)) == FORMATS.keys()


def test_a_pickle_becomes_a_table(tmp_path, capsys):
    items = [annotation(f"c{i}", label=i % 3) for i in range(7)]
    source = saved(tmp_path / "a.pkl", items, train=["c0", "c1"], val=["c2"])
    assert start("pyskl", source, "--table", tmp_path / "table", "--fps", "25") == _job.DONE
    found = table_of(tmp_path / "table")
    assert list(found) == [f"c{i}" for i in range(7)]
    for item in items:
        clip = found[item["frame_dir"]]
        np.testing.assert_array_equal(clip.keypoints, item["keypoint"])
        np.testing.assert_allclose(clip.scores, item["keypoint_score"], atol=1e-7)
        assert (clip.label, clip.label_name, clip.fps) == (item["label"], str(item["label"]), 25)
    told = json.loads((tmp_path / "table/_import/summary.json").read_text())
    assert (told["imported"], told["frames"], told["failed"], told["labels"]) == (7, 28, 0, 3)
    assert told["splits"] == {"train": 2, "val": 1}
    out = capsys.readouterr().out
    assert "import_poses" in out
    assert "clips in the table" in out


def test_a_second_run_does_only_what_is_missing(tmp_path):
    table, items = tmp_path / "table", [annotation(f"c{i}") for i in range(6)]
    bad = annotation("bad", total_frames=9)
    assert run(saved(tmp_path / "a.pkl", [*items[:3], bad]), table)["imported"] == 3
    files = set(data_files(str(table)))
    again = run(saved(tmp_path / "a.pkl", [*items, bad]), table)
    assert (again["imported"], again["already there"], again["failed"]) == (3, 3, 1)
    assert files < set(data_files(str(table)))
    assert sorted(clip.clip_id for clip in read_table(str(table))) == [f"c{i}" for i in range(6)]
    assert read_failures(str(table))["bad"]["attempts"] == 2
    mended = run(saved(tmp_path / "a.pkl", [*items, annotation("bad")]), table)
    assert (mended["imported"], mended["already there"], mended["failed"]) == (1, 6, 0)


def test_an_import_that_is_interrupted_writes_what_it_has(tmp_path):
    source = saved(tmp_path / "a.pkl", [annotation(f"c{i}") for i in range(9)])

    def interrupt(imported):
        if imported.clips == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_clips(open_annotations("pyskl", source, Options()), str(tmp_path / "table"), on_progress=interrupt)
    assert list(table_of(tmp_path / "table")) == ["c0", "c1", "c2", "c3"]
    import_clips(open_annotations("pyskl", source, Options()), str(tmp_path / "table"))
    assert sorted(clip.clip_id for clip in read_table(str(tmp_path / "table"))) == [f"c{i}" for i in range(9)]


@pytest.mark.slow
def test_an_import_that_is_killed_goes_on(tmp_path):
    count = 12 * ROWS_PER_FILE + 5
    tiny = {"total_frames": 1, "keypoint": np.ones((1, 1, 17, 2)), "keypoint_score": np.ones((1, 1, 17))}
    source = saved(tmp_path / "a.pkl", [annotation(f"c{i}", **tiny) for i in range(count)])
    table = tmp_path / "table"
    command = [sys.executable, "-m", "jobs.import_poses", "pyskl", source, "--table", table]
    with subprocess.Popen(command) as process:
        while not list(table.glob("*.parquet")):
            time.sleep(0.01)
        process.kill()
    kept = len(table_of(table))
    assert ROWS_PER_FILE <= kept < count
    subprocess.run(command, check=True)
    assert sorted(clip.clip_id for clip in read_table(str(table))) == sorted(f"c{i}" for i in range(count))
    assert json.loads((table / "_import/summary.json").read_text())["already there"] == kept


def test_failures_are_rows_and_a_limit_on_them_is_exit_code_3(tmp_path, capsys):
    items = [annotation("a"), annotation("b", label=[1, 2]), annotation("c", keypoint=np.zeros(3))]
    source = saved(tmp_path / "a.pkl", items)
    assert start("pyskl", source, "--table", tmp_path / "table") == _job.DONE
    failures = read_failures(str(tmp_path / "table"))
    assert {name: row["stage"] for name, row in failures.items()} == {"b": "import", "c": "import"}
    assert failures["b"]["error"] == "label is a list, wanted one number; a table has one label a clip"
    assert failures["b"]["video"] == source
    assert start("pyskl", source, "--table", tmp_path / "t2", "--max-failed", "1") == _job.WORSE
    assert start("pyskl", source, "--table", tmp_path / "t3", "--max-failed", "0.7") == _job.DONE
    assert "2 of 3 clips failed, --max-failed allows 1" in capsys.readouterr().err
    assert list(table_of(tmp_path / "t2")) == ["a"]


def test_a_source_of_which_nothing_can_be_read_is_exit_code_1(tmp_path, capsys):
    saved(tmp_path / "a.pkl", [annotation("a")])
    (tmp_path / "a.pkl").write_bytes((tmp_path / "a.pkl").read_bytes()[:-9])
    assert start("pyskl", tmp_path / "a.pkl", "--table", tmp_path / "table") == _job.FAILED
    assert "none of its 1 clips could be imported; the first: cut off" in capsys.readouterr().err


def test_wrong_usage_that_shows_half_way_is_no_exit_code_2_for_something_was_done(tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("walk\n")
    for labels, code, rows in (((7, 0), _job.USAGE, 0), ((0, 7), _job.FAILED, 1)):
        source = saved(tmp_path / "a.pkl", [annotation(f"c{i}", label=label) for i, label in enumerate(labels)])
        table = tmp_path / f"table{code}"
        assert start("pyskl", source, "--table", table, "--labels", tmp_path / "labels.txt") == code
        assert "label 7, but the labels file has 1 names" in capsys.readouterr().err
        assert len(list(table.glob("*.parquet"))) == rows


def test_names_that_are_no_text_fail_alone(tmp_path):
    items = [annotation("a"), annotation("b\ud800"), annotation("c")]
    found = run(saved(tmp_path / "a.pkl", items), tmp_path / "table")
    assert (found["imported"], found["failed"]) == (2, 1)
    assert list(read_failures(str(tmp_path / "table"))) == ["b\\ud800"]


def test_a_name_that_comes_twice_counts_once(tmp_path, caplog):
    found = run(saved(tmp_path / "a.pkl", [annotation("a"), annotation("a")]), tmp_path / "table")
    assert (found["imported"], found["named twice"]) == (1, 1)
    assert "1 clips have the name of another one" in caplog.text


def test_labels_with_a_gap_are_told(tmp_path, caplog):
    items = [annotation(f"c{i}", label=label) for i, label in enumerate((0, 4))]
    found = run(saved(tmp_path / "a.pkl", items), tmp_path / "table")
    assert found["labels without clips"] == 3
    assert "labels 0 to 4, but no clip has 1, 2, 3" in caplog.text


def test_labels_get_names_and_keep_them(tmp_path):
    (tmp_path / "labels.txt").write_text("walk\nrun\n\n")
    flags = {"labels": str(tmp_path / "labels.txt")}
    source = saved(tmp_path / "a.pkl", [annotation("a", label=1)])
    run(source, tmp_path / "table", **flags)
    assert summary(str(tmp_path / "table"))["labels"] == {1: "run"}
    more = saved(tmp_path / "b.pkl", [annotation("b", label=1)])
    with pytest.raises(_job.UsageError, match="label 1 is '1' here, and 1 is 'run' in the table"):
        run(more, tmp_path / "table")
    run(more, tmp_path / "table", **flags)
    assert len(table_of(tmp_path / "table")) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"skeleton": "octopus"}, "--skeleton octopus: wanted one of blazepose33"),
        ({"size": "1080"}, "--size must be HxW"),
        ({"size": "0x5"}, "--size must be HxW"),
        ({"fps": -1}, "--fps must be >= 0"),
        ({"max_persons": 0}, "--max-persons must be >= 1"),
        ({"max_failed": -1}, "--max-failed must be >= 0, got -1"),
        ({"labels": "/nowhere.txt"}, "no file at /nowhere.txt"),
        ({"source": "/nowhere"}, "no file or folder there"),
        ({"name": "ntu"}, "wanted Ssss.* for the format ntu; it may be pyskl"),
    ],
)
def test_what_cannot_mean_anything_is_refused_before_any_work(tmp_path, flags, message):
    flags = {"source": saved(tmp_path / "a.pkl", [annotation("a")])} | flags
    with pytest.raises(_job.UsageError, match=message):
        run(flags.pop("source"), tmp_path / "table", **flags)
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("", "has no names"), ("a\nb\na\n", "has 'a' twice"), ("a\n\nb", "has an empty line")]
)
def test_labels_files_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(_job.UsageError, match=message):
        run(saved(tmp_path / "a.pkl", [annotation("a")]), tmp_path / "table", labels=str(tmp_path / "labels.txt"))


def test_a_table_takes_one_format_and_one_way(tmp_path):
    source = saved(tmp_path / "a.pkl", [annotation("a")])
    run(source, tmp_path / "table")
    with pytest.raises(_job.UsageError, match=r"imported with fps 0.*another --table"):
        run(source, tmp_path / "table", fps=30.0)
    write_table([Clip("x", 1, 9, 9, np.zeros((1, 1, 17, 2)), np.ones((1, 1, 17)))], str(tmp_path / "other"))
    with pytest.raises(_job.UsageError, match="holds rows that no import wrote"):
        run(source, tmp_path / "other")


def test_a_skeleton_that_has_to_be_said_can_be_said(tmp_path):
    arrays = {"keypoint": np.ones((1, 4, 25, 2)), "keypoint_score": np.ones((1, 4, 25))}
    source = saved(tmp_path / "a.pkl", [annotation("a", **arrays)])
    with pytest.raises(_job.UsageError, match="may be ntu25 or openpose25; say which by --skeleton"):
        run(source, tmp_path / "table")
    assert run(source, tmp_path / "table", skeleton="openpose25")["skeleton"] == "openpose25"


def test_two_imports_into_one_table_at_a_time_are_refused(tmp_path):
    source = saved(tmp_path / "a.pkl", [annotation("a")])
    with _job.lock(str(tmp_path / "table/_import")), pytest.raises(_job.UsageError, match="another run is writing"):
        run(source, tmp_path / "table")


def test_how_normalised_poses_became_pixels_is_kept_by_compact(tmp_path):
    pose = RNG.normal(0, 1, (4, 15, 2))
    content = {"GT_train_1.pkl": [pose], "GT_test_1.pkl": [-pose]}
    for name, poses in content.items():
        (tmp_path / name).write_bytes(pickle.dumps({"pose": poses, "label": ["run"]}))
    run(tmp_path, tmp_path / "table", "jhmdb")
    compact.run(compact.Compact(tables=(str(tmp_path / "table"),), out=str(tmp_path / "merged")))
    (file,) = data_files(str(tmp_path / "merged"))
    metadata = pq.read_schema(file.removeprefix("file://")).metadata
    assert json.loads(metadata[b"posec3d.normalised"]) == {"scale": 80.0, "origin": [256.0, 256.0]}
    assert metadata[b"posec3d.version"] == b"1"
    assert len(table_of(tmp_path / "merged")) == 2


def test_what_is_imported_has_no_problems_for_compact(tmp_path):
    keypoint = RNG.normal(0, 1e4, (2, 4, 17, 2))
    keypoint[0, 0] = np.nan
    items = [annotation("a", keypoint=keypoint), annotation("b", keypoint=np.full((2, 4, 17, 2), np.inf))]
    xyz = np.full((1, 4, 25, 3), np.nan)
    run(saved(tmp_path / "a.pkl", items), tmp_path / "a")
    run(saved(tmp_path / "b.pkl", [{"frame_dir": "c", "keypoint": xyz, "label": 0}]), tmp_path / "b")
    for table in ("a", "b"):
        compact.run(compact.Compact(tables=(str(tmp_path / table),)))


def test_on_an_object_store(s3, tmp_path):
    source = saved(tmp_path / "a.pkl", [annotation("a")], train=["a"])
    assert run(source, f"{s3}/table")["imported"] == 1
    assert export(f"{s3}/table", f"{s3}/out/poses.pkl")["clips"] == 1
    assert run(f"{s3}/out/poses.pkl", f"{s3}/again")["imported"] == 1
    assert next(read_table(f"{s3}/again")).splits == ("train",)


# Export


def export(table, out, **flags):
    return export_poses.run(export_poses.ExportPoses(table=str(table), out=str(out), **flags))


@pytest.fixture
def table(tmp_path):
    """Three clips of all kinds, imported."""
    items = [annotation("a", label=1), annotation("b", img_shape=(480, 640)), annotation("c", label=None)]
    items[2] |= {"keypoint": items[2]["keypoint"][:0], "keypoint_score": items[2]["keypoint_score"][:0]}
    run(saved(tmp_path / "in.pkl", items, train=["a", "c"], val=["b"], all=["a", "b", "c"]), tmp_path / "table")
    return tmp_path / "table"


def test_an_export_is_what_pyskl_documents(table, tmp_path):
    assert export(table, tmp_path / "out.pkl")["clips"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = pickle.loads((tmp_path / "out.pkl").read_bytes())  # noqa: S301
    assert list(content) == ["split", "annotations"]
    assert content["split"] == {"train": ["a", "c"], "val": ["b"], "all": ["a", "b", "c"]}
    clips = table_of(table)
    for item in content["annotations"]:
        clip = clips[item["frame_dir"]]
        label = [] if clip.label is None else ["label"]
        assert list(item) == [
            "frame_dir",
            "total_frames",
            "img_shape",
            "original_shape",
            *label,
            "keypoint",
            "keypoint_score",
        ]
        assert type(item["frame_dir"]) is str
        assert type(item["total_frames"]) is int
        assert item["img_shape"] == item["original_shape"] == (clip.height, clip.width)
        assert item.get("label") == clip.label
        assert item["keypoint"].shape == (clip.num_persons, 4, 17, 2)
        assert item["keypoint_score"].shape == (clip.num_persons, 4, 17)
        assert item["keypoint"].dtype == item["keypoint_score"].dtype == np.float32
        np.testing.assert_array_equal(item["keypoint"], clip.keypoints)
        np.testing.assert_array_equal(item["keypoint_score"], clip.scores)
        item["keypoint"] += 1  # as augmentations do in place
    assert b"numpy._core" not in (tmp_path / "out.pkl").read_bytes()  # which NumPy 1 of the reference systems lacks


def test_a_table_that_is_exported_and_imported_is_the_same(table, tmp_path):
    export(table, tmp_path / "out.pkl")
    run(tmp_path / "out.pkl", tmp_path / "again")
    before, after = table_of(table), table_of(tmp_path / "again")
    assert before.keys() == after.keys()
    for name, clip in before.items():
        np.testing.assert_array_equal(after[name].keypoints, clip.keypoints)
        np.testing.assert_array_equal(after[name].scores, clip.scores)
        assert set(after[name].splits) == set(clip.splits)
        for field in ("label", "label_name", "height", "width", "num_frames", "skeleton"):
            assert getattr(after[name], field) == getattr(clip, field)


def test_an_export_in_half_precision_is_within_its_rounding(table, tmp_path):
    export(table, tmp_path / "out.pkl", dtype="float16")
    run(tmp_path / "out.pkl", tmp_path / "again")
    after = table_of(tmp_path / "again")
    for name, clip in table_of(table).items():
        np.testing.assert_array_equal(after[name].keypoints, clip.keypoints)  # quarter pixels below 512
        np.testing.assert_allclose(after[name].scores, clip.scores, atol=0.5 / 255)


def test_an_export_of_one_split(table, tmp_path):
    assert export(table, tmp_path / "out.pkl", split="val")["clips"] == 1
    content = pickle.loads((tmp_path / "out.pkl").read_bytes())  # noqa: S301
    assert content["split"] == {"val": ["b"], "all": ["b"]}
    assert [item["frame_dir"] for item in content["annotations"]] == ["b"]


def test_an_export_in_3d_comes_back_in_3d(tmp_path):
    xyz = np.zeros((1, 2, 25, 3), np.float32)
    xyz[..., :20, :] = RNG.normal((0, 0, 3), 0.3, (1, 2, 20, 3))
    run(saved(tmp_path / "a.pkl", [{"frame_dir": "a", "keypoint": xyz, "label": 0}]), tmp_path / "table")
    export(tmp_path / "table", tmp_path / "out.pkl", coordinates="3d")
    (item,) = pickle.loads((tmp_path / "out.pkl").read_bytes())["annotations"]  # noqa: S301
    np.testing.assert_array_equal(item["keypoint"], xyz)
    assert "keypoint_score" not in item
    run(tmp_path / "out.pkl", tmp_path / "again")
    np.testing.assert_array_equal(table_of(tmp_path / "again")["a"].keypoints_3d, xyz)


def test_exports_that_cannot_be(table, tmp_path):
    for flags, message in (
        ({"out": tmp_path / "out.json"}, r"wanted a file \*.pkl"),
        ({"out": tmp_path / "out.pkl", "split": "nothing"}, "no split 'nothing'"),
        ({"table": tmp_path / "nowhere", "out": tmp_path / "out.pkl"}, "no keypoint table"),
    ):
        with pytest.raises(_job.UsageError, match=message):
            export(**({"table": table} | flags))
    with pytest.raises(ValueError, match="has no 3D keypoints; export 2d"):
        export(table, tmp_path / "sub/out.pkl", coordinates="3d")
    assert not list((tmp_path / "sub").iterdir())


def test_the_names_of_the_labels_come_with_an_export(tmp_path):
    (tmp_path / "labels.txt").write_text("walk\nrun\n")
    run(saved(tmp_path / "a.pkl", [annotation("a", label=1)]), tmp_path / "table", labels=str(tmp_path / "labels.txt"))
    export(tmp_path / "table", tmp_path / "out.pkl")
    run(tmp_path / "out.pkl", tmp_path / "again", labels=str(tmp_path / "out.labels.txt"))
    assert table_of(tmp_path / "again")["a"].label_name == "run"
