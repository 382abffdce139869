"""Job: poses of others -> keypoint table, `python -m jobs.import_poses FORMAT SOURCE --table URI`."""

import json
import logging
import re
import sys
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import tyro

from jobs import _job, _terminal
from posec3d import table as tables
from posec3d.annotations import Options, SourceError, open_annotations
from posec3d.annotations.to_table import Imported, import_clips
from posec3d.skeletons import SKELETONS
from posec3d.storage import read_whole

log = logging.getLogger("posec3d")


@dataclass(frozen=True, kw_only=True)
class ImportPoses:
    """Append poses that somebody else published or estimated to a keypoint table.

    docs/poses.md says what each format means for labels, splits and 3D. A clip that cannot be read becomes a row of
    TABLE/_failures. The same command again does only what is missing. Nothing in a pickle is run.
    """

    format: tyro.conf.Positional[Literal["pyskl", "ntu", "penn-action", "sbu", "utd-mhad", "jhmdb", "coco", "openpose"]]
    """What the files are. pyskl: pickles of PYSKL and MMAction2."""
    source: tyro.conf.Positional[str]
    """A file, a folder or a zip, here or at any URI; zips are read in place."""
    table: str
    """Table to append to; a folder or S3 prefix. One table takes one format."""
    labels: str | None = None
    """Text file of the labels' names by number, one a line; default: the data set's, or the numbers."""
    skeleton: str | None = None
    """Order of the joints, where their number does not tell: openpose25, ntu25, jhmdb15, sbu15, ..."""
    size: str | None = None
    """Frame size HxW in pixels, where the files do not have it (OpenPose)."""
    fps: float = 0
    """Frames a second to note in the table; 0: unknown."""
    max_persons: int | None = None
    """People kept of a clip. Default: 2 for ntu, 10 where a format has single frames, else all."""
    max_failed: float | None = None
    """Exit with 3 if more fail: a fraction below 1, or a count. Default: no limit."""

    resumes: ClassVar[bool] = True


def run(job: ImportPoses) -> dict[str, Any]:
    """Import what is missing; the summary counts this run, and the table as a whole.

    Raises:
        UsageError: flags that cannot mean anything, or a source that is not what they say.
        ValueError: not one clip could be read.
        WorseThanAllowed: more failed than allowed.
    """
    job = _job.absolute(job, "source", "table", "labels")
    options = _options(job)
    notes, before = f"{job.table}/_import", tables.data_files(job.table)
    try:
        annotations = open_annotations(job.format, job.source, options)
        with _job.lock(notes):
            settings = _same_settings(job, notes)
            _job.write_json(f"{notes}/settings.json", settings)
            with _terminal.progress("import", 100, "%") as advance:
                imported = import_clips(
                    annotations, job.table, on_progress=lambda i: advance(int(100 * i.share), _note(i))
                )
                advance(100, _note(imported))
            return _summary(job, imported, notes)
    except (FileNotFoundError, SourceError) as error:
        if tables.data_files(job.table) != before:  # the clips before the one that told
            raise
        raise _job.UsageError(str(error)) from error


def _note(imported: Imported) -> str:
    return f"{imported.clips} clips, {imported.already} already there, {len(imported.failures)} failed"


def _options(job: ImportPoses) -> Options:
    """Check the flags.

    Raises:
        UsageError: one cannot mean anything.
    """
    if job.skeleton is not None and job.skeleton not in SKELETONS:
        raise _job.UsageError(f"--skeleton {job.skeleton}: wanted one of {', '.join(sorted(SKELETONS))}")
    _job.require_least(job, max_persons=1, max_failed=0)
    if not 0 <= job.fps < 10_000:
        raise _job.UsageError(f"--fps must be >= 0, got {job.fps}")
    size = None
    if job.size is not None:
        sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", job.size)
        if sides is None or "0" in sides.groups():
            raise _job.UsageError(f"--size must be HxW in pixels, such as 1080x1920, got {job.size}")
        size = int(sides[1]), int(sides[2])
    labels = None if job.labels is None else _job.label_names(job.labels)
    return Options(skeleton=job.skeleton, size=size, fps=job.fps, max_persons=job.max_persons, labels=labels)


def _same_settings(job: ImportPoses, notes: str) -> dict[str, Any]:
    """See that all rows of a table come to it in one way; returns which.

    Raises:
        UsageError: the table's rows came in another.
    """
    now = {name: getattr(job, name) for name in ("format", "skeleton", "size", "fps", "max_persons")}
    if not tables.data_files(job.table):
        return now
    before = json.loads(read_whole(f"{notes}/settings.json") or b"{}")
    if not before:
        raise _job.UsageError(f"{job.table} holds rows that no import wrote; take another --table")
    if other := [f"{name} {value}" for name, value in before.items() if now.get(name) != value]:
        raise _job.UsageError(f"{job.table} was imported with {', '.join(other)}; take the same, or another --table")
    return now


def _summary(job: ImportPoses, imported: Imported, notes: str) -> dict[str, Any]:
    failed = len(imported.failures)
    where = tables.failures_uri(job.table)
    _job.tell_failures([_job.failed(failure["clip_id"], failure["error"]) for failure in imported.failures], where)
    if not imported.clips and not imported.already:
        first = f"; the first: {imported.failures[0]['error']}" if failed else ""
        raise ValueError(f"{job.source}: none of its {imported.entries} clips could be imported{first}")
    if imported.twice:
        log.warning("%d clips have the name of another one before them, and are left out", imported.twice)
    gaps = imported.labels_without_clips()
    if gaps:
        some = ", ".join(map(str, gaps[:10])) + (", ..." if len(gaps) > 10 else "")
        log.warning("labels 0 to %d, but no clip has %s; a model has an output for each", max(imported.labels), some)
    found = tables.summary(job.table)
    summary: dict[str, Any] = {
        "path": notes,
        "table": job.table,
        "imported": imported.clips,
        "frames": imported.frames,
        "without people": imported.without_people,
        "already there": imported.already,
        "named twice": imported.twice,
        "failed": failed,
        "clips in the table": found["clips"],
        "labels": len(found["labels"]),
        "labels without clips": len(gaps),
        "most people in a clip": found["persons"],
        "skeleton": ", ".join(sorted(found["skeletons"])),
        "MB of keypoints": tables.size(job.table) / 1e6,
        "splits": dict(sorted(found["splits"].items())),
        "failures": [{k: f[k] for k in ("clip_id", "video", "error", "attempts")} for f in imported.failures],
    }
    _job.require_few_failures(job.max_failed, failed, imported.entries, "clips failed", where, summary)
    return summary


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(ImportPoses), run))
