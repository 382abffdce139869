"""Checkpoint: a trained model in one safetensors file, with all that is needed to use it or to train on.

Tensors only, nothing is unpickled. The header's metadata holds the config, the class names, the skeleton and how far
the training had come. One file is written whole or not at all, locally and to an object store.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn, optim

from posec3d.config import TrainConfig
from posec3d.models import GRAPH, RGB, RGBPOSE, create
from posec3d.skeletons import skeleton
from posec3d.storage import read_whole, write_whole

KEY = "posec3d"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's weights and what they mean."""

    config: TrainConfig
    labels: tuple[str, ...]
    """Class names by number."""
    skeleton: str
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    """State of the optimizer by `<parameter number>.<name>`; empty when training cannot go on from here."""
    epoch: int = 0
    """Finished epochs."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last finished epoch."""
    best: float = -math.inf
    """Of the best epoch so far: what `best_by` says, negative where less is better."""
    best_by: str = ""
    """The metric that chooses; empty where none does."""
    scaler: dict[str, float] = field(default_factory=dict)
    """State of the loss's scale in float16; empty in other precisions."""
    trained: dict[str, Tensor] = field(default_factory=dict)
    """The weights to train on from, where `weights` are their moving average."""

    def model(self) -> nn.Module:
        """The network with these weights, in evaluation mode."""
        model = build_model(self.config, self.skeleton, len(self.labels))
        model.load_state_dict(self.weights)
        return model.eval()


def build_model(config: TrainConfig, skeleton_name: str, num_classes: int) -> nn.Module:
    """The config's network for a skeleton, with random weights, in the memory layout its convolutions like best.

    Raises:
        ValueError: no model of that name, or one that does not take what config.clip makes.
    """
    body, name, clip = skeleton(skeleton_name), config.model.name, config.clip
    if (name in RGB + RGBPOSE) != (clip.rgb_length > 0):
        wanted = "clip.rgb_length > 0 (8 as published)" if name in RGB + RGBPOSE else "clip.rgb_length 0"
        raise ValueError(f"{name} wants {wanted}, got {clip.rgb_length}")
    if (name in GRAPH) != (clip.space != "volume"):
        wanted = "frame, subject or body" if name in GRAPH else "volume"
        raise ValueError(f"{name} wants clip.space {wanted}, got {clip.space}; start from a preset of that model")
    if name in GRAPH:
        if clip.persons is None:  # it averages over all M, so scores would depend on the most crowded clip of a table
            raise ValueError(f"{name} is made for a number of people: set clip.persons (2 as published)")
        people = {"persons": clip.persons} if name == "msg3d" else {}
        return create(name, num_classes, skeleton=skeleton_name, dropout=config.model.dropout, **people)
    arguments: dict[str, Any] = {"dropout": config.model.dropout}
    if name not in RGB:
        arguments["in_channels"] = len(body.joints) if config.heatmap.kind == "joint" else len(body.limbs)
    if name in RGBPOSE:
        options = ("lateral", "rgb_detach", "pose_detach", "rgb_drop_path", "pose_drop_path")
        arguments |= {option: getattr(config.model, option) for option in options}
        if clip.length % clip.rgb_length:
            raise ValueError(
                f"{name} wants a clip.length that is a multiple of clip.rgb_length {clip.rgb_length}, got {clip.length}"
            )
        arguments["frame_ratio"] = clip.length // clip.rgb_length
    model = create(name, num_classes, **arguments)
    return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def pack_optimizer(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer whose entries are all tensors, flat."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items() if value is not None}


def unpack_optimizer(optimizer: optim.Optimizer, packed: dict[str, Tensor]) -> None:
    """Put a packed state into a fresh optimizer over the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in packed.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save(checkpoint: Checkpoint, uri: str) -> None:
    """Write a checkpoint file at any fsspec URI, whole or not at all."""
    write_whole(uri, dumps(checkpoint))


def dumps(checkpoint: Checkpoint) -> bytes:
    """A checkpoint file's content."""
    parts = {"model": checkpoint.weights, "trained": checkpoint.trained, "optimizer": checkpoint.optimizer}
    tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
    meta = {
        "version": VERSION,
        "config": asdict(checkpoint.config),
        "labels": checkpoint.labels,
        "skeleton": checkpoint.skeleton,
        "epoch": checkpoint.epoch,
        "metrics": checkpoint.metrics,
        "best": checkpoint.best if math.isfinite(checkpoint.best) else None,  # JSON knows no infinity
        "best_by": checkpoint.best_by,
        "scaler": checkpoint.scaler,
    }
    return safetensors.torch.save(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {KEY: json.dumps(meta)}
    )


def read(uri: str) -> bytes:
    """The content of a checkpoint file, or of the best one in a run's folder.

    Raises:
        FileNotFoundError: nothing there.
    """
    if uri.endswith((".pth", ".pt")):
        raise FileNotFoundError(
            f"{uri} is no checkpoint of this project; `python -m jobs.convert` makes one of one of PYSKL or MMAction2"
        )
    path = uri if uri.endswith(".safetensors") else f"{uri.rstrip('/')}/best.safetensors"
    data = read_whole(path)
    if data is None:
        raise FileNotFoundError(f"no checkpoint at {path}; give the folder of a jobs.train run or a .safetensors file")
    return data


def load(uri: str) -> Checkpoint:
    """Read a checkpoint file, or the best one in a run's folder.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: not a checkpoint of this project, of a newer version, or with an invalid config.
    """
    return loads(read(uri), uri)


def loads(data: bytes, source: str) -> Checkpoint:
    """Read a checkpoint from bytes; `source` names it in errors."""
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta: dict[str, Any] = json.loads(header["__metadata__"][KEY])
        if lacks := {"version", "config", "labels", "skeleton", "epoch", "metrics", "best"} - dict(meta).keys():
            raise KeyError(f"no {min(lacks)}")
        tensors = safetensors.torch.load(data)
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{source}: not a posec3d checkpoint, or a damaged one ({type(error).__name__}: {error}); give the "
            "folder of a jobs.train run or a .safetensors file of one"
        ) from error
    if meta["version"] > VERSION:
        raise ValueError(
            f"{source}: checkpoint version {meta['version']}, this release reads {VERSION}; update posec3d"
        )
    try:
        config = TypeAdapter(TrainConfig).validate_python(meta["config"])
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{source}: this release does not know its config ({field}: {first['msg']}); update posec3d"
        ) from error
    return Checkpoint(
        config=config,
        labels=tuple(meta["labels"]),
        skeleton=meta["skeleton"],
        weights=_under(tensors, "model."),
        trained=_under(tensors, "trained."),
        optimizer=_under(tensors, "optimizer."),
        epoch=meta["epoch"],
        metrics=meta["metrics"],
        best=-math.inf if meta["best"] is None else meta["best"],
        best_by=meta.get("best_by", ""),
        scaler=meta.get("scaler", {}),
    )


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
