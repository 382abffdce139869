"""MS-G3D: coordinates of people -> class scores, over graphs of many scales in space and time (arXiv 2003.14111).

The variant of PYSKL, with which the paper compares; its convolution over time differs from the original's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posec3d.models.graph import neighbourhoods
from posec3d.models.stgcn import entry, over_time
from posec3d.skeletons import Skeleton
from posec3d.skeletons import skeleton as find_skeleton

WINDOWS = (3, 5)
"""Frames of the two space-time graphs of a stage."""


class MultiScaleGraphConv(nn.Module):
    """Neighbours at each distance have weights of their own: (N, C, T, W) -> (N, C', T, W), W nodes of the graph."""

    A: Tensor

    def __init__(self, in_channels: int, out_channels: int, graphs: Tensor) -> None:
        super().__init__()
        self.register_buffer("A", graphs)
        self.PA = nn.Parameter(torch.empty_like(graphs).uniform_(-1e-6, 1e-6))
        self.mlp = nn.Sequential(*entry(len(graphs) * in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Send each node's features along the graphs."""
        return self.mlp(torch.einsum("kvu,nctv->nkctu", self.A + self.PA, x).flatten(1, 2))


class WindowedGraphConv(nn.Module):
    """A graph over all joints of some frames at a time: (N, C, T, V) -> (N, C', T / stride, V)."""

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, skeleton: Skeleton, scales: int, window: int, stride: int
    ) -> None:
        super().__init__()
        self.window, self.stride = window, stride
        self.gcn = MultiScaleGraphConv(in_channels, inner, neighbourhoods(skeleton, scales, window))
        self.out_conv = nn.Conv3d(inner, out_channels, (1, window, 1))
        self.out_bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Look at each window as one graph, then let its frames become one."""
        side = self.window // 2
        padded, last = F.pad(x, (0, 0, side, side)), x.shape[2]
        # Not `unfold`, which exporters do not know where N is free.
        windows = [padded[:, :, i : i + last : self.stride] for i in range(self.window)]
        y = self.gcn(torch.stack(windows, 3).flatten(3))
        return self.out_bn(self.out_conv(y.unflatten(3, (self.window, -1))).squeeze(3))


class MultiScaleTemporalConv(nn.Module):
    """Four dilations, a maximum, and each frame by itself, with a residual: (N, C, T, V) -> (N, C', T / stride, V)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, relu: bool = True) -> None:
        super().__init__()
        width = out_channels // 6
        branches = [
            nn.Sequential(*entry(in_channels, width), over_time(width, stride, dilation), nn.BatchNorm2d(width))
            for dilation in (1, 2, 3, 4)
        ]
        pool = nn.MaxPool2d((3, 1), (stride, 1), (1, 0))
        rest = out_channels - 5 * width
        branches += [
            nn.Sequential(*entry(in_channels, width), pool, nn.BatchNorm2d(width)),
            nn.Sequential(nn.Conv2d(in_channels, rest, 1, (stride, 1)), nn.BatchNorm2d(rest)),
        ]
        self.branches = nn.ModuleList(branches)
        self.residual: nn.Module = nn.Identity()
        if in_channels != out_channels or stride > 1:
            self.residual = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, (stride, 1)), nn.BatchNorm2d(out_channels)
            )
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """Look at each joint over time."""
        y = torch.cat([branch(x) for branch in self.branches], 1) + self.residual(x)
        return torch.relu(y) if self.relu else y


class Stage(nn.Module):
    """Space, then time, beside both at once; their sum, then time: (N, C, T, V) -> (N, C', T / stride, V)."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, stride: int, skeleton: Skeleton) -> None:
        super().__init__()
        self.sgcn = nn.Sequential(
            MultiScaleGraphConv(in_channels, inner, neighbourhoods(skeleton, 13)),
            MultiScaleTemporalConv(inner, out_channels, stride),
            MultiScaleTemporalConv(out_channels, out_channels, relu=False),
        )
        self.gcn3d = nn.ModuleList(
            WindowedGraphConv(in_channels, inner, out_channels, skeleton, 6, window, stride) for window in WINDOWS
        )
        self.tcn = MultiScaleTemporalConv(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Both pathways, added up."""
        return self.tcn(torch.relu(self.sgcn(x) + sum(window(x) for window in self.gcn3d)))


class MSG3D(nn.Module):
    """Three stages; people are looked at one by one, and their features averaged.

    Args:
        num_classes: classes of the output.
        skeleton: name of the V joints' skeleton.
        in_channels: C of the input: x, y, score, or x, y, z.
        persons: M of the input.
        base_width: channels of the first stage, doubled by each of the others.
        dropout: before the classifier; none as published.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        skeleton: str = "coco17",
        in_channels: int = 3,
        persons: int = 2,
        base_width: int = 96,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        body, w = find_skeleton(skeleton), base_width
        self.data_bn = nn.BatchNorm1d(persons * len(body.joints) * in_channels)
        self.stages = nn.Sequential(
            Stage(in_channels, w, w, 1, body), Stage(w, w, 2 * w, 2, body), Stage(2 * w, 2 * w, 4 * w, 2, body)
        )
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(4 * w, num_classes)
        nn.init.normal_(self.fc_cls.weight, std=0.01)
        nn.init.zeros_(self.fc_cls.bias)

    def forward(self, people: Tensor) -> Tensor:
        """Class scores of people's coordinates.

        Args:
            people: (N, M, T, V, C); an absent person is all zeros.

        Returns:
            logits (N, num_classes).
        """
        n, m, t, v, c = people.shape
        x = self.data_bn(people.permute(0, 1, 3, 4, 2).reshape(n, m * v * c, t))
        x = self.stages(x.view(n * m, v, c, t).permute(0, 2, 3, 1))
        return self.fc_cls(self.dropout(x.mean((2, 3)).view(n, m, -1).mean(1)))
