"""Job: trained runs + videos -> named actions, `python -m jobs.predict RUN... --videos URI --out DIR`."""

import hashlib
import json
import logging
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import tyro
from rich.table import Table

from jobs import _job, _ray, _terminal
from jobs import extract as extract_job
from pipelines import cluster, predict
from pipelines.plan import find_videos
from posec3d import estimators
from posec3d import table as tables
from posec3d.recognizer import PIECE_S
from posec3d.redaction import redacted
from posec3d.storage import exists, read_whole, remove
from posec3d.timeline import How

log = logging.getLogger("posec3d")

SHOWN = 20
"""Rows on the terminal."""
LISTED = 1000
"""Rows of predictions.json at most: if there are more, there is none. All are in OUT/predictions."""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name what people do in videos; several runs are fused by a weighted mean of their probabilities.

    Poses are estimated first, into a keypoint table in OUT/table, as by jobs.extract, and then looked at by the models.
    The same command again does only what is missing. OUT/predictions has the rows, Parquet: one a video, or with
    --window and --per-person one an action and person; OUT/predictions.json the same for people to read, up to 1,000
    rows. Of the first videos there are also pictures.
    """

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of jobs.train, or .safetensors files."""
    out: str
    """Folder of the results, and of the poses."""
    videos: str | None = None
    """Folder, S3 prefix or single file."""
    table: str | None = None
    """Keypoint table, in place of videos: one by jobs.extract, which has more ways to make it, or by another job."""
    weights: tuple[float, ...] | None = None
    """Of the runs' probabilities, one each; None weighs all alike."""
    clips: int | None = None
    """Test clips sampled from each video or window, their scores averaged; default: 10 of a video, 1 of a window."""
    flip: bool = False
    """Look at each mirrored too."""
    window: float | None = None
    """Seconds that are looked at at a time: makes a timeline of actions. Default: all of a video at once."""
    stride: float | None = None
    """Seconds from one window's start to the next one's; default: a quarter of a window."""
    per_person: bool = False
    """Look at each person alone, so that different people do different things."""
    pictures: int = 100
    """Of so many videos, the first ones, also make an overlay video and other pictures."""
    pose: str = estimators.POSES[0]
    """Pose network, as of jobs.extract; best the one that made the poses the runs were trained on."""
    detector: str = estimators.DETECTORS[0]
    """Person detector, as of jobs.extract."""
    actors: int | None = None
    """Processes that work in parallel, one CPU each; default: one a CPU."""
    gpus_per_actor: float = 0
    """GPUs of each; a fraction shares one."""
    max_attempts: int = 3
    """Tries of a video that fails, or whose worker dies, before it is given up."""
    retry_failed: bool = False
    """Try what was given up again."""
    max_failed: float | None = None
    """Exit with 3 if more videos have no prediction: a fraction below 1, or a count. Default: no limit."""

    resumes: ClassVar[bool] = True


def run(job: Predict) -> dict[str, Any]:
    """Predict what is missing; a video that fails is reported, and the others go on."""
    how = _how(job)
    job = _job.absolute(job, "runs", "videos", "table", "out")
    models, known = _job.models(job.runs)
    videos = _videos(job)
    if any(one.config.clip.maps == "stored" for one in known):
        raise _job.UsageError(
            "a run looks at the pose network's own heatmaps (clip.maps stored), which are read for tests alone: take "
            "jobs.evaluate, or train with --clip.maps drawn"
        )
    clips = job.clips or (10 if how.window_s is None else 1)
    folder, table = f"{job.out}/predictions", job.table or f"{job.out}/table"
    with _job.lock(job.out):
        settings = _same_settings(job, models, clips)
        extracted = _extract(job, table)
        _job.write_json(f"{job.out}/settings.json", settings)
        if recovered := predict.recover(folder, known[0].labels):
            log.info("%d rows that a killed run had left are in the predictions now", recovered)
        done = predict.Progress()
        todo = None
        if tables.data_files(table):
            todo = predict.plan(
                table, folder, whole=how.window_s is not None, max_attempts=job.max_attempts,
                retry_failed=job.retry_failed,
            )  # fmt: skip
        if todo and todo.missing:
            _ray.connect()
            actors = job.actors or min(cluster.default_actors(1, job.gpus_per_actor), len(todo.missing))
            _ray.require(actors, "actors", gpus=job.gpus_per_actor)
            with _terminal.progress("predict", len(todo.missing), "videos" if job.videos else "clips") as advance:
                done = predict.predict(
                    todo,
                    models,
                    job.weights or [1.0] * len(models),
                    how,
                    folder,
                    clips=clips,
                    flipped=job.flip,
                    pictures=job.pictures,
                    pictures_folder=job.out,
                    actors=actors,
                    gpus_per_actor=job.gpus_per_actor,
                    max_attempts=job.max_attempts,
                    on_progress=lambda p: advance(p.videos, f"{p.failed} failed"),
                )
    return _summary(job, videos, todo, done, extracted, table)


