"""Job: videos -> keypoint table, `python -m jobs.extract --videos URI --table URI`."""

import json
import logging
import sys
from dataclasses import dataclass
from typing import Any, Literal

from jobs import _job
from pipelines import extract
from posec3d import table as tables
from posec3d.movenet import onnx_models
from posec3d.storage import read_whole

log = logging.getLogger("posec3d")


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Find the people in videos, estimate and track their poses, and append them to a keypoint table.

    The same command again does only what is missing. A video that fails becomes a row of TABLE/_failures and is
    tried by three runs at most; delete that folder to try it again.
    """

    videos: str
    """Folder, S3 prefix or single file. Without --labels the folders below it are labels: [split/]label/x.mp4."""
    table: str
    """Table to append to; a folder or S3 prefix."""
    labels: str | None = None
    """CSV with the header video,label[,split]; several splits joined by ';'."""
    pose: Literal["movenet-thunder"] = "movenet-thunder"
    """Pose network, top-down, COCO-17."""
    detector: Literal["movenet-multipose"] = "movenet-multipose"
    """Person detector."""
    actors: int | None = None
    """Videos in work at the same time, one CPU each; default: one a CPU."""
    gpus_per_actor: float = 0
    """GPUs reserved for each actor; the MoveNet networks run on the CPU."""
    max_failed: float | None = None
    """Exit with 3 if more fail: a fraction below 1, or a count. Default: no limit."""


def run(job: Extract) -> dict[str, Any]:
    """Extract what is missing; the summary counts this run, and the table as a whole."""
    job = _job.absolute(job, "videos", "table", "labels")
    if job.actors is not None and job.actors < 1:
        raise _job.UsageError(f"--actors must be >= 1, got {job.actors}")
    try:
        videos = extract.find_videos(job.videos, job.labels)
    except (FileNotFoundError, ValueError) as error:
        raise _job.UsageError(str(error)) from error
    notes = f"{job.table.rstrip('/')}/_extract"
    with _job.lock(notes):
        # Numbered once, before the first row: a killed run must not leave some labels numbered and others not.
        known = {int(k): v for k, v in json.loads(read_whole(f"{notes}/labels.json") or b"{}").items()}
        if tables.data_files(job.table):
            known |= tables.summary(job.table)["labels"]
        videos = extract.number_labels(videos, known, given=job.labels is not None)
        known |= {v.label: v.label_name for v in videos if v.label is not None and v.label_name is not None}
        _job.write_json(f"{notes}/labels.json", known)
        todo = extract.plan(videos, job.table)
        if todo.relabelled:
            log.warning(
                "%d clips have other labels or splits now than in the table, which keeps what it has; "
                "extract into a new table to change them",
                todo.relabelled,
            )
        done = extract.Progress()
        if todo.missing:  # else neither Ray nor the networks are needed
            _job.connect()
            with _job.progress("extract", len(todo.missing)) as advance:
                done = extract.extract(
                    todo.missing,
                    job.table,
                    onnx_models(),
                    actors=job.actors or extract.default_actors(),
                    gpus_per_actor=job.gpus_per_actor,
                    on_progress=lambda p: advance(p.clips + p.failed, f"{p.frames} frames, {p.failed} failed"),
                )
    failures = tables.read_failures(job.table)
    tried = {video.clip_id: video.attempts for video in todo.missing}
    failed = [i for i, attempts in tried.items() if i in failures and failures[i]["attempts"] > attempts]
    summary: dict[str, Any] = {
        "path": notes,
        "table": job.table,
        "videos": len(videos),
        "extracted": done.clips,
        "without people": done.without_people,
        "failed": done.failed,
        "already done": todo.done,
        f"given up after {extract.MAX_ATTEMPTS} tries": todo.given_up,
        "frames": done.frames,
        "failures": [{k: failures[i][k] for k in ("video", "stage", "error", "attempts")} for i in failed],
    }
    for row in summary["failures"]:
        log.warning("%s failed: %s", row["video"], row["error"])
    lost = done.failed + todo.given_up
    limit = job.max_failed
    if limit is not None and lost > (limit * len(videos) if limit < 1 else limit):
        raise _job.TooManyFailures(
            f"{lost} of {len(videos)} videos failed, --max-failed allows {limit:g}; "
            f"see {tables.failures_uri(job.table)}",
            summary,
        )
    return summary


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Extract), run))
