"""How fast are the networks, and how far from what the machine can compute?

`python -m benchmarks.models [cpu|compile|cuda]`: samples a second of a forward pass and of a training step (forward,
backward, SGD) on resident inputs, on all cores, of

- plain: as PyTorch does it by itself, eager, float32, in the memory layout tensors have by default;
- layout: the same with channels last in memory;
- ours: that in bfloat16 (`jobs.train --precision bfloat16`, on GPUs that have it the default);
- compiled (rows compile and cuda): ours through torch.compile.

All in turns. GFLOP/s count two operations a multiply-accumulate and three forward passes a training step; the ceiling
is that of a product of two matrices of 2048 x 2048 in the same precision.
On CUDA plain is with TF32 off, and "autocast" stands beside it: plain under autocast.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _rows
from posec3d import models, speed
from posec3d.models import rgbpose

CLASSES = 60
CPU: dict[str, list[tuple[int, ...]]] = {
    "pose-slowonly-light": [(8, 17, 32, 32, 32)],
    "pose-slowonly": [(2, 17, 48, 56, 56)],
    "c3d-light": [(2, 17, 48, 56, 56)],
    "x3d-shallow": [(2, 17, 48, 56, 56)],
    "rgb-slowonly-light": [(8, 3, 4, 112, 112)],
    "rgbpose-slowfast-light": [(8, 3, 4, 112, 112), (8, 17, 16, 28, 28)],
    "stgcn++": [(8, 2, 100, 17, 3)],
    "msg3d": [(2, 2, 100, 17, 3)],
}
CUDA: dict[str, list[tuple[int, ...]]] = {
    "pose-slowonly": [(32, 17, 48, 56, 56)],
    "pose-slowonly-light": [(64, 17, 32, 32, 32)],
    "c3d-light": [(32, 17, 48, 56, 56)],
    "x3d-shallow": [(32, 17, 48, 56, 56)],
    "rgbpose-slowfast": [(8, 3, 8, 224, 224), (8, 17, 32, 56, 56)],
    "stgcn++": [(64, 2, 100, 17, 3)],
    "msg3d": [(16, 2, 100, 17, 3)],
}


class Case:
    """A model with its inputs, in one layout and precision."""

    def __init__(
        self, name: str, shapes: list[tuple[int, ...]], device: str, dtype: torch.dtype, last: bool, compiled: bool
    ) -> None:
        torch.manual_seed(0)
        self.model = models.create(name, CLASSES).to(device)
        self.seen: Any = tuple(torch.rand(shape, device=device) for shape in shapes)
        if last and name not in models.GRAPH:
            self.model = self.model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            self.seen = tuple(x.contiguous(memory_format=torch.channels_last_3d) for x in self.seen)
        if len(shapes) == 1:
            (self.seen,) = self.seen
        self.label = torch.randint(0, CLASSES, (shapes[0][0],), device=device)
        self.device, self.dtype = device, dtype
        self.run: Callable[[Any], Any] = speed.Compiled(self.model) if compiled else self.model
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, momentum=0.9)

    def heads(self) -> tuple[Tensor, ...]:
        """Logits of each head, float32."""
        with speed.autocast(self.dtype, self.device):
            logits = self.run(self.seen)
        return tuple(head.float() for head in (logits if isinstance(logits, tuple) else (logits,)))

    @torch.inference_mode()
    def forward(self) -> None:
        """One pass."""
        self.heads()
        self.wait()

    def train(self) -> None:
        """One step."""
        loss = rgbpose.loss(self.heads(), self.label)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.wait()

    def wait(self) -> None:
        """Until the device has done it."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def gflops(model: nn.Module, seen: Any) -> float:
    """Of a forward pass."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(seen)
    return counter.get_total_flops() / 1e9


def ceiling(device: str, dtypes: list[torch.dtype], seconds: float) -> dict[str, float]:
    """GFLOP/s of a matrix product in each type."""
    side = 2048 if device == "cpu" else 8192
    pairs = {str(d).removeprefix("torch."): torch.rand(side, side, device=device).to(d) for d in dtypes}

    def product(matrix: Tensor) -> Callable[[], None]:
        def run() -> None:
            torch.mm(matrix, matrix)
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    times = _rows.in_turns({name: product(matrix) for name, matrix in pairs.items()}, seconds)
    return {name: 2 * side**3 / ms / 1e6 for name, ms in times.items()}


def measure(
    shapes: dict[str, list[tuple[int, ...]]], device: str, ways: dict[str, tuple[torch.dtype, bool, bool]], quick: bool
) -> dict[str, Any]:
    """Every model in every way: (type, channels last, compiled)."""
    torch.set_num_threads(os.cpu_count() or 1)
    result: dict[str, Any] = {
        "ceiling, GFLOP/s": ceiling(device, sorted({way[0] for way in ways.values()}, key=str), 1 if quick else 6)
    }
    last = list(ways)[-1]
    for name, inputs in list(shapes.items())[: 2 if quick else None]:
        result[name] = {}
        for what in ("forward", "train"):
            torch._dynamo.reset()  # it counts how often a class was compiled, and gives up
            cases = {way: Case(name, inputs, device, *how) for way, how in ways.items()}
            for case in cases.values():
                case.model.train(what == "train")
            once = gflops(cases["plain"].model.eval(), cases["plain"].seen)
            cases["plain"].model.train(what == "train")
            functions = {way: getattr(case, what) for way, case in cases.items()}
            peak = {}
            for way, function in functions.items():
                if device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                function()
                if device == "cuda":
                    peak[way] = torch.cuda.max_memory_allocated() / 1e6
            times = _rows.in_turns(functions, 4 if quick else 30, rounds=2 if quick else 7)
            clips, work = inputs[0][0], once * (3 if what == "train" else 1)
            reached = work / times[last] * 1e3
            kind = str(ways[last][0]).removeprefix("torch.")
            result[name][what] = {
                **{f"clips/s, {way}": clips / ms * 1e3 for way, ms in times.items()},
                **{f"{way} over plain": times["plain"] / ms for way, ms in times.items() if way != "plain"},
                "GFLOP/s": reached,
                "share of the ceiling": reached / result["ceiling, GFLOP/s"][kind],
                **({"peak MB": peak} if peak else {}),
            }
    return result


def cpu(quick: bool) -> dict[str, Any]:
    """On the CPU, eager."""
    ours = torch.bfloat16
    return measure(
        CPU,
        "cpu",
        {
            "plain": (torch.float32, False, False),
            "layout": (torch.float32, True, False),
            "ours": (ours, True, False),
        },
        quick,
    )


def compiled(quick: bool) -> dict[str, Any]:
    """On the CPU, through torch.compile; the first two networks."""
    ours = torch.bfloat16
    ways = {
        "plain": (torch.float32, False, False),
        "ours": (ours, True, False),
        "float32, compiled": (torch.float32, True, True),
        "compiled": (ours, True, True),
    }
    return measure(dict(list(CPU.items())[:2]), "cpu", ways, quick)


def cuda(quick: bool) -> dict[str, Any]:
    """On a GPU."""
    if not torch.cuda.is_available():
        sys.exit("row cuda needs a CUDA GPU; torch sees none")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    ours = speed.resolve("auto", "cuda")
    ways = {
        "plain": (torch.float32, False, False),
        "autocast": (ours, False, False),
        "ours": (ours, True, False),
        "compiled": (ours, True, True),
    }
    return measure(CUDA, "cuda", ways, quick)


ROWS: dict[str, _rows.Row] = {"cpu": cpu, "compile": compiled, "cuda": cuda}

if __name__ == "__main__":
    _rows.main("models", "The networks' speed", __doc__, ROWS, ["cpu", "compile"])
