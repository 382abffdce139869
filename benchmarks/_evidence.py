"""Results of benchmarks.accuracy -> docs/evidence.md, and docs/evidence_commands.md."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import _claims
from benchmarks._data import DATA
from benchmarks._sets import PEER, RATES
from benchmarks._suites import RUNS, SUITES
from benchmarks._tables import HEAD, Results, Row, minutes, paired, rows_of, spread, table, unfinished

SHORT = {"joints": "joints", "limbs": "limbs", "joints and limbs": "both"}
"""What a 3D-CNN looks at, in a row's title and in the head of a table."""


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
            least = data.least[int(part[-1]) - 1 if part else 0]
            kind = "joints and limbs" if "joints and limbs" in top1 else "joints"
            met = kind in top1 and float(top1[kind].split()[0]) >= least
            cells.append(
                [
                    ", ".join(one for one in (data.title.split(",")[0] + part, more) if one),
                    *(top1.get(kind, "-") for kind in SHORT),
                    spread(peer.top1("10")) if peer else "-",
                    f"{data.published[-1][1]} ({data.published[-1][0]})",
                    f"{least:g}: {'met' if met else 'not met'} by {SHORT[kind]}",
                ]
            )
    head = ["set", *SHORT.values(), "ST-GCN++, centred and augmented", "others, the best we know of", "goal"]
    return table(head, cells)


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
    lines += [data.tried, ""] * bool(data.tried)
    lines += ["For comparison: " + "; ".join(f"{who} {what}" for who, what in [*known, *data.published]) + ".", ""]
    left = [run for run in SUITES[suite] if run.name not in results]
    if left:
        kinds = Counter("full size" if run.gpu else "CPU size" for run in left)
        said = " and ".join(f"{count} of {kind}" for kind, count in kinds.items())
        lines += [f"Still to run: {said} (`python -m benchmarks.accuracy {suite} --list`).", ""]
    return [*lines, *_compared(rows), *_chosen(suite, results), *_worst(suite, rows)]


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
            lines += [f"{what[name]}:", "", *table(head, cells)]
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


BEGINNING = """\
# Evidence

How well actions are recognised on real skeletons, beside what others report and beside graph networks trained here, and
what becomes of the paper's claims. {done} of {runs} planned runs are made, {gpu} of them of full size; **{seeds}**.
What made each number: [commands](evidence_commands.md).
"""

READING = """\
## How to read it

- **CPU** is a light network on small volumes (graph networks are of published size), about an hour on one core of two;
  **FULL** is the published network and resolution, on a GPU.
- Top-1 in percent, mean ± standard deviation over seeds; of folds it is their mean, and "right" counts their clips.
- The 95 % interval (Wilson) and p (McNemar, exact, for each seed) take test clips for independent. They are not quite,
  because one person repeats an action several times: real intervals are wider, and p is larger. Neither includes how
  results vary between seeds or training sets. With one seed, p compares two trained models, not two methods. "No
  difference seen" is p of 0.05 and more.
- GMACs are billions of multiply-accumulates of one test clip, which is an eighth wider and higher than one of training
  (36 x 36 pixels for 32 x 32); ten clips take ten times as many. Minutes are those of one training, of one fold.
- In UTD-MHAD's table each family makes as many passes over the clips as published: 3D-CNNs 240, graph networks 80.
  Elsewhere both make the same number, but for claim c, rows of full size (240) and pretrained ones (half).
- Rows "pretrained on" another set start from the weights of one run of that set on this page (`--init`, seed 0), whose
  joints are carried over to the new ones; its minutes are not counted. The peers start from nothing.

## What was chosen, and on which clips

- Training never sees test clips, and the last epoch's model is tested, once. Where curves of test clips are drawn
  (claim l), nothing is chosen by them. `jobs.stats` finds no clip on both sides of UTD-MHAD, SBU, Penn Action or
  J-HMDB, and none with nearly the poses of another; UT-Interaction is split by whole videos. Whether Penn Action and
  J-HMDB, both from the web, have sources in common was not checked.
- The recipes were chosen on UTD-MHAD, on a training subject that was held out, and taken over to the other sets. The
  3D-CNN's was adopted after one trial, which was better by a few clips of 108. The graph networks take their
  published one, with the 3D-CNNs' batch size (16) and precision (bfloat16), and the best of {rates} learning rates
  after 20 passes.
- The published recipe of graph networks augments nothing, and people's places are those in the frame. On UTD-MHAD,
  where four people train, each in a place of their own, they are trained with people relative to their crop as well,
  and augmented about as the 3D-CNNs are, by the same learning rate: "subject-centred, augmented". On other sets that
  is the peer.
- Exceptions, where test clips have had a say:
  - that the light preset learns by AdamW, with a sigma of 1, comes from a short early trial, judged on UTD-MHAD's test
    half;
  - which graph network is the peer of other sets was seen there, too: it is the better one of two;
  - UT-Interaction's recipe was chosen for each of its two sets by tests on the other one, so that all of its 120 clips
    took part in it;
  - J-HMDB's pretraining, its 128 passes (published are 240) and its mirrored tests were all added after 96 passes had
    been tested on its first split: read what they bring on that split as exploration.
"""


