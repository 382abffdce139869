"""X3D-shallow: heatmap volume -> class scores (paper, section 3.3: X3D-S without its first stage)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from posec3d.models.layers import ConvBN, initialise

EXPANSION = 2.25
"""Of a block's channels within."""


class Block(nn.Module):
    """1x1x1, 3x3x3 each channel by itself, 1x1x1, with a residual; only the first has a ReLU within."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = int(EXPANSION * out_channels)
        self.conv1 = ConvBN(in_channels, inner, (1, 1, 1))
        self.conv2 = ConvBN(inner, inner, (3, 3, 3), (1, stride, stride), groups=inner, relu=False)
        self.conv3 = ConvBN(inner, out_channels, (1, 1, 1), relu=False)
        self.downsample = (
            ConvBN(in_channels, out_channels, (1, 1, 1), (1, stride, stride), relu=False) if stride > 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, H, W) -> (N, C', T, H / stride, W / stride)."""
        residual = x if self.downsample is None else self.downsample(x)
        return torch.relu_(self.conv3(self.conv2(self.conv1(x))) + residual)


class X3D(nn.Module):
    """X3D without squeeze-excitation and swish, as published for poses; all frames are kept.

    Args:
        num_classes: classes C of the output.
        in_channels: V joints or L limbs of the volume.
        base_width: channels after the stem and of the first stage, doubled by each of the others.
        blocks: of each stage.
        dropout: before the classifier.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 17,
        base_width: int = 24,
        blocks: Sequence[int] = (2, 5, 3),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv1_s = nn.Conv3d(in_channels, base_width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.conv1_t = ConvBN(base_width, base_width, (5, 1, 1), groups=base_width)
        channels = base_width
        stages = []
        for i, count in enumerate(blocks):
            width = base_width * 2**i
            stages.append(nn.Sequential(Block(channels, width, 2), *(Block(width, width, 1) for _ in range(count - 1))))
            channels = width
        self.layer1, self.layer2, self.layer3 = stages
        self.conv5 = ConvBN(channels, int(EXPANSION * channels), (1, 1, 1))
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(int(EXPANSION * channels), num_classes)
        initialise(self, [block.conv3 for block in self.modules() if isinstance(block, Block)])

    def forward(self, volume: Tensor) -> Tensor:
        """Class scores of heatmap volumes.

        Args:
            volume: (N, V, T, H, W).

        Returns:
            logits (N, num_classes).
        """
        x = self.conv1_t(self.conv1_s(volume))
        x = self.conv5(self.layer3(self.layer2(self.layer1(x))))
        return self.fc_cls(self.dropout(x.mean((2, 3, 4))))
