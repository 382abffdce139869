"""Limits: a TOML file of what a table's measures may be -> verdicts, so that bad data stops a pipeline.

    quality = 0.3            # under it a clip is of low quality

    [at_most]
    low_quality = 0.05
    leaked_identical = 0

    [at_least]
    smallest_class = 20

The measures are those of `posec3d.statistics.MEASURES`, and where two tables are compared those of
`posec3d.comparison.COMPARED`.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec

from posec3d.comparison import COMPARED
from posec3d.statistics import MEASURES, QUALITY

KINDS = {"at_most": "at most", "at_least": "at least"}


@dataclass(frozen=True)
class Limits:
    """What a table's measures may be."""

    quality: float = QUALITY
    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)

    @property
    def compared(self) -> list[str]:
        """Measures that need a second table."""
        return sorted((self.at_most.keys() | self.at_least.keys()) & COMPARED.keys())


def read_limits(uri: str) -> Limits:
    """Read a threshold file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: not TOML, or it limits what is no measure, or by what is no number.
    """
    with fsspec.open(uri, "rb") as source:
        text = source.read()
    try:
        given = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{uri}: not TOML: {error}") from error
    if unknown := given.keys() - {"quality", *KINDS}:
        raise ValueError(f"{uri}: unknown {', '.join(sorted(unknown))}; it may have quality, [at_most] and [at_least]")
    quality = given.get("quality", QUALITY)
    for kind in KINDS:
        if not isinstance(given.setdefault(kind, {}), dict):
            raise ValueError(f"{uri}: {kind} must be a table, [{kind}], got {given[kind]!r}")
        if unknown := given[kind].keys() - MEASURES.keys() - COMPARED.keys():
            known = ", ".join([*MEASURES, *COMPARED])
            raise ValueError(f"{uri}: no measure {', '.join(sorted(unknown))} to limit; there are {known}")
    for name, value in {"quality": quality, **given["at_most"], **given["at_least"]}.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"{uri}: {name} must be a number, got {value!r}")
    return Limits(quality, given["at_most"], given["at_least"])


def judge(limits: Limits, measures: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Hold measures against their limits.

    Returns:
        measure, value, kind ("at most" or "at least"), limit, ok. A measure that has no value breaks its limit.
    """
    verdicts = []
    for kind, allowed in (("at_most", limits.at_most), ("at_least", limits.at_least)):
        for name, limit in allowed.items():
            value = measures[name]
            ok = value is not None and (value <= limit if kind == "at_most" else value >= limit)
            verdicts.append({"measure": name, "value": value, "kind": KINDS[kind], "limit": limit, "ok": ok})
    return verdicts


def in_words(verdicts: list[dict[str, Any]]) -> str:
    """Broken limits as a sentence; empty if all hold."""
    broken = [
        f"{v['measure']} ({(MEASURES | COMPARED)[v['measure']]}) is {v['value']}, {v['kind']} {v['limit']} is allowed"
        for v in verdicts
        if not v["ok"]
    ]
    return "; ".join(broken)
