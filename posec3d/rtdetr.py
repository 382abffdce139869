"""Frames -> boxes: RT-DETR, a stronger person detector than MoveNet's, in torch on the CPU or a GPU.

The networks are those of transformers: RT-DETR ("DETRs Beat YOLOs on Real-time Object Detection", CVPR 2024) and
RT-DETRv2. The checkpoints named here were trained on COCO by their authors (Apache-2.0 to our knowledge). They see
the whole frame squeezed into a square, and need no non-maximum suppression.
"""

import hashlib
import importlib.util
import json
import os
from typing import Any

import numpy as np

from posec3d.batches import in_batches
from posec3d.storage import read_whole
from posec3d.weights import Network, WeightsError

HUB = {"rtdetr-r18": "PekingU/rtdetr_v2_r18vd", "rtdetr-r50": "PekingU/rtdetr_v2_r50vd"}
"""Name of a network -> where the Hugging Face hub has it."""
NAMES = tuple(HUB)
FILES = ("config.json", "model.safetensors")
SIDE = 640
"""Height and width to which frames are scaled. Pixels are divided by 255 and not normalised any further."""
MIN_BOX_SCORE = 0.3

_RUN_SIZE = {"cpu": 1, "cuda": 16}  # images the network takes at once


def network(name: str, weights: str | None = None) -> Network:
    """Read a network, and build it once, so that wrong files stop a driver before its workers start.

    Args:
        name: one of `NAMES`.
        weights: a folder with the two `FILES`, or a name on the Hugging Face hub; None is the one in `HUB`. What the
            hub gives is kept where Hugging Face's tools keep it. The network may have other classes than COCO's, but
            must have been trained with the published preprocessing (see `SIDE`).

    Raises:
        WeightsError: transformers is not installed, the files are not to be had, or are not an RT-DETR that finds
            people.
        ValueError: no such name.
    """
    if name not in HUB:
        raise ValueError(f"unknown detector {name!r}; known: {', '.join(NAMES)}")
    if importlib.util.find_spec("transformers") is None:
        raise WeightsError(f"{name} needs transformers, which is not installed: pip install 'transformers>=5'")
    source = weights or HUB[name]
    try:
        files = _from_folder(source) if os.path.isdir(source) or "://" in source else _from_hub(source)
        found = Network(name, hashlib.sha256(files["model.safetensors"]).hexdigest()[:8], files)
        _build(found)
    except WeightsError as error:
        raise WeightsError(
            f"{source}: {error}. By hand: on any machine take {' and '.join(FILES)} from "
            f"https://huggingface.co/{HUB[name]}/tree/main, put them into a folder, and give the folder as the weights"
        ) from error
    return found


class RTDetr:
    """A person detector (`posec3d.pose.Detector`); computes in half precision on a GPU.

    Args:
        network: from `network`.
        device: "cpu" or "cuda".
    """

    def __init__(self, network: Network, device: str = "cpu") -> None:
        self.name = str(network)
        self._device = device
        model, self._person = _build(network)
        self._model = model.to(device)
        self._batch = _RUN_SIZE[device]

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Find people.

        Args:
            frames: (B, H, W, 3) uint8 RGB.

        Returns:
            For each frame (n, 5) float32: x1 y1 x2 y2 in frame pixels, pixel centres being whole numbers, and score
            in 0..1; best first.
        """
        people, self._batch = in_batches(self._run, frames, self._batch)
        seen = [boxes[boxes[:, 4] > MIN_BOX_SCORE] for batch in people for boxes in batch]
        return [boxes[np.argsort(-boxes[:, 4], kind="stable")] for boxes in seen]

    def _run(self, frames: np.ndarray) -> np.ndarray:
        """Boxes and scores (B, queries, 5) of all queries."""
        import torch
        import torch.nn.functional as F

        height, width = frames.shape[1:3]
        with torch.inference_mode(), torch.autocast(self._device, torch.float16, enabled=self._device == "cuda"):
            images = torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2).float()
            # Averages where it shrinks, as Pillow does, with which the networks were trained.
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True) / 255
            output = self._model(pixel_values=images)
            # A query's class is not asked: another class may well be surer of the same box.
            score = output.logits[..., self._person].float().sigmoid()
            middle, extent = output.pred_boxes.float().split(2, -1)
            corners = torch.cat([middle - extent / 2, middle + extent / 2], -1)
            # The network's 0 and 1 are the outer edges of the first and the last pixel.
            corners = corners * torch.tensor([width, height, width, height], device=self._device) - 0.5
            boxes: np.ndarray = torch.cat([corners, score[..., None]], -1).cpu().numpy()
        return boxes


def _from_folder(folder: str) -> dict[str, bytes]:
    files = {}
    for name in FILES:
        content = read_whole(f"{folder.rstrip('/')}/{name}")
        if content is None:
            raise WeightsError(f"{name} is not in this folder")
        files[name] = content
    return files


def _from_hub(source: str) -> dict[str, bytes]:
    from huggingface_hub import hf_hub_download

    files = {}
    for name in FILES:
        try:
            path = hf_hub_download(source, name)
        except Exception as error:  # a dozen classes with no base in common
            cause = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
            raise WeightsError(
                f"no such folder here, and the Hugging Face hub does not give {name}: {cause}"
            ) from error
        with open(path, "rb") as file:
            files[name] = file.read()
    return files


def _build(network: Network) -> tuple[Any, int]:
    """Make the network on the CPU, in float32, and find the number of its class "person".

    Raises:
        WeightsError: the files are of something else; the message ends without a full stop.
    """
    import safetensors.torch
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    kinds: dict[str, tuple[Any, Any]] = {
        "rt_detr": (transformers.RTDetrConfig, transformers.RTDetrForObjectDetection),
        "rt_detr_v2": (transformers.RTDetrV2Config, transformers.RTDetrV2ForObjectDetection),
    }
    try:
        settings = json.loads(network.files["config.json"])
        kind = settings["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError("config.json is not the description of a network that transformers writes") from error
    if kind not in kinds:
        raise WeightsError(f"config.json describes a {kind}, wanted {' or '.join(kinds)}")
    try:
        config = kinds[kind][0].from_dict(settings)
        # Given both, transformers looks nothing up on the hub, the backbone included; keys of older files are renamed.
        model, report = kinds[kind][1].from_pretrained(
            None,
            config=config,
            state_dict=safetensors.torch.load(network.files["model.safetensors"]),
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # whatever transformers makes of a stranger's files
        cause = str(error).strip().splitlines()
        raise WeightsError(
            f"the files do not make a network ({type(error).__name__}: {'; '.join(cause[:2])})"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(f"model.safetensors lacks {len(missing)} tensors of its config.json, such as {missing[0]}")
    people = [number for number, label in config.id2label.items() if label == "person"]
    if not people:
        labels = ", ".join(str(label) for label in list(config.id2label.values())[:3])
        raise WeightsError(
            f"none of its {len(config.id2label)} classes ({labels}, ...) is called person; if one means people, give "
            "it that name in id2label of config.json"
        )
    return model, people[0]
