"""How well is it recognised? Trainings and tests on real skeletons, one JSON file each, and the page made of them.

`python -m benchmarks.accuracy SUITE...` makes the runs of some suites (benchmarks/_suites.py) that have no result yet,
in order. Each goes through the jobs a user would run: import (once a table), training without a look at the test split,
one test of the last epoch's model with 10 clips and one with 1. The result, with the command lines, is a JSON file in
benchmarks/results/accuracy/, and docs/evidence.md is made anew from all of them (by itself with `page` for a suite).
Folders of runs lie below runs/accuracy/. What was killed goes on when the same command is given again.

Started several times it makes several runs side by side, of which each is made once. With OMP_NUM_THREADS=1 that is
the fastest: on two cores two runs of a thread each get 1.7 times as much done as one of two threads (ST-GCN++).

Runs are of the CPU's size (about an hour on one core) or of full size, made with `--device cuda`. `--in-process`
does without Ray, on machines that have only torch, numpy and pyarrow: the same training and test, the same config.
"""

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _evidence, _groups, _in_process, _perturb, _rows
from benchmarks._data import DATA
from benchmarks._run import Run
from benchmarks._suites import RUNS, SUITES
from posec3d import checkpoint as checkpoints
from posec3d.clips import RGB_SCALE
from posec3d.config import PRESETS, TrainConfig
from posec3d.machine import MALLOC
from posec3d.models import RGB, RGBPOSE
from posec3d.skeletons import skeleton
from posec3d.storage import write_whole

ROOT = _rows.ROOT
RESULTS = _rows.RESULTS / "accuracy"
WORK = "runs/accuracy"
os.environ.setdefault("POSEC3D_DATA", str(ROOT.parent / "shared/data"))


def configured(config: TrainConfig, fields: Mapping[str, Any]) -> TrainConfig:
    """A config with some fields, by dotted name, changed.

    Raises:
        TypeError, ValueError: no such field, or a value that it cannot have.
    """
    for name, value in fields.items():
        part, _, inner = name.partition(".")
        if inner:
            value = dataclasses.replace(getattr(config, part), **{inner: value})
        config = dataclasses.replace(config, **{part: value})
    return config


def config_of(run: Run) -> TrainConfig:
    """All that decides what a run trains."""
    return dataclasses.replace(configured(PRESETS[run.preset][1], run.fields), seed=run.seed)


