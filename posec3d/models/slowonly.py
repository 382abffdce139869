"""Pose-SlowOnly: heatmap volume -> class scores (paper, section 3.3: SlowFast's slow pathway, shallow and narrow)."""

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
            ConvBN(in_channels, out_channels, (1, 1, 1), stride, relu=False) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add the block's change to its (projected) input."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu_(self.conv3(self.conv2(self.conv1(x))) + shortcut)


class SlowOnly(nn.Module):
    """A ResNet-50-style 3D network that keeps the temporal resolution of its input almost to the end.

    Stages 2 and 3 are inflated (3x1x1 in each block's first convolution); the last one halves T.

    Args:
        num_classes: classes C of the output.
        in_channels: V joints or L limbs of the volume.
        base_width: channels after the stem, and width of the first stage (32 as published, 16 light).
        blocks: bottlenecks of each stage, (4, 6, 3) as published.
        temporal_strides: stride in T of each stage.
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
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.conv1 = ConvBN(in_channels, base_width, (1, 7, 7))
        # At stride 1, as published: it smooths.
        self.pool = nn.MaxPool3d((1, 3, 3), stride=1, padding=(0, 1, 1))
        width, channels = base_width, base_width
        stages = []
        for i, (count, t) in enumerate(zip(blocks, temporal_strides, strict=True)):
            stage = []
            for block in range(count):
                stride = (t, 2, 2) if block == 0 else (1, 1, 1)
                stage.append(Bottleneck(channels, width, stride, inflate=i > 0))
                channels = 4 * width
            stages.append(nn.Sequential(*stage))
            width *= 2
        self.layer1, self.layer2, self.layer3 = stages
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(channels, num_classes)
        initialise(self, self.fc_cls, [block.conv3 for block in self.modules() if isinstance(block, Bottleneck)])

    def forward(self, volume: Tensor) -> Tensor:
        """Class scores of heatmap volumes.

        Args:
            volume: (N, V, T, H, W).

        Returns:
            logits (N, num_classes).
        """
        x = self.pool(self.conv1(volume))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc_cls(self.dropout(x.mean((2, 3, 4))))
