"""RGBPose-SlowFast: RGB frames and a heatmap volume of a clip -> class scores of either (PYSKL: RGBPose-Conv3D).

An RGB pathway of few frames, wide, and a pose pathway of many frames, narrow; before each of its last two stages a
pathway is given the other's features as well, brought to its own number of frames by a time-strided convolution.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from posec3d.models.layers import initialise
from posec3d.models.slowonly import Pathway, stage_channels

Lateral = Literal["none", "rgb-to-pose", "pose-to-rgb", "both"]


class RGBPoseSlowFast(nn.Module):
    """SlowOnly of RGB frames and SlowOnly of heatmaps, with lateral connections, a classifier each.

    What goes into one pathway is called by that pathway's name: `rgb_detach` and `rgb_drop_path` are about the pose
    features that the RGB pathway is given.

    Args:
        num_classes: classes C of both outputs.
        in_channels: V joints or L limbs of the volume.
        rgb_width: channels after the RGB pathway's stem.
        pose_width: channels after the pose pathway's stem.
        rgb_blocks: bottlenecks of each stage of the RGB pathway.
        pose_blocks: bottlenecks of each stage of the pose pathway.
        lateral: which connections there are. A direction left out has no weights.
        frame_ratio: frames of the volume to one of RGB.
        rgb_detach: the loss of the RGB pathway does not train the pose pathway.
        pose_detach: the loss of the pose pathway does not train the RGB pathway.
        rgb_drop_path: how probably, in training, a batch's pose features are zeros to the RGB pathway, all of them at
            both places; they are not scaled otherwise.
        pose_drop_path: the same of the RGB features that the pose pathway is given.
        dropout: before each classifier.

    Raises:
        ValueError: `lateral` is none of the four, or a probability lies outside 0 .. 1.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 17,
        rgb_width: int = 64,
        pose_width: int = 32,
        rgb_blocks: Sequence[int] = (3, 4, 6, 3),
        pose_blocks: Sequence[int] = (4, 6, 3),
        lateral: Lateral = "both",
        frame_ratio: int = 4,
        rgb_detach: bool = False,
        pose_detach: bool = False,
        rgb_drop_path: float = 0.0,
        pose_drop_path: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if lateral not in ("none", "rgb-to-pose", "pose-to-rgb", "both"):
            raise ValueError(f"lateral must be none, rgb-to-pose, pose-to-rgb or both, got {lateral!r}")
        for name, probability in (("rgb_drop_path", rgb_drop_path), ("pose_drop_path", pose_drop_path)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {probability}")
        self.frame_ratio = frame_ratio
        self.rgb_detach, self.pose_detach = rgb_detach, pose_detach
        self.rgb_drop_path, self.pose_drop_path = rgb_drop_path, pose_drop_path

        # The last two stages are given what the other pathway has before its last two stages: as many channels of pose,
        # a sixteenth of those of RGB.
        to_rgb = stage_channels(pose_width, pose_blocks)[-3:-1] if lateral in ("pose-to-rgb", "both") else [0, 0]
        to_pose = stage_channels(rgb_width, rgb_blocks)[-3:-1] if lateral in ("rgb-to-pose", "both") else [0, 0]
        self.rgb_path = Pathway(3, rgb_width, rgb_blocks, [1] * len(rgb_blocks), stem_stride=2, joining=to_rgb)
        self.pose_path = Pathway(
            in_channels, pose_width, pose_blocks, [1] * len(pose_blocks), joining=[c // 16 for c in to_pose]
        )
        kernel, stride, padding = (7, 1, 1), (frame_ratio, 1, 1), (3, 0, 0)
        self.pose_to_rgb = nn.ModuleList(nn.Conv3d(c, c, kernel, stride, padding, bias=False) for c in to_rgb if c)
        # The output padding makes it `frame_ratio` times as many frames, exactly.
        more = (frame_ratio - 1, 0, 0)
        self.rgb_to_pose = nn.ModuleList(
            nn.Sequential(
                OrderedDict[str, nn.Module](
                    conv=nn.ConvTranspose3d(c, c // 16, kernel, stride, padding, more, bias=False),
                    bn=nn.BatchNorm3d(c // 16),
                    relu=nn.ReLU(),
                )
            )
            for c in to_pose
            if c
        )
        self.dropout = nn.Dropout(dropout)
        self.fc_rgb = nn.Linear(self.rgb_path.stage_channels[-1], num_classes)
        self.fc_pose = nn.Linear(self.pose_path.stage_channels[-1], num_classes)
        initialise(self, [*self.rgb_path.identities(), *self.pose_path.identities()])

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Class scores by RGB and by pose.

        Args:
            inputs: frames (N, 3, T, 4 H, 4 W), and the heatmap volume of the same clips and crops, (N, V, 4 T, H, W).
                Published: T = 8, H = W = 56 (64 in testing), and frames of red, green and blue from 0 to 255, less
                123.675, 116.28, 103.53, over 58.395, 57.12, 57.375.

        Returns:
            logits of the RGB and of the pose pathway, (N, num_classes) each.

        Raises:
            ValueError: with lateral connections, frames or sizes that do not match as above.
        """
        frames, volume = inputs
        rgb, pose = self.rgb_path.early(frames), self.pose_path.early(volume)
        if self.pose_to_rgb or self.rgb_to_pose:
            self._require_matching(frames, volume, rgb, pose)
        rgb_keep, pose_keep = self._keep(self.rgb_drop_path, rgb), self._keep(self.pose_drop_path, pose)
        for i, (rgb_stage, pose_stage) in enumerate(zip(self.rgb_path.late, self.pose_path.late, strict=True)):
            # Both directions start from what the stages made, not from what the other direction adds to it.
            to_rgb, to_pose = [rgb], [pose]
            if self.pose_to_rgb:
                to_rgb.append(_given(self.pose_to_rgb[i], pose, self.rgb_detach, rgb_keep))
            if self.rgb_to_pose:
                to_pose.append(_given(self.rgb_to_pose[i], rgb, self.pose_detach, pose_keep))
            rgb, pose = rgb_stage(torch.cat(to_rgb, 1)), pose_stage(torch.cat(to_pose, 1))
        rgb, pose = self.dropout(rgb.mean((2, 3, 4))), self.dropout(pose.mean((2, 3, 4)))
        return self.fc_rgb(rgb), self.fc_pose(pose)

    def _keep(self, drop_path: float, like: Tensor) -> Tensor | None:
        """Whether this batch's lateral features are kept, drawn on the device; None: they always are."""
        return torch.rand((), device=like.device) >= drop_path if self.training and drop_path else None

    def _require_matching(self, frames: Tensor, volume: Tensor, rgb: Tensor, pose: Tensor) -> None:
        """See that the features of both are of the same places and moments."""
        if (self.frame_ratio * rgb.shape[2], *rgb.shape[3:]) != tuple(pose.shape[2:]):
            t, h, w = frames.shape[2:]
            raise ValueError(
                f"frames (T, H, W) = {(t, h, w)} want a volume of {(self.frame_ratio * t, -(-h // 4), -(-w // 4))}: "
                f"{self.frame_ratio} times the frames and a quarter of the size; got {tuple(volume.shape[2:])}"
            )


def _given(connection: nn.Module, features: Tensor, detach: bool, keep: Tensor | None) -> Tensor:
    features = connection(features.detach() if detach else features)
    # Times zero, not zeros: weights then have gradients in every step, as distributed training wants.
    return features if keep is None else features * keep


def merged(rgb: Mapping[str, Tensor], pose: Mapping[str, Tensor], model: RGBPoseSlowFast) -> dict[str, Tensor]:
    """Weights for a model to start from: two models trained alone, each in its pathway.

    As published, the input channels that the lateral connections add have zero weights, and the connections start
    random: at first the merged model says what the two say.

    Args:
        rgb: state_dict of an rgb-slowonly(-light).
        pose: state_dict of a pose-pathway(-light): a Pose-SlowOnly that keeps T. One that halves it (pose-slowonly) has
            the same weights, but was trained for other features.
        model: whose lateral connections are kept as they are; it is not changed.

    Returns:
        A state_dict of `model`.

    Raises:
        ValueError: a tensor of a half is missing, left over or of another shape.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for half, given, path in (("rgb", rgb, model.rgb_path), ("pose", pose, model.pose_path)):
        # Ours -> that of the model trained alone.
        names = {f"{half}_path.{name}": name for name in path.state_dict()}
        names |= {f"fc_{half}.{name}": f"fc_cls.{name}" for name in ("weight", "bias")}
        added = path.added()
        wanted = {}
        for ours, name in names.items():
            wanted[name] = list(state[ours].shape)
            if name in added:
                wanted[name][1] -= added[name]
        wrong = [f"{name} is missing" for name in wanted if name not in given]
        wrong += [f"{name} is left over" for name in given if name not in wanted]
        wrong += [
            f"{name}: got {tuple(given[name].shape)}, wanted {tuple(size)}"
            for name, size in wanted.items()
            if name in given and list(given[name].shape) != size
        ]
        if wrong:
            more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise ValueError(f"the {half} weights do not fit the model's {half} pathway: {'; '.join(wrong[:5])}{more}")
        for ours, name in names.items():
            if name in added:
                state[ours].zero_()
                state[ours][:, : wanted[name][1]] = given[name]
            else:
                state[ours].copy_(given[name])
    return state


def fuse(logits: Sequence[Tensor], weights: Sequence[float] | None = None, *, joint: bool = False) -> Tensor:
    """Late fusion: the weighted mean of what the heads hold likely.

    Args:
        logits: (N, C) each, as a model returns them.
        weights: of each; None: all alike. Published: 1:1, 2:1, 1:2 of RGB and pose.
        joint: of heads that learnt by one loss together: what their weighted mean logits hold likely, as there.

    Returns:
        probabilities (N, C).
    """
    if joint:
        return _mean(logits, weights).softmax(1)
    return _mean([scores.softmax(1) for scores in logits], weights)


def _mean(parts: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    weights = [1.0] * len(parts) if weights is None else weights
    return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(0) / sum(weights)


def loss(
    logits: Sequence[Tensor],
    label: Tensor,
    *,
    weights: Sequence[float] | None = None,
    joint: bool = False,
    **options: Any,
) -> Tensor:
    """Cross-entropy of the heads: the weighted sum of each head's own, as published.

    Args:
        logits: (N, C) each, as a model returns them.
        label: (N,), or class probabilities (N, C).
        weights: of each head; None: 1 each.
        joint: one loss, of the weighted mean of the logits, in place of one of each head. The paper found that it
            overfits severely; to compare.
        options: of `torch.nn.functional.cross_entropy`.

    Returns:
        scalar.
    """
    if joint:
        return nn.functional.cross_entropy(_mean(logits, weights), label, **options)
    weights = [1.0] * len(logits) if weights is None else weights
    losses = [nn.functional.cross_entropy(scores, label, **options) for scores in logits]
    return torch.stack([w * one for w, one in zip(weights, losses, strict=True)]).sum()
