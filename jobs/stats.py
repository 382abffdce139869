"""Job: keypoint table -> a report and its numbers, `python -m jobs.stats --table URI --report DIR`."""

import json
import sys
from dataclasses import dataclass
from typing import Any

from jobs import _job, _ray, _terminal
from pipelines.stats import compare, read_clip, statistics
from posec3d import table as tables
from posec3d.limits import Limits, in_words, judge, read_limits
from posec3d.redaction import redacted
from posec3d.report import Sample, sample, stats_html
from posec3d.statistics import charts, to_csv
from posec3d.storage import write_whole


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Describe a keypoint table: one self-contained HTML report, and every number in it as JSON and CSV."""

    table: str
    """Keypoint table to describe: a folder or any fsspec URI."""
    report: str
    """Folder or URI for index.html, statistics.json and charts/; files of these names are replaced."""
    against: str | None = None
    """Another table with rows of the same clips (another estimator, another version), to compare joint by joint."""
    limits: str | None = None
    """TOML file of what the data may be: [at_most] and [at_least] with measures of statistics.json. If a limit is
    broken the exit code is 3."""


def run(job: Stats) -> dict[str, Any]:
    """Count, judge, draw, write.

    Raises:
        WorseThanAllowed: a limit is broken.
    """
    job = _job.absolute(job, "table", "report", "against", "limits")
    limits = _limits(job)
    with _job.usage(FileNotFoundError):
        files = len(tables.require_table(job.table))
        if job.against:
            tables.require_table(job.against)
    _ray.connect()
    with _terminal.progress("count", files, "files") as advance:
        found, clips = statistics(job.table, quality=limits.quality, advance=advance)
    measures, comparison = found["measures"], None
    if job.against:
        with _terminal.progress("compare", 100, "%") as advance:
            comparison = compare(clips, job.against, advance)
        measures |= comparison["measures"]
        found["comparison"] = comparison
    verdicts = judge(limits, measures)
    if verdicts:
        found["limits"] = verdicts
    samples: list[Sample] = [sample(read_clip(row), row["rank"], row["quality"]) for row in found["samples"]]
    # Reports are handed on. Only now, for samples were read by their URIs.
    found = redacted(found)
    comparison = found.get("comparison")
    path = job.report
    write = charts(found)
    if comparison:
        write |= {f"compared_{name}": comparison[name] for name in ("joints", "classes")}
    for name, rows in write.items():
        write_whole(f"{path}/charts/{name}.csv", to_csv(rows).encode())
        write_whole(f"{path}/charts/{name}.json", json.dumps(rows).encode())
    _job.write_json(f"{path}/statistics.json", found)
    page = stats_html(found, samples, verdicts=verdicts, comparison=comparison)
    write_whole(f"{path}/index.html", page.encode())
    names = ("clips", "hours", "unlabelled", "bytes", "bytes_per_keypoint", "failed")
    summary = {
        **{name: found[name] for name in names},
        "classes": len(found["classes"]),
        **{name: measures[name] for name in measures if name.startswith("leaked_")},
        "report": f"{path}/index.html",
        "path": path,
    }
    if comparison:
        summary |= {"compared": comparison["compared"], "distance": measures["distance"]}
    if broken := in_words(verdicts):
        raise _job.WorseThanAllowed(f"{job.table} is worse than {job.limits} allows: {broken}", summary)
    return summary


def _limits(job: Stats) -> Limits:
    """What the threshold file says, without one nothing.

    Raises:
        UsageError: it cannot be used.
    """
    if job.limits is None:
        return Limits()
    try:
        limits = read_limits(job.limits)
    except (OSError, ValueError) as error:
        raise _job.UsageError(f"--limits: {error}") from error
    if not job.against and (compared := limits.compared):
        raise _job.UsageError(f"--limits: {', '.join(compared)} in {job.limits} compare two tables: give --against")
    return limits


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Stats), run))
