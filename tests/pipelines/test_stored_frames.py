"""Frames of a whole table: made once, beside it; a clip whose video is gone fails alone."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from jobs import _job
from jobs import extract as extract_job
from pipelines import cluster, frames
from posec3d import actors
from posec3d.frames import locate, read_frames
from posec3d.table import Clip, read_failures, read_table, write_table
from posec3d.video import write_video

pytestmark = pytest.mark.ray


@pytest.fixture
def table(tmp_path):
    uri = str(tmp_path / "table")
    clips = []
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        truth = actors.make_clip("wave", actor=number, num_frames=12)
        if number != 2:
            write_video(path, truth.frames, truth.fps)
        ones = np.ones(truth.keypoints.shape[:3], np.float32)
        clips.append(Clip(f"c{number}", 12, 240, 320, truth.keypoints, ones, video=str(path), fps=truth.fps))
    write_table(clips, uri, rows_per_file=3)
    return uri


def test_every_clip_gets_its_frames_once_and_a_bad_video_fails_alone(table, ray_local):
    todo = frames.missing(table)
    assert todo.num_rows == 4
    seen = []
    done = frames.store(table, todo, most=5, crop="subject", on_progress=lambda p: seen.append(p.clips + p.failed))
    assert (done.clips, done.failed, done.pictures, seen[-1]) == (3, 1, 15, 4)
    files, places = locate(table)
    assert set(places) == {"c0", "c1", "c3"}
    for file, row in places.values():
        assert len(read_frames(files[file], row).images) == 5
    failure = read_failures(table)["c2"]
    assert failure["stage"] == "frames" and "2.mp4" in failure["error"]
    assert len(list(read_table(table))) == 4
    assert frames.missing(table).num_rows == 1  # the one that failed is tried again


def test_files_are_written_as_they_fill(table, ray_local, monkeypatch):
    monkeypatch.setattr(frames, "COMMIT_BYTES", 1)
    frames.store(table, frames.missing(table), most=2, crop="whole")
    files, places = locate(table)
    assert len(files) == len(places) == 3


def test_failures_are_written_after_each_wave(table, ray_local, monkeypatch):
    """A table of millions is many executions, and who looks at its failures need not wait for the last one."""
    monkeypatch.setattr(cluster, "WAVE", 3)
    told = []
    todo = frames.missing(table).sort_by("clip_id")  # the third one fails
    done = frames.store(table, todo, most=2, crop="whole", on_progress=lambda _: told.append(set(read_failures(table))))
    assert (done.clips, done.failed) == (3, 1)
    assert told == [set(), set(), set(), {"c2"}]
    assert len(list((Path(table) / "_failures").iterdir())) == 1


def test_a_clip_whose_row_cannot_be_read_fails_alone(table, ray_local):
    """As when S3 refuses a request once."""
    todo = frames.missing(table)
    lost = pc.if_else(pc.equal(todo["clip_id"], "c1"), f"{table}/gone.parquet", todo["file"])
    todo = todo.set_column(todo.schema.get_field_index("file"), "file", lost)
    done = frames.store(table, todo, most=2, crop="whole")
    assert (done.clips, done.failed) == (2, 2)
    failure = read_failures(table)["c1"]
    assert failure["stage"] == "frames" and "FileNotFoundError" in failure["error"] and "gone" in failure["error"]
    assert set(frames.missing(table)["clip_id"].to_pylist()) == {"c1", "c2"}


@pytest.mark.slow
def test_the_job_makes_frames_of_new_clips_and_of_those_that_are_there(tmp_path, movenet, ray_local):
    videos = tmp_path / "videos"
    videos.mkdir()
    clip = actors.make_clip("bow", actor=1, num_frames=8)
    write_video(videos / "a.mp4", clip.frames, clip.fps)
    job = extract_job.Extract(videos=str(videos), table=str(tmp_path / "table"))
    extract_job.run(job)
    write_video(videos / "b.mp4", clip.frames, clip.fps)
    both = extract_job.Extract(videos=str(videos), table=str(tmp_path / "table"), frames="subject", frames_per_clip=3)
    summary = extract_job.run(both)
    assert (summary["extracted"], summary["clips with new frames"], summary["clips without frames"]) == (1, 2, 0)
    assert summary["KB of frames a clip"] > 1 and summary["frames cut a second and core"] > 0
    assert extract_job.run(both)["clips with new frames"] == 0

    # Frames that fail are no failed videos, but count for --max-failed.
    shutil.rmtree(tmp_path / "table/_frames")
    (videos / "b.mp4").unlink()
    summary = extract_job.run(dataclasses.replace(both, max_failed=0.5))
    assert (summary["failed"], summary["failures"], summary["clips without frames"]) == (0, [], 1)
    assert [failure["error"] for failure in summary["failures of frames"]] == [f"{videos / 'b.mp4'}: no such file"]
    with pytest.raises(
        _job.WorseThanAllowed, match="1 of 2 clips for --frames failed, --max-failed allows 0"
    ) as raised:
        extract_job.run(dataclasses.replace(both, max_failed=0))
    assert raised.value.summary["clips with frames"] == 1
