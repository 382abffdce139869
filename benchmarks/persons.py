"""What does another person cost, in parameters, FLOPs and time (paper, section 4.4: scalability)?

`python -m benchmarks.persons` takes clips of 1 to 13 people: parameters, GFLOPs of a forward pass (torch's
FlopCounterMode; one multiply-accumulate is two) and milliseconds, on all cores, in turns. A 3D-CNN draws one volume of
17 x 48 x 56 x 56 whoever is in it, and recognises that; drawing is all that grows. A graph network looks at each person
of 100 frames by itself (MS-G3D made for so many people).
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
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _rows
from benchmarks.render import SHAPE, SIZE, people_of
from posec3d import models
from posec3d.heatmaps import joint_volumes

PEOPLE = (1, 2, 4, 8, 13)
MODELS = ("pose-slowonly", "pose-slowonly-light", "x3d-shallow", *models.GRAPH)


def measure(quick: bool, device: str, clips: int, dtype: torch.dtype) -> dict[str, Any]:
    """Both rows."""
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    out = torch.empty((clips, *SHAPE), dtype=dtype, device=device, memory_format=torch.channels_last_3d)

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def draw(xy: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
        return joint_volumes(xy, score, SIZE, out=out, threads=threads)

    @torch.inference_mode()
    def recognise(model: nn.Module, *clip: torch.Tensor) -> None:
        model(draw(*clip) if len(clip) == 2 else clip[0])
        synchronize()

    def only_draw(*clip: torch.Tensor) -> None:
        draw(*clip)
        synchronize()

    result: dict[str, Any] = {}
    for name in MODELS:
        graph = name in models.GRAPH
        found: dict[str, Any] = {}
        times: dict[str, Callable[[], object]] = {}
        drawing: dict[str, Callable[[], object]] = {}
        for m in PEOPLE:
            model = models.create(name, 60, **({"persons": m} if name == "msg3d" else {})).eval().to(device, dtype)
            clip: tuple[torch.Tensor, ...]
            if graph:
                clip = (torch.rand(clips, m, 100, 17, 3, dtype=dtype, device=device),)
            else:
                clip = tuple(torch.tensor(np.stack([array] * clips), device=device) for array in people_of(m))
                drawing[str(m)] = functools.partial(only_draw, *clip)
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                model(clip[0][:1] if graph else out[:1])
            times[str(m)] = functools.partial(recognise, model, *clip)
            found[f"{m} people"] = {"GFLOPs": counter.get_total_flops() / 1e9}
            found["parameters, millions"] = sum(p.numel() for p in model.parameters()) / 1e6
        for count, ms in _rows.in_turns(times, 4 if quick else 45, rounds=2 if quick else 9).items():
            found[f"{count} people"]["ms"] = ms
        if drawing:
            for count, ms in _rows.in_turns(drawing, 0.5 if quick else 3).items():
                found[f"{count} people"]["ms, drawing"] = ms
        one, many = found["1 people"], found["13 people"]
        result[name] = {
            **found,
            "13 people over 1": {what: many[what] / one[what] for what in ("GFLOPs", "ms")},
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
    """GFLOPs and milliseconds against people, one line a model."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(results), 2, figsize=(10, 3.6 * len(results)), layout="constrained", squeeze=False)
    for (row, found), places in zip(results.items(), axes, strict=True):
        for place, what in zip(places, ("GFLOPs", "ms"), strict=True):
            for name, model in found.items():
                style = "--" if name in models.GRAPH else "-"
                place.plot(PEOPLE, [model[f"{m} people"][what] for m in PEOPLE], f"o{style}", label=name)
            place.set_xlabel("people in the clip")
            place.set_ylabel(what if what == "GFLOPs" else f"ms to draw and recognise ({row.upper()})")
            place.set_ylim(0)
            place.spines[["top", "right"]].set_visible(False)
        places[0].legend(frameon=False)
    figure.savefig(folder / "picture.png", dpi=110)
    plt.close(figure)


ROWS: dict[str, _rows.Row] = {"cpu": cpu, "cuda": cuda}

if __name__ == "__main__":
    _rows.main("persons", "People", __doc__, ROWS, ["cpu"], picture)