def _videos(job: Predict) -> dict[str, str]:
    """The videos by clip id; empty of a table. What is made beside them, or comes later, is none of them.

    Raises:
        UsageError: none are there, or results would lie among them.
    """
    if job.videos is None:
        return {}
    if f"{job.out}/".startswith(f"{job.videos.rstrip('/')}/"):
        raise _job.UsageError(
            f"--out {job.out} lies in --videos {job.videos}: its overlays would be taken for videos the next time; "
            "give a folder beside it"
        )
    with _job.usage(FileNotFoundError, ValueError):
        return {video.clip_id: video.video for video in find_videos(job.videos)}


def _how(job: Predict) -> How:
    """Check the flags.

    Raises:
        UsageError: one of them, or several together, cannot mean anything.
    """
    if (job.videos is None) == (job.table is None):
        raise _job.UsageError("give either --videos, or --table with poses that are there already")
    _job.require_weights(job.weights, job.runs)
    _job.require_least(job, clips=1, pictures=0, actors=1, max_attempts=1, max_failed=0)
    _job.require_share(job.gpus_per_actor)
    try:
        return How(window_s=job.window, stride_s=job.stride, per_person=job.per_person)
    except ValueError as error:
        raise _job.UsageError(f"--window, --stride: {error}") from error


def _same_settings(job: Predict, models: list[bytes], clips: int) -> dict[str, Any]:
    """See that all predictions in a folder are made in one way; returns which.

    Raises:
        UsageError: those that are there were made in another.
    """
    now = {
        "models": [hashlib.blake2b(data, digest_size=8).hexdigest() for data in models],
        "weights": None if job.weights is None else list(job.weights),
        "clips": clips,
        **{name: getattr(job, name) for name in ("table", "flip", "window", "stride", "per_person")},
    }
    if job.table is None:
        now |= {"pose": job.pose, "detector": job.detector}
    before = json.loads(read_whole(f"{job.out}/settings.json") or b"null")
    if before and (other := [name for name in now if before.get(name) != now[name]]):
        keep = "" if job.table else f", and --table {job.out}/table to use its poses again"
        raise _job.UsageError(
            f"{job.out} holds predictions made with other {', '.join(other)}; give another --out{keep}"
        )
    return now


def _extract(job: Predict, table: str) -> dict[str, Any] | None:
    """Estimate the poses that are missing; None where they are given."""
    if job.videos is None:
        with _job.usage(FileNotFoundError):
            tables.require_table(table)
        return None
    piece_s = None
    if job.window is not None and not extract_job.is_file(job.pose):  # poses that are only read take no time
        piece_s = max(PIECE_S, 2 * job.window)
    summary = extract_job.run(
        extract_job.Extract(
            videos=job.videos,
            table=table,
            pose=job.pose,
            detector=job.detector,
            segment_seconds=piece_s,
            actors=None if job.actors is None else str(job.actors),
            gpus_per_actor=job.gpus_per_actor,
            max_attempts=job.max_attempts,
            retry_failed=job.retry_failed,
        )
    )
    _job.write_json(f"{summary['path']}/summary.json", summary)
    return summary


