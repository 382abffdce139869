"""Slow: jobs submitted to a cluster started by hand, two training workers, killed workers and drivers."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
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


def finish(process, seconds=800):
    """Exit code and output; a process that takes too long is ended, so that its output tells why."""
    late = threading.Timer(seconds, process.kill)
    late.start()
    output, _ = process.communicate()
    late.cancel()
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


@pytest.fixture(scope="module")
def cluster():
    """`ray start` three times, a head and two nodes, with token authentication, as README says, on ports of its own."""
    folder = tempfile.mkdtemp(prefix="p3c")
    port, dashboard = free_port(), free_port()
    metrics = [free_port() for _ in range(3)]
    address = f"http://127.0.0.1:{dashboard}"
    env = clean_environment(
        RAY_TMPDIR=folder,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN=secrets.token_hex(32),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_API_SERVER_ADDRESS=address,
        METRICS=" ".join(f"http://127.0.0.1:{port}/metrics" for port in metrics),
    )
    # The agents' usual ports may be those of another node of this machine.
    words = ["--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats", "--block"]
    roles = [["--head", f"--port={port}", f"--dashboard-port={dashboard}"]]
    roles[0] += [f"--ray-client-server-port={free_port()}"]
    roles += [[f"--address=127.0.0.1:{port}"]] * 2
    nodes = []
    try:
        for number, role in enumerate(roles):  # two that join at once may wait for each other in vain
            ports = [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "runtime-env-agent-port")]
            ports += [f"--metrics-export-port={metrics[number]}"]
            # As machines have. In a shared one each node unpacks a job's code anew over that of the jobs that run.
            own = f"--temp-dir={folder}/{number}"
            nodes.append(start("ray.scripts.scripts", "start", *role, *words, *ports, own, env=env))
            for _ in range(90):
                if alive(address, env["RAY_AUTH_TOKEN"]) > number:
                    break
                time.sleep(1)
        assert alive(address, env["RAY_AUTH_TOKEN"]) == 3
        env["NODES"] = " ".join(str(node.pid) for node in nodes)
        yield env
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def alive(address, token):
    """How many nodes the cluster has; 0 while its dashboard does not answer."""
    try:
        url, header = f"{address}/api/v0/nodes", {"Authorization": f"Bearer {token}"}
        found = requests.get(url, headers=header, timeout=10).json()
        return sum(node["state"] == "ALIVE" for node in found["data"]["result"]["result"])
    except (requests.RequestException, KeyError, TypeError, ValueError):
        return 0


def submit(env, *words):
    """Start `ray job submit` of a job of this checkout."""
    options = ("--address", env["RAY_API_SERVER_ADDRESS"], "--working-dir", ".")
    return start("ray.scripts.scripts", "job", "submit", *options, "--", sys.executable, "-m", *words, env=env)


def test_a_submitted_job_does_what_the_local_one_does(cluster, videos, movenet, tmp_path):
    few = tmp_path / "videos"
    few.mkdir()
    for path in sorted(videos.glob("*/*.mp4"))[:4]:
        (few / path.name).write_bytes(path.read_bytes())
    code, output = finish(submit(cluster, "jobs.extract", "--videos", few, "--table", tmp_path / "submitted"))
    assert code == 0, output
    metrics = "".join(requests.get(url, timeout=20).text for url in cluster["METRICS"].split())
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


def of_the_cluster(env, name):
    """Process ids whose command holds the name and whose environment this cluster's token."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes()
            if name in (process / "cmdline").read_bytes() and env["RAY_AUTH_TOKEN"].encode() in environment:
                found.append(int(process.name))
    return found


