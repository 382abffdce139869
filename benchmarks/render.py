"""How fast are heatmap volumes drawn, beside the plain method and beside merely clearing the memory?

`python -m benchmarks.render [ROW ...]` measures volumes of 17 x 48 x 56 x 56 in float32, all points valid and spread
over the canvas, one thread, in turns, medians. Its baseline is the published method written plainly here: a loop over
channels, frames and people, each drawing one small NumPy patch (`plain_joints`, `plain_limbs`), and the published steps
of a sample one after another (`plain_sample`, `plain_test`).

- joints, limbs: 1, 2 and 13 people into a buffer that is used again and into a fresh array (its pages new to the
  process), over the plain method and over filling the same memory with zeros; GB/s are of the volume's bytes.
- sample: a training sample from 80 frames of coordinates to the volume in a batch: sample, crop, augment, draw.
- test: 10 clips, each also flipped, 64 x 64, one volume at a time into one buffer; the plain method keeps all, 267 MB.
- forward: drawing and Pose-SlowOnly's forward pass, 13 people over 1, on all cores.
- cuda (needs a GPU): 32 volumes over `fill_` of the same tensor, both memory formats; 13 people over 1; drawing's share
  of a training step of Pose-SlowOnly in bfloat16.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks import _rows
from posec3d import models
from posec3d.clips import (
    ClipConfig,
    flip,
    random_resized_crop,
    subject_crop,
    testing_clips,
    training_clips,
    uniform_sample,
)
from posec3d.heatmaps import joint_volumes, limb_volumes
from posec3d.skeletons import COCO17

SIZE = (56, 56)
SHAPE = (17, 48, *SIZE)
PEOPLE = (1, 2, 13)
SIGMA, LEAST = 0.6, 1e-3


def plain_joints(xy: np.ndarray, score: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The published method, patch by patch."""
    people, frames, joints = score.shape
    volume = np.zeros((joints, frames, *size), np.float32)
    for v in range(joints):
        for t in range(frames):
            for m in range(people):
                if score[m, t, v] >= LEAST:
                    _plain_joint(volume[v, t], xy[m, t, v], score[m, t, v])
    return volume


def _plain_window(low: float, high: float, side: int) -> tuple[int, int]:
    return max(int(low - 3 * SIGMA), 0), min(int(high + 3 * SIGMA) + 1, side)


def _plain_joint(plane: np.ndarray, point: np.ndarray, peak: float) -> None:
    x0, x1 = _plain_window(point[0], point[0], plane.shape[1])
    y0, y1 = _plain_window(point[1], point[1], plane.shape[0])
    if x0 < x1 and y0 < y1:
        x, y = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)[:, None]
        patch = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 2 / SIGMA**2) * peak
        plane[y0:y1, x0:x1] = np.maximum(plane[y0:y1, x0:x1], patch)


