"""Evidence: a model of volumes and a clip -> where, when and in which joints it saw the action it names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from posec3d import training
from posec3d.clips import sample_frames
from posec3d.models.slowonly import SlowOnly
from posec3d.recognizer import Predictor
from posec3d.table import Clip


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for a class in a clip, and what against it."""

    label: str
    probability: float
    channels: tuple[str, ...]
    """Names of the V joints or limbs."""
    frames: np.ndarray
    """(T,) numbers of the frames, in the clip, that the model saw."""
    volume: np.ndarray
    """(V, T, H, W) what it saw."""
    activation: np.ndarray
    """(T', H', W') class activation: features of the last layer times the class's weights. Its mean and the class's
    bias are the logit."""
    joints: np.ndarray
    """(V, T) gradient of the logit times the volume, summed over a frame: by how much the logit grows, for a small
    share, if a joint's heat in a frame grows by that share."""

    def picture(self, path: str | Path) -> None:
        """Write it as a PNG."""
        from posec3d import draw

        activation = resized(self.activation, self.volume.shape[1:])
        title = f"{self.label} {self.probability:.0%}, in one view"
        draw.evidence_picture(path, title, self.volume, activation, self.joints, self.channels, self.frames)


def evidence(recognizer: Predictor, clip: Clip, label: str | None = None) -> Evidence:
    """Ask a model what in a clip it saw an action in; of the clip's first view.

    Args:
        recognizer: of a Pose-SlowOnly of any size; of several fused, the first is asked.
        clip: with somebody in it.
        label: the action; None is the likeliest.

    Raises:
        ValueError: another model, an unknown label, or nobody in the clip.
    """
    first = recognizer.parts[0]
    model, config, body = first.model, first.config, first.skeleton
    if not isinstance(model, SlowOnly) or not explains(recognizer):
        raise ValueError(f"only a Pose-SlowOnly says where it saw something; this is a {config.model.name}")
    if label is not None and label not in recognizer.labels:
        raise ValueError(f"unknown label {label!r}; the model knows {', '.join(recognizer.labels)}")
    if not clip.num_persons:
        raise ValueError(f"nobody is in clip {clip.clip_id}: there is nothing to see an action in")
    samples = first.samples(clip, clips=1)
    xy, score = (torch.as_tensor(samples[name][0], device=first.device) for name in ("xy", "score"))
    volume = training.draw(xy, score, config.clip.test_size, config.heatmap, body).requires_grad_()
    features, logits = _forward(model, volume)
    number = int(logits[0].argmax()) if label is None else recognizer.labels.index(label)
    (gradient,) = torch.autograd.grad(logits[0, number], volume)
    activation = torch.tensordot(model.fc_cls.weight[number], features[0], 1)
    joint = config.heatmap.kind == "joint"
    return Evidence(
        label=recognizer.labels[number],
        probability=float(logits.detach()[0].softmax(0)[number]),
        channels=body.joints if joint else tuple(f"{body.joints[a]} - {body.joints[b]}" for a, b in body.limbs),
        frames=sample_frames(clip.num_frames, config.clip)[0],
        volume=volume.detach()[0].cpu().numpy(),
        activation=activation.detach().cpu().numpy(),
        joints=(gradient * volume).detach().sum((3, 4))[0].cpu().numpy(),
    )


def explains(recognizer: Predictor) -> bool:
    """Whether `evidence` can ask this model."""
    first = recognizer.parts[0]
    clip = first.config.clip
    return isinstance(first.model, SlowOnly) and clip.rgb_length == 0 and clip.maps == "drawn"


def _forward(model: SlowOnly, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Features (1, C, T', H', W') of the last layer, and logits (1, classes)."""
    kept: list[Tensor] = []
    hook = model.late[1].register_forward_hook(lambda _, __, out: kept.append(out))
    try:
        logits = model(volume)
    finally:
        hook.remove()
    return kept[0], logits


def resized(activation: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An activation (T', H', W'), trilinearly enlarged to (T, H, W)."""
    given = torch.as_tensor(activation)[None, None]
    return nn.functional.interpolate(given, shape, mode="trilinear", align_corners=False)[0, 0].numpy()
