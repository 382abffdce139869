"""Slow: training on several nodes of one machine: deaths, fewer and more workers, the test at the end."""

import contextlib
import csv
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from posec3d import actors
from posec3d import table as tables

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two actions of drawn actors, their joints as drawn."""
    clips = []
    for i in range(34):
        truth = actors.make_clip(actors.ACTIONS[i % 2], actor=i, num_frames=8)
        scores = np.ones(truth.keypoints.shape[:3])
        splits = ("test",) if i >= 25 else ("train",)  # 25 and 9: nothing that workers could share evenly
        names = {"label": i % 2, "label_name": actors.ACTIONS[i % 2], "splits": splits}
        clips.append(tables.Clip(f"c{i}", 8, 240, 320, truth.keypoints, scores, **names))
    uri = str(tmp_path_factory.mktemp("table"))
    tables.write_table(clips, uri, rows_per_file=7)
    return uri


@pytest.fixture(scope="module")
def nodes():
    """A head without CPUs to train on and two nodes of two."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    store = {"object_store_memory": 120 * 2**20}
    cluster = Cluster(True, head_node_args={"num_cpus": 2, "include_dashboard": False, **store})
    cluster.first, cluster.second = (cluster.add_node(num_cpus=2, resources={"train": 2}, **store) for _ in range(2))
    from jobs import _ray

    environment = {"env_vars": {"PYTHONPATH": str(_ray.ROOT)}}
    ray.init(address=cluster.address, log_to_driver=False, runtime_env=environment)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def job(table, out, **changes):
    import dataclasses

    from jobs.train import Train
    from posec3d.clips import ClipConfig
    from posec3d.config import PRESETS

    config = dataclasses.replace(
        PRESETS["demo"][1], clip=ClipConfig(length=4, size=12, test_size=12), epochs=4, repeat=4, batch=8
    )
    fields = {f.name for f in dataclasses.fields(config)}
    config = dataclasses.replace(config, **{k: v for k, v in changes.items() if k in fields})
    return Train(table=table, out=str(out), config=config, **{k: v for k, v in changes.items() if k not in fields})


def metrics(out):
    return list(csv.DictReader((out / "metrics.csv").open()))


def training_workers():
    """Process ids, of this run's Ray alone: its token is in their environment."""
    token = os.environ["RAY_AUTH_TOKEN"].encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"RayTrainWorker" in (process / "cmdline").read_bytes() and token in (process / "environ").read_bytes():
                found.append(int(process.name))
    return found


def test_the_test_at_the_end_is_that_of_jobs_evaluate(nodes, table, tmp_path):
    """Of two workers, 9 clips, which they cannot share evenly; none is lost or counted twice."""
    from jobs import evaluate, train
    from posec3d.config import OptimConfig

    optim = OptimConfig(name="adamw", lr=3e-3, ema=0.9)
    summary = train.run(job(table, tmp_path, workers="2", optim=optim, val_every=3, keep=2, accumulate=2))
    assert summary["final"]["clips"] == 9
    found = evaluate.run(evaluate.Evaluate(runs=(str(tmp_path),), table=table, clips=10, out=str(tmp_path / "e")))
    for name in ("top1", "top5", "mean_class"):
        assert summary["final"][name] == pytest.approx(found[name])
    assert json.loads((tmp_path / "final.json").read_text()) == summary["final"]
    assert [bool(row["val_top1"]) for row in metrics(tmp_path)] == [False, False, True, True]
    assert sorted(path.name for path in (tmp_path / "epochs").iterdir()) == ["0003.safetensors", "0004.safetensors"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_folder_that_other_machines_do_not_have_is_refused_before_training(nodes, table, tmp_path, monkeypatch):
    """What /proc/self is differs from process to process, as a path without a shared disk does between machines."""
    from jobs import _job, _ray, train

    _ray.require_shared(str(tmp_path / "run"))
    assert not list((tmp_path / "run/_state").iterdir())
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with pytest.raises(_job.UsageError, match=r"which may train, does not have it: .*s3://bucket/folder"):
        train.run(job(table, "/proc/self/cwd/own"))
    assert time.monotonic() - start < 60
    assert not list((tmp_path / "own/_state").iterdir())
    assert not (tmp_path / "own/metrics.csv").exists()


def test_what_would_fail_again_is_told_and_not_tried_for_ever(nodes, table, tmp_path):
    from jobs import train
    from posec3d.config import OptimConfig

    start = time.monotonic()
    with pytest.raises(ValueError, match=r"epoch 1: the loss is nan; lower optim\.lr"):
        train.run(job(table, tmp_path, optim=OptimConfig(lr=1e30, clip_norm=None)))
    assert time.monotonic() - start < 120


@pytest.mark.timeout(900)  # two restarts of a worker group, half a minute each on a free machine
def test_a_killed_worker_is_replaced_and_a_lost_node_is_done_without(nodes, table, tmp_path):
    """Two of up to three workers die one after the other, the second with its node; all epochs are there once."""
    from jobs import train

    seen = []

    def disturb():
        def wait_for(epochs):
            deadline = time.monotonic() + 200
            while time.monotonic() < deadline:
                if (tmp_path / "metrics.csv").exists() and len(metrics(tmp_path)) >= epochs:
                    return
                time.sleep(0.1)

        wait_for(1)
        workers = training_workers()
        seen.append(len(workers))
        os.kill(workers[-1], signal.SIGKILL)
        wait_for(3)
        seen.append(len(training_workers()))
        nodes.remove_node(nodes.second, allow_graceful=False)

    thread = threading.Thread(target=disturb)
    thread.start()
    summary = train.run(job(table, tmp_path, workers="1:3", epochs=7, repeat=6, final_clips=1))
    thread.join()
    assert seen[0] in (2, 3)
    assert seen[1] >= 1
    assert [int(float(row["epoch"])) for row in metrics(tmp_path)] == list(range(1, 8))
    assert summary["final"]["clips"] == 9
    assert summary["val top-1"] > 0.8