def words_of(fields: Mapping[str, Any]) -> list[str]:
    """The same fields as flags of jobs.train."""
    words = []
    for name, value in fields.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            before, dot, last = flag[2:].rpartition(".")
            words.append(flag if value else f"--{before}{dot}no-{last}")
        else:
            words += [flag, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def resolved(run: Run, results: Mapping[str, Mapping[str, Any]]) -> Run:
    """A run whose recipe is the best of others on held-out clips, with that recipe; the first of several equal ones.

    Raises:
        KeyError: one of those has no result yet.
    """
    if not run.best_of:
        return run
    best = RUNS[max(run.best_of, key=lambda name: results[name]["tests"]["1"]["top1"])]
    return dataclasses.replace(run, preset=best.preset, fields={**best.fields, **run.fields})


def job(*words: str) -> str:
    """Run one job as a user would, from the start, and give back its command line."""
    subprocess.run([sys.executable, "-m", *map(os.path.expandvars, words)], check=True, cwd=ROOT)  # noqa: S603
    return "python -m " + " ".join(words)


class Made:
    """One run, from its table to its result."""

    def __init__(self, run: Run, *, device: str, in_process: bool, work: str = WORK) -> None:
        self.run, self.device, self.in_process, self.work = run, device, in_process, work
        self.folder = f"{work}/{run.name}"
        self.commands: list[str] = []

    def table(self) -> str:
        """The run's table, made if it is not there."""
        data, table = DATA[self.run.data], f"{self.work}/tables/{self.run.data}"
        if data.people:
            return self.groups(data.people, table)
        words = [*data.source, "--table", table]
        ready = ROOT / f"{table}.json"  # what made it; written when it is complete
        if ready.exists() and json.loads(ready.read_text()) != words:
            sys.exit(f"{table} was made with other flags: remove {table}*, and this command makes it anew")
        if not ready.exists():
            if data.labels:
                from benchmarks.ut_interaction import label_videos

                labels = ROOT / data.source[data.source.index("--labels") + 1]
                label_videos(Path(os.environ["POSEC3D_DATA"]) / "ut_interaction", labels, quick=False)
            if self.in_process and data.source[0] == "jobs.import_poses":
                _in_process.import_poses(data.source[1], os.path.expandvars(data.source[2]), str(ROOT / table))
            else:
                job(*words)
            ready.write_text(json.dumps(words))
        self.commands.append("python -m " + " ".join(words))
        return table

    def groups(self, people: int, target: str) -> str:
        """The table of groups of so many, made if it is not there."""
        ready = ROOT / f"{target}.json"
        single = dataclasses.replace(self.run, data="utd-mhad")
        made = Made(single, device=self.device, in_process=self.in_process, work=self.work)
        with FileLock(ROOT / self.work / f"locks/table-{single.data}"):
            source = made.table()
        self.commands += made.commands
        if not ready.exists():
            _groups.write(str(ROOT / source), people, str(ROOT / target))
            ready.write_text("{}")
        return target

    def perturbed(self, table: str) -> str:
        """The table of the run's worse clips, made if it is not there."""
        assert self.run.perturb is not None  # noqa: S101
        kind, amount = self.run.perturb
        target = f"{table}-{kind}{amount:g}"
        ready = ROOT / f"{target}.json"
        if not ready.exists():
            _perturb.write(str(ROOT / table), self.run.test, kind, amount, str(ROOT / target))
            ready.write_text("{}")
        return target

    def train(self, table: str) -> list[dict[str, float]]:
        """Train the run's model; metrics by epoch."""
        run = self.run
        words = ["jobs.train", run.preset, "--table", table, "--out", self.folder, "--train-split", str(run.train)]
        words += ["--val-split", str(run.watch), "--seed", str(run.seed), *words_of(run.fields)]
        words += ["--init", *(f"{self.work}/{name}" for name in run.init)] * bool(run.init)
        words += [word for name, value in run.flags.items() for word in (f"--{name}", value)]
        words += ["--use-gpu"] * (self.device == "cuda")
        self.commands.append("python -m " + " ".join(words))
        precision: Any = run.flags.get("precision", "auto")
        if self.in_process:
            return _in_process.train(
                config_of(run),
                str(ROOT / table),
                str(run.train),
                str(ROOT / self.folder),
                init=[str(ROOT / self.work / name) for name in run.init],
                watch=run.watch,
                device=self.device,
                precision=precision,
            )
        job(*words)
        with (ROOT / self.folder / "metrics.csv").open(newline="") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]

    def models(self) -> list[str]:
        """What is tested: other runs' models, or its own, of the last epoch also where jobs.train chose another."""
        own = f"{self.folder}/last.safetensors" if self.run.watch else self.folder
        return [f"{self.work}/{name}" for name in self.run.models] or [own]

    def test(self, table: str, clips: int) -> dict[str, Any]:
        """Test the run's models."""
        run, models = self.run, self.models()
        out = f"{self.folder}/test-{clips}"
        words = ["jobs.evaluate", *models, "--table", table, "--split", run.test, "--clips", str(clips), "--out", out]
        words += ["--flip"] * run.flip + ["--use-gpu"] * (self.device == "cuda")
        self.commands.append("python -m " + " ".join(words))
        start = time.monotonic()
        if self.in_process:
            paths = [str(ROOT / model) for model in models]
            seen: Any = {"flipped": run.flip, "device": self.device}
            found, said = _in_process.evaluate(paths, str(ROOT / table), run.test, clips, **seen)
        else:
            job(*words)
            found = json.loads((ROOT / out / "summary.json").read_text())
            with (ROOT / out / "scores.csv").open(newline="") as file:
                said = [(row["clip_id"], row["label"], row["predicted"]) for row in csv.DictReader(file)]
        return {
            "clips": found["clips"],
            "top1": found["top1"],
            # With the ids' digest that is every clip's result, and what intervals and comparisons are made from.
            "ids": hashlib.blake2b("\n".join(i for i, _, _ in said).encode(), digest_size=8).hexdigest(),
            "classes": dict(sorted(Counter(label for _, label, _ in said).items())),
            "wrong": [list(row) for row in said if row[1] != row[2]],
            "seconds": round(time.monotonic() - start, 1),
        }

    def result(self) -> dict[str, Any]:
        """Do it all."""
        run = self.run
        with FileLock(ROOT / self.work / f"locks/table-{run.data}"):
            table = self.table()
            tested = self.perturbed(table) if run.perturb else table
        start = time.monotonic()
        found: dict[str, Any] = {}
        if run.train is not None:
            epochs = self.train(table)
            found["trained"] = {
                "top1": round(epochs[-1]["train_top1"], 4),
                "samples_per_s": round(epochs[-1]["samples_per_s"], 4),
                "seconds": round(sum(epoch["seconds"] for epoch in epochs), 4),  # however often it was killed
            }
            if run.watch is not None:
                columns = ("train_top1", "val_top1", "val_loss")
                found["trained"]["curve"] = {name: [round(epoch[name], 4) for epoch in epochs] for name in columns}
        found["tests"] = {str(clips): self.test(tested, clips) for clips in run.clips}
        models = [checkpoints.load(str(ROOT / self.work / name)) for name in run.models or [run.name]]
        return {
            "commands": self.commands,
            **found,
            "configs": [dataclasses.asdict(model.config) for model in models],
            "digest": hashlib.blake2b(repr([model.config for model in models]).encode(), digest_size=8).hexdigest(),
            **cost(models, views=1 + run.flip),
            "seconds": round(time.monotonic() - start, 1),
        }


