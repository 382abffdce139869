"""Job: videos -> keypoint table, `python -m jobs.extract --videos URI --table URI`."""

import sys
from dataclasses import dataclass
from typing import Any, Literal

from jobs import _job
from pipelines import extract
from posec3d import table as tables
from posec3d.movenet import onnx_models


@dataclass(frozen=True, kw_only=True)
class Extract:
    """Find the people in videos, estimate and track their poses, and append them to a keypoint table.

    The same command again does only what is missing. Videos that fail become rows of TABLE/_failures and are not
    tried again; delete that folder to try them.
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
    with _job.lock(f"{job.table.rstrip('/')}/_extract"):
        known = tables.summary(job.table)["labels"] if tables.data_files(job.table) else {}
        videos = extract.number_labels(videos, known)
        todo = extract.missing(videos, job.table)
        with _job.progress("extract", len(todo)) as advance:
            done = extract.extract(
                todo,
                job.table,
                onnx_models(),
                actors=job.actors or extract.default_actors(),
                gpus_per_actor=job.gpus_per_actor,
                on_progress=lambda p: advance(
                    p.clips + p.failed, f"{p.frames} frames, {p.failed} failed" if p.failed else f"{p.frames} frames"
                ),
            )
    failures = tables.read_failures(job.table)
    named = {video.clip_id for video in videos}
    failed = sorted(set(failures) & named)
    summary = {
        "path": f"{job.table.rstrip('/')}/_extract",
        "table": job.table,
        "videos": len(videos),
        "extracted": done.clips,
        "without people": done.without_people,
        "failed": done.failed,
        "already done": len(videos) - len(todo),
        "frames": done.frames,
        "failures": [{k: failures[i][k] for k in ("video", "stage", "error")} for i in failed],
    }
    limit = job.max_failed
    if limit is not None and len(failed) > (limit * len(videos) if limit < 1 else limit):
        raise _job.TooManyFailures(
            f"{len(failed)} of {len(videos)} videos failed, --max-failed allows {limit:g}; "
            f"see {tables.failures_uri(job.table)}",
            summary,
        )
    return summary


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Extract), run))
