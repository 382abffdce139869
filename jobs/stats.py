"""python -m jobs.stats: keypoint table -> statistics.json and a report, index.html."""

import sys
from dataclasses import dataclass
from typing import Any

import fsspec

from jobs import _job
from pipelines.stats import statistics
from posec3d import table as tables
from posec3d.report import Sample, sample, stats_html
from posec3d.table import Clip


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Describe a keypoint table: one self-contained HTML report, and every number in it as JSON."""

    table: str
    """Keypoint table to describe: a folder or any fsspec URI."""
    report: str
    """Folder or URI for index.html and statistics.json; files of these names are replaced."""


def run(job: Stats) -> dict[str, Any]:
    """Count, draw, write."""
    job = _job.absolute(job, "table", "report")
    try:
        tables.require_table(job.table)
    except FileNotFoundError as error:
        raise _job.UsageError(str(error)) from error
    _job.connect()
    found = statistics(job.table)
    samples: list[Sample] = [sample(read_clip(row)) for row in found["samples"]]
    path = job.report.rstrip("/")
    _job.write_json(f"{path}/statistics.json", found)
    with fsspec.open(f"{path}/index.html", "w", encoding="utf-8") as sink:
        sink.write(stats_html(found, samples))
    names = ("clips", "hours", "unlabelled", "bytes", "bytes_per_keypoint")
    return {
        **{name: found[name] for name in names},
        "classes": len(found["classes"]),
        "failed": found["failures"]["clips"],
        "report": f"{path}/index.html",
        "path": path,
    }


def read_clip(row: dict[str, Any]) -> Clip:
    """A clip of statistics["samples"], read from its row group alone."""
    group = tables.open_file(row["file"]).read_row_group(row["row_group"])
    index = group["clip_id"].to_pylist().index(row["clip_id"])
    return next(tables.arrow_to_clips(group.slice(index, 1)))


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Stats), run))