def cost(models: Sequence[checkpoints.Checkpoint], views: int = 1) -> dict[str, float]:
    """Parameters in millions, and giga-multiply-accumulates of a test clip's views, of all models together."""
    parameters = macs = 0.0
    for one in models:
        clip, body = one.config.clip, skeleton(one.skeleton)
        with torch.device("meta"):
            model = checkpoints.build_model(one.config, one.skeleton, len(one.labels)).eval()
            channels = len(body.joints) if one.config.heatmap.kind == "joint" else len(body.limbs)
            side = RGB_SCALE * clip.test_size
            seen = {
                "people": torch.empty(1, clip.persons or 1, clip.length, len(body.joints), 3),
                "rgb": torch.empty(1, 3, clip.rgb_length, side, side),
                "volume": torch.empty(1, channels, clip.length, clip.test_size, clip.test_size),
            }
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                if clip.space != "volume":
                    model(seen["people"])
                elif one.config.model.name in RGBPOSE:
                    model((seen["rgb"], seen["volume"]))
                else:
                    model(seen["rgb" if one.config.model.name in RGB else "volume"])
        parameters += sum(p.numel() for p in model.parameters())
        macs += views * counter.get_total_flops() / 2
    return {"parameters_m": round(parameters / 1e6, 3), "gmacs": round(macs / 1e9, 3)}


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Results by run, but for those of another recipe than the run has now."""
    found = {}
    for name, run in RUNS.items():
        path = folder / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text())
            if result["run"] == json.loads(json.dumps(run.declared())):
                found[name] = result
    # Nor is a test of models of another recipe.
    return {
        name: result
        for name, result in found.items()
        if all(
            model in found and found[model]["configs"][0] == config
            for model, config in zip(RUNS[name].models, result["configs"], strict=False)
        )
    }


def _list(runs: Sequence[Run], results: Mapping[str, Any], device: str) -> None:
    left = 0.0
    for run in runs:
        said = "-"
        if run.name in results:
            said = " ".join(f"{clips} clips {test['top1']:.1%}" for clips, test in results[run.name]["tests"].items())
        elif (RESULTS / f"{run.name}.json").exists():
            said = "of another recipe"
        if run.name not in results and run.gpu == (device == "cuda"):
            left += run.minutes
        print(f"{run.name:36} {'GPU' if run.gpu else 'CPU'} {run.minutes:4g} min  {said:32} {run.asks}")
    print(f"{sum(run.name in results for run in runs)} of {len(runs)} done; left for --device {device}: {left:.0f} min")


def _quick() -> None:
    """See that it runs: the first run of UTD-MHAD, tiny, in a folder that is removed; its accuracy means nothing."""
    if not (Path(os.environ["POSEC3D_DATA"]) / "utd_mhad").is_dir():
        print("UTD-MHAD not found; set POSEC3D_DATA to the folder that holds utd_mhad/")
        return
    tiny = {"epochs": 1, "repeat": 1, "clip.length": 8, "clip.size": 16, "clip.test_size": 16}
    first = SUITES["utd-mhad"][0]
    few: dict[str, Any] = {"train": "subject1", "test": "subject2", "clips": (1,)}
    run = dataclasses.replace(first, fields={**first.fields, **tiny}, **few)
    with tempfile.TemporaryDirectory() as work:
        found = Made(run, device="cpu", in_process=True, work=work).result()
    print(json.dumps({name: found[name] for name in ("parameters_m", "gmacs", "seconds")}, indent=1))


def _make(run: Run, results: Mapping[str, Mapping[str, Any]], args: argparse.Namespace) -> None:
    """Make a run's file, or say what it waits for."""
    if missing := [name for name in run.best_of if name not in results]:
        print(f"{run.name} waits for {', '.join(missing)}")
        return
    models = (*run.models, *run.init)
    here = [name for name in models if name in results and (ROOT / WORK / name / "best.safetensors").exists()]
    if missing := sorted(set(models) - set(here)):
        print(f"{run.name} waits for the models of {', '.join(missing)}, which are not on this machine")
        return
    print(f"{run.name}: {run.asks}", flush=True)
    made = Made(resolved(run, results), device=args.device, in_process=args.in_process)
    result = {
        "run": run.declared(),
        **_rows.origin(args.device == "cuda"),
        "note": args.note,
        "in_process": args.in_process,
        **made.result(),
    }
    write_whole(str(RESULTS / f"{run.name}.json"), (json.dumps(result, indent=1) + "\n").encode())
    print(*(f"  {clips} clips: {test['top1']:.1%}" for clips, test in result["tests"].items()), flush=True)


