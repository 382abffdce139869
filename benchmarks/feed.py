"""Does training wait for its clips, and does memory grow with the table?

`python -m benchmarks.feed [ROW ...]`

- rate: samples a second that one process makes (read, sample, crop, augment), and that Ray's tasks hand to a consumer.
- ray: steps of a small Pose-SlowOnly on the CPU (16 clips, 0.4 s and more), fed by Ray, over the same steps on one
  resident batch: in turns, the first batch apart, the same torch threads, Ray running in both.
- local: the same with the feed of one process.
- rgb: the same with two-pathway clips: steps of rgbpose-slowfast-light (8 clips), JPEG pictures of 256 x 256 pixels
  decoded and warped by Ray's tasks. Fed runs are whole epochs of 192 steps: Ray works a wave of groups ahead, and in a
  part of one it does more than the work of that part, or less.
- memory: peak memory (proportional, all processes) of streaming an epoch of 200,000 synthetic clips through Ray over
  that of 50,000.
- cuda (needs a GPU): steps of Pose-SlowOnly in bfloat16, batches of 32, fed by one process, over the same on one
  resident batch; clips in memory, so that nothing but torch and NumPy is needed.

The clips are synthetic (smooth random walks of 17 joints); the work they make is that of real ones.
"""

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

import jobs  # noqa: F401 - sets what Ray reads when it is imported
from benchmarks import _rows
from posec3d import feed, models, training
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS, SMALL, HeatmapConfig
from posec3d.index import Index, Piece, Unit, index
from posec3d.models import rgbpose
from posec3d.skeletons import COCO17


