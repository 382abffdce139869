"""Slow: killed drivers, a submitted job on a cluster started by hand, two training workers."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from posec3d import actors, load
from posec3d import table as tables
from posec3d.video import write_video

pytestmark = pytest.mark.slow
COUNT = 4  # videos
ROOT = Path(__file__).resolve().parents[2]


def clean_environment(**more):
    dropped = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    return {**{k: v for k, v in os.environ.items() if k not in dropped}, **more}


def start(*words, env=None, **options):
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def finish(process, seconds=400):
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Short videos of three actions."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(COUNT):
        action = actors.ACTIONS[i % 3]
        (root / action).mkdir(exist_ok=True)
        clip = actors.make_clip(action, actor=i, num_frames=12)
        write_video(root / action / f"{i:02d}.mp4", clip.frames, clip.fps)
    return root


def kill(process):
    """SIGKILL the driver alone: its Ray must end by itself."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_mixed_folder_ends_with_exit_code_0_and_3_if_told_so(videos, movenet, tmp_path):
    mixed = tmp_path / "videos"
    mixed.mkdir()
    (mixed / "good.mp4").write_bytes(next(videos.glob("*/00.mp4")).read_bytes())
    (mixed / "text.mp4").write_text("no video")
    (mixed / "zero.mp4").touch()
    table = tmp_path / "table"
    words = ("jobs.extract", "--videos", mixed, "--table", table)
    code, output = finish(start(*words))
    assert code == 0, output
    code, output = finish(start(*words, "--max-failed", "0.5"))
    assert code == 3, output
    assert "2 of 3 videos failed, --max-failed allows 0.5" in output.replace("\n", "")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def cluster(tmp_path_factory):
    """`ray start --head` with token authentication, as README says, on ports of its own."""
    folder = tempfile.mkdtemp(prefix="p3c")
    port, dashboard = free_port(), free_port()
    env = clean_environment(
        RAY_TMPDIR=folder,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
    )
    words = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=4", "--disable-usage-stats"]
    words += [
        f"--temp-dir={folder}",
        "--object-store-memory=300000000",
        "--block",
    ]
    # Its agent's usual port may be that of another Ray of this machine.
    words += [f"--{name}={free_port()}" for name in ("ray-client-server-port", "dashboard-agent-listen-port")]
    words += [f"--metrics-export-port={(metrics := free_port())}"]
    head = start("ray.scripts.scripts", "start", *words, env=env)
    env["METRICS"] = f"http://127.0.0.1:{metrics}/metrics"
    env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    ready = ("ray.scripts.scripts", "job", "submit", "--address", env["RAY_API_SERVER_ADDRESS"], "--", "true")
    try:
        for _ in range(20):  # the dashboard answers some time before a job can be submitted
            code, output = finish(start(*ready, env=env))
            if code == 0:
                break
            time.sleep(2)
        assert code == 0, output
        yield env
    finally:
        head.terminate()
        head.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_job_does_what_the_local_one_does(cluster, videos, movenet, tmp_path):
    few = tmp_path / "videos"
    few.mkdir()
    for path in sorted(videos.glob("*/*.mp4"))[:4]:
        (few / path.name).write_bytes(path.read_bytes())
    address = cluster["RAY_API_SERVER_ADDRESS"]
    submit = ("ray.scripts.scripts", "job", "submit", "--address", address, "--working-dir", ".", "--")
    job = ("-m", "jobs.extract", "--videos", few, "--table", tmp_path / "submitted")
    code, output = finish(start(*submit, sys.executable, *job, env=cluster))
    assert code == 0, output
    metrics = requests.get(cluster["METRICS"], timeout=20).text
    for name in ("clips", "frames", "crops", "seconds"):
        assert f"ray_posec3d_extract_{name}_total" in metrics
    code, output = finish(start("jobs.extract", "--videos", few, "--table", tmp_path / "local"))
    assert code == 0, output
    ours, theirs = (
        {clip.video: clip for clip in tables.read_table(str(tmp_path / name))} for name in ("local", "submitted")
    )
    assert set(ours) == set(theirs)
    for video, clip in ours.items():
        np.testing.assert_array_equal(clip.keypoints, theirs[video].keypoints)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    uri = tmp_path_factory.mktemp("table")
    clips = []
    for i in range(24):
        action = actors.ACTIONS[i % 2]
        truth = actors.make_clip(action, actor=i, num_frames=8)
        clips.append(
            tables.Clip(
                f"c{i}",
                8,
                240,
                320,
                truth.keypoints,
                np.ones(truth.keypoints.shape[:3]),
                label=i % 2,
                label_name=action,
                splits=("test",) if i >= 18 else ("train",),
            )
        )
    tables.write_table(clips, str(uri), rows_per_file=7)
    return uri


