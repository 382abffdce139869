"""Results of benchmarks.accuracy -> docs/evidence.md."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks import _claims
from benchmarks._data import DATA
from benchmarks._suites import PEER, RATES, RUNS, SUITES
from benchmarks._tables import HEAD, Results, Row, commands, minutes, paired, rows_of, spread, table, unfinished


def glance(results: Results) -> list[str]:
    """A line for each recipe of 3D-CNNs that each set has results of, beside the graph network and others."""
    cells = []
    for suite in (name for name in DATA if name in SUITES):
        data, rows = DATA[suite], rows_of(suite, results)
        lines: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows.values():
            family, kind, more = ([*row.runs[0].row.split(", ", 2), "", ""])[:3]
            if family == "3D-CNN":
                lines.setdefault((row.part, more), {})[kind] = spread(row.top1("10"))
        for (part, more), top1 in lines.items():
            peer = rows.get(PEER + part)
            cells.append(
                [
                    ", ".join(one for one in (data.title.split(",")[0] + part, more) if one),
                    *(top1.get(kind, "-") for kind in ("joints", "limbs", "joints and limbs")),
                    spread(peer.top1("10")) if peer else "-",
                    f"{data.published[-1][0]} {data.published[-1][1]}",
                    data.goal,
                ]
            )
    return table(["set", "joints", "limbs", "both", "ST-GCN++ trained alike", "others", "goal"], cells)


def section(suite: str, results: Results) -> list[str]:
    """All of one data set."""
    data, rows = DATA[suite], rows_of(suite, results)
    lines = [f"## {data.title}", "", f"{data.protocol}. Goal: {data.goal}. {data.caution}".rstrip(), ""]
    known = [("trees on resampled joints, our own floor", f"{data.floor}")] if data.floor else []
    if rows:
        lines += table(["", *HEAD], [[title, *row.cells()] for title, row in rows.items()])
    else:
        lines += ["Not measured yet.", ""]
    lines += unfinished(suite, results)
    lines += ["For comparison: " + "; ".join(f"{who} {what}" for who, what in [*known, *data.published]) + ".", ""]
    left = [run for run in SUITES[suite] if run.name not in results]
    if left:
        kinds = Counter("full size" if run.gpu else "CPU size" for run in left)
        said = " and ".join(f"{count} of {kind}" for kind, count in kinds.items())
        lines += [f"Still to run: {said} (`python -m benchmarks.accuracy {suite} --list`).", ""]
    made = commands([run for run in SUITES[suite] if not run.choice], results)
    return [*lines, *_compared(rows), *_chosen(suite, results), *_worst(suite, rows), *made]


def _compared(rows: Mapping[str, Row]) -> list[str]:
    """Our 3D-CNNs against the graph networks."""
    return paired(
        [
            (title, ours, other, theirs)
            for title, ours in rows.items()
            for other, theirs in rows.items()
            if title.startswith("3D-CNN") and not other.startswith("3D-CNN")
        ]
    )


def _chosen(suite: str, results: Results) -> list[str]:
    """What choices rest on: runs on held-out training clips, or on other ones."""
    held_out = "trained on subjects 1, 3 and 5, tested on 7, who is one of the training half"
    what = {
        "recipe": f"Ideas for the 3D-CNN's recipe: {held_out}",
        "utd-mhad": f"Learning rates: {held_out}",
        "ut-ideas": "Ideas for the recipe: what is chosen for one set is chosen on the other one's clips, not its own",
    }
    lines = []
    for name in {"utd-mhad": ("recipe", "utd-mhad"), "ut-interaction": ("ut-ideas",)}.get(suite, ()):
        runs = [run for run in SUITES[name] if run.choice and run.name in results]
        cells = []
        for run in runs:
            tests = results[run.name]["tests"]
            shares = [f"{100 * tests[clips]['top1']:.1f}" if clips in tests else "-" for clips in ("1", "10")]
            cells.append([run.row, *shares, minutes([run], results)])
        if cells:
            head = ["", "1 clip", "10 clips", "training, min"]
            lines += [f"{what[name]}:", "", *table(head, cells), *commands(runs, results)]
    return lines


@dataclass(frozen=True)
class Worst:
    """A class that is often missed."""

    label: str
    recall: float
    taken_for: tuple[tuple[str, int], ...]
    """The labels said most often in its place, and how often."""
    example: str
    """Id of a clip taken for the first of them."""


def worst(rows: Mapping[str, Row]) -> tuple[str, list[Worst]]:
    """The title of the best line of a table, and its worst classes with 10 clips, five at most."""
    if not rows:
        return "", []
    title, best = max(rows.items(), key=lambda one: np.mean(one[1].top1("10")))
    clips: Counter[str] = Counter()
    missed: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], str] = {}
    for runs in best.seeds.values():
        for run in runs:
            test = best.results[run.name]["tests"]["10"]
            clips.update(test["classes"])
            for clip, label, said in test["wrong"]:
                missed[label, said] += 1
                examples.setdefault((label, said), clip)
    lost: Counter[str] = Counter()
    for (label, _), count in missed.items():
        lost[label] += count
    found = []
    for label in sorted(lost, key=lambda label: -lost[label] / clips[label])[:5]:
        taken = Counter({said: count for (one, said), count in missed.items() if one == label}).most_common(2)
        found.append(Worst(label, 1 - lost[label] / clips[label], tuple(taken), examples[label, taken[0][0]]))
    return title, found


def _worst(suite: str, rows: Mapping[str, Row]) -> list[str]:
    title, found = worst(rows)
    if not found:
        return []
    cells = [
        [one.label, f"{one.recall:.0%}", ", ".join(f"{said} ({count})" for said, count in one.taken_for)]
        for one in found
    ]
    picture = [f"![Eight frames of a clip of each that was taken for another](evidence-worst-{suite}.png)", ""]
    return [f"Worst classes of {title}, 10 clips:", "", *table(["class", "recall", "taken for"], cells), *picture]


INTRODUCTION = """\
# Evidence

