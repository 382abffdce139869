"""ST-GCN++: coordinates of people -> class scores, over the skeleton's graph (PYSKL's baseline, arXiv 2205.09443)."""

import torch
from torch import Tensor, nn

from posec3d.models.graph import spatial_partition
from posec3d.skeletons import skeleton as find_skeleton

STAGES = ((64, 4, 1), (128, 3, 2), (256, 3, 2))
"""(channels, blocks, stride in time of the first block)"""


def entry(in_channels: int, out_channels: int) -> list[nn.Module]:
    """How a branch over time begins: 1x1 convolution, BatchNorm, ReLU."""
    return [nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels), nn.ReLU()]


def over_time(channels: int, stride: int, dilation: int) -> nn.Conv2d:
    """Three frames, `dilation` apart: (N, C, T, V) -> (N, C, T / stride, V)."""
    return nn.Conv2d(channels, channels, (3, 1), (stride, 1), (dilation, 0), (dilation, 1))


class GraphConv(nn.Module):
    """Each of the graph's three parts has its own weights; the graph is learnt too: (N, C, T, V) -> (N, C', T, V)."""

    def __init__(self, in_channels: int, out_channels: int, graph: Tensor) -> None:
        super().__init__()
        self.A = nn.Parameter(graph.clone())
        self.conv = nn.Conv2d(in_channels, out_channels * len(graph), 1)
        self.bn = nn.BatchNorm2d(out_channels)
        self.down: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.down = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Send each joint's features along the graph, add them up where they arrive."""
        n, _, t, v = x.shape
        # One product a frame, of what lies together: with channels last nothing is copied.
        parts = self.conv(x).permute(0, 2, 3, 1).reshape(n * t, v * len(self.A), -1)
        graph = self.A.permute(2, 1, 0).reshape(1, v, -1).expand(n * t, -1, -1)
        y = torch.bmm(graph, parts).view(n, t, v, -1).permute(0, 3, 1, 2)
        return torch.relu(self.bn(y) + self.down(x))


class TemporalConv(nn.Module):
    """Four dilations, a maximum, and each frame by itself, side by side: (N, C, T, V) -> (N, C, T / stride, V)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        width = channels // 6
        widths = (channels - 5 * width, width, width, width)
        branches: list[nn.Module] = [
            nn.Sequential(*entry(channels, inner), over_time(inner, stride, dilation))
            for dilation, inner in enumerate(widths, 1)
        ]
        branches += [
            nn.Sequential(*entry(channels, width), nn.MaxPool2d((3, 1), (stride, 1), (1, 0))),
            nn.Conv2d(channels, width, 1, (stride, 1)),
        ]
        self.branches = nn.ModuleList(branches)
        self.transform = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 1))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Look at each joint over time."""
        return self.bn(self.transform(torch.cat([branch(x) for branch in self.branches], 1)))


class Block(nn.Module):
    """Over the graph, then over time, with a residual but for the first."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, graph: Tensor, *, first: bool) -> None:
        super().__init__()
        self.gcn = GraphConv(in_channels, out_channels, graph)
        self.tcn = TemporalConv(out_channels, stride)
        self.first = first
        self.residual: nn.Module = nn.Identity()
        if not first and (in_channels != out_channels or stride > 1):
            self.residual = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, (stride, 1)), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, T, V) -> (N, C', T / stride, V)."""
        y = self.tcn(self.gcn(x))
        return torch.relu(y if self.first else y + self.residual(x))


class STGCN(nn.Module):
    """Ten blocks; people are looked at one by one, and their features averaged.

    Args:
        num_classes: classes of the output.
        skeleton: name of the V joints' skeleton.
        in_channels: C of the input: x, y, score, or x, y, z.
        dropout: before the classifier; none as published.
    """

    def __init__(
        self, num_classes: int, *, skeleton: str = "coco17", in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        body = find_skeleton(skeleton)
        graph = spatial_partition(body)
        self.data_bn = nn.BatchNorm1d(len(body.joints) * in_channels)
        blocks: list[Block] = []
        channels = in_channels
        for width, count, stride in STAGES:
            for i in range(count):
                blocks.append(Block(channels, width, stride if i == 0 else 1, graph, first=not blocks))
                channels = width
        self.gcn = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(dropout)
        self.fc_cls = nn.Linear(channels, num_classes)
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
        x = self.data_bn(people.permute(0, 1, 3, 4, 2).reshape(n * m, v * c, t))
        # Channels last: in bfloat16 a CPU learns nearly twice as fast.
        x = x.view(n * m, v, c, t).permute(0, 2, 3, 1).contiguous(memory_format=torch.channels_last)
        for block in self.gcn:
            x = block(x)
        return self.fc_cls(self.dropout(x.mean((2, 3)).view(n, m, -1).mean(1)))
