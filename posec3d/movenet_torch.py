"""The default networks behind frames -> boxes -> keypoints: MoveNet in torch, read from its TF.js graph files.

One definition, decoding included, serves torch on CUDA and, exported, onnxruntime on the CPU. `posec3d.movenet`
runs both; on the CPU it needs no torch, which is why this is a file of its own.
"""

import base64
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_BOXES = 20
"""Candidate boxes the detector gives for each image, best first."""

_STRIDE = 4  # input pixels per heat-map cell, in all networks
_INPUT = "StatefulPartitionedCall/sub_1"  # RGB / 127.5 - 1; everything before it is normalisation
_HEAD = "StatefulPartitionedCall/{}/BiasAdd"
_CENTRE_WEIGHT = "ConstantFolding/StatefulPartitionedCall/truediv_2_recip"


class PoseNet(nn.Module):
    """Top-down pose, MoveNet Thunder (S = 256) or Lightning (S = 192).

    Crops (B, S, S, 3) RGB 0..255 -> keypoints (B, 17, 3) x y score, heatmaps (B, 17, S / 4, S / 4). x and y are crop
    pixels, the score is the heatmap's value in 0..1. A crop has one person near its centre.

    Args:
        graph: the TF.js model's .json file.
        weights: its .bin file.
    """

    def __init__(self, graph: bytes, weights: bytes) -> None:
        super().__init__()
        heads = (
            "kpt_heatmap_0/conv2d_5",
            "center_0/conv2d_4",
            "kpt_regress_0/conv2d_6",
            "kpt_offset_0/conv2d_7",
        )
        nodes, constants = read_graph(graph, weights)
        self.net = GraphNet(nodes, constants, heads)
        centre_weight = constants[_CENTRE_WEIGHT]
        self.size = centre_weight.shape[0] * _STRIDE
        self.register_buffer("centre_weight", torch.from_numpy(centre_weight.reshape(1, -1)))
        grid = torch.arange(centre_weight.shape[0], dtype=torch.float32)
        self.register_buffer("rows", grid[:, None])
        self.register_buffer("columns", grid[None, :])

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Crops (B, S, S, 3) -> keypoints (B, 17, 3), heatmaps (B, 17, S / 4, S / 4)."""
        heat, centre, regress, offset = self.net(_normalise(crops))
        width = heat.shape[-1]
        heat = heat.sigmoid()
        # The person is the cell with the best centre score, weighted towards the middle of the crop ...
        cell = (centre.sigmoid().flatten(1) * self.centre_weight).argmax(1)[:, None]
        # ... which says where its joints should be; of each joint's peaks the one near that place counts.
        # (B, 17, 2): rows and columns from that cell.
        guess = _at(regress, cell).unflatten(2, (17, 2))[:, 0]
        row = (guess[..., 0] + cell // width)[..., None, None]
        column = (guess[..., 1] + cell % width)[..., None, None]
        distance = ((self.rows - row) ** 2 + (self.columns - column) ** 2).sqrt()
        peak = (heat / (distance + 1.8)).flatten(2).argmax(2)[..., None]
        score = heat.flatten(2).gather(2, peak)
        offset = offset.unflatten(1, (17, 2)).flatten(3)
        shift = offset.gather(3, peak[:, :, None].expand(-1, -1, 2, -1))[..., 0]
        x = (peak % width + shift[:, :, 1:]) * _STRIDE
        y = (peak // width + shift[:, :, :1]) * _STRIDE
        return torch.cat([x, y, score], 2), heat


class BoxNet(nn.Module):
    """Person boxes, MoveNet MultiPose: images (B, H, W, 3) RGB 0..255 -> (B, 20, 5) x1 y1 x2 y2 score.

    H and W are multiples of 32; boxes are in input pixels, best first, before any threshold and suppression.

    Args:
        graph: the TF.js model's .json file.
        weights: its .bin file.
    """

    def __init__(self, graph: bytes, weights: bytes) -> None:
        super().__init__()
        heads = ("center_0/conv2d_4", "box_scale_0/conv2d_5", "box_offset_0/conv2d_6")
        self.net = GraphNet(*read_graph(graph, weights), heads)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, H, W, 3) -> boxes (B, 20, 5)."""
        centre, scale, offset = self.net(_normalise(images))
        width = centre.shape[-1]
        centre = centre.sigmoid()
        peaks = torch.where(centre >= F.max_pool2d(centre, 3, 1, 1), centre, 0.0)
        score, cell = peaks.flatten(1).topk(NUM_BOXES, 1)
        shift, size = _at(offset, cell), _at(scale, cell).clamp(min=0)  # (B, 20, 2): rows, columns
        middle = torch.stack([cell % width + shift[..., 1], cell // width + shift[..., 0]], -1)
        half = size.flip(-1) / 2
        return torch.cat([(middle - half) * _STRIDE, (middle + half) * _STRIDE, score[..., None]], -1)


def _normalise(images: Tensor) -> Tensor:
    """(B, H, W, 3) 0..255 -> (B, 3, H, W) -1..1."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _at(maps: Tensor, cells: Tensor) -> Tensor:
    """Read (B, C, H, W) maps at flat cell numbers (B, K) -> (B, K, C)."""
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


class GraphNet(nn.Module):
    """The convolutional part of a TF.js graph, from the normalised (B, 3, H, W) image to the named heads.

    Only five operations occur, with batch norm already folded in: three kinds of convolution, AddV2 and a
    doubling ResizeBilinear. Height and width stay free as long as they are multiples of 32.
    """

    def __init__(self, nodes: dict[str, Any], weights: dict[str, np.ndarray], heads: tuple[str, ...]) -> None:
        super().__init__()
        self.steps = nn.ModuleList()
        self.wiring: list[tuple[str, list[str]]] = []  # of each step: its name, the steps it reads
        self.heads = [_HEAD.format(head) for head in heads]
        for node, inputs in _in_order(nodes, weights, self.heads):
            reads = [name for name in inputs if name not in weights]
            self.steps.append(_layer(node, [weights[name] for name in inputs if name in weights]))
            self.wiring.append((node["name"], reads))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Image (B, 3, H, W) in -1..1 -> each head's maps (B, C, H / 4, W / 4)."""
        known = {_INPUT: x}
        for step, (name, reads) in zip(self.steps, self.wiring, strict=True):
            known[name] = step(*(known[read] for read in reads))
        # Under autocast the convolutions give float16, in which a position is right to a third of a pixel only.
        return [known[head].float() for head in self.heads]


def _in_order(
    nodes: dict[str, Any], weights: dict[str, np.ndarray], heads: list[str]
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield (node, input names) so that every node comes after what it reads."""
    done = {_INPUT, *weights}

    def visit(name: str) -> Iterator[tuple[dict[str, Any], list[str]]]:
        if name in done:
            return
        done.add(name)
        node = nodes[name]
        inputs = [i.split(":")[0].lstrip("^") for i in node["input"]]
        if node["op"] == "ResizeBilinear":
            inputs = inputs[:1]  # the second is the size, always twice the input's here
        for i in inputs:
            yield from visit(i)
        yield node, inputs

    for head in heads:
        yield from visit(head)


def _layer(node: dict[str, Any], constants: list[np.ndarray]) -> nn.Module:
    if node["op"] == "AddV2":
        return _Add(*constants)
    if node["op"] == "ResizeBilinear":
        return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    if node["op"] not in ("_FusedConv2D", "FusedDepthwiseConv2dNative", "DepthwiseConv2dNative"):
        raise ValueError(f"graph node {node['name']} is a {node['op']}, which is unknown here; wrong model file?")
    return _Conv(node, *constants)


class _Add(nn.Module):
    """Sum of two maps, or of a map and a constant for each channel."""

    constant: Tensor | None

    def __init__(self, constant: np.ndarray | None = None) -> None:
        super().__init__()
        self.register_buffer("constant", None if constant is None else _tensor(constant.reshape(-1, 1, 1)))

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        other = self.constant if b is None else b
        return a if other is None else a + other


class _Conv(nn.Module):
    """TF convolution: "SAME" padding, dense or depthwise, with an optional bias and ReLU."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, node: dict[str, Any], kernel: np.ndarray, bias: np.ndarray | None = None) -> None:
        super().__init__()
        attributes = node["attr"]

        def integers(key: str) -> list[int]:
            return [int(i) for i in attributes.get(key, {}).get("list", {}).get("i", [1, 1, 1, 1])][1:3]

        self.stride, self.dilation = integers("strides"), integers("dilations")
        # TF puts the odd pixel of "SAME" padding right and below. Sides are multiples of 32, hence even wherever
        # the stride is 2, so the padding is known without looking at the input; and an empty first row or column
        # of the kernel makes it alike on both sides, which spares a copy of the map (15 % of the time).
        same = base64.b64decode(attributes["padding"]["s"]) == b"SAME"
        sides = zip(kernel.shape[:2], self.stride, self.dilation, strict=True)
        padding = [max((k - 1) * d + 1 - s, 0) if same else 0 for k, s, d in sides]
        self.padding = [-(-total // 2) for total in padding]
        kernel = np.pad(kernel, [(total % 2, 0) for total in padding] + [(0, 0), (0, 0)])
        depthwise = "Depthwise" in node["op"]
        self.groups = kernel.shape[2] if depthwise else 1
        self.register_buffer("weight", _tensor(kernel.transpose((2, 3, 0, 1) if depthwise else (3, 2, 0, 1))))
        self.register_buffer("bias", None if bias is None else _tensor(bias))
        fused = {base64.b64decode(s) for s in attributes.get("fused_ops", {}).get("list", {}).get("s", [])}
        self.relu6, self.relu = b"Relu6" in fused, b"Relu" in fused

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
        return F.relu6(x) if self.relu6 else F.relu(x) if self.relu else x


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def read_graph(graph: bytes, blob: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read a TF.js graph model.

    Args:
        graph: the .json file.
        blob: the .bin file.

    Returns:
        Nodes by name, and constants by name as float32 or int32 arrays.

    Raises:
        ValueError: the .bin file has not the length the .json describes.
    """
    model, constants, start = json.loads(graph), {}, 0
    for entry in (entry for group in model["weightsManifest"] for entry in group["weights"]):
        stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))  # float16 for float32
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(blob, stored, count, start)
        constants[entry["name"]] = values.astype(entry["dtype"]).reshape(entry["shape"])
        start += count * stored.itemsize
    if start != len(blob):
        raise ValueError(f"TF.js graph: describes {start} bytes of weights, got {len(blob)}; fetch both files again")
    return {node["name"]: node for node in model["modelTopology"]["node"]}, constants


def export(network: PoseNet | BoxNet, path: Path) -> None:
    """Write a network as ONNX: input `images`, outputs `people` and, of a pose network, `heatmaps`; any B, H, W."""
    size = network.size if isinstance(network, PoseNet) else 256
    names = ["people", "heatmaps"] if isinstance(network, PoseNet) else ["people"]
    free = {0: "b"} if isinstance(network, PoseNet) else {0: "b", 1: "h", 2: "w"}
    with warnings.catch_warnings():
        # The exporter warns that it is old; the newer one needs another package and does no better here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (torch.zeros(1, size, size, 3, dtype=torch.uint8),), str(path), input_names=["images"],
            output_names=names, dynamic_axes={"images": free, **{key: {0: "b"} for key in names}}, opset_version=17,
            dynamo=False,
        )  # fmt: skip
