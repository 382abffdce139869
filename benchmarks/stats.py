"""What does a report of a table cost, and does it stay small?

`python -m benchmarks.stats [ROW ...]`

- synthetic: jobs.stats of 100,000 synthetic clips: seconds, and peak memory of all processes (proportional). The report
  is kept in results/stats/synthetic.
- million: the same of 1,000,000 clips of 12 frames; nothing but the figures is kept.
- ut_interaction: jobs.stats of the table that `python -m benchmarks.ut_interaction` has left in runs/ut_interaction;
  the report is kept, without the videos' pictures, in results/stats/ut_interaction.

Synthetic clips are of 48 frames (those of the million: of 12), one or two people of 17 joints that move as random
walks, 60 classes of very different size, 12 folders, two splits. Into each thousand are put: a copy, a copy that is
moved and scaled, and a second segment of the same video on the other side; a clip of nobody, one of low scores, one
whose two people change places; 10 failures.
"""

import datetime
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import _rows
from benchmarks.feed import walk
from posec3d import table as tables

JOINTS = 17
FILE = 2048  # rows


def clips(count: int, frames: int) -> Iterator[dict[str, Any]]:
    """Rows of the table."""
    rng = np.random.default_rng(0)
    walks = [walk(frames, 1 + i % 2, i) for i in range(256)]
    moves = [np.rint(4 * xy).astype(np.int16) for xy, _ in walks]
    scores = [np.rint(255 * score).astype(np.uint8) for _, score in walks]
    bodies = rng.integers(-400, 400, (4096, JOINTS, 2), np.int16)  # quarter pixels: with the walks a million people
    classes = np.minimum(rng.geometric(0.06, count) - 1, 59)
    first: dict[str, Any] = {}  # of each thousand, in split test
    for i in range(count):
        xy, score = moves[i % 256] + bodies[i // 256 % 4096], scores[i % 256]
        row: dict[str, Any] = {
            "clip_id": f"clip{i:07d}",
            "video": f"videos/camera{i % 12:02d}/{i:07d}.mp4",
            "start_frame": 0,
            "num_frames": frames,
            "fps": 30.0 if i % 3 else 25.0,
            "height": 480,
            "width": 640,
            "label": int(classes[i]),
            "label_name": f"action {classes[i]:02d}",
            "splits": ["train" if i % 5 else "test"],
            "skeleton": "coco17",
            "keypoints_3d": None,
            "boxes": None,
            "pose_model": "synthetic",
            "detector": "synthetic",
        }
        place = i % 1000
        if place == 0:
            first = {"video": row["video"], "xy": xy, "score": score}
        elif place == 1:
            xy, score = first["xy"], first["score"]
        elif place == 2:
            xy, score = first["xy"] * 3 // 4 + 200, first["score"]
        elif place == 3:
            row |= {"video": first["video"], "start_frame": frames}
        elif place == 4:
            xy, score = xy[:0], score[:0]
        elif place == 6:
            score = score // 5
        elif place == 7:
            xy = xy + np.array([0, 2000], np.int16).reshape(2, 1, 1, 1)
            xy[:, frames // 2 :] = xy[::-1, frames // 2 :].copy()
        yield {**row, "num_persons": len(xy), "keypoints": xy.astype(np.int16).ravel(), "scores": score.ravel()}


def write_table(folder: str, count: int, frames: int) -> None:
    """A table of so many clips, and of its failures."""
    part: list[dict[str, Any]] = []
    for row in clips(count, frames):
        part.append(row)
        if len(part) == FILE:
            tables.write_file(tables.rows_to_arrow(part), folder)
            part = []
    if part:
        tables.write_file(tables.rows_to_arrow(part), folder)
    now = datetime.datetime.now(datetime.UTC)
    failures = [
        {
            "clip_id": f"failed{i:07d}",
            "video": f"videos/failed/{i:07d}.mp4",
            "stage": "pose" if i % 10 == 0 else "decode",
            "error": "nobody to be seen" if i % 10 == 0 else "the file is empty (0 bytes)",
            "attempts": 3,
            "time": now,
        }
        for i in range(count // 100)
    ]
    tables.write_file(pa.Table.from_pylist(failures, tables.FAILURES), tables.failures_uri(folder))


def measured(table: str, report: str) -> dict[str, Any]:
    """Run jobs.stats: seconds, and the peak memory of all its processes."""
    peak, _ = _rows.run_and_watch(["-m", "jobs.stats", "--table", table, "--report", report])
    summary = json.loads(Path(report, "summary.json").read_text())
    return {
        "clips": summary["clips"],
        "table MB": summary["bytes"] / 1e6,
        "seconds": summary["seconds"],
        "clips/s": summary["clips"] / summary["seconds"],
        "peak MB of all processes": peak,
        "index.html KB": Path(report, "index.html").stat().st_size / 1e3,
        **{name: value for name, value in summary.items() if name.startswith("leaked_")},
    }


def keep(report: str, name: str, folder: str) -> None:
    """Keep the page and its charts' numbers, without the folder's name."""
    target = _rows.RESULTS / "stats" / name
    shutil.rmtree(target, ignore_errors=True)
    for path in [Path(report, "index.html"), *Path(report, "charts").iterdir()]:
        kept = target / path.relative_to(report)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(path.read_text().replace(f"{folder}/", ""))


def synthetic(quick: bool) -> dict[str, Any]:
    """jobs.stats of 100,000 synthetic clips."""
    with tempfile.TemporaryDirectory() as folder:
        write_table(f"{folder}/synthetic", 2000 if quick else 100_000, 48)
        result = measured(f"{folder}/synthetic", f"{folder}/report")
        if not quick:
            keep(f"{folder}/report", "synthetic", folder)
    return result


def million(quick: bool) -> dict[str, Any]:
    """jobs.stats of 1,000,000 synthetic clips of 12 frames."""
    with tempfile.TemporaryDirectory() as folder:
        write_table(f"{folder}/table", 4000 if quick else 1_000_000, 12)
        return measured(f"{folder}/table", f"{folder}/report")


def ut_interaction(quick: bool) -> dict[str, Any]:
    """jobs.stats of UT-Interaction, extracted from raw video."""
    table = _rows.ROOT / "runs/ut_interaction/table"
    if not tables.data_files(str(table)):
        sys.exit(f"row ut_interaction needs {table}, which python -m benchmarks.ut_interaction makes")
    with tempfile.TemporaryDirectory() as folder:
        # The videos' names alone, so that the dataset's pictures do not end up in the report that is kept.
        named = (replace(clip, video="/".join(Path(clip.video).parts[-3:])) for clip in tables.read_table(str(table)))
        tables.write_table(named, f"{folder}/ut_interaction")
        result = measured(f"{folder}/ut_interaction", f"{folder}/report")
        if not quick:
            keep(f"{folder}/report", "ut_interaction", folder)
    return result


ROWS: dict[str, _rows.Row] = {"synthetic": synthetic, "million": million, "ut_interaction": ut_interaction}

if __name__ == "__main__":
    _rows.main("stats", "Statistics", __doc__, ROWS, ["synthetic", "million"])
