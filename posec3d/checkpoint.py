"""Checkpoint: a trained model in one safetensors file, with all that is needed to use it or to train on.

Tensors only, nothing is unpickled. The header's metadata holds the config, the class names, the skeleton and how far
the training had come. One file is written whole or not at all, locally and to an object store.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn, optim

from posec3d.config import TrainConfig
from posec3d.models import GRAPH, RGB, RGBPOSE, create, rgbpose
from posec3d.skeletons import counterparts, skeleton
from posec3d.storage import read_whole, write_whole

log = logging.getLogger(__name__)

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


def starting(
    given: Sequence[Checkpoint], config: TrainConfig, skeleton_name: str, labels: tuple[str, ...]
) -> dict[str, Tensor]:
    """Weights that a run starts from: `adapted` of one other run, `merged` of two.

    Raises:
        ValueError: of either.
    """
    torch.manual_seed(config.seed)  # of what starts anew
    if len(given) == 1:
        return adapted(given[0], config, skeleton_name, labels)
    return merged(given, config, skeleton_name, labels)


def adapted(given: Checkpoint, config: TrainConfig, skeleton_name: str, labels: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights to go on from with other classes or another skeleton.

    What knows the joints one by one is carried over where a joint (a limb) has a counterpart in the other skeleton,
    in 3D-CNNs, and starts anew in graph networks; the classifier starts anew unless the classes are the same.

    Args:
        given: where they come from.
        config: of the new run.
        skeleton_name: of the new run.
        labels: of the new run.

    Returns:
        All weights of the new model, those that start anew random.

    Raises:
        ValueError: another model.
    """
    if given.config.model.name != config.model.name:
        raise ValueError(f"the weights are those of a {given.config.model.name}, this run is a {config.model.name}")
    model = build_model(config, skeleton_name, len(labels))
    weights = model.state_dict()
    if weights.keys() != given.weights.keys():
        raise ValueError(
            f"the weights are of model.lateral {given.config.model.lateral}, this run has {config.model.lateral}"
        )
    same_joints = given.skeleton == skeleton_name and given.config.heatmap.kind == config.heatmap.kind
    same_joints |= config.model.name in RGB  # knows none
    # The first convolution of what looks at volumes.
    stem = "pose_path.conv1.conv.weight" if config.model.name in RGBPOSE else next(iter(weights))
    for key, new in weights.items():
        old = given.weights[key]
        if key.startswith("fc_"):
            if given.labels == labels:
                new.copy_(old)
        elif same_joints and old.shape == new.shape:
            new.copy_(old)
        elif config.model.name not in GRAPH and key == stem:
            for channel, sources in enumerate(_channels(given, config, skeleton_name)):
                if sources:
                    new[:, channel] = old[:, list(sources)].mean(1)
        elif config.model.name not in GRAPH or not _knows_joints(key):
            new.copy_(old)
    return weights


def merged(
    halves: Sequence[Checkpoint], config: TrainConfig, skeleton_name: str, labels: tuple[str, ...]
) -> dict[str, Tensor]:
    """Weights of an rgbpose-slowfast to go on from: those of an RGB and of a pose network, see `rgbpose.merged`.

    Raises:
        ValueError: not two, of other models, classes or joints.
    """
    if len(halves) != 2 or config.model.name not in RGBPOSE:
        raise ValueError(f"got {len(halves)} runs; {' and '.join(RGBPOSE)} take two, all other models one")
    model = build_model(config, skeleton_name, len(labels))
    rgb, pose = (half.weights for half in halves)
    for half in halves:
        if half.labels != labels:
            raise ValueError(f"the {half.config.model.name} knows other classes than the table")
    if (halves[1].skeleton, halves[1].config.heatmap.kind) != (skeleton_name, config.heatmap.kind):
        raise ValueError(
            f"the {halves[1].config.model.name} looks at {halves[1].config.heatmap.kind}s of {halves[1].skeleton}, "
            f"this run at {config.heatmap.kind}s of {skeleton_name}"
        )
    for half, names in zip(halves, (("rgb_length",), ("length",)), strict=True):
        _warn_of_other_looks(half.config, config, ("size", "padding", *names))
    return rgbpose.merged(rgb, pose, model)  # type: ignore[arg-type]


def _warn_of_other_looks(given: TrainConfig, config: TrainConfig, fields: Sequence[str]) -> None:
    """Log where a pathway was trained on clips that look otherwise; 0.6 and 0.7, the presets' sigmas, are alike."""
    seen = [(f"clip.{name}", getattr(given.clip, name), getattr(config.clip, name)) for name in fields]
    others = [part for part in seen if part[1] != part[2]]
    old, new = given.heatmap.sigma, config.heatmap.sigma
    if given.model.name not in RGB and max(old, new) > 1.25 * min(old, new):
        others.append(("heatmap.sigma", old, new))
    for name, was, now in others:
        log.warning("the %s was trained with %s %s, this run has %s", given.model.name, name, was, now)


def _knows_joints(key: str) -> bool:
    """Whether a graph network's tensor is about its joints one by one: the graph, and the first normalisation."""
    return key.startswith("data_bn.") or key.rsplit(".", 1)[-1] in ("A", "PA")


def _channels(given: Checkpoint, config: TrainConfig, skeleton_name: str) -> list[tuple[int, ...]]:
    """Of each channel of the new volume, the channels of the old one that show the same; empty for none."""
    old, new = skeleton(given.skeleton), skeleton(skeleton_name)
    found = [counterparts(joint, old) for joint in new.joints]
    if given.config.heatmap.kind != config.heatmap.kind:
        return [()] * len(new.joints if config.heatmap.kind == "joint" else new.limbs)
    if config.heatmap.kind == "joint":
        return found
    limbs = {frozenset(limb): i for i, limb in enumerate(old.limbs)}
    ends = [frozenset((*found[a], *found[b])) for a, b in new.limbs]
    return [(limbs[end],) if end in limbs else () for end in ends]


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
