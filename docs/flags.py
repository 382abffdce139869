"""The jobs' dataclasses -> their flags as Markdown: fields are flags, docstrings the help, as tyro takes them."""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import tyro
from sphinx.pycode import ModuleAnalyzer

from jobs import (
    compact,
    convert,
    demo,
    evaluate,
    export,
    export_poses,
    extract,
    import_poses,
    predict,
    stats,
    train,
    tune,
)
from posec3d.config import PRESETS, TrainConfig

JOBS: tuple[type, ...] = (
    extract.Extract,
    import_poses.ImportPoses,
    export_poses.ExportPoses,
    compact.Compact,
    stats.Stats,
    train.Train,
    tune.Tune,
    evaluate.Evaluate,
    predict.Predict,
    convert.Convert,
    export.Export,
    demo.Demo,
)


def markdown() -> str:
    """A section for each job, one for the fields of a training run's config, and one for its presets."""
    parts = []
    for job in JOBS:
        parts += [f"\n## {job.__module__}\n", _plain(inspect.cleandoc(job.__doc__ or "")), ""]
        if job is tune.Tune:
            parts.append("Beside those of jobs.train:\n")
        if "config" in {f.name for f in dataclasses.fields(job)}:
            parts.append(
                "First comes the name of a [preset](#presets); its [fields](#fields-of-a-preset) are flags too.\n"
            )
        base = dataclasses.fields(train.Train) if job is tune.Tune else ()
        shared = {f.name for f in base} - job.__annotations__.keys()
        parts.append(_table(row for row in _rows(job) if row[0] not in shared and "." not in row[0]))
    parts += ["\n## Fields of a preset\n", "Defaults are those of `ntu60-joint`.\n", _table(_rows(TrainConfig))]
    parts += ["\n## Presets\n", "| preset | for | differs from ntu60-joint in |", "|---|---|---|"]
    usual = dict(_values(TrainConfig()))
    for name, (line, config) in PRESETS.items():
        other = ", ".join(f"`{key} {_text(value)}`" for key, value in _values(config) if usual[key] != value)
        parts.append(f"| `{name}` | {line} | {other} |")
    return "\n".join(parts) + "\n"


def _table(rows: typing.Iterable[tuple[str, str, str, str]]) -> str:
    lines = ["| flag | takes | default | |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _rows(kind: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Flag, what it takes, default and help of each field, those of nested dataclasses with their names before."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, positional = hints[field.name], False
        while typing.get_origin(hint) is typing.Annotated:
            positional |= tyro.conf.Positional in hint.__metadata__
            hint = hint.__origin__
        if dataclasses.is_dataclass(hint):
            yield from _rows(hint, f"{prefix}{field.name}.") if kind is TrainConfig else ()
            continue
        name = f"{prefix}{field.name}".replace("_", "-")
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        shown = "" if default is dataclasses.MISSING or default is None else _text(default)
        flag = field.name.upper() if positional else f"--{name}"
        yield f"`{flag}`", _takes(hint), f"`{shown}`" if shown else "", _help(kind, field.name)


def _takes(hint: Any) -> str:
    """What a flag of a type is given, in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_takes(kind) for kind in inner if kind is not type(None))
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"{_takes(inner[0])} ..."
    if origin is tuple:
        return " ".join(_takes(kind) for kind in inner)
    return {str: "text", int: "integer", float: "number", bool: ""}[hint]


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    return (
        " ".join(map(_text, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _values(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        yield from _values(value, f"{name}.") if dataclasses.is_dataclass(value) else [(name, value)]


def _help(kind: type, name: str) -> str:
    """The docstring under a field, wherever its class inherits it from."""
    for owner in kind.__mro__:
        if name in getattr(owner, "__annotations__", {}):
            lines = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs().get((owner.__name__, name), [])
            text = " ".join(line.strip() for line in lines).strip()
            return _plain(text)
    raise KeyError(name)


def _plain(text: str) -> str:
    """Words of a docstring, in which nothing but flags and `code` is Markdown."""
    escaped = "".join(f"\\{c}" if c in "|*_<>[]\\" else c for c in text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z.-]*[a-z])(?!`)", r"`\1`", escaped)
