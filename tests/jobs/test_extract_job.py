"""The extraction job: usage, files instead of networks, pieces; slow: S3, full disks, kills and cancels."""

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import boto3
import fsspec
import numpy as np
import pytest
import requests

from jobs import _job
from jobs import extract as extract_job
from jobs.extract import Extract, run
from posec3d import actors
from posec3d import table as tables
from posec3d.frames import Frames, to_row, write_frames
from posec3d.video import VideoError, write_video

ROOT = Path(__file__).resolve().parents[2]


def make_videos(root, count):
    """Short videos of three actions, 00.mp4 and so on."""
    for i in range(count):
        action = actors.ACTIONS[i % 3]
        clip = actors.make_clip(action, actor=i, num_frames=12)
        (root / action).mkdir(exist_ok=True)
        write_video(root / action / f"{i:02d}.mp4", clip.frames, clip.fps)
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_videos(tmp_path_factory.mktemp("few"), 3)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Half a minute of extraction; what is done is saved every 15 s."""
    return make_videos(tmp_path_factory.mktemp("many"), 80)


def once(count):
    """Every video in one row."""
    return {f"{i:02d}.mp4": 1 for i in range(count)}


def rows(table):
    if not tables.data_files(str(table)):
        return Counter()
    return Counter(clip.video.rsplit("/", 1)[-1] for clip in tables.read_table(str(table)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"pose": "resnet"}, "--pose resnet: wanted one of movenet-thunder"),
        ({"actors": "4:2"}, "--actors must be N or MIN:MAX"),
        ({"actors": "0"}, "--actors must be N or MIN:MAX"),
        ({"fps": 0.0}, "--fps must be > 0"),
        ({"detect_every": 0}, "--detect-every must be >= 1"),
        ({"max_failed": -0.5}, "--max-failed must be >= 0, got -0.5"),
        ({"store": "heatmaps", "pose": "rtmpose-m"}, "--store heatmaps: rtmpose-m has none; movenet-thunder"),
        ({"pose": "poses.json", "fps": 5.0}, "--fps and poses or boxes from a file"),
        ({"decoder": "nvdec"}, "--decoder nvdec wants actors with a GPU, got --gpus-per-actor 0"),
        ({"decoder": "nvdec", "gpus_per_actor": 1, "pose": "poses.json"}, "--decoder nvdec and poses from a file"),
        ({"videos": "/nowhere"}, "/nowhere: no folder or video there"),
    ],
)
def test_flags_that_mean_nothing_are_refused_before_any_work(videos, tmp_path, flags, message):
    with pytest.raises(_job.UsageError, match=message):
        run(Extract(**({"videos": str(videos), "table": str(tmp_path / "table")} | flags)))
    assert not (tmp_path / "table").exists()


def test_a_table_keeps_one_way_of_extraction(tmp_path, videos):
    table = tmp_path / "table"
    (table / "_extract").mkdir(parents=True)
    job = Extract(videos=str(videos), table=str(table))
    (table / "_extract/settings.json").write_text(json.dumps({"pose": "hrnet-w32", "fps": None}))
    extract_job._same_settings(job, extract_job._options(job), f"{table}/_extract")  # nothing was made yet
    points = np.ones((1, 3, 17, 2))
    tables.write_table([tables.Clip("a", 3, 48, 64, points, points[..., 0])], str(table))
    with pytest.raises(_job.UsageError, match="was extracted with pose hrnet-w32; take the same, or another --table"):
        run(job)


def test_a_table_without_notes_of_its_extraction_takes_rows_of_its_own_networks_alone(tmp_path, videos):
    """As jobs.compact leaves one."""
    clip = tables.Clip("c", 1, 9, 9, np.zeros((0, 1, 17, 2)), np.zeros((0, 1, 17)), pose_model="a@1", detector="b@2")
    tables.write_table([clip], str(tmp_path))
    file = tmp_path / "given.json"
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}))
    with pytest.raises(_job.UsageError, match=r"rows of detector 'b@2' and pose network 'a@1', .* 'file:given\.json"):
        run(Extract(videos=str(videos), table=str(tmp_path), pose=str(file)))


@pytest.mark.parametrize("other", [{"frames": "whole"}, {"frames_per_clip": 8}])
def test_a_table_keeps_one_kind_of_pictures_until_they_are_removed(tmp_path, videos, other):
    job = Extract(videos=str(videos), table=str(tmp_path), frames="subject")
    extract_job._same_pictures(job)
    write_frames([to_row("c", Frames(np.array([0]), (0, 0, 9, 9), [b""]))], str(tmp_path), "x")
    extract_job._same_pictures(job)
    with pytest.raises(_job.UsageError, match=r"were made with --frames subject --frames-per-clip 64; .* remove"):
        run(dataclasses.replace(job, **other))
    shutil.rmtree(tmp_path / "_frames")
    extract_job._same_pictures(dataclasses.replace(job, **other))


def test_a_dry_run_measures_and_writes_nothing(videos, movenet, tmp_path):
    summary = run(Extract(videos=str(videos), table=str(tmp_path / "table"), dry_run=True, pose="movenet-lightning"))
    assert summary["to do"] == 3 and summary["of them failed"] == 0
    assert summary["videos measured"] >= 1 and 0.01 < summary["seconds a video"] < 20
    # 12 frames of a person with 17 joints: at most 5 bytes each, and what a file and a row cost.
    assert 1 < summary["KB a video"] < 20
    assert not list((tmp_path / "table").glob("*.parquet"))
    assert not (tmp_path / "table/_extract/settings.json").exists()


def test_a_dry_run_without_the_decoder_asked_for_is_refused(videos, movenet, tmp_path, without_nvdec):
    flags = {"dry_run": True, "decoder": "nvdec", "gpus_per_actor": 1}
    with pytest.raises(VideoError, match="NVDEC does not decode here"):
        run(Extract(videos=str(videos), table=str(tmp_path / "table"), **flags))


@pytest.mark.ray
@pytest.mark.slow
def test_a_long_video_is_cut_into_clips_that_together_are_all_of_it(movenet, ray_local, tmp_path):
    clip = actors.make_clip("wave", actor=2, num_frames=40)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/long.mp4", clip.frames, 10)
    write_video(tmp_path / "videos/short.mp4", clip.frames[:8], 10)
    table = str(tmp_path / "table")
    job = Extract(
        videos=str(tmp_path / "videos"), table=table, segment_seconds=1.5, actors="1", pose="movenet-lightning"
    )
    assert run(job)["extracted"] == 4
    clips = sorted(tables.read_table(table), key=lambda c: (c.video, c.start_frame))
    assert [c.num_frames for c in clips][-1] == 8
    pieces = clips[:-1]
    assert sum(c.num_frames for c in pieces) == 40
    assert [c.start_frame for c in pieces] == np.cumsum([0, *(c.num_frames for c in pieces)])[:-1].tolist()
    assert [c.clip_id.rsplit("-", 1)[1] for c in pieces] == ["1of3", "2of3", "3of3"]
    for piece in pieces:  # each shows its own frames
        truth = clip.keypoints[0, piece.start_frame : piece.start_frame + piece.num_frames]
        off = np.linalg.norm(piece.keypoints[0] - truth, axis=-1)
        assert (off < 0.1 * clip.height_px[0, 0]).mean() > 0.8
    again = run(job)
    assert (again["extracted"], again["already done"]) == (0, 2)


@pytest.mark.ray
def test_frames_are_taken_at_the_rate_asked_for(movenet, ray_local, tmp_path):
    clip = actors.make_clip("wave", actor=2, num_frames=40)
    write_video(tmp_path / "a.mp4", clip.frames, 20)
    table = str(tmp_path / "table")
    run(Extract(videos=str(tmp_path / "a.mp4"), table=table, fps=5, actors="1", pose="movenet-lightning"))
    (found,) = tables.read_table(table)
    assert (found.num_frames, found.fps) == (10, 5)
    off = np.linalg.norm(found.keypoints[0] - clip.keypoints[0, ::4], axis=-1)
    assert (off < 0.1 * clip.height_px[0, 0]).mean() > 0.8


@pytest.mark.ray
def test_poses_and_boxes_come_from_files(movenet, ray_local, tmp_path):
    clip = actors.make_clip("wave", actor=2, num_frames=6)
    write_video(tmp_path / "a.mp4", clip.frames, 10)
    low, high = clip.keypoints[0].min(1), clip.keypoints[0].max(1)
    images = [{"id": t, "file_name": f"a/{t}.jpg"} for t in range(6)]
    people = [
        {
            "image_id": t,
            "category_id": 1,
            "bbox": [*map(float, low[t]), *map(float, high[t] - low[t])],
            "keypoints": np.c_[clip.keypoints[0, t], np.full(17, 2)].ravel().tolist(),
        }
        for t in range(6)
    ]
    file = tmp_path / "given.json"
    file.write_text(json.dumps({"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}))
    given = str(tmp_path / "poses")
    summary = run(Extract(videos=str(tmp_path / "a.mp4"), table=given, pose=str(file), actors="1"))
    assert (summary["extracted"], summary["crops"]) == (1, 0)
    (found,) = tables.read_table(given)
    np.testing.assert_allclose(found.keypoints, clip.keypoints, atol=0.13)  # quarter pixels
    assert found.pose_model.startswith("file:given.json@")

    boxed = str(tmp_path / "boxes")
    job = Extract(videos=str(tmp_path / "a.mp4"), table=boxed, detector=str(file), pose="movenet-lightning", actors="1")
    assert run(job)["crops"] == 6
    (found,) = tables.read_table(boxed)
    assert found.detector.startswith("file:given.json@") and found.pose_model.startswith("movenet-lightning@")
    off = np.linalg.norm(found.keypoints[0] - clip.keypoints[0], axis=-1)
    assert (off < 0.1 * clip.height_px[0, 0]).mean() > 0.8


def start(*words, **more):
    dropped = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    env = {**{k: v for k, v in os.environ.items() if k not in dropped}, **more}
    command = [sys.executable, "-m", "jobs.extract", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process, seconds=300):
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


def wait_for(condition, seconds=200):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.2)


def saved(table):
    return list(Path(table).glob("_extract/pending/*.parquet"))


@pytest.mark.slow
def test_a_cancelled_job_writes_what_it_has_and_says_how_to_go_on(many, movenet, tmp_path):
    """By SIGTERM, as `ray job stop` does; Ctrl-C is in test_manners.py."""
    table = tmp_path / "table"
    words = ("--videos", many, "--table", table)
    first = start(*words)
    wait_for(lambda: saved(table))
    first.terminate()
    code, output = finish(first, 60)
    assert code == 1
    assert "the same command again does the rest" in output and "Traceback" not in output, output
    before = rows(table)
    assert 0 < len(before) < 80 and not saved(table)
    code, output = finish(start(*words))
    assert code == 0, output
    assert rows(table) == once(80)


@pytest.mark.slow
def test_a_killed_extraction_run_again_has_every_video_once(many, movenet, tmp_path):
    table = tmp_path / "table"
    words = ("--videos", many, "--table", table)
    first = start(*words)
    wait_for(lambda: saved(table))
    first.kill()  # the driver alone: its Ray must end by itself
    first.wait()
    assert len(saved(table)) == 1 and not rows(table)
    code, output = finish(start(*words))
    assert code == 0, output
    assert rows(table) == once(80) and not saved(table)
    summary = json.loads((table / "_extract/summary.json").read_text())
    assert summary["already done"] > 0 and summary["already done"] + summary["extracted"] == 80


@pytest.mark.slow
def test_a_full_disk_ends_the_job_with_a_clear_error_and_nothing_is_lost(many, movenet, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.decode().strip()}")
    try:
        filler = disk / "filler"
        words = ("--videos", many, "--table", disk / "table")
        filler.write_bytes(bytes(150 * 1024))
        code, output = finish(start(*words))
        assert code == 1
        assert "No space left on device" in output and "Traceback" not in output, output
        assert not list(disk.rglob("*.part"))
        before = rows(disk / "table")
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        code, output = finish(start(*words))
        assert code == 0, output
        assert rows(disk / "table") == once(80)
        assert json.loads((disk / "table/_extract/summary.json").read_text())["extracted"] <= 80 - len(before)
    finally:
        subprocess.run(["umount", disk], check=True)


class Storm:
    """A WSGI program before moto's: answers 503 to every request until a time."""

    def __init__(self, application):
        self.application, self.until, self.refused = application, 0, 0

    def __call__(self, environ, start_response):
        if time.monotonic() < self.until:
            self.refused += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            answer = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
            answer = b"" if environ["REQUEST_METHOD"] == "HEAD" else answer
            start_response("503 Slow Down", [("Content-Type", "text/xml"), ("Content-Length", str(len(answer)))])
            return [answer]
        return self.application(environ, start_response)


