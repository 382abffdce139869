"""What tables of docs/evidence.md are made of: lines of results, their intervals, and how one differs from another."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from benchmarks._run import Run
from benchmarks._suites import SUITES
from posec3d.clips import RGB_SCALE
from posec3d.models import RGB

Results = Mapping[str, Mapping[str, Any]]
"""By run: what benchmarks.accuracy wrote."""

Z = 1.959964
"""Of the normal distribution: 95 % lie within so many standard deviations."""


def interval(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share seen in `count` independent clips."""
    middle = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return middle - half, middle + half


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p of two models on the same clips, of which each alone is right in so many (McNemar)."""
    total = first_only + second_only
    return float(binomtest(first_only, total).pvalue) if total else 1.0


def said(ps: Sequence[float]) -> str:
    """P-values as they are printed."""
    return ", ".join("< 0.001" if p < 0.001 else f"{p:.2g}" for p in ps)


def wrong(result: Mapping[str, Any], clips: str) -> set[str]:
    """Ids of the clips that a result got wrong."""
    return {row[0] for row in result["tests"][clips]["wrong"]}


def discordant(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], clips: str) -> tuple[int, int]:
    """Clips that only the first, and only the second of two results got right, summed over pairs of results.

    Raises:
        ValueError: a pair was not tested on the same clips.
    """
    first_only = second_only = 0
    for first, second in pairs:
        if first["tests"][clips]["ids"] != second["tests"][clips]["ids"]:
            raise ValueError("the two were not tested on the same clips")
        a, b = wrong(first, clips), wrong(second, clips)
        first_only, second_only = first_only + len(b - a), second_only + len(a - b)
    return first_only, second_only


class Row:
    """The runs of one line of a table: seeds, and folds within them."""

    def __init__(self, runs: Sequence[Run], results: Results) -> None:
        self.runs = [run for run in runs if run.name in results]
        self.results = results
        folds = {run.fold for run in runs}
        by_seed: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs:
            by_seed[run.seed].append(run)
        self.seeds = {seed: of for seed, of in by_seed.items() if len(of) == len(folds)}
        """Those with all folds."""
        self.part = part_of(runs[0])

    def of(self, seed: int, clips: str) -> float:
        """Top-1 in percent of a whole seed: the mean of its folds."""
        return 100 * float(np.mean([self.results[run.name]["tests"][clips]["top1"] for run in self.seeds[seed]]))

    def top1(self, clips: str) -> list[float]:
        """Of each whole seed."""
        return [self.of(seed, clips) for seed in self.seeds]

    def mean(self, clips: str, folds: set[tuple[int, str]]) -> str:
        """In percent, of some seeds and folds."""
        runs = [run for run in self.runs if (run.seed, run.fold) in folds]
        return f"{100 * np.mean([self.results[run.name]['tests'][clips]['top1'] for run in runs]):.1f}" if runs else "-"

    def counts(self) -> tuple[int, int]:
        """Test clips that are named right with 10 clips, and all of them, over whole seeds."""
        tests = [self.results[run.name]["tests"]["10"] for of in self.seeds.values() for run in of]
        return sum(test["clips"] - len(test["wrong"]) for test in tests), sum(test["clips"] for test in tests)

    def cells(self) -> list[str]:
        """Of the table, after the title."""
        ten, one = self.top1("10"), self.top1("1")
        right, clips = self.counts()
        low, high = (100 * x for x in interval(float(np.mean(ten)) / 100, clips / len(self.seeds)))
        result = self.results[next(iter(self.seeds.values()))[0].name]
        return [
            size(result["configs"], self.runs[0].gpu),
            f"**{spread(ten)}**",
            f"{low:.1f} - {high:.1f}",
            spread(one),
            f"{right} of {clips}",
            str(len(self.seeds)),
            f"{result['parameters_m']:.2f}",
            f"{result['gmacs']:.2f}",
            minutes(self.runs, self.results),
        ]


HEAD = [
    "size",
    "10 clips",
    "95 %",
    "1 clip",
    "right with 10",
    "seeds",
    "parameters, M",
    "GMACs a clip",
    "training, min",
]


def part_of(run: Run) -> str:
    """What a line's title ends with: UT-Interaction's two sets are reported apart."""
    return f", set {run.fold[3]}" if run.fold.startswith("set") else ""


def spread(values: Sequence[float]) -> str:
    """Mean, and from two values on their standard deviation."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def size(configs: Sequence[Mapping[str, Any]], gpu: bool) -> str:
    """What a model sees, at a glance: CPU or FULL, frames and pixels."""
    clip = configs[0]["clip"]
    if configs[0]["model"]["name"] in RGB:
        side = RGB_SCALE * clip["size"]
        return f"{'FULL' if gpu else 'CPU'}, {clip['rgb_length']} RGB frames of {side} x {side}"
    pixels = f" x {clip['size']} x {clip['size']}" if clip["space"] == "volume" else " frames"
    rgb = f"{clip['rgb_length']} RGB frames; " if clip["rgb_length"] else ""
    return f"{'FULL' if gpu else 'CPU'}, {rgb}{clip['length']}{pixels}"


