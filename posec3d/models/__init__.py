"""Models: heatmap volume -> class scores, plain nn.Modules by the names the paper uses."""

from typing import Any

from torch import nn

from posec3d.models.slowonly import SlowOnly

MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "pose-slowonly": (SlowOnly, {}),
    "pose-slowonly-light": (SlowOnly, {"base_width": 16}),
}


def create(name: str, num_classes: int, **overrides: Any) -> nn.Module:
    """Build a model with random weights.

    Args:
        name: pose-slowonly (2.0 M parameters) or pose-slowonly-light (half as wide, 0.5 M).
        num_classes: classes C of the output.
        overrides: arguments of the model's class.

    Returns:
        A module: volume (N, V, T, H, W) -> logits (N, num_classes).

    Raises:
        ValueError: no model of that name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    model, arguments = MODELS[name]
    return model(num_classes, **{**arguments, **overrides})
