"""What does another person cost, in parameters, FLOPs and time (paper, section 4.4: scalability)?

`python -m benchmarks.persons` takes clips of 1 to 13 people: parameters and GFLOPs of a forward pass (torch's
FlopCounterMode; one multiply-accumulate is two), and milliseconds of drawing one clip of 17 x 48 x 56 x 56 and
recognising it, on all cores, in turns. A 3D-CNN sees one volume whoever is in it; drawing is all that grows.
With `--device cuda` the same on a GPU, for a batch of 32 in bfloat16.
"""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _rows
from benchmarks.render import SHAPE, SIZE, people_of
from posec3d import models
from posec3d.heatmaps import joint_volumes

PEOPLE = (1, 2, 4, 8, 13)
MODELS = ("pose-slowonly", "pose-slowonly-light")


def measure(quick: bool, device: str, clips: int, dtype: torch.dtype) -> dict[str, Any]:
    """Both rows."""
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    out = torch.empty((clips, *SHAPE), dtype=dtype, device=device, memory_format=torch.channels_last_3d)
    batches = {
        m: tuple(torch.tensor(np.stack([array] * clips), device=device) for array in people_of(m)) for m in PEOPLE
    }

    def draw(m: int) -> None:
        xy, score = batches[m]
        joint_volumes(xy, score, SIZE, out=out, threads=threads)

    result: dict[str, Any] = {}
    for name in MODELS:
        model = models.create(name, 60).eval().to(device, dtype)

        @torch.inference_mode()
        def recognise(m: int, model: torch.nn.Module = model) -> None:
            draw(m)
            model(out)
            if device == "cuda":
                torch.cuda.synchronize()

        def only_draw(m: int) -> None:
            draw(m)
            if device == "cuda":
                torch.cuda.synchronize()

        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model(out[:1])
        times: dict[str, Callable[[], object]] = {str(m): functools.partial(recognise, m) for m in PEOPLE}
        spent = _rows.in_turns(times, 8 if quick else 90, rounds=2 if quick else 15)
        drawing: dict[str, Callable[[], object]] = {str(m): functools.partial(only_draw, m) for m in PEOPLE}
        drawn = _rows.in_turns(drawing, 1 if quick else 5)
        result[name] = {
            "parameters, millions": sum(p.numel() for p in model.parameters()) / 1e6,
            "GFLOPs": counter.get_total_flops() / 1e9,
            **{f"{m} people": {"ms": spent[str(m)], "ms, drawing": drawn[str(m)]} for m in PEOPLE},
            "13 people over 1": spent["13"] / spent["1"],
        }
    return result


def cpu(quick: bool) -> dict[str, Any]:
    """One clip on the CPU, float32."""
    return measure(quick, "cpu", 1, torch.float32)


def cuda(quick: bool) -> dict[str, Any]:
    """32 clips on a GPU, bfloat16."""
    if not torch.cuda.is_available():
        sys.exit("row cuda needs a CUDA GPU; torch sees none")
    return measure(quick, "cuda", 32, torch.bfloat16)


def picture(results: dict[str, Any], folder: Path) -> None:
    """Milliseconds against people, one line a model."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(5.5 * len(results), 3.4), layout="constrained", squeeze=False)
    for (row, models_), place in zip(results.items(), axes[0], strict=True):
        for name, found in models_.items():
            place.plot(PEOPLE, [found[f"{m} people"]["ms"] for m in PEOPLE], "o-", label=name)
            place.plot(PEOPLE, [found[f"{m} people"]["ms, drawing"] for m in PEOPLE], "--", color="0.6", label=None)
        place.set_title(row.upper())
        place.set_xlabel("people in the clip")
        place.set_ylabel("ms to draw and recognise (dashed: to draw)")
        place.set_ylim(0)
        place.spines[["top", "right"]].set_visible(False)
        place.legend(frameon=False)
    figure.savefig(folder / "picture.png", dpi=110)
    plt.close(figure)


ROWS: dict[str, _rows.Row] = {"cpu": cpu, "cuda": cuda}

if __name__ == "__main__":
    _rows.main("persons", "People", __doc__, ROWS, ["cpu"], picture)
