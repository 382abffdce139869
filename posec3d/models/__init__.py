"""Models: heatmap volume, or people's coordinates, -> class scores; plain nn.Modules by the names the paper uses."""

from typing import Any

from torch import nn

from posec3d.models.c3d import C3D
from posec3d.models.msg3d import MSG3D
from posec3d.models.slowonly import SlowOnly
from posec3d.models.stgcn import STGCN
from posec3d.models.x3d import X3D

MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "pose-slowonly": (SlowOnly, {}),
    "pose-slowonly-346": (SlowOnly, {"blocks": (3, 4, 6)}),
    "pose-slowonly-light": (SlowOnly, {"base_width": 16}),
    "c3d-light": (C3D, {}),
    "x3d-shallow": (X3D, {}),
    "stgcn++": (STGCN, {}),
    "msg3d": (MSG3D, {}),
}
GRAPH = ("stgcn++", "msg3d")
"""Those that take coordinates (N, M, T, V, C); the others take volumes."""


def create(name: str, num_classes: int, **overrides: Any) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: pose-slowonly (2.0 M parameters, 15.6 GMACs at 48 x 56 x 56), pose-slowonly-346 (3.0 M, 14.5; of the sets
            with many classes), pose-slowonly-light (0.5 M, 4.9), c3d-light (3.4 M, 16.8), x3d-shallow (0.25 M, 0.57);
            of those in `GRAPH` stgcn++ (1.4 M, 1.9 at 2 people and 100 frames) or msg3d (3.0 M, 6.8).
        num_classes: classes C of the output.
        overrides: arguments of the model's class.

    Returns:
        A module: volume (N, V, T, H, W), or coordinates (N, M, T, V, C), -> logits (N, num_classes).

    Raises:
        ValueError: no model of that name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    model, arguments = MODELS[name]
    return model(num_classes, **{**arguments, **overrides})
