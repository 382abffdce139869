"""From folders and label files to table rows: found, numbered, extracted, failed, resumed."""

import av
import numpy as np
import pytest

from jobs import extract as job
from pipelines import extract
from pipelines.extract import Video, find_videos, number_labels
from posec3d import actors
from posec3d import table as tables
from posec3d.pose import PoseEstimator
from posec3d.video import write_video


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_labels_and_splits(tmp_path):
    touch(tmp_path, "train/wave/a.mp4", "wave/b.AVI", "c.webm", "notes.txt", "wave/.mp4.swp")
    found = {v.video.removeprefix(f"{tmp_path}/"): (v.label_name, v.splits) for v in find_videos(str(tmp_path))}
    assert found == {
        "train/wave/a.mp4": ("wave", ("train",)),
        "wave/b.AVI": ("wave", ()),
        "c.webm": (None, ()),
    }


def test_a_labels_file_names_videos_labels_and_splits(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("﻿video,label,split\na.mp4,wave,train; fold1\n/data/b.mp4,kick,\ns3://bucket/c.mp4,,test\n")
    found = find_videos(str(tmp_path), str(labels))
    assert [(v.video, v.label_name, v.splits) for v in found] == [
        (f"{tmp_path}/a.mp4", "wave", ("train", "fold1")),
        ("/data/b.mp4", "kick", ()),
        ("s3://bucket/c.mp4", None, ("test",)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\n", "header is file,label, wanted video,label"),
        ("video,label\n,x\n", "no video in this row"),
        ("video,label\na.mp4,x\na.mp4,y\n", "named twice; join its splits"),
    ],
)
def test_a_bad_labels_file_is_refused_with_the_reason(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_videos(str(tmp_path), str(tmp_path / "labels.csv"))


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no videos at"):
        find_videos(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder or video"):
        find_videos(str(tmp_path / "none"))


def test_ids_are_stable_and_unique():
    assert tables.clip_id("s3://b/x/clip.one.mp4") == tables.clip_id("s3://b/x/clip.one.mp4")
    assert tables.clip_id("s3://b/x/clip.one.mp4") != tables.clip_id("s3://b/y/clip.one.mp4")
    assert tables.clip_id("s3://b/x/clip.one.mp4").startswith("clip.one-")


def numbers(names, known, given=False):
    return [v.label for v in number_labels([Video(n or "", "", None, n) for n in names], known, given=given)]


def test_labels_are_numbered_by_name_and_keep_the_numbers_they_have():
    assert numbers(["wave", "kick", None, "kick"], {}) == [1, 0, None, 0]
    assert numbers(["wave", "bow", "kick"], {0: "kick", 1: "wave"}) == [1, 2, 0]


def test_labels_of_a_file_that_are_numbers_are_the_numbers():
    assert numbers(["12", "3"], {}, given=True) == [12, 3]
    assert numbers(["20230101", "3"], {}) == [0, 1]  # folders named by dates are names
    assert numbers(["01", "1"], {}, given=True) == [0, 1]


def test_hidden_files_are_no_videos_and_paths_are_normal(tmp_path):
    touch(tmp_path, ".hidden.mp4", "a.mp4")
    assert [v.video for v in find_videos(f"{tmp_path}/")] == [f"{tmp_path}/a.mp4"]
    (tmp_path / "labels.csv").write_text("video,label\n./a.mp4,x\n")
    assert [v.video for v in find_videos(str(tmp_path), str(tmp_path / "labels.csv"))] == [f"{tmp_path}/a.mp4"]


def test_a_name_that_is_not_utf8_is_escaped(tmp_path):
    import os

    open(os.fsencode(tmp_path) + b"/caf\xe9.mp4", "w").close()
    assert [v.video for v in find_videos(str(tmp_path))] == [f"{tmp_path}/caf\\xe9.mp4"]


def test_a_labels_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "labels.csv").write_bytes("video,label\na.mp4,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv: not UTF-8"):
        find_videos(str(tmp_path), str(tmp_path / "labels.csv"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A good video, one without people, and three that are none."""
    root = tmp_path_factory.mktemp("videos")
    clip = actors.make_clip("wave", actor=3, num_frames=10)
    write_video(root / "good.mp4", clip.frames, clip.fps)
    write_video(root / "empty_room.mp4", np.full((6, 120, 160, 3), 90, np.uint8), 10)
    (root / "text.mp4").write_text("this is no video\n" * 20)
    (root / "zero.mp4").touch()
    with av.open(str(root / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        frame.rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return root


def test_one_bad_video_is_a_row_that_says_why(mixed, movenet):
    estimator = PoseEstimator(movenet)
    rows = {v.video.rsplit("/", 1)[-1]: extract.extract_row(v, estimator) for v in find_videos(str(mixed))}
    assert {name: row["stage"] for name, row in rows.items()} == {
        "good.mp4": None,
        "empty_room.mp4": None,
        "text.mp4": "decode",
        "zero.mp4": "decode",
        "audio.mp4": "decode",
    }
    assert rows["empty_room.mp4"]["num_persons"] == 0
    assert rows["good.mp4"]["num_persons"] == 1
    assert "empty" in rows["zero.mp4"]["error"]
    assert "no video stream" in rows["audio.mp4"]["error"]
    assert "text.mp4" in rows["text.mp4"]["error"]


@pytest.mark.ray
def test_the_job_extracts_a_mixed_folder_once(mixed, movenet, ray_local, tmp_path):
    table = str(tmp_path / "table")
    summary = job.run(job.Extract(videos=str(mixed), table=table, actors=2))
    assert (summary["extracted"], summary["without people"], summary["failed"]) == (2, 1, 3)
    rows = {c.video.rsplit("/", 1)[-1]: c for c in tables.read_table(table)}
    assert {name: clip.num_persons for name, clip in rows.items()} == {"good.mp4": 1, "empty_room.mp4": 0}
    truth = actors.make_clip("wave", actor=3, num_frames=10)
    distance = np.linalg.norm(rows["good.mp4"].keypoints - truth.keypoints, axis=-1)
    assert (distance < 0.1 * truth.height_px[..., None]).mean() > 0.85
    failures = tables.read_failures(table)
    assert sorted(f["video"].rsplit("/", 1)[-1] for f in failures.values()) == ["audio.mp4", "text.mp4", "zero.mp4"]

    for run in (2, 3):  # what is in the table is not done again, what failed is tried three times
        again = job.run(job.Extract(videos=str(mixed), table=table, actors=2))
        assert (again["extracted"], again["already done"], again["failed"]) == (0, 2, 3)
        assert {f["attempts"] for f in again["failures"]} == {run}
    again = job.run(job.Extract(videos=str(mixed), table=table, actors=2))
    assert (again["failed"], again["given up after 3 tries"]) == (0, 3)
    assert len(list(tables.read_table(table))) == 2


@pytest.mark.ray
def test_labels_keep_their_numbers_when_only_some_videos_were_written(mixed, movenet, ray_local, tmp_path):
    videos = tmp_path / "videos"
    for name in ("bow", "kick", "wave"):
        (videos / name).mkdir(parents=True)
        (videos / name / "x.mp4").write_bytes((mixed / "good.mp4").read_bytes())
    table = str(tmp_path / "table")
    summary = job.run(job.Extract(videos=str(videos), table=table, actors=1))
    assert summary["extracted"] == 3
    assert tables.summary(table)["labels"] == {0: "bow", 1: "kick", 2: "wave"}
    (next((tmp_path / "table").glob("*.parquet"))).unlink()  # as if killed before this file was written
    job.run(job.Extract(videos=str(videos), table=table, actors=1))
    assert tables.summary(table)["labels"] == {0: "bow", 1: "kick", 2: "wave"}
