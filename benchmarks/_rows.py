"""What the benchmarks made of rows share: each row is kept as a JSON file, from which the report is made anew.

So rows measured on different machines and days stand side by side, each with its machine, date and commit.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"

Row = Callable[[bool], dict[str, Any]]
"""Measures; told whether to be quick. Its docstring's first line stands in the report."""


def main(
    name: str,
    title: str,
    doc: str,
    rows: dict[str, Row],
    default: Sequence[str],
    picture: Callable[[dict[str, Any], Path], None] | None = None,
) -> None:
    """The command line of such a benchmark.

    Args:
        name: of the benchmark's module.
        title: of its report.
        doc: its module's docstring.
        rows: by name; those that need a GPU begin with "cuda".
        default: rows that are measured unless others are named.
        picture: draws the results of all rows into a file.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"{', '.join(rows)}; default: {', '.join(default)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the rows that need a GPU")
    parser.add_argument("--quick", action="store_true", help="under a minute, and nothing is kept")
    parser.add_argument("--json", metavar="FILE", help="also write what was measured here")
    parser.add_argument("--note", default="", help="kept beside the figures, such as what else ran on the machine")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(rows):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
    wanted = args.rows or (default if args.device == "cpu" else [row for row in rows if row.startswith("cuda")])
    measured = {}
    for row in wanted:
        result = measured[row] = rows[row](args.quick)
        print(f"{row}:", *(f"  {key}: {value}" for key, value in flat(result)), sep="\n", flush=True)
        if args.quick:
            continue
        folder = RESULTS / name
        folder.mkdir(parents=True, exist_ok=True)
        kept = {
            **origin(row.startswith("cuda")),
            "note": f" {args.note}" if args.note else "",
            "result": result,
        }
        (folder / f"{row}.json").write_text(json.dumps(kept, indent=1) + "\n")
        has = picture is not None
        if picture is not None:
            picture({row: json.loads(path.read_text())["result"] for row, path in _files(name, rows)}, folder)
        folder.with_suffix(".md").write_text(_markdown(name, title, rows, has))
    if args.json:
        Path(args.json).write_text(json.dumps(measured, indent=1) + "\n")


def machine(cuda: bool = False) -> str:
    """What it was measured on."""
    if cuda:
        import torch

        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores, Python {platform.python_version()}"


def origin(cuda: bool = False) -> dict[str, str]:
    """When, on what and of which commit something is measured."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)  # noqa: S607
    return {"date": datetime.date.today().isoformat(), "machine": machine(cuda), "commit": git.stdout.strip()}


def flat(result: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The numbers of a row by name."""
    for key, value in result.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}: ")
        elif not isinstance(value, list):
            yield f"{prefix}{key}", f"{value:.4g}" if isinstance(value, float) else str(value)


def _files(name: str, rows: dict[str, Row]) -> Iterator[tuple[str, Path]]:
    for row in rows:
        path = RESULTS / name / f"{row}.json"
        if path.exists():
            yield row, path


def _markdown(name: str, title: str, rows: dict[str, Row], picture: bool) -> str:
    lines = [f"# {title}", "", f"Made by `python -m benchmarks.{name}`; its docstring says what each row compares.", ""]
    if picture:
        lines += [f"![{title}]({name}/picture.png)", ""]
    kept = dict(_files(name, rows))
    for row, measure in rows.items():
        lines += [f"## {row}", "", (measure.__doc__ or "").strip().splitlines()[0], ""]
        if row not in kept:
            lines += ["Not measured yet.", ""]
            continue
        found = json.loads(kept[row].read_text())
        lines += [
            f"{found['date']}, {found['machine']}, commit {found['commit']}.{found.get('note', '')}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in flat(found["result"])),
            "",
        ]
    return "\n".join(lines)


def in_turns(
    functions: dict[str, Callable[[], object]], seconds: float, rounds: int = 7, settle: Callable[[], object] = int
) -> dict[str, float]:
    """Median milliseconds of one call of each function.

    Each round runs one function after another for its share of the time; `settle` is called before each.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            settle()
            spent: list[float] = []
            end = time.perf_counter() + seconds / rounds / len(functions)
            while not spent or time.perf_counter() < end:
                start = time.perf_counter()
                function()
                spent.append(time.perf_counter() - start)
            if number:  # the first round warms up
                times[name].append(float(np.median(spent)))
    return {name: 1e3 * float(np.median(spent)) for name, spent in times.items()}


def memory_mb(root: int) -> float:
    """Proportional memory of a process and all that it started, in MB."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
    family = {root}
    for _ in range(8):
        family |= {pid for pid, parent in parents.items() if parent in family}
    total = 0.0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3
    return total


def run_and_watch(command: Sequence[str]) -> tuple[float, str]:
    """Run a Python program of this repository; its peak memory in MB, all processes together, and its output.

    Raises:
        SystemExit: it failed.
    """
    job = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            peak[0] = max(peak[0], memory_mb(job.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = job.communicate()
    ended.set()
    watcher.join()
    if job.returncode:
        sys.exit(f"{' '.join(command)} ended with {job.returncode}")
    return peak[0], output