def walk(frames: int, people: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Joints (M, T, V, 2) that move as smoothly as people do, in a frame of 640 x 480, and scores."""
    rng = np.random.default_rng(seed)
    body = rng.uniform((150, 100), (490, 380), (people, 1, 17, 2))
    steps = np.cumsum(rng.normal(0, 1.5, (people, frames, 17, 2)), axis=1)
    return (body + steps).astype(np.float32), rng.uniform(0.5, 1, (people, frames, 17)).astype(np.float32)


def write_table(folder: str, clips: int, frames: int = 48) -> None:
    """A table of so many clips, one or two people each, of 20 classes."""
    from posec3d import table as tables

    rows = []
    for i in range(256):
        people = 1 + i % 2
        xy, score = walk(frames, people, i)
        clip = tables.Clip("", frames, 480, 640, xy, score, label=i % 20, label_name=str(i % 20))
        rows.append(tables.to_row(clip))
    for first in range(0, clips, 2048):
        part = [{**rows[i % 256], "clip_id": f"clip{i:07d}"} for i in range(first, min(first + 2048, clips))]
        tables.write_file(tables.rows_to_arrow(part), folder)


def rate(quick: bool) -> dict[str, Any]:
    """Coordinate samples a second, 48 frames, one or two people."""
    from jobs import _ray
    from pipelines import render

    with tempfile.TemporaryDirectory() as folder:
        write_table(folder, 2048 if quick else 32768)
        chosen = index(folder)

        def per_second(batches: Iterable[Any]) -> float:
            iterator = iter(batches)
            next(iterator)
            start = time.perf_counter()
            return sum(len(batch["label"]) for batch in iterator) / (time.perf_counter() - start)

        here = per_second(feed.training_batches(chosen, ClipConfig(), 32, seed=0, epoch=0))
        _ray.connect()
        by_ray = per_second(render.training_batches(chosen, ClipConfig(), 32, seed=0, epoch=0))
    return {"samples/s, one process": here, "samples/s, Ray on all cores": by_ray}


def stepper(
    model: torch.nn.Module, size: int, heatmap: HeatmapConfig, autocast: bool = False
) -> Callable[[dict[str, Any]], None]:
    """A function that makes an optimizer step of a batch of coordinates on the model's device."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step(batch: dict[str, Any]) -> None:
        volume = training.draw(batch["xy"], batch["score"], size, heatmap, COCO17)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = torch.nn.functional.cross_entropy(model(volume), batch["label"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def fed_over_resident(
    step: Callable[[dict[str, Any]], None],
    batches: Callable[[int], Iterator[dict[str, Any]]],
    steps: int,
    rounds: int,
    settle: Callable[[], object] = int,
    *,
    whole: bool = False,
) -> dict[str, Any]:
    """Seconds a step, fed and on one resident batch, in turns; `batches` gives those of an epoch, on the device.

    Fed runs are of so many steps, or of a `whole` epoch.
    """
    resident = next(batches(0))
    for _ in range(min(3, steps)):
        step(resident)
    times: dict[str, list[float]] = {"resident": [], "fed": []}
    first = []
    for number in range(rounds + 1):
        settle()
        start = time.perf_counter()
        for _ in range(steps):
            step(resident)
        settle()
        times["resident"].append((time.perf_counter() - start) / steps)
        if number == rounds:  # resident steps before and after each fed run
            break
        start = time.perf_counter()
        iterator = batches(number)
        step(next(iterator))
        settle()
        first.append(time.perf_counter() - start)
        start = time.perf_counter()
        done = sum(1 for _ in map(step, itertools.islice(iterator, None if whole else steps)))
        settle()
        times["fed"].append((time.perf_counter() - start) / done)
        iterator.close()  # type: ignore[attr-defined]
    fed, alone = (float(np.median(times[name])) for name in ("fed", "resident"))
    return {
        "steps a run": steps,
        "s a step, resident": alone,
        "s a step, fed": fed,
        "s until the first batch": float(np.median(first)),
        "fed over resident": alone / fed,
        "seconds": times,
    }


BATCH = 16


def small_step() -> Callable[[dict[str, Any]], None]:
    """A step of the small preset on the CPU's cores."""
    torch.set_num_threads(os.cpu_count() or 1)
    return stepper(models.create(SMALL.model.name, 20), SMALL.clip.size, SMALL.heatmap)


def on_ray(quick: bool) -> dict[str, Any]:
    """Fed by Ray on the CPU."""
    from jobs import _ray
    from pipelines import render

    _ray.connect()
    with tempfile.TemporaryDirectory() as folder:
        write_table(folder, 1024 if quick else 8192)
        chosen = index(folder)

        def batches(epoch: int) -> Iterator[dict[str, Any]]:
            # So much that tasks still run at the last step.
            return training.prefetch(render.training_batches(chosen, SMALL.clip, BATCH, seed=0, epoch=epoch, repeat=12))

        return fed_over_resident(small_step(), batches, 2 if quick else 100, 1 if quick else 2)


def local(quick: bool) -> dict[str, Any]:
    """Fed by one process on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        write_table(folder, 1024 if quick else 8192)
        chosen = index(folder)

        def batches(epoch: int) -> Iterator[dict[str, Any]]:
            return training.prefetch(feed.training_batches(chosen, SMALL.clip, BATCH, seed=0, epoch=epoch))

        return fed_over_resident(small_step(), batches, 2 if quick else 100, 1 if quick else 2)


def textures(count: int) -> list[bytes]:
    """JPEG pictures of 256 x 256 pixels that compress about as photographs do (some 20 KB)."""
    import cv2

    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        octaves = [cv2.resize(rng.normal(0, 12, (s, s, 3)), (256, 256), interpolation=3) for s in (4, 8, 16, 32, 64)]
        pixels = np.clip(128 + sum(octaves), 0, 255).astype(np.uint8)
        pictures.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return pictures


def rgb(quick: bool) -> dict[str, Any]:
    """Two-pathway clips fed by Ray on the CPU."""
    from jobs import _ray
    from pipelines import render
    from posec3d import checkpoint
    from posec3d.frames import FRAMES, write_frames

    _ray.connect()
    torch.set_num_threads(os.cpu_count() or 1)
    config, pictures = PRESETS["rgbpose-light"][1], textures(16)
    model = checkpoint.build_model(config, COCO17.name, 20).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def step(batch: dict[str, Any]) -> None:
        loss = rgbpose.loss(model(training.inputs(batch, config.clip.size, config, COCO17)), batch["label"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        write_table(folder, 256)
        place = {"indices": list(range(0, 48, 3)), "x": 100, "y": 50, "width": 400, "height": 400}
        rows = [{"clip_id": f"clip{i:07d}", **place, "images": pictures} for i in range(256)]
        assert rows[0].keys() == set(FRAMES.names)  # noqa: S101
        write_frames(rows, folder, "frames")
        chosen = index(folder, rgb=True)

        def batches(epoch: int) -> Iterator[dict[str, Any]]:
            return training.prefetch(
                render.training_batches(chosen, config.clip, config.batch, seed=0, epoch=epoch, repeat=6)
            )

        result = fed_over_resident(step, batches, 2 if quick else 64, 1 if quick else 3, whole=not quick)
    return {"KB a picture": sum(map(len, pictures)) / len(pictures) / 1e3, **result}


def stream(table: str) -> None:
    """Take an epoch of a table from Ray, batch by batch; prints the samples and the seconds."""
    from jobs import _ray
    from pipelines import render

    _ray.connect()
    start = time.perf_counter()
    batches = render.training_batches(index(table), ClipConfig(), 32, seed=0, epoch=0)
    count = sum(len(batch["label"]) for batch in training.prefetch(batches))
    print(count, time.perf_counter() - start)


def memory(quick: bool) -> dict[str, Any]:
    """Streaming an epoch through Ray: peak memory of all processes."""
    result: dict[str, Any] = {}
    counts = (500, 1000) if quick else (50_000, 200_000)
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            write_table(folder, count)
            peak, output = _rows.run_and_watch(["-m", "benchmarks.feed", "--stream", folder])
        samples, seconds = output.split()[-2:]
        result[f"{count} clips"] = {
            "samples": int(samples),
            "samples/s": int(samples) / float(seconds),
            "peak MB of all processes": peak,
        }
    few, many = (part["peak MB of all processes"] for part in result.values())
    return {**result, "memory, many over few": many / few}


def cuda(quick: bool) -> dict[str, Any]:
    """Fed by one process on a GPU, bfloat16, batches of 32."""
    if not torch.cuda.is_available():
        sys.exit("row cuda needs a CUDA GPU; torch sees none")
    clips = []
    for i in range(4096):
        xy, score = walk(80, 1 + i % 2, i)
        clips.append(
            SimpleNamespace(
                clip_id=str(i), label=i % 20, skeleton="coco17", keypoints=xy, scores=score, height=480, width=640
            )
        )
    numbers = np.arange(len(clips))
    nowhere = np.full((64, 2), -1)
    units = [Unit("", "", i, numbers[i : i + 64], numbers[i : i + 64] % 20, nowhere) for i in range(0, len(clips), 64)]
    chosen = Index(units, persons=2, skeleton="coco17", skipped=0)

    def read(piece: Piece, _: Index) -> Any:
        return [clips[row] for row in piece.rows]

    model = models.create("pose-slowonly", 20).cuda()
    step = stepper(model, ClipConfig().size, HeatmapConfig(), autocast=True)
    result = {}
    for processes in (0, 4):

        def batches(epoch: int, processes: int = processes) -> Iterator[dict[str, Any]]:
            made = feed.training_batches(
                chosen, ClipConfig(), 32, seed=0, epoch=epoch, repeat=4, processes=processes, read=read
            )
            return training.prefetch(made, "cuda")

        steps = 20 if quick else 300
        result[f"{processes} processes beside"] = fed_over_resident(step, batches, steps, 3, torch.cuda.synchronize)
    return result


ROWS: dict[str, _rows.Row] = {"rate": rate, "ray": on_ray, "local": local, "rgb": rgb, "memory": memory, "cuda": cuda}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--stream"]:  # a process of its own, whose memory is measured
        stream(str(Path(sys.argv[2])))
    else:
        _rows.main("feed", "The feed", __doc__, ROWS, [row for row in ROWS if row != "cuda"])