def wait_for_epoch(folder, number, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if len((folder / "metrics.csv").read_text().splitlines()) > number:
                return
        time.sleep(0.05)
    raise TimeoutError(f"no epoch {number} in {folder}")


def test_a_gpu_that_the_cluster_cannot_get_is_refused_with_words(cluster, labelled, tmp_path):
    words = ("jobs.train", "demo", "--table", labelled, "--out", tmp_path / "run", "--epochs", 1, *SMALL, "--use-gpu")
    code, output = finish(submit(cluster, *words), seconds=120)
    assert code == 1  # `ray job submit` makes that of the job's 2
    said = "1 training workers and the tasks that feed them need 1 GPUs, Ray has 0; this cluster was started by hand"
    assert said in output.replace("\n", " "), output


@pytest.mark.timeout(1800)
def test_submitted_training_survives_its_worker_and_its_driver_and_ends_as_if_undisturbed(cluster, labelled, tmp_path):
    words = ("jobs.train", "demo", "--table", labelled, "--epochs", 5, *SMALL, "--workers", 2, "--final-clips", 2)
    code, output = finish(submit(cluster, *words, "--out", tmp_path / "whole"))
    assert code == 0, output
    run = tmp_path / "disturbed"
    first = submit(cluster, *words, "--out", run)
    wait_for_epoch(run, 1)
    os.kill(of_the_cluster(cluster, b"RayTrainWorker")[0], signal.SIGKILL)
    wait_for_epoch(run, 3)
    (driver,) = (
        pid for pid in of_the_cluster(cluster, str(run).encode()) if pid not in (first.pid,) and is_driver(pid)
    )
    os.kill(driver, signal.SIGKILL)
    code, output = finish(first)
    assert code == 1, output
    code, output = finish(submit(cluster, *words, "--out", run))
    assert code == 0, output
    whole, disturbed = (
        np.genfromtxt(folder / "metrics.csv", delimiter=",", names=True) for folder in (tmp_path / "whole", run)
    )
    for name in ("epoch", "train_loss", "val_loss", "val_top1"):
        np.testing.assert_allclose(whole[name], disturbed[name], atol=1e-6)
    assert (tmp_path / "whole/final.json").read_bytes() == (run / "final.json").read_bytes()


@pytest.mark.timeout(1800)
def test_every_job_runs_submitted(cluster, labelled, videos, movenet, tmp_path):
    """Statistics, training by two workers, evaluation of its model, a sweep, a new video."""

    def do(*words):
        code, output = finish(submit(cluster, *words))
        assert code == 0, output
        return output

    table, run = labelled, tmp_path / "run"
    do("jobs.stats", "--table", table, "--report", tmp_path / "report")
    assert (tmp_path / "report/index.html").stat().st_size > 10_000
    do("jobs.train", "demo", "--table", table, "--out", run, "--workers", 2, "--epochs", 1, *SMALL)
    do("jobs.evaluate", run, "--table", table, "--clips", 10, "--out", tmp_path / "evaluate")
    evaluated = json.loads((tmp_path / "evaluate/summary.json").read_text())
    final = json.loads((run / "final.json").read_text())
    assert evaluated["clips"] == final["clips"] == 6
    assert evaluated["top1"] == pytest.approx(final["top1"])
    swept = ("--val-split", "test", "--search", "optim.lr=grid:1e-3,1e30", "--metric", "val_loss")
    words = ("demo", "--table", table, "--out", tmp_path / "sweep", "--epochs", 1, *SMALL, *swept)
    do("jobs.tune", *words, "--concurrent", 2)
    summary = json.loads((tmp_path / "sweep/summary.json").read_text())
    assert (summary["trials"], summary["failed"], summary["best optim.lr"]) == (2, 1, "0.001")
    run = tmp_path / "sweep/best"
    (tmp_path / "new").mkdir()
    shutil.copy(next(videos.glob("*/00.mp4")), tmp_path / "new")
    do("jobs.predict", run, "--videos", tmp_path / "new", "--out", tmp_path / "predicted", "--clips", 1)
    assert list((tmp_path / "predicted").glob("*.mp4"))


def is_driver(pid):
    """A Python that runs the job itself, not the shell or the client that started it."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[0].endswith(b"python") and words[1:3] == [b"-m", b"jobs.train"]
