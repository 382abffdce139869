"""What does training by Ray cost beside training?

`python -m benchmarks.train [ROW ...]`

- overhead: seconds a step of `jobs.train` with one worker, from its metrics.csv, over those of a bare PyTorch loop with
  the same model, optimizer and batch on one resident batch: runs in turns, each in a process of its own. Steps of
  0.4 s and more; the first batch of an epoch is told apart. Also the share of the time spent waiting for batches. The
  bare loop has glibc's own settings of memory, workers those of `posec3d.machine.MALLOC`, from which it gains a tenth.
- start: from the command to the first step, local Ray included.
- recover: from the SIGKILL of the only worker to the first step of the one that replaces it.
- checkpoint: seconds that training waits for a checkpoint (its tensors become bytes), and seconds until they are on
  the local disk, which happens while training goes on.

The clips are synthetic (smooth random walks of 17 joints).
"""

import csv
import dataclasses
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import _rows
from benchmarks.feed import walk, write_table
from posec3d import checkpoint as checkpoints
from posec3d import training
from posec3d.config import PRESETS, SMALL
from posec3d.skeletons import COCO17
from posec3d.storage import write_whole

BATCH = 16
CONFIG = dataclasses.replace(SMALL, batch=BATCH, repeat=1)


def command(table: str, out: str, epochs: int) -> list[str]:
    """A training of so many epochs with the settings of CONFIG."""
    words = (
        f"jobs.train ut-interaction --repeat 1 --batch {BATCH} --epochs {epochs} --val-split None --train-split None"
    )
    return [sys.executable, "-m", *words.split(), "--table", table, "--out", out]


def rows(out: str) -> list[dict[str, float]]:
    """Of metrics.csv, so far."""
    path = Path(out) / "metrics.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def bare(steps: int) -> float:
    """Seconds a step of a plain loop on one resident batch."""
    torch.manual_seed(0)
    model = checkpoints.build_model(CONFIG, "coco17", 20).train()
    optimizer = training.make_optimizer(model, CONFIG.optim)
    xy, score = walk(CONFIG.clip.length, 2, 0)
    side = CONFIG.clip.size
    place = torch.as_tensor(xy).expand(BATCH, -1, -1, -1, -1) / 640 * side
    known = torch.as_tensor(score).expand(BATCH, -1, -1, -1)
    label = torch.arange(BATCH) % 20
    times = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        volume = training.draw(place, known, side, CONFIG.heatmap, COCO17)
        smoothing = CONFIG.optim.label_smoothing
        loss = torch.nn.functional.cross_entropy(model(volume), label, label_smoothing=smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 40)
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[3:])


def overhead(quick: bool) -> dict[str, Any]:
    """Steps of jobs.train, one worker, over those of a bare loop on a resident batch."""
    steps, rounds = (12, 1) if quick else (60, 3)
    ours, plain, stalls = [], [], []
    plain_command = [sys.executable, "-c", f"from benchmarks import train; print(train.bare({steps}))"]
    with tempfile.TemporaryDirectory() as folder:
        write_table(f"{folder}/table", steps * BATCH)
        for number in range(rounds + 1):
            done = subprocess.run(plain_command, capture_output=True, text=True, check=True, cwd=_rows.ROOT)  # noqa: S603
            plain.append(float(done.stdout))
            if number == rounds:  # bare loops before and after each run
                break
            out = f"{folder}/run{number}"
            subprocess.run(command(f"{folder}/table", out, 2), check=True, capture_output=True, cwd=_rows.ROOT)  # noqa: S603
            for row in rows(out):
                ours.append((row["seconds"] - row["first_batch_s"]) / (steps - 0.5))
                stalls.append(row["stall"])
    step, alone = statistics.median(ours), statistics.median(plain)
    return {
        "s a step, bare": alone,
        "s a step, jobs.train": step,
        "overhead": step / alone - 1,
        "stall": statistics.median(stalls),
        "clips a step": BATCH,
    }


def start(quick: bool) -> dict[str, Any]:
    """Seconds from the command to the first step, on a local Ray that it starts."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        write_table(f"{folder}/table", 4 * BATCH)
        for number in range(1 if quick else 3):
            out, begin = f"{folder}/run{number}", time.time()
            subprocess.run(command(f"{folder}/table", out, 1), check=True, capture_output=True, cwd=_rows.ROOT)  # noqa: S603
            (row,) = rows(out)
            ended = (Path(out) / "metrics.csv").stat().st_mtime
            seconds.append(ended - begin - (row["seconds"] - row["first_batch_s"]))
    return {"s to the first step": statistics.median(seconds)}


def recover(quick: bool) -> dict[str, Any]:
    """Seconds from the death of the only worker to the first step of its successor."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        write_table(f"{folder}/table", 8 * BATCH)
        for number in range(1 if quick else 3):
            out = f"{folder}/run{number}"
            mark = {"POSEC3D_BENCHMARK": out}  # in the environment of this run's processes alone
            process = subprocess.Popen(  # noqa: S603
                command(f"{folder}/table", out, 3),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=_rows.ROOT,
                env={**os.environ, **mark},
            )
            while not rows(out):
                time.sleep(0.05)
            killed = time.time()
            os.kill(_worker(out), signal.SIGKILL)
            while len(rows(out)) < 2:
                time.sleep(0.05)
            ended = (Path(out) / "metrics.csv").stat().st_mtime
            row = rows(out)[1]
            seconds.append(ended - killed - (row["seconds"] - row["first_batch_s"]))
            process.wait()
    return {"s until the next step": statistics.median(seconds)}


def _worker(out: str) -> int:
    """Process id of the run's training worker."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # gone meanwhile
            continue
        if b"RayTrainWorker" in command and out.encode() in environment:
            return int(process.name)
    raise RuntimeError(f"no training worker of {out}")


def checkpoint(quick: bool) -> dict[str, Any]:
    """A checkpoint of Pose-SlowOnly with its optimizer: what training waits for, and what it does not."""
    config = PRESETS["ntu60-joint"][1]
    model = checkpoints.build_model(config, "coco17", 60)
    optimizer = training.make_optimizer(model, config.optim)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    packed, written, size = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(3 if quick else 9):
            begin = time.perf_counter()
            data = checkpoints.dumps(
                checkpoints.Checkpoint(
                    config, tuple(map(str, range(60))), "coco17", model.state_dict(),
                    optimizer=checkpoints.pack_optimizer(optimizer),
                )
            )  # fmt: skip
            between = time.perf_counter()
            write_whole(f"{folder}/last.safetensors", data)
            packed.append(between - begin)
            written.append(time.perf_counter() - between)
            size = len(data)
    return {
        "MB": size / 1e6,
        "s that training waits": statistics.median(packed),
        "s to disk": statistics.median(written),
    }


ROWS: dict[str, _rows.Row] = {"overhead": overhead, "start": start, "recover": recover, "checkpoint": checkpoint}

if __name__ == "__main__":
    _rows.main("train", "What training by Ray costs", __doc__, ROWS, list(ROWS))