def plain_limbs(xy: np.ndarray, score: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The published method, patch by patch."""
    people, frames, _ = score.shape
    volume = np.zeros((len(COCO17.limbs), frames, *size), np.float32)
    for channel, (a, b) in enumerate(COCO17.limbs):
        for t in range(frames):
            for m in range(people):
                peak = min(score[m, t, a], score[m, t, b])
                if peak >= LEAST:
                    _plain_limb(volume[channel, t], xy[m, t, a], xy[m, t, b], peak, score[m, t, a])
    return volume


def _plain_limb(plane: np.ndarray, start: np.ndarray, end: np.ndarray, peak: float, first: float) -> None:
    length2 = float(((end - start) ** 2).sum())
    if length2 < 1:
        _plain_joint(plane, start, first)
        return
    x0, x1 = _plain_window(min(start[0], end[0]), max(start[0], end[0]), plane.shape[1])
    y0, y1 = _plain_window(min(start[1], end[1]), max(start[1], end[1]), plane.shape[0])
    if x0 < x1 and y0 < y1:
        x, y = np.arange(x0, x1, dtype=np.float32), np.arange(y0, y1, dtype=np.float32)[:, None]
        dx, dy = end - start
        along = ((x - start[0]) * dx + (y - start[1]) * dy) / length2
        along = np.clip(along, 0, 1)
        distance2 = (x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2
        patch = np.exp(-distance2 / 2 / SIGMA**2) * peak
        plane[y0:y1, x0:x1] = np.maximum(plane[y0:y1, x0:x1], patch)


def people_of(count: int, frames: int = 48, side: float = 56, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points anywhere on a canvas, scores from 0.3 to 1."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, side, (count, frames, 17, 2)).astype(np.float32)
    return xy, rng.uniform(0.3, 1, (count, frames, 17)).astype(np.float32)


def memory_rate() -> float:
    """GB/s of zero-filling so much that no cache holds much of it."""
    large = np.zeros(2**27, np.float32)
    return large.nbytes / _rows.in_turns({"": lambda: large.fill(0)}, 1.0)[""] / 1e6


def drawing(kind: str, quick: bool) -> dict[str, Any]:
    """Both rows of volumes."""
    torch.set_num_threads(1)
    buffer = np.empty(SHAPE, np.float32)
    kept: list[np.ndarray] = []
    trim = ctypes.CDLL(None).malloc_trim

    def ours(xy: np.ndarray, score: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        if kind == "joints":
            return joint_volumes(xy, score, SIZE, out=out)
        return limb_volumes(xy, score, COCO17.limbs, SIZE, out=out)

    def zeros() -> None:
        kept.append(np.empty(SHAPE, np.float32))
        kept[-1].fill(0)

    def settle() -> None:
        """Give the memory back, so that fresh arrays are fresh."""
        kept.clear()
        trim(0)

    plain = plain_joints if kind == "joints" else plain_limbs
    memory = memory_rate()
    result: dict[str, Any] = {"GB/s, zero-filling 512 MB": memory}
    first = 0.0
    for count in PEOPLE:
        xy, score = people_of(count)
        np.testing.assert_allclose(ours(xy, score), plain(xy, score, SIZE), atol=1e-5)
        seconds = 1.0 if quick else 8.0
        used = _rows.in_turns(
            {
                "plain": lambda xy=xy, score=score: plain(xy, score, SIZE),  # type: ignore[misc]
                "ours": lambda xy=xy, score=score: ours(xy, score, buffer),  # type: ignore[misc]
                "zero-filling": lambda: buffer.fill(0),
            },
            seconds,
            rounds=3 if quick else 15,
        )
        fresh = _rows.in_turns(
            {"ours": lambda xy=xy, score=score: kept.append(ours(xy, score)), "zero-filling": zeros},  # type: ignore[misc]
            0.3 if quick else 1.5,
            rounds=5 if quick else 25,
            settle=settle,
        )
        settle()
        first = first or used["ours"]
        result[f"{count} people"] = {
            "ms, plain method": used["plain"],
            "ms, buffer used again": used["ours"],
            "plain over ours": used["plain"] / used["ours"],
            "ms, zero-filling the buffer": used["zero-filling"],
            "ours over zero-filling": used["ours"] / used["zero-filling"],
            "GB/s": buffer.nbytes / used["ours"] / 1e6,
            "of the memory's rate (the buffer fits the cache)": buffer.nbytes / used["ours"] / 1e6 / memory,
            "ms, fresh array": fresh["ours"],
            "ms, allocating and zero-filling": fresh["zero-filling"],
            "fresh over allocating and zero-filling": fresh["ours"] / fresh["zero-filling"],
            "over one person": used["ours"] / first,
        }
    return result


def joints(quick: bool) -> dict[str, Any]:
    """Joint volumes, 17 x 48 x 56 x 56."""
    return drawing("joints", quick)


def limbs(quick: bool) -> dict[str, Any]:
    """Limb volumes, 17 x 48 x 56 x 56; limbs are half a canvas long on average, longer than people's."""
    return drawing("limbs", quick)


def plain_sample(video: Any, config: ClipConfig, rng: np.random.Generator) -> np.ndarray:
    """The published steps of a training sample, one after another."""
    frames = uniform_sample(video.keypoints.shape[1], config.length, rng=rng)[0]
    xy, score = video.keypoints[:, frames], video.scores[:, frames]
    xy, (h, w) = subject_crop(xy, score, (video.height, video.width))
    xy = xy * np.array([config.test_size / w, config.test_size / h], np.float32)
    x, y, w, h = random_resized_crop((config.test_size, config.test_size), rng)
    xy = (xy - np.array([x, y], np.float32)) * np.array([config.size / w, config.size / h], np.float32)
    if rng.random() < config.flip:
        xy, score = flip(xy, score, config.size, COCO17.mirror)
    return plain_joints(xy.astype(np.float32), score, (config.size, config.size))


def sample(quick: bool) -> dict[str, Any]:
    """A training sample: 80 frames of coordinates -> sampled, cropped, augmented, drawn; batches of 16."""
    torch.set_num_threads(1)
    config, result = ClipConfig(), {}
    for count in (1, 2):
        xy, score = people_of(count, frames=80, side=300)
        video = SimpleNamespace(keypoints=xy, scores=score, height=480, width=640)
        batch = np.empty((16, *SHAPE), np.float32)
        rng = np.random.default_rng(0)

        def ours(video: Any = video, count: int = count, batch: np.ndarray = batch, rng: Any = rng) -> None:
            points, seen, *_ = training_clips([video] * 16, config, COCO17.mirror, [rng] * 16, count)
            joint_volumes(points, seen, SIZE, out=batch)

        def plain(video: Any = video, batch: np.ndarray = batch, rng: Any = rng) -> None:
            for n in range(16):
                batch[n] = plain_sample(video, config, rng)

        times = _rows.in_turns({"plain": plain, "ours": ours}, 2 if quick else 12, rounds=2 if quick else 9)
        coordinates = _rows.in_turns(
            {"": lambda v=video, m=count, r=rng: training_clips([v] * 16, config, COCO17.mirror, [r] * 16, m)},  # type: ignore[misc]
            0.5 if quick else 2,
        )[""]
        result[f"{count} people"] = {
            "ms a sample, plain": times["plain"] / 16,
            "ms a sample, ours": times["ours"] / 16,
            "of that, coordinates": coordinates / 16,
            "plain over ours": times["plain"] / times["ours"],
        }
    return result


def test(quick: bool) -> dict[str, Any]:
    """A test sample: 10 clips and their mirror images, 64 x 64."""
    torch.set_num_threads(1)
    config, result = ClipConfig(), {}
    side = config.test_size
    for count in (1, 2):
        xy, score = people_of(count, frames=80, side=300)
        buffer = np.empty((17, config.length, side, side), np.float32)

        def views(xy: np.ndarray = xy, score: np.ndarray = score) -> tuple[np.ndarray, np.ndarray]:
            return testing_clips(xy, score, (480, 640), config, 10)[:2]

        def ours(views: Callable[[], tuple[np.ndarray, np.ndarray]] = views, buffer: np.ndarray = buffer) -> None:
            points, seen = views()
            for k in range(10):
                joint_volumes(points[k], seen[k], (side, side), out=buffer)
            points, seen = flip(points, seen, side, COCO17.mirror)
            for k in range(10):
                joint_volumes(points[k], seen[k], (side, side), out=buffer)

        def plain(views: Callable[[], tuple[np.ndarray, np.ndarray]] = views) -> np.ndarray:
            points, seen = views()
            drawn = np.stack([plain_joints(points[k], seen[k], (side, side)) for k in range(10)])
            return np.concatenate([drawn, drawn[:, list(COCO17.mirror), ..., ::-1]])

        times = _rows.in_turns({"plain": plain, "ours": ours}, 2 if quick else 20, rounds=1 if quick else 9)
        result[f"{count} people"] = {
            "ms, plain": times["plain"],
            "ms, ours": times["ours"],
            "plain over ours": times["plain"] / times["ours"],
            "MB of volumes at once": buffer.nbytes / 1e6,
        }
    return result


def forward(quick: bool) -> dict[str, Any]:
    """Drawing and Pose-SlowOnly's forward pass of one clip, 13 people and 1."""
    torch.set_num_threads(os.cpu_count() or 1)
    model = models.create("pose-slowonly", 60).eval()
    out = torch.empty((1, *SHAPE)).contiguous(memory_format=torch.channels_last_3d)

    @torch.inference_mode()
    def run(xy: torch.Tensor, score: torch.Tensor) -> None:
        model(joint_volumes(xy, score, SIZE, out=out, threads=torch.get_num_threads()))

    clips = {f"{m} people": [torch.from_numpy(array)[None] for array in people_of(m)] for m in (1, 13)}
    functions: dict[str, Callable[[], object]] = {n: functools.partial(run, *clip) for n, clip in clips.items()}
    times = _rows.in_turns(functions, 6 if quick else 60, rounds=3 if quick else 25)
    one, many = times.values()
    return {**{f"ms, {name}": value for name, value in times.items()}, "13 people over 1": many / one}


def cuda(quick: bool) -> dict[str, Any]:
    """32 volumes on a GPU, and their share of a training step."""
    if not torch.cuda.is_available():
        sys.exit("row cuda needs a CUDA GPU; torch sees none")

    def seconds(run: Callable[[], object]) -> float:
        """Of one call, by the GPU's clock."""
        for _ in range(3):
            run()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(5 if quick else 25):
            begin.record()
            for _ in range(10):
                run()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 10)
        return float(np.median(times))

    result: dict[str, Any] = {}
    clips = {}
    for m in PEOPLE:
        xy, score = zip(*(people_of(m, seed=seed) for seed in range(32)), strict=True)
        clips[m] = torch.tensor(np.stack(xy), device="cuda"), torch.tensor(np.stack(score), device="cuda")
    for layout in ("contiguous_format", "channels_last_3d"):
        for dtype in (torch.float32, torch.bfloat16):
            out = torch.empty((32, *SHAPE), dtype=dtype, device="cuda", memory_format=getattr(torch, layout))
            fill = seconds(lambda out=out: out.fill_(0))  # type: ignore[misc]
            row: dict[str, Any] = {"ms, fill_": fill, "GB/s, fill_": out.nbytes / fill / 1e6}
            for m, (xy, score) in clips.items():
                for kind, draw in (
                    ("joints", lambda a, b, o: joint_volumes(a, b, SIZE, out=o)),
                    ("limbs", lambda a, b, o: limb_volumes(a, b, COCO17.limbs, SIZE, out=o)),
                ):
                    spent = seconds(lambda a=xy, b=score, o=out, d=draw: d(a, b, o))  # type: ignore[misc]
                    row[f"{kind}, {m} people"] = {"ms": spent, "over fill_": spent / fill}
            row["joints, 13 people over 1"] = row["joints, 13 people"]["ms"] / row["joints, 1 people"]["ms"]
            result[f"{layout}, {str(dtype).removeprefix('torch.')}"] = row
    model = models.create("pose-slowonly", 60).cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    label = torch.zeros(32, dtype=torch.long, device="cuda")
    out = torch.empty((32, *SHAPE), dtype=torch.bfloat16, device="cuda", memory_format=torch.channels_last_3d)

    def step() -> None:
        joint_volumes(*clips[2], SIZE, out=out)
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(out), label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    whole, drawing = seconds(step), seconds(lambda: joint_volumes(*clips[2], SIZE, out=out))
    result["training step"] = {"ms": whole, "ms, drawing": drawing, "share of drawing": drawing / whole}
    return result