def main() -> None:
    """Make runs, list them, or make the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}, all; page: only the page")
    parser.add_argument("--only", metavar="REGEX", default="", help="runs whose name holds this")
    parser.add_argument("--list", action="store_true", help="show what is done and what is left, and make nothing")
    parser.add_argument("--hours", type=float, default=float("inf"), help="begin no run after so long")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the runs of full size")
    parser.add_argument("--in-process", action="store_true", help="without Ray")
    parser.add_argument("--note", default="", help="kept beside the figures, such as what else ran on the machine")
    parser.add_argument("--quick", action="store_true", help="under a minute, and nothing is kept")
    args = parser.parse_args()
    if args.quick:
        _quick()
        return
    wanted = list(SUITES) if args.suites == ["all"] else [name for name in args.suites if name != "page"]
    if unknown := set(wanted) - set(SUITES):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}, all and page")
    if not args.suites:
        parser.error(f"name a suite: {', '.join(SUITES)}, all, or page")
    runs = [run for name in wanted for run in SUITES[name] if re.search(args.only, run.name)]
    if wanted and not runs:
        parser.error(f"--only {args.only}: no run of these suites has such a name; --list shows them")
    if args.list:
        _list(runs, read_results(), args.device)
        return
    end = time.monotonic() + 3600 * args.hours
    for run in (run for run in runs if run.gpu == (args.device == "cuda")):
        if time.monotonic() > end:
            print(f"{args.hours:g} hours are over; {run.name} and later ones are left")
            break
        try:
            with FileLock(ROOT / WORK / "locks" / run.name, timeout=0):
                if run.name not in (results := read_results()):
                    _make(run, results, args)
        except Timeout:
            print(f"{run.name} is made by another process")
    results = read_results()
    (ROOT / "docs/evidence.md").write_text(_evidence.page(results))
    (ROOT / "docs/evidence_commands.md").write_text(_evidence.commands(results))
    if find_spec("cv2") and find_spec("matplotlib"):  # which a GPU machine may lack
        from benchmarks import _pictures

        _pictures.write(results, ROOT / "docs", ROOT / WORK / "tables")


if __name__ == "__main__":
    if "--in-process" in sys.argv and "GLIBC_TUNABLES" not in os.environ:  # which workers of jobs.train have
        os.environ["GLIBC_TUNABLES"] = MALLOC
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606
    main()
