"""How well are real interactions recognised, from raw video, by poses alone?

`python -m benchmarks.ut_interaction` runs the jobs a user would run: extraction of all 120 videos of UT-Interaction,
training on sequences 1-5 of set 1, test on its sequences 6-10. The poses are MoveNet's, the model is trained on 30
clips: one honest number, not a record (the published protocol leaves one sequence out and trains on 54).
`--quick` extracts six videos and trains one epoch on four of them, to see that it runs; its accuracy means nothing.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import _rows

ROOT = Path(__file__).resolve().parent.parent
ACTIONS = ("handshake", "hug", "kick", "point", "punch", "push")
TRAIN, TEST = range(1, 6), range(6, 11)
RESULTS = ROOT / "benchmarks/results/ut_interaction"


def label_videos(data: Path, labels: Path, quick: bool) -> int:
    """Write the labels file the jobs take: <running number>_<sequence>_<class>.avi in set1 and set2."""
    rows = []
    for path in sorted(data.glob("set[12]/*.avi")):
        _, sequence, action = map(int, path.stem.split("_"))
        splits = [path.parent.name, f"{path.parent.name}_seq{sequence:02d}"]
        if path.parent.name == "set1":
            splits.append("set1_train" if sequence in TRAIN else "set1_test")
        rows.append((f"{path.parent.name}/{path.name}", ACTIONS[action], ";".join(splits)))
    if quick:
        rows = [r for r in rows if "set1_seq01" in r[2]][:4] + [r for r in rows if "set1_seq06" in r[2]][:2]
    labels.parent.mkdir(parents=True, exist_ok=True)
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([("video", "label", "split"), *rows])
    return len(rows)


def job(*words: str) -> tuple[str, float]:
    """Run one job as a user would, from the start; returns its command line and seconds."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", *words], check=True, cwd=ROOT)  # noqa: S603 - our own jobs
    return "python -m " + " ".join(words), round(time.monotonic() - start, 1)


def measure(data: Path, out: Path, quick: bool) -> dict[str, Any]:
    """Extract, train, evaluate."""
    table, run, labels = str(out / "table"), str(out / "run"), out / "labels.csv"
    videos = label_videos(data, labels, quick)
    extract = job("jobs.extract", "--videos", str(data), "--labels", str(labels), "--table", table)
    extracted = json.loads((out / "table/_extract/summary.json").read_text())
    small = ["--epochs", "1", "--repeat", "4", "--batch", "4"] if quick else []
    split = ["--train-split", "set1_train", "--val-split", "None"]
    train = job("jobs.train", "ut-interaction", "--table", table, "--out", run, *split, *small)
    trained = json.loads((out / "run/summary.json").read_text())
    tests = {}
    for clips in (1, 10):
        command, seconds = job("jobs.evaluate", run, "--table", table, "--split", "set1_test", "--clips", str(clips))
        found = json.loads((out / f"run/evaluate/set1_test-{clips}clip{'s' * (clips > 1)}/summary.json").read_text())
        tests[str(clips)] = {
            **{k: found[k] for k in ("clips", "top1", "mean_class", "classes", "confusion")},
            "command": command,
            "seconds": seconds,
        }
    return {
        "videos": videos,
        "frames": extracted["frames"],
        "failed": extracted["failed"],
        "extract": {"command": extract[0], "seconds": extract[1]},
        "train": {"command": train[0], "seconds": train[1], "top1": trained["train top-1"]},
        "test": tests,
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The report for people."""
    one, ten = result["test"]["1"], result["test"]["10"]
    names = [c["name"] for c in ten["classes"]]
    lines = [
        "# UT-Interaction from raw video, poses only",
        "",
        f"{result['date']}, {result['machine']}, commit {result['commit']}. Made by `{result['command']}`.",
        "",
        "Set 1, trained on sequences 1-5, tested on 6-10 (30 clips each, six classes; chance is 16.7 %). MoveNet poses",
        "by our own extraction, preset `ut-interaction` (pose-slowonly-light, joints), one seed. The model of the last",
        "epoch is tested: nothing was chosen by looking at the test clips. One clip is 3.3 points.",
        "",
        "| test | top-1 | mean class |",
        "|---|---|---|",
        f"| 1 clip | {one['top1']:.1%} | {one['mean_class']:.1%} |",
        f"| 10 clips | {ten['top1']:.1%} | {ten['mean_class']:.1%} |",
        "",
        f"Training top-1 in the last epoch: {result['train']['top1']:.1%}.",
        "",
        "| stage | minutes | command |",
        "|---|---|---|",
    ]
    stages = (("extraction, sets 1 and 2", "extract"), ("training", "train"))
    for name, key in stages:
        lines.append(f"| {name} | {result[key]['seconds'] / 60:.1f} | `{result[key]['command']}` |")
    for clips, test in result["test"].items():
        lines.append(f"| test, {clips} clip(s) | {test['seconds'] / 60:.1f} | `{test['command']}` |")
    rate = result["frames"] / result["extract"]["seconds"]
    lines += [
        "",
        f"Extraction: {result['videos']} videos, {result['frames']} frames, {result['failed']} failed, {rate:.1f} "
        "frames/s with one actor a core, start of Ray included.",
        "",
        "Recall of the classes (10 clips): "
        + ", ".join(f"{c['name']} {c['recall']:.0%}" for c in ten["classes"] if c["recall"] is not None)
        + ".",
        "",
        "Confusion (10 clips; rows are true):",
        "",
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    lines += [
        f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in zip(names, ten["confusion"], strict=True)
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of table and run; default runs/ut_interaction[-quick]")
    parser.add_argument("--json", type=Path, help=f"result file; default {RESULTS}.json, with --quick none")
    parser.add_argument("--quick", action="store_true", help="six videos, one epoch")
    args = parser.parse_args()
    data = Path(os.environ.get("POSEC3D_DATA", ROOT.parent / "shared/data")) / "ut_interaction"
    if not data.is_dir():
        print(f"UT-Interaction not found at {data}; set POSEC3D_DATA to the folder that holds ut_interaction/")
        sys.exit(0 if args.quick else 1)
    out: Path = args.out or ROOT / ("runs/ut_interaction-quick" if args.quick else "runs/ut_interaction")
    if args.quick:
        shutil.rmtree(out, ignore_errors=True)
    elif out.exists():
        sys.exit(f"{out} holds a run already, and times of a resumed one mean nothing; move it away or give --out")
    result = measure(data, out, args.quick)
    result |= {
        "command": "python -m benchmarks.ut_interaction" + (" --quick" if args.quick else ""),
        **_rows.origin(),
    }
    # Paths of this machine are nobody else's.
    text = json.dumps(result, indent=1).replace(str(out), "OUT").replace(str(data), "DATA")
    report = to_markdown(json.loads(text))
    print(report)
    target = args.json or (None if args.quick else RESULTS.with_suffix(".json"))
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n")
        target.with_suffix(".md").write_text(report)


if __name__ == "__main__":
    main()
