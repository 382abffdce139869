"""Models: volume, RGB frames or people's coordinates -> class scores; plain nn.Modules by the names the paper uses."""

from typing import Any

from torch import nn

from posec3d.models.c3d import C3D
from posec3d.models.msg3d import MSG3D
from posec3d.models.rgbpose import RGBPoseSlowFast
from posec3d.models.slowonly import SlowOnly
from posec3d.models.stgcn import STGCN
from posec3d.models.x3d import X3D

_KEEPS_T = {"temporal_strides": (1, 1, 1)}
_RGB = {"in_channels": 3, "base_width": 64, "blocks": (3, 4, 6, 3), "temporal_strides": (1, 1, 1, 1), "stem_stride": 2}
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "pose-slowonly": (SlowOnly, {}),
    "pose-slowonly-346": (SlowOnly, {"blocks": (3, 4, 6)}),
    "pose-slowonly-light": (SlowOnly, {"base_width": 16}),
    "c3d-light": (C3D, {}),
    "x3d-shallow": (X3D, {}),
    "pose-pathway": (SlowOnly, _KEEPS_T),
    "pose-pathway-light": (SlowOnly, {**_KEEPS_T, "base_width": 16}),
    "rgb-slowonly": (SlowOnly, _RGB),
    "rgb-slowonly-light": (SlowOnly, {**_RGB, "base_width": 16, "blocks": (2, 2, 2, 2)}),
    "rgbpose-slowfast": (RGBPoseSlowFast, {}),
    "rgbpose-slowfast-light": (RGBPoseSlowFast, {"rgb_width": 16, "rgb_blocks": (2, 2, 2, 2), "pose_width": 16}),
    "stgcn++": (STGCN, {}),
    "msg3d": (MSG3D, {}),
}
"""The name of a model -> its class and arguments."""
GRAPH = ("stgcn++", "msg3d")
"""Those that take coordinates (N, M, T, V, C)."""
RGB = ("rgb-slowonly", "rgb-slowonly-light")
"""Those that take RGB frames (N, 3, T, H, W)."""
RGBPOSE = ("rgbpose-slowfast", "rgbpose-slowfast-light")
"""Those that take frames and a volume, and have a classifier for each; all others take volumes alone."""


def create(name: str, num_classes: int, **overrides: Any) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: pose-slowonly (2.0 M parameters, 15.6 GMACs at 48 x 56 x 56), pose-slowonly-346 (3.0 M, 14.5; of the sets
            with many classes), pose-slowonly-light (0.5 M, 4.9), c3d-light (3.4 M, 16.8), x3d-shallow (0.25 M, 0.57);
            pose-pathway (2.0 M, 11.3 at 32 x 56 x 56) or pose-pathway-light (0.5 M, 3.5), as pose-slowonly but for T,
            which they keep; rgb-slowonly (31.8 M, 41.7 at 8 x 224 x 224) or rgb-slowonly-light (1.2 M, 0.44 at
            8 x 112 x 112); both pathways in one: rgbpose-slowfast (36.1 M, 58.0 at 8 x 224 x 224 and 32 x 56 x 56) or
            rgbpose-slowfast-light (2.0 M, 1.5 at 8 x 112 x 112 and 32 x 28 x 28); graph networks: stgcn++ (1.4 M, 1.9
            at 2 people and 100 frames) or msg3d (3.0 M, 6.8).
        num_classes: classes C of the output.
        overrides: arguments of the model's class.

    Returns:
        A module: volume (N, V, T, H, W), frames (N, 3, T, H, W) or coordinates (N, M, T, V, C) -> logits
        (N, num_classes); of those in `RGBPOSE`: (frames, volume) -> (logits by RGB, logits by pose).

    Raises:
        ValueError: no model of that name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    model, arguments = MODELS[name]
    return model(num_classes, **{**arguments, **overrides})