def minutes(runs: Sequence[Run], results: Results) -> str:
    """Of one training, the mean."""
    trained = [results[run.name].get("trained", {}) for run in runs]
    spent = [one["seconds"] for one in trained if "seconds" in one]
    return f"{np.mean(spent) / 60:.0f}" if spent else "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; cells are escaped."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows), ""]


def rows_of(suite: str, results: Results) -> dict[str, Row]:
    """Lines of a suite's table that have a whole seed, in the suite's order; runs that choose are none."""
    return {title: row for title, row in _rows(suite, results).items() if row.seeds}


def unfinished(suite: str, results: Results) -> list[str]:
    """A table of the lines of which some folds are there, beside a whole line on the same folds."""
    rows = _rows(suite, results)
    whole = {row.part: (title, row) for title, row in reversed(rows.items()) if row.seeds}  # the first of each part
    cells = []
    for title, row in rows.items():
        if row.runs and not row.seeds:
            there = {(run.seed, run.fold) for run in row.runs}
            cells.append([title, str(len(row.runs)), row.mean("10", there), row.mean("1", there), "-"])
            if row.part in whole:
                other, full = whole[row.part]
                cells[-1][-1] = f"{full.mean('10', there)} / {full.mean('1', there)} ({other})"
    if not cells:
        return []
    head = ["", "folds", "10 clips", "1 clip", "a complete row on the same folds, 10 clips / 1 clip"]
    return ["Incomplete rows, the mean of the folds that are there:", "", *table(head, cells)]


def _rows(suite: str, results: Results) -> dict[str, Row]:
    by_row: dict[str, list[Run]] = defaultdict(list)
    for run in SUITES[suite]:
        if not run.choice:
            by_row[run.row + part_of(run)].append(run)
    return {title: Row(runs, results) for title, runs in by_row.items()}


def differ(first: Row, second: Row, clips: str = "10") -> dict[int, tuple[int, int]]:
    """Clips that only the first, and only the second of two lines got right, by seed that both have whole."""
    shared = sorted(first.seeds.keys() & second.seeds.keys())
    pairs = {seed: zip(first.seeds[seed], second.seeds[seed], strict=True) for seed in shared}
    return {
        seed: discordant([(first.results[x.name], second.results[y.name]) for x, y in of], clips)
        for seed, of in pairs.items()
    }


def paired(pairs: Iterable[tuple[str, Row, str, Row]]) -> list[str]:
    """Lines of tables against each other, clip by clip, where both were tested on the same ones."""
    lines = []
    for title, ours, other, theirs in pairs:
        if {run.test for run in ours.runs} == {run.test for run in theirs.runs}:
            one = differ(ours, theirs, "1")
            for seed, (a, b) in differ(ours, theirs).items():
                ps = said([mcnemar(a, b)]), said([mcnemar(*one[seed])])
                lines.append([title, other, str(seed), str(a), str(b), *ps])
    head = ["first", "second", "seed", "only the first is right", "only the second", "p (McNemar, exact)", "p, 1 clip"]
    return ["Clip by clip, 10 clips:", "", *table(head, lines)] if lines else []


def waits(suite: str, results: Results, what: str = "") -> str:
    """What is left of a suite: runs, and how long they take."""
    left = [run for run in SUITES[suite] if run.name not in results and not run.gpu and run.row.startswith(what)]
    runs, hours = f"{len(left)} run{'s' * (len(left) != 1)}", sum(run.minutes for run in left) / 60
    return f"{runs}, some {hours:.1f} hours of a core (`python -m benchmarks.accuracy {suite}`)."
