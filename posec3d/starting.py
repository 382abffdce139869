"""Weights of other runs -> those that a new run starts from, with other classes, another skeleton or two pathways."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from posec3d.checkpoint import Checkpoint, build_model
from posec3d.config import TrainConfig
from posec3d.models import GRAPH, RGB, RGBPOSE, rgbpose
from posec3d.skeletons import counterparts, skeleton

log = logging.getLogger(__name__)


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