How well actions are recognised on real skeletons, against published peers trained here on the same clips, and what
becomes of the paper's claims. Made by `python -m benchmarks.accuracy page` from benchmarks/results/accuracy/, one file
a run.

    python -m benchmarks.accuracy utd-mhad           # makes what is missing of a suite, and this page
    python -m benchmarks.accuracy all --list         # what is done, what is left, about how long
    python -m benchmarks.accuracy all --device cuda --in-process   # full size, on a GPU, without Ray

{done} of {runs} runs are made, {gpu} of them of full size. **CPU** is a light network on small volumes (graph networks
are of published size), about an hour on one core of two; **FULL** is the published network and resolution, on a GPU.

- `jobs.stats` finds no clip on both sides of UTD-MHAD, SBU, Penn Action or J-HMDB, and none with nearly the poses of
  another. UT-Interaction is split by whole videos.
- Training never sees test clips, and the last epoch's model is tested, once; where curves of test clips are drawn
  (claim l), nothing is chosen by them. What is chosen is chosen on UTD-MHAD, on a training subject that is held out,
  and taken over to the other sets as it is. Four exceptions: that the light preset learns by AdamW, with a sigma of 1,
  comes from a short early trial that was judged on UTD-MHAD's test half; which graph network is the peer of other sets
  was seen there as well, the better one of two; UT-Interaction's recipe was chosen for each of its two sets by tests
  on the other one, so that all of its 120 clips took part in it; and that J-HMDB gets more passes than 96 (published
  are 240) was decided after these had been tested on its first split.
- In UTD-MHAD's table each family makes as many passes over the clips as published: 3D-CNNs 240, graph networks 80;
  elsewhere both make the same number, but for rows of full size (240) and pretrained ones (half). The 3D-CNNs' recipe
  was adopted after trials of ideas, below; the peers take their published one, in batches as small as the 3D-CNNs', in
  bfloat16 as these, with the best of {rates} learning rates, chosen after 20 passes. The published recipe augments
  nothing, and people's places are those in the frame. On UTD-MHAD, where four people train, each in a place of their
  own, peers are trained with people relative to their crop as well, and augmented about as the 3D-CNNs are ("trained
  alike", by the same learning rate); that is the peer on the other sets.
- Rows "pretrained on" another set start from the weights of one run of that set on this page (`--init`, seed 0), whose
  joints are carried over to the new ones; its minutes are not counted. The peers start from nothing. Whether Penn
  Action and J-HMDB, both from the web, have sources in common was not checked.
- Top-1 in percent, mean ± standard deviation over seeds. The 95 % interval (Wilson) and p (McNemar, exact, a seed by
  itself) are those of as many independent test clips. They are not quite that, for one person repeats an action some
  times: real intervals are wider, and p is larger. Neither holds how results vary with the training clips. "No
  difference seen" is p of 0.05 and more.
- GMACs are multiply-accumulates of one test clip, which is an eighth wider and higher than one of training (36 x 36
  pixels for 32 x 32); ten clips take ten times as many. Minutes are those of one training, of one fold.
"""


def page(results: Results) -> str:
    """docs/evidence.md."""
    done = sum(name in results for name in RUNS)
    gpu = sum(run.gpu for run in RUNS.values() if run.name in results)
    claims = _claims.claims(results)
    lines = [INTRODUCTION.format(done=done, runs=len(RUNS), gpu=gpu, rates=len(RATES))]
    lines += ["## At a glance", "", "Top-1 in percent, 10 clips.", "", *glance(results), *_claims.glance(claims)]
    for suite in (name for name in DATA if name in SUITES):
        lines += section(suite, results)
    return "\n".join([*lines, *_claims.section(claims, results)])