def _summary(
    job: Predict,
    videos: dict[str, str],
    todo: predict.Todo | None,
    done: predict.Progress,
    extracted: dict[str, Any] | None,
    table: str,
) -> dict[str, Any]:
    predicted: set[str] = set()
    labels: Counter[str] = Counter()
    for row in predict.read(f"{job.out}/predictions", ["clip_id", "label"]):
        predicted.add(row["clip_id"])
        labels[row["label"] or "nobody"] += 1
    known = {
        tables.base_and_count(name)[0] if job.window is not None else name: row
        for uri in ([table] if extracted else []) + [f"{job.out}/predictions"]
        for name, row in tables.read_failures(uri).items()
    }
    asked = videos or (todo.videos if todo else {})  # the folder may hold more: of earlier calls with other --videos
    waiting = todo.waiting & asked.keys() if todo else frozenset()
    lacks = {"stage": "extract", "error": "a piece of it has no poses yet; extraction tries it again", "attempts": 0}
    failures = {
        name: known.get(name) or {"video": video, **lacks} for name, video in asked.items() if name not in predicted
    }
    summary: dict[str, Any] = {
        "path": job.out,
        "videos" if extracted else "clips": len(asked),
        "predicted": done.videos - done.failed,
        "without people": done.without_people,
        "already done": todo.done if todo else 0,
        "failed": len(failures),
        "of them waiting for a piece": len(waiting),
        "rows": sum(labels.values()),
        "labels": dict(labels.most_common()),
        "failures": [{k: row[k] for k in ("video", "stage", "error", "attempts")} for row in failures.values()],
    }
    if len(asked) == 1 and exists(overlay := f"{job.out}/{next(iter(asked))}.mp4"):
        summary["overlay"] = overlay
    if extracted:
        summary["extraction"] = {k: v for k, v in extracted.items() if k != "failures"}
    if 0 < summary["rows"] + len(failures) <= LISTED:
        summary["predictions"] = _rows(job, failures)
        _job.write_json(f"{job.out}/predictions.json", summary["predictions"])
        _show(summary["predictions"])
    else:
        remove(f"{job.out}/predictions.json")  # what an earlier call left is not all any more
    where = f"{tables.failures_uri(table)} and {tables.failures_uri(f'{job.out}/predictions')}"
    _job.tell_failures([_job.failed(row["video"], row["error"]) for row in failures.values()], where)
    without = "videos have no prediction"
    _job.require_few_failures(job.max_failed, len(failures), len(asked), without, where, summary)
    return summary


def _rows(job: Predict, failures: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The predictions, and what failed, for predictions.json."""
    names = ("video", "clip_id", "people", "person", "start_s", "end_s", "top")
    rows = [
        {**{name: row[name] for name in names}, "top": row["top"] or [], "error": None}
        for row in predict.read(f"{job.out}/predictions", names)
    ]
    nothing: dict[str, Any] = {"people": 0, "person": None, "start_s": None, "end_s": None, "top": []}
    rows += [
        {"video": row["video"], "clip_id": name, **nothing, "error": row["error"]} for name, row in failures.items()
    ]
    return sorted(rows, key=lambda r: (r["video"], r["clip_id"], r["start_s"] or 0, r["person"] or 0))


def _show(rows: list[dict[str, Any]]) -> None:
    """The first rows as a table on the terminal."""
    timed, per_person = any(row["start_s"] for row in rows), any(row["person"] is not None for row in rows)
    shown = Table(
        "video", "people", *["from - to"] * timed, *["person"] * per_person, "predicted", "next",
        title="predictions", title_justify="left",
    )  # fmt: skip
    for row in rows[:SHOWN]:
        best = [f"{top['label']} {top['probability']:.0%}" for top in row["top"][:3]]
        nobody = "nobody seen for long enough" if row["people"] else "nobody seen"
        first = redacted(row["error"] or "") or (best[0] if best else nobody)
        when = "" if row["start_s"] is None else f"{row['start_s']:.1f} - {row['end_s']:.1f} s"
        who = "" if row["person"] is None else f"#{row['person']}"
        name = row["video"].rsplit("/", 1)[-1] or row["clip_id"]
        shown.add_row(name, str(row["people"]), *[when] * timed, *[who] * per_person, first, ", ".join(best[1:]))
    if len(rows) > SHOWN:
        shown.caption = f"and {len(rows) - SHOWN} more rows in predictions.json"
    _terminal.show(shown)


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Predict), run))