SECRET = "wJalrXUtnFEMIexampleKEY"  # noqa: S105 - opens nothing


@pytest.fixture
def storm(monkeypatch):
    """A real S3 server on this machine that can be told to fail for a while."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    storm = Storm(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, storm, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield storm
    for what, data in (("reset-auth", b"inf"), ("reset", b"")):  # moto's state is the process's
        assert requests.post(f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/{what}", data=data, timeout=9).ok
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.shutdown()


def upload(videos):
    fs = fsspec.filesystem("s3")
    for path in videos.glob("*/*.mp4"):
        fs.put(str(path), f"bucket/videos/{path.parent.name}/{path.name}")


@pytest.mark.slow
def test_a_table_on_s3_from_videos_on_s3_survives_errors_and_resumes(storm, many, movenet):
    upload(many)
    words = ("--videos", "s3://bucket/videos", "--table", "s3://bucket/a/table", "--actors", 2)
    fs = fsspec.filesystem("s3")

    def pending():
        fs.invalidate_cache()
        return fs.glob("bucket/a/table/_extract/pending/*.parquet")

    first = start(*words)
    wait_for(pending)
    storm.until = time.monotonic() + 8  # while it reads videos
    wait_for(lambda: time.monotonic() > storm.until)
    code, output = finish(start(*words), 60)
    assert code == 2 and "another run is writing to" in output, output
    first.kill()
    first.wait()
    assert 0 < len(pending())
    from posec3d import storage

    lock = fs.cat_file("bucket/a/table/_extract/lock")
    assert b"renewed" in lock
    code, again = finish(start(*words), 60)
    assert code == 2, again  # the dead run's lease has not ended yet
    held = json.loads(lock)
    fs.pipe_file("bucket/a/table/_extract/lock", json.dumps({**held, "renewed": 0}).encode())  # as after two minutes
    assert storage.LEASE_SECONDS == 120
    second = start(*words)
    wait_for(lambda: pending() or second.poll() is not None)
    storm.until = time.monotonic() + 8
    code, output = finish(second)
    assert code == 0, output
    assert storm.refused > 0
    fs.invalidate_cache()
    assert rows("s3://bucket/a/table") == once(80)
    assert not pending() and not fs.exists("bucket/a/table/_extract/lock")
    summary = json.loads(fs.cat_file("bucket/a/table/_extract/summary.json"))
    assert summary["already done"] > 0 and summary["already done"] + summary["extracted"] == 80 == summary["videos"]
    assert not tables.read_failures("s3://bucket/a/table")
    assert SECRET not in output + again


@pytest.mark.slow
def test_a_wrong_bucket_and_a_denied_key_are_said_plainly(storm, videos, movenet, tmp_path):
    upload(videos)
    code, output = finish(start("--videos", "s3://bucket/videos", "--table", "s3://buckte/table"))
    assert code == 1 and "s3://buckte/table" in output and "bucket does not exist" in output.replace("\n", " "), output
    code, output = finish(start("--videos", "s3://buckte/videos", "--table", tmp_path / "table"))
    assert code == 2 and "s3://buckte/videos: no folder or video there" in output.replace("\n", " "), output
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    code, output = finish(start("--videos", "s3://bucket/videos", "--table", tmp_path / "table", **nobody))
    assert code == 1 and "Unable to locate credentials" in output and "AWS_PROFILE" in output, output
    # From now on keys are checked, and this one is not known.
    assert requests.post(os.environ["AWS_ENDPOINT_URL"] + "/moto-api/reset-auth", data=b"0", timeout=9).ok
    code, output = finish(start("--videos", "s3://bucket/videos", "--table", tmp_path / "table"))
    assert code == 1 and "s3://bucket/videos: access denied" in output.replace("\n", " "), output
    assert SECRET not in output and "Traceback" not in output
