"""Layers that the 3D-CNNs share: convolution with BatchNorm, and how all weights begin."""

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn

Size3: TypeAlias = tuple[int, int, int]


class ConvBN(nn.Module):
    """Conv3d without bias, BatchNorm and, unless switched off, ReLU: (N, C, T, H, W) -> (N, C', T', H', W')."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size3,
        stride: Size3 = (1, 1, 1),
        *,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise, rectify."""
        x = self.bn(self.conv(x))
        return torch.relu_(x) if self.relu else x


def initialise(model: nn.Module, last_of_blocks: Iterable[ConvBN] = ()) -> None:
    """Give a model the weights it starts with, as published.

    Args:
        model: its convolutions get He's normal distribution, its classifiers a normal distribution of standard
            deviation 0.01, and no bias. (A transposed convolution keeps torch's own start, as published too.)
        last_of_blocks: last convolutions of residual blocks, which so start as the identity.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    for last in last_of_blocks:
        nn.init.zeros_(last.bn.weight)
