"""Beside the data's path: weights that PYSKL or MMAction2 trained <-> a model here, key by key, nothing left over."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike, fspath
from typing import Literal

import torch
from torch import Tensor, nn

from posec3d.models import MODELS, create
from posec3d.models.c3d import C3D
from posec3d.models.msg3d import MSG3D
from posec3d.models.rgbpose import RGBPoseSlowFast
from posec3d.models.slowonly import SlowOnly
from posec3d.models.stgcn import STGCN
from posec3d.models.x3d import X3D
from posec3d.skeletons import skeleton as find_skeleton

Limbs = Sequence[tuple[int, int]]

PYSKL_DEFAULT_LIMBS: Limbs = (
    (0, 1), (0, 2), (1, 3), (2, 4), (0, 5), (5, 7), (7, 9), (0, 6), (6, 8),
    (8, 10), (5, 11), (11, 13), (13, 15), (6, 12), (12, 14), (14, 16), (11, 12),
)  # fmt: skip
"""COCO's limbs as PYSKL and MMAction2 draw them when a config names no order. Their limb configs name one, that of
`posec3d.skeletons.COCO17`; PYSKL's "joint" configs of NTU RGB+D 120 draw limbs too, and name none."""

HEAD, MMACTION2_GRAPH_HEAD = "cls_head.fc_cls.", "cls_head.fc."
TWO_HEADS = ("cls_head.fc_rgb.", "cls_head.fc_pose.")


@dataclass(frozen=True)
class Family:
    """How the reference names and holds the weights of a class of models."""

    rules: tuple[tuple[str, str], ...] = ()
    """(pattern, replacement): all of them in turn, and then `EVERYWHERE`, make the reference's name out of ours."""
    stem: str | None = None
    """The reference's name of the weight whose input channels are the joints or limbs of a volume."""
    implied: Mapping[str, Callable[[nn.Module], Tensor]] = field(default_factory=dict)
    """What the reference holds beside the weights, by its name there; it follows from the model."""


EVERYWHERE = ((r"^(?!fc_)", "backbone."), (r"^fc_", "cls_head.fc_"))
RESIDUAL = ((r"residual\.0\.", "residual.conv."), (r"residual\.1\.", "residual.bn."))
FAMILIES: dict[type[nn.Module], Family] = {
    SlowOnly: Family(stem="backbone.conv1.conv.weight"),
    C3D: Family(stem="backbone.conv1a.conv.weight"),
    X3D: Family(((r"^conv1_s\.", "conv1_s.conv."),), stem="backbone.conv1_s.conv.weight"),
    RGBPoseSlowFast: Family(
        # There a connection is part of the pathway it leads to.
        (
            (r"^pose_to_rgb\.0\.", "rgb_path.layer2_lateral.conv."),
            (r"^pose_to_rgb\.1\.", "rgb_path.layer3_lateral.conv."),
            (r"^rgb_to_pose\.0\.", "pose_path.layer1_lateral."),
            (r"^rgb_to_pose\.1\.", "pose_path.layer2_lateral."),
        ),
        stem="backbone.pose_path.conv1.conv.weight",
    ),
    STGCN: Family((*RESIDUAL, (r"(branches\.[0-3]\.3)\.", r"\1.conv."))),
    MSG3D: Family(
        (
            *RESIDUAL,
            (r"(branches\.[0-3])\.3\.", r"\1.3.conv."),
            (r"(branches\.[0-3])\.4\.", r"\1.3.bn."),
            (r"mlp\.", "mlp.layers."),
            *((rf"^stages\.{i}\.(\w+)", rf"\g<1>{i + 1}") for i in range(3)),
            (r"^(gcn3d\d)\.(\d)\.", r"\1.gcn3d.\2."),
            (r"(gcn3d\.\d)\.gcn\.", r"\1.gcn3d.1."),
        ),
        implied={"backbone.A": lambda model: _edges(model)},
    ),
}
"""To be extended with every model that has published weights."""


@dataclass(frozen=True)
class Report:
    """What became of each tensor of a reference checkpoint; prints as a table."""

    mapped: tuple[tuple[str, str], ...]
    """(its name there, its name in the model)"""
    dropped: tuple[tuple[str, str], ...]
    """(its name there, why the model has no place for it)"""
    notes: tuple[str, ...]
    """What was done to the tensors."""

    def __str__(self) -> str:
        width = max(len(name) for name, _ in (*self.mapped, *self.dropped))
        lines = [f"{len(self.mapped)} tensors mapped, {len(self.dropped)} dropped", *self.notes]
        lines += [f"{name:{width}}  -> {ours}" for name, ours in self.mapped]
        lines += [f"{name:{width}}  dropped: {why}" for name, why in self.dropped]
        return "\n".join(lines)