SMALL = ("--clip.length", 4, "--clip.size", 12, "--clip.test-size", 12, "--batch", 8, "--repeat", 4)


def test_two_workers_train_one_model_and_validate_just_that(labelled, tmp_path):
    out = tmp_path / "run"
    words = ("jobs.train", "demo", "--table", labelled, "--out", out, "--workers", 2, "--epochs", 2, *SMALL)
    code, output = finish(start(*words))
    assert code == 0, output
    header, *rows = ((out / "metrics.csv").read_text()).splitlines()
    assert len(rows) == 2
    # The loss reported is that of the saved model: running statistics differ between workers until they are shared.
    recognizer = load(out / "last.safetensors")
    clips = list(tables.read_table(str(labelled), split="test"))
    losses = [-np.log(recognizer.predict(clip, clips=1).scores[clip.label]) for clip in clips]
    reported = dict(zip(header.split(","), map(float, rows[-1].split(",")), strict=True))
    assert reported["val_loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_a_killed_training_run_again_ends_like_an_undisturbed_one(labelled, tmp_path):
    words = ("jobs.train", "demo", "--table", labelled, "--epochs", 3, *SMALL)
    code, output = finish(start(*words, "--out", tmp_path / "whole"))
    assert code == 0, output
    killed = tmp_path / "killed"
    first = start(*words, "--out", killed)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (killed / "last.safetensors").exists():
        time.sleep(0.05)
    kill(first)
    code, output = finish(start(*words, "--out", killed))
    assert code == 0, output
    whole, resumed = ((folder / "metrics.csv").read_text().splitlines() for folder in (tmp_path / "whole", killed))
    assert len(whole) == len(resumed) == 4
    losses = [[float(line.split(",")[2]) for line in lines[1:]] for lines in (whole, resumed)]
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-5)


def test_a_table_on_s3_trains_with_every_augmentation_and_volumes_from_the_workers(labelled, s3, tmp_path):
    tables.write_table(tables.read_table(str(labelled)), f"{s3}/table", rows_per_file=7)
    jitter = "--clip.rotate 10 --clip.scale 0.1 --clip.drop 0.05 --clip.noise 0.2 --balanced".split()
    words = ("jobs.train", "demo", "--table", f"{s3}/table", "--workers", 2, "--epochs", 2, *SMALL, *jitter)
    env = {**os.environ, "POSEC3D_CACHE": str(tmp_path / "cache")}
    losses = {}
    for render in ("device", "worker"):
        code, output = finish(start(*words, "--out", tmp_path / render, "--render", render, env=env))
        assert code == 0, output
        rows = (tmp_path / render / "metrics.csv").read_text().splitlines()[1:]
        losses[render] = [float(row.split(",")[2]) for row in rows]
    # Volumes come in smaller groups, so in another order; the samples are the same but for 8 bits a pixel.
    np.testing.assert_allclose(losses["worker"], losses["device"], atol=0.1)
    assert all(second < first for first, second in losses.values())
    copies = [path for path in (tmp_path / "cache/tables").iterdir() if not path.suffix and path.name != ".lock"]
    assert len(copies) == len(tables.data_files(f"{s3}/table"))
