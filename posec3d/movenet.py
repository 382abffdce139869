"""Frames -> person boxes, crops -> keypoints: MoveNet, in onnxruntime on the CPU and in torch on CUDA."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock

from posec3d.batches import best_batch, in_batches
from posec3d.pose import Crop, suppress
from posec3d.weights import FILES, Network, WeightsError, movenet_files, movenet_folder

POSE = ("movenet-thunder", "movenet-lightning")
DETECTOR = ("movenet-multipose",)
MIN_BOX_SCORE = 0.3
MAX_BOX_IOU = 0.6

_CROP_SIDES = {"movenet-thunder": 256, "movenet-lightning": 192}
_DETECTOR_SIDE = 256  # long side to which frames are scaled; larger ones find chairs and lose near people
_EXPORT_VERSION = 2  # raise it when anything in movenet_torch.py changes what the exported networks compute


def network(name: str) -> Network:
    """Give one of MoveNet's networks: its graph, and the same as ONNX (exported once, some 2 s, and then cached).

    Raises:
        WeightsError: as `posec3d.weights.movenet_files`.
    """
    parts = f"{name}.json", f"{name}.bin"
    digest = hashlib.sha256("".join(FILES[part][1] for part in parts).encode()).hexdigest()[:8]
    paths = movenet_files()
    graph, weights = (paths[part].read_bytes() for part in parts)
    folder = movenet_folder()
    exported = folder / f"{name}-{digest}-v{_EXPORT_VERSION}.onnx"
    if not exported.exists():
        try:
            with FileLock(folder / ".export.lock"):
                if not exported.exists():  # another process may have been faster
                    _export(name, graph, weights, exported)
        except OSError as error:
            raise WeightsError(
                f"cannot write the exported network into {folder}: {error}. Free 100 MB there, or let "
                "POSEC3D_CACHE name another folder"
            ) from error
    return Network(name, digest, {"graph.json": graph, "weights.bin": weights, "model.onnx": exported.read_bytes()})


def _export(name: str, graph: bytes, weights: bytes, target: Path) -> None:
    from posec3d import movenet_torch

    kind = movenet_torch.PoseNet if name in POSE else movenet_torch.BoxNet
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as temporary:
        part = Path(temporary) / target.name
        movenet_torch.export(kind(graph, weights), part)
        os.replace(part, target)


class MoveNetPose:
    """MoveNet Thunder or Lightning: crops -> 17 COCO keypoints; a `posec3d.pose.PoseEstimator`.

    Args:
        network: from `network`.
        device: "cpu" is onnxruntime, which takes crops one by one (on one thread 8 are 5 to 10 % slower each, on two
            it is the same); "cuda" is torch in half precision, in batches as large as pay.
        threads: CPU threads the network may use.
    """

    skeleton = "coco17"

    def __init__(self, network: Network, device: str = "cpu", *, threads: int = 1) -> None:
        self.name = str(network)
        side = _CROP_SIDES[network.name]
        self.crop = Crop(side, side)
        self.map_size = side // 4, side // 4
        self._run = _runner(network, device, threads)
        self.batch = (
            best_batch(lambda n: self._run(np.zeros((n, side, side, 3), np.uint8), ["people"]))
            if device != "cpu"
            else 1
        )

    def estimate(self, crops: np.ndarray) -> np.ndarray:
        """Crops (B, S, S, 3) uint8 RGB -> (B, 17, 3) float32 x y score, in crop pixels."""
        return self._outputs(crops, ["people"])[0]

    def heatmaps(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crops (B, S, S, 3) -> keypoints as `estimate`, and the network's own heatmaps (B, 17, S / 4, S / 4)."""
        people, heatmaps = self._outputs(crops, ["people", "heatmaps"])
        return people, heatmaps

    def _outputs(self, crops: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        if not len(crops):
            shapes = {"people": (0, 17, 3), "heatmaps": (0, 17, *self.map_size)}
            return [np.zeros(shapes[name], np.float32) for name in outputs]
        runs, self.batch = in_batches(lambda some: self._run(some, outputs), crops, self.batch)
        return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


class MoveNetBoxes:
    """MoveNet MultiPose: frames -> person boxes; a `posec3d.pose.Detector`. Arguments as `MoveNetPose`."""

    def __init__(self, network: Network, device: str = "cpu", *, threads: int = 1) -> None:
        self.name = str(network)
        self._run = _runner(network, device, threads)
        self._batch = 1 if device == "cpu" else 64

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Find people.

        Args:
            frames: (B, H, W, 3) uint8 RGB.

        Returns:
            For each frame (n, 5) float32: x1 y1 x2 y2 in frame pixels, score in 0..1; best first.
        """
        height, width = frames.shape[1:3]
        scale = _DETECTOR_SIDE / max(height, width)
        small_height, small_width = max(round(height * scale), 1), max(round(width * scale), 1)
        shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        images = np.zeros((len(frames), -(-small_height // 32) * 32, -(-small_width // 32) * 32, 3), np.uint8)
        for image, frame in zip(images, frames, strict=True):
            image[:small_height, :small_width] = cv2.resize(frame, (small_width, small_height), interpolation=shrinks)
        runs, self._batch = in_batches(lambda some: self._run(some, ["people"])[0], images, self._batch)
        found = np.concatenate(runs)
        # Pixel centres are whole numbers on both sides; cv2.resize keeps edges, hence the halves.
        grow = np.tile((width / small_width, height / small_height), 2).astype(np.float32)
        found[..., :4] = (found[..., :4] + 0.5) * grow - 0.5
        return [suppress(boxes[boxes[:, 4] >= MIN_BOX_SCORE], MAX_BOX_IOU) for boxes in found]


def _runner(network: Network, device: str, threads: int) -> Callable[..., list[np.ndarray]]:
    """A function images (B, H, W, 3) uint8, names of outputs -> their float32 arrays."""
    return _onnx(network.files["model.onnx"], threads) if device == "cpu" else _torch(network, device)


def _onnx(model: bytes, threads: int) -> Callable[..., list[np.ndarray]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Workers share the cores: a thread that waits must not burn one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        return session.run(outputs, {"images": images})

    return run


def _torch(network: Network, device: str) -> Callable[..., list[np.ndarray]]:
    import torch

    from posec3d import movenet_torch

    kind: Any = movenet_torch.PoseNet if network.name in POSE else movenet_torch.BoxNet
    model = kind(network.files["graph.json"], network.files["weights.bin"]).eval().to(device)
    model = model.to(memory_format=torch.channels_last)

    def run(images: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=device == "cuda"):
            answer = model(torch.from_numpy(images).to(device, non_blocking=True))
        answers = answer if isinstance(answer, tuple) else (answer,)
        return [a.float().cpu().numpy() for a in answers[: len(outputs)]]

    return run