def load_reference(
    source: str | PathLike[str] | Mapping[str, Tensor],
    model: nn.Module,
    *,
    limbs: Limbs | None = None,
    skeleton: str = "coco17",
) -> Report:
    """Put a checkpoint of PYSKL or MMAction2 into a model: all of it, or, if anything does not fit, nothing.

    Args:
        source: a .pth file (a path or any fsspec URI; nothing in it is run), or its state_dict. Prefixes that
            DistributedDataParallel and torch.compile put before names do not matter.
        model: one of `posec3d.models.MODELS`, with any arguments, on any device.
        limbs: of a limb model, in the checkpoint's order, where that is not the skeleton's (`PYSKL_DEFAULT_LIMBS`):
            the input channels are put in the skeleton's. A limb's direction plays no role but where it is shorter than
            a pixel. None: as they are. Joints or limbs, and in which order, is not written in a checkpoint.
        skeleton: name of the skeleton whose limbs the model takes.

    Returns:
        Every tensor of the checkpoint, mapped to one of the model or dropped for a reason.

    Raises:
        ValueError: a tensor is missing, left over or of another shape; the graph is of another skeleton; `limbs` are
            not the skeleton's; the file is damaged or asks for code to be run; a model of another kind.
        FileNotFoundError: no such file.
    """
    names, held = _names(model), _reference(model, model.state_dict())
    given = _by_name(_tensors(source))
    tensors = {name: tensor for name, (_, tensor) in given.items()}
    _require_same_shapes(tensors, held, model)
    learnt = dict(model.named_parameters())
    for name in (name for name in held if name.endswith(".A") and names.get(name) not in learnt):
        if not torch.allclose(tensors[name].to(held[name]), held[name], atol=1e-6):
            raise ValueError(
                f"{given[name][0]} is another graph than the model's: the checkpoint is of another skeleton with as "
                "many joints; make the model with that skeleton"
            )
    weights = {ours: tensors[name] for name, ours in names.items()}
    notes = []
    if limbs is not None:
        stem = _reorder(weights, model, of=limbs, to=find_skeleton(skeleton).limbs)
        notes.append(f"the input channels of {stem} were put from the given order of limbs into that of {skeleton}")
    model.load_state_dict(weights)
    return Report(
        mapped=tuple((given[name][0], ours) for name, ours in names.items()),
        dropped=tuple((given[name][0], "follows from the skeleton; checked") for name in held if name not in names),
        notes=tuple(notes),
    )


def to_reference(
    model: nn.Module,
    *,
    system: Literal["pyskl", "mmaction2"] = "pyskl",
    limbs: Limbs | None = None,
    skeleton: str = "coco17",
) -> dict[str, Tensor]:
    """The state_dict that PYSKL or MMAction2 would have of a model: `load_reference` backwards.

    Args:
        model: one that `load_reference` takes.
        system: whose names; they differ in the heads of graph networks alone.
        limbs: of a limb model, in the order that the checkpoint is to have; None: as they are.
        skeleton: name of the skeleton whose limbs the model takes.

    Returns:
        Name -> copy of the tensor on the CPU. `torch.save({"state_dict": ...}, path)` makes a file of it.

    Raises:
        ValueError: a model of another kind, or `limbs` are not the skeleton's.
    """
    state = model.state_dict()
    if limbs is not None:
        _reorder(state, model, of=find_skeleton(skeleton).limbs, to=limbs)
    tensors = _reference(model, state)
    if system == "mmaction2" and _family(model).stem is None:
        tensors = {name.replace(HEAD, MMACTION2_GRAPH_HEAD): tensor for name, tensor in tensors.items()}
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _family(model: nn.Module) -> Family:
    if type(model) not in FAMILIES:
        known = ", ".join(kind.__name__ for kind in FAMILIES)
        raise ValueError(f"no published weights fit a {type(model).__name__}; those known here are of {known}")
    return FAMILIES[type(model)]


def _names(model: nn.Module) -> dict[str, str]:
    """The reference's name -> ours, of each entry of the model's state_dict."""
    names = {}
    for ours in model.state_dict():
        name = ours
        for pattern, replacement in (*_family(model).rules, *EVERYWHERE):
            name = re.sub(pattern, replacement, name)
        names[name] = ours
    return names