def page(results: Results) -> str:
    """docs/evidence.md."""
    done = sum(name in results for name in RUNS)
    gpu = sum(run.gpu for run in RUNS.values() if run.name in results)
    most = max([len(row.seeds) for suite in SUITES for row in rows_of(suite, results).values()], default=0)
    seeds = "so far each row is of one seed" if most < 2 else f"rows are of one seed to {most}"
    claims = _claims.claims(results)
    lines = [BEGINNING.format(done=done, runs=len(RUNS), gpu=gpu, seeds=seeds)]
    lines += ["## At a glance", "", "Top-1 in percent, 10 clips.", "", *glance(results), *_claims.glance(claims)]
    lines += [READING.format(rates=len(RATES))]
    for suite in (name for name in DATA if name in SUITES):
        lines += section(suite, results)
    return "\n".join([*lines, *_claims.section(claims, results)])


COMMANDS = """\
# The commands behind the evidence

What made the numbers of [evidence](evidence.md), run by run. Everything is made from `POSEC3D_DATA`, the folder that
holds utd_mhad/, sbu/, penn_action/, jhmdb14/ and ut_interaction/:

    export POSEC3D_DATA=...
    python -m benchmarks.accuracy all --list       # what is done, what is left, about how long
    python -m benchmarks.accuracy utd-mhad         # makes what is missing of a suite, and the page anew
    python -m benchmarks.accuracy all --device cuda --in-process    # full size, on a GPU, without Ray
    python -m benchmarks.accuracy utd-mhad --only '^utd-mhad/joint-s0$'    # one run, after those it rests on

A run's file, benchmarks/results/accuracy/NAME.json, holds every test clip it got wrong; while it is there the run
counts as done. Below, after each name, are the commands that it stands for. "In process" means that the same training
and testing were called without Ray, with the same configuration. Where a command reads a table of worse poses (-drop,
-jitter, -centre, -guess) or of groups, `benchmarks.accuracy` makes that table first. Commits are those of the day, some
from before the history was put in order.
"""


def commands(results: Results) -> str:
    """docs/evidence_commands.md."""
    lines = [COMMANDS]
    for suite, runs in SUITES.items():
        if made := [run for run in runs if run.name in results]:
            tables = {command for run in made for command in results[run.name]["commands"] if makes_table(command)}
            lines += [f"## {suite}", "", "```", *sorted(tables), "```", ""]
            for run in made:
                lines += _of_run(run.name, results[run.name])
    return "\n".join(lines)


def makes_table(command: str) -> bool:
    """Whether it is one of those that runs of a suite share."""
    return command.split()[2] in {data.source[0] for data in DATA.values()}


def _of_run(name: str, found: Mapping[str, Any]) -> list[str]:
    tests = ", ".join(f"{100 * test['top1']:.2f} with {clips}" for clips, test in found["tests"].items())
    origin = f"{found['date']}, {found['machine']}, commit {found['commit']}" + ", in process" * found["in_process"]
    origin += f"; {found['note']}" if found["note"] else ""
    own = [command for command in found["commands"] if not makes_table(command)]
    return [f"**{name}**: top-1 {tests} test clips ({origin})", "", "```", *own, "```", ""]
