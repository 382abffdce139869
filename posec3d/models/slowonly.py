"""SlowOnly: heatmap volume, or RGB frames, -> class scores (paper, section 3.3: SlowFast's slow pathway).

Of heatmaps the network is shallow and narrow, and its stem keeps the size; of RGB frames it is SlowFast's own.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from posec3d.models.layers import ConvBN, Size3, initialise


class Bottleneck(nn.Module):
    """1x1x1 (3x1x1 where inflated), 1x3x3, 1x1x1 with a residual; the output is 4 x `width` channels wide."""

    def __init__(self, in_channels: int, width: int, stride: Size3 = (1, 1, 1), *, inflate: bool = False) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = ConvBN(in_channels, width, (3 if inflate else 1, 1, 1))
        self.conv2 = ConvBN(width, width, (1, 3, 3), stride)
        self.conv3 = ConvBN(width, out_channels, (1, 1, 1), relu=False)
        self.downsample = (
            ConvBN(in_channels, out_channels, (1, 1, 1), stride, relu=False)
            if in_channels != out_channels or stride != (1, 1, 1)
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's change to its (projected) input."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu_(self.conv3(self.conv2(self.conv1(x))) + shortcut)


def stage_channels(base_width: int, blocks: Sequence[int]) -> list[int]:
    """How wide the output of each stage of a `Pathway` is."""
    return [4 * base_width * 2**i for i in range(len(blocks))]


class Pathway(nn.Module):
    """All of SlowOnly but its classifier: a ResNet-50-style 3D network that keeps T almost or quite to the end.

    The last two stages are inflated (3x1x1 in each block's first convolution); each stage but the first is twice as
    wide as the one before.

    Args:
        in_channels: V joints or L limbs of the volume, or 3 of RGB.
        base_width: channels after the stem, and width of the first stage (published: 32 for volumes, 64 for RGB).
        blocks: bottlenecks of each stage, published (4, 6, 3) for volumes, (3, 4, 6, 3) for RGB.
        temporal_strides: stride in T of each stage.
        stem_stride: in H and W, of the first convolution and of the pool behind it. 1: the first stage halves H and W,
            as do all others (volumes); 2: the first stage keeps what the stem has made a quarter (RGB).
        joining: channels that another pathway adds to the input of each of the last two stages.
    """

    def __init__(
        self,
        in_channels: int,
        base_width: int,
        blocks: Sequence[int],
        temporal_strides: Sequence[int],
        *,
        stem_stride: int = 1,
        joining: Sequence[int] = (0, 0),
    ) -> None:
        super().__init__()
        stride = (1, stem_stride, stem_stride)
        self.conv1 = ConvBN(in_channels, base_width, (1, 7, 7), stride)
        # For volumes at stride 1, as published: it smooths.
        self.pool = nn.MaxPool3d((1, 3, 3), stride, padding=(0, 1, 1))
        self.joining = tuple(joining)
        self.stage_channels = stage_channels(base_width, blocks)
        channels = base_width
        for i, (count, t) in enumerate(zip(blocks, temporal_strides, strict=True)):
            late, s = i - (len(blocks) - 2), 1 if i == 0 and stem_stride == 2 else 2
            channels += joining[late] if late >= 0 else 0
            stage = []
            for block in range(count):
                stride = (t, s, s) if block == 0 else (1, 1, 1)
                stage.append(Bottleneck(channels, base_width * 2**i, stride, inflate=late >= 0))
                channels = self.stage_channels[i]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))

    @property
    def late(self) -> tuple[nn.Module, nn.Module]:
        """The last two stages."""
        last = len(self.stage_channels)
        return self.get_submodule(f"layer{last - 1}"), self.get_submodule(f"layer{last}")

    def early(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> what the stages before the last two make of it, (N, C', T', H', W')."""
        x = self.pool(self.conv1(x))
        for i in range(len(self.stage_channels) - 2):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x

    def added(self) -> dict[str, int]:
        """Name of a weight -> how many of its input channels, the last ones, are another pathway's."""
        last = len(self.stage_channels)
        return {
            f"layer{stage}.0.{part}.conv.weight": channels
            for stage, channels in zip((last - 1, last), self.joining, strict=True)
            for part in ("conv1", "downsample")
        }

    def identities(self) -> list[ConvBN]:
        """The last convolution of each block, which starts at zero."""
        return [block.conv3 for block in self.modules() if isinstance(block, Bottleneck)]


class SlowOnly(Pathway):
    """A pathway with a classifier on the mean of its features.

    Args:
        num_classes: classes C of the output.
        in_channels: as the other arguments of `Pathway`; the defaults are Pose-SlowOnly's, whose last stage halves T.
        base_width: 32 as published, 16 light.
        blocks: of each stage.
        temporal_strides: of each stage.
        stem_stride: 1 for volumes, 2 for RGB.
        dropout: before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 17,
        base_width: int = 32,
        blocks: Sequence[int] = (4, 6, 3),
        temporal_strides: Sequence[int] = (1, 1, 2),
        stem_stride: int = 1,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_channels, base_width, blocks, temporal_strides, stem_stride=stem_stride)
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(self.stage_channels[-1], num_classes)
        initialise(self, self.identities())

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of heatmap volumes or of RGB frames.

        Args:
            x: volume (N, V, T, H, W), or frames (N, 3, T, H, W), normalised as for `RGBPoseSlowFast`.

        Returns:
            logits (N, num_classes).
        """
        x = self.early(x)
        for stage in self.late:
            x = stage(x)
        return self.fc_cls(self.dropout(x.mean((2, 3, 4))))
