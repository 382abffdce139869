"""Beside training: with what precision a device computes, and compiled models that fall back to what they were."""

import logging
from typing import Any, Literal

import torch
from torch import nn

log = logging.getLogger("posec3d")

LARGEST_GRADIENT = 1e8
"""Norm of a gradient in bfloat16 on a CPU above which it is taken for garbage. With torch 2.13 that of a 3x1x1
convolution of two frames, channels last, is whatever was in memory (measured: 1e26 to infinity; of three frames and
more it is right).
"""

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def resolve(precision: Precision, device: torch.device | str) -> torch.dtype:
    """The type that a device is to compute convolutions and matrix products in; sums and weights stay float32.

    Args:
        precision: "auto" is bfloat16 on GPUs that have instructions for it, else float32. A CPU may have them too, but
            oneDNN's gradients are wrong for some shapes (see `LARGEST_GRADIENT`): there it has to be asked for.
        device: where models run.

    Raises:
        ValueError: float16 on a CPU, whose gradients would underflow for nothing: it has no such instructions.
    """
    cuda = torch.device(device).type == "cuda"
    if precision == "auto":
        native = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    if precision == "float16" and not cuda:
        raise ValueError("precision float16 is for GPUs; on a CPU take auto, bfloat16 or float32")
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def autocast(dtype: torch.dtype, device: torch.device | str) -> torch.autocast:
    """A context in which models compute in this type."""
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)


def for_one_thread(model: nn.Module) -> None:
    """Have a model's convolutions over one pixel computed by oneDNN on a CPU of one thread.

    There torch leaves those of less than 16 samples to a plain loop, at half the speed (2.13, measured), unless they
    are dilated. Across a kernel of one pixel a dilation means nothing. Convolutions with a stride stay as they are:
    dilated, their gradients in bfloat16 take seven times as long, a quarter of a training step of Pose-SlowOnly-light.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d) and layer.kernel_size[1:] == (1, 1) and layer.stride == (1, 1, 1):
            layer.dilation = (*layer.dilation[:2], 2)


class Compiled:
    """A model through torch.compile; without a compiler, or where one fails, the model itself, and a warning says so.

    Args:
        model: shares its weights with what is compiled.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        # Each shape by itself: of any shape at once, poolings over a whole volume do not compile (torch 2.13).
        self._run: Any = torch.compile(model, dynamic=False)
        self._works = False

    def __call__(self, seen: Any) -> Any:
        """The model's answer."""
        try:
            answer = self._run(seen)
        except Exception as error:  # of any of its many parts
            if self._works:
                raise
            log.warning("torch.compile failed (%s); the model runs as it is", str(error).strip().splitlines()[0][:200])
            self._run, answer = self.model, self.model(seen)
        self._works = True
        return answer
