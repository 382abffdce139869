"""Job: keypoint tables -> what is wrong in them, and one new table, `python -m jobs.compact TABLE... [--out URI]`."""

import contextlib
import json
import logging
import sys
from dataclasses import dataclass
from typing import Any

import tyro

from jobs import _job, _terminal
from posec3d import compact
from posec3d import table as tables
from posec3d.storage import read_whole

log = logging.getLogger("posec3d")


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Check keypoint tables; with --out, merge them into one new table of few, whole files.

    Exit code 1 says that problems were found; with --out, that rows or files were left out because of them: all else
    is mended in the new table. Clips that failed are listed, but are no problem. Rows and failures are merged, other
    folders of a table (_heatmaps/, ...) are not. The same command again goes on where it was killed. summary.json
    goes to _compact/ in the new table, else to _check/ in the first one; nothing else is written to the tables that
    are read.
    """

    tables: tyro.conf.Positional[tuple[str, ...]]
    """Keypoint tables: folders or any fsspec URIs. Of several rows with one clip_id the first counts."""
    out: str | None = None
    """New table for the rows of all of them; without it they are only checked."""
    rows_per_file: int = 512
    """Rows of each file of the new table, or 256 MB of them."""

    @property
    def resumes(self) -> bool:
        """Whether the same command again goes on where an interrupted one stopped."""
        return self.out is not None


def run(job: Compact) -> dict[str, Any]:
    """Check every row, merge if there is an `out`, and list the problems.

    Raises:
        ProblemsFound: there are some; with `out`, some that made it leave rows or files out.
    """
    if not job.tables:
        raise _job.UsageError("give at least one keypoint table")
    _job.require_least(job, rows_per_file=1)
    job = _job.absolute(job, "tables", "out")
    sources = list(job.tables)
    if len(set(sources)) < len(sources):
        raise _job.UsageError("a table is given twice")
    with _job.usage(FileNotFoundError):
        for uri in sources:
            tables.require_table(uri)

    path = f"{job.out}/_compact" if job.out else f"{sources[0]}/_check"
    begun = {"tables": sources, "rows_per_file": job.rows_per_file}
    if job.out:
        _require_own(job.out, path, begun)
    with _job.lock(path) if job.out else contextlib.nullcontext():
        found = compact.find(sources)
        with _terminal.progress("check", found.rows, "clips") as advance:
            checked = compact.check(found, lambda rows: advance(rows, f"{found.problems.total} problems"))
        keypoints, kept = checked.keypoints, checked.keypoints[checked.keep]
        summary: dict[str, Any] = {
            "path": path,
            "tables": sources,
            "files": found.count,
            "bytes": found.bytes,
            "bytes per keypoint": round(found.bytes / max(int(keypoints.sum()), 1), 3),
            "clips": found.rows,
            **{kind.name: count for kind, count in found.problems.counts.items() if count},
        }
        if job.out:
            begun["labels"] = checked.labels
            _require_own(job.out, path, begun)
            _job.write_json(f"{path}/begun.json", begun)
            with _terminal.progress("merge", found.rows, "clips") as advance:
                compact.merge(
                    found,
                    checked,
                    job.out,
                    rows_per_file=job.rows_per_file,
                    on_progress=lambda rows: advance(rows, ""),
                )
            after = compact.find([job.out]) if len(kept) else compact.Files()
            summary |= {
                "out": job.out,
                "files after": after.count,
                "bytes after": after.bytes,
                "bytes per keypoint after": round(after.bytes / max(int(kept.sum()), 1), 3),
                "clips after": after.rows,
                "clips left out": found.rows - checked.good,
                "failures carried over": len(checked.failures),
                "labels renumbered": checked.renumber,
            }
    summary["problems"] = found.problems.listed()
    for problem in summary["problems"]:
        places = [", ".join(filter(None, example.values())) for example in problem["examples"]]
        more = ["..."] if problem["count"] > len(places) else []
        log.warning("%s", "\n  ".join([f"{problem['count']} {problem['kind']}: {problem['remedy']}", *places, *more]))
    if found.problems.left(merged=job.out is not None):
        what = f"problems in {', '.join(sources)}" if job.out is None else f"not all rows and files are in {job.out}"
        raise _job.ProblemsFound(f"{what}: see {path}/summary.json", summary)
    return summary


def _require_own(out: str, path: str, begun: dict[str, Any]) -> None:
    """See that the rows of `out`, if there are any, were written by this command.

    Raises:
        UsageError: by another one, or by this one when its tables had other labels.
    """
    if tables.data_files(out) or tables.data_files(tables.failures_uri(out)):
        before = json.loads(read_whole(f"{path}/begun.json") or b"{}")
        other = [key for key, value in begun.items() if before.get(key) != value]
        if other:
            what = f"was begun with other {', '.join(other)}" if before else "holds rows that no merge wrote"
            raise _job.UsageError(f"{out} {what}; give an --out without rows")


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Compact), run))