def _reference(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All that the reference holds of a model in this state, by its names."""
    weights = {name: state[ours] for name, ours in _names(model).items()}
    return weights | {name: follow(model) for name, follow in _family(model).implied.items()}


def _edges(model: nn.Module) -> Tensor:
    """Which joints are neighbours: (V, V) of 0 and 1."""
    near: Tensor = model.get_buffer("stages.0.sgcn.0.A")[1]  # normalised, and each joint is near to itself
    return (near > 0).to(near) - torch.eye(len(near)).to(near)


def _tensors(source: str | PathLike[str] | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(source, Mapping):
        for name, tensor in source.items():
            if not isinstance(tensor, Tensor):
                raise ValueError(f"{name!r} is a {type(tensor).__name__}, wanted a tensor: give the state_dict alone")
        return source
    from posec3d.pth import read_tensors

    path = fspath(source)
    if "://" not in path:
        return read_tensors(path)
    from posec3d.storage import read_whole

    data = read_whole(path)
    if data is None:
        raise FileNotFoundError(f"no file at {path}")
    return read_tensors(data)


def _by_name(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """PYSKL's name -> (name as given, tensor)."""
    found: dict[str, tuple[str, Tensor]] = {}
    for given, tensor in tensors.items():
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", given)
        if name.startswith(MMACTION2_GRAPH_HEAD):
            name = name.replace(MMACTION2_GRAPH_HEAD, HEAD)
        if name in found:
            raise ValueError(f"{given} and {found[name][0]} are two tensors for one place; keep one of them")
        found[name] = given, tensor
    return found


def _require_same_shapes(given: dict[str, Tensor], wanted: dict[str, Tensor], model: nn.Module) -> None:
    """See that names and shapes are the same.

    Raises:
        ValueError: they are not; says which, and which model they are of.
    """
    wrong = {
        "missing": [name for name in wanted if name not in given],
        "left over": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name}: got {tuple(given[name].shape)}, wanted {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in given and given[name].shape != tensor.shape
        ],
    }
    if not any(wrong.values()):
        return
    lines = [f"the weights are not those of this {type(model).__name__}, which is left as it was"]
    lines += [_shortly(what, names) for what, names in wrong.items() if names]
    lines.append(_advice(given, wanted))
    raise ValueError("\n".join(lines))


def _shortly(what: str, names: list[str]) -> str:
    shown = names[:5]
    more = f"; and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"{len(names)} {what}: {'; '.join(shown)}{more}"


def _advice(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """Which published model has these names and shapes."""
    heads = [f"{head}weight" for head in (HEAD, *TWO_HEADS)]
    classes, asked = (next((len(held[head]) for head in heads if head in held), 0) for held in (given, wanted))
    if not classes:
        return f"without {' or '.join(heads[:2])} there are no class scores; give the checkpoint of a whole model"
    said = "" if asked == classes else f"they tell {classes} classes apart, the model {asked}; "
    shapes = {name: tensor.shape for name, tensor in given.items()}
    for name, (kind, _) in MODELS.items():
        if kind in FAMILIES:
            stem = FAMILIES[kind].stem
            arguments = {"in_channels": shapes[stem][1]} if stem in shapes else {}
            with torch.device("meta"):
                model = create(name, classes, **arguments)
            if shapes == {theirs: tensor.shape for theirs, tensor in _reference(model, model.state_dict()).items()}:
                call = ", ".join([repr(name), str(classes), *(f"{key}={value}" for key, value in arguments.items())])
                return f"{said}they fit posec3d.models.create({call})"
    return f"{said}no model of posec3d.models.MODELS fits with its usual arguments; others may (skeleton, persons, ...)"


def _reorder(state: dict[str, Tensor], model: nn.Module, *, of: Limbs, to: Limbs) -> str:
    """Put the stem's input channels from one order of limbs into another; its name."""
    stem = _family(model).stem
    if stem is None:
        raise ValueError(f"limbs are given, but a {type(model).__name__} takes coordinates; leave them out")
    places = {frozenset(limb): i for i, limb in enumerate(of)}
    if len(of) != len(to) or {frozenset(limb) for limb in to} != set(places):
        raise ValueError(f"not the same limbs in another order: {list(of)} and {list(to)}")
    name = _names(model)[stem]
    if state[name].shape[1] != len(of):
        raise ValueError(f"{len(of)} limbs are given, but the model takes {state[name].shape[1]} channels")
    state[name] = state[name][:, [places[frozenset(limb)] for limb in to]]
    return name