def _people(results: dict[str, Any], kind: str) -> dict[str, Any]:
    return {name: row for name, row in results.get(kind, {}).items() if isinstance(row, dict)}


def picture(results: dict[str, Any], folder: Path) -> None:
    """Bars of plain and ours, and cost against the number of people."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, (bars, lines) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    names, plain, ours = [], [], []
    for kind in ("joints", "limbs"):
        for people, row in _people(results, kind).items():
            names.append(f"{kind}\n{people.removesuffix(' people')}")
            plain.append(1e3 / row["ms, plain method"])
            ours.append(1e3 / row["ms, buffer used again"])
        row = _people(results, kind)
        spent = [people["ms, buffer used again"] for people in row.values()]
        lines.plot([int(people.split()[0]) for people in row], spent, "o-", label=kind)
    place = np.arange(len(names))
    bars.bar(place - 0.2, plain, 0.4, label="plain method", color="0.7")
    bars.bar(place + 0.2, ours, 0.4, label="posec3d", color="tab:blue")
    bars.set_yscale("log")
    bars.set_xticks(place, names)
    bars.set_ylabel("volumes a second and core")
    bars.set_xlabel("people")
    bars.legend(frameon=False)
    for rows in _people(results, "joints").values():
        lines.axhline(rows["ms, zero-filling the buffer"], color="0.7", linewidth=1)
        break
    lines.set_ylim(0)
    lines.set_xlabel("people")
    lines.set_ylabel("ms a volume (grey: zero-filling)")
    lines.legend(frameon=False)
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "picture.png", dpi=110)
    plt.close(figure)


ROWS: dict[str, _rows.Row] = {
    "joints": joints,
    "limbs": limbs,
    "sample": sample,
    "test": test,
    "forward": forward,
    "cuda": cuda,
}

if __name__ == "__main__":
    _rows.main("render", "Rendering", __doc__, ROWS, [row for row in ROWS if row != "cuda"], picture)
