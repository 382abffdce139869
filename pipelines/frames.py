"""Frames: keypoint table + videos -> JPEG pictures beside the table, by Ray Data tasks; the driver alone writes.

A clip is one task and one row of `_frames/`; `cluster.WAVE` clips are one execution. What is there is not made again,
so a run that was killed loses what it had not written yet: `COMMIT_BYTES` of pictures, and a wave's failures at most.
"""

import datetime
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray

from pipelines import cluster
from posec3d import table as tables
from posec3d.frames import FRAMES, STAGE, Crop, cut_frames, locate, to_row, write_frames
from posec3d.redaction import unsigned
from posec3d.video import VideoError

COMMIT_BYTES = 2**27
"""Pictures of so many bytes make a file."""

_PLACE = pa.schema([("clip_id", pa.string()), ("file", pa.string()), ("row_group", pa.int64()), ("row", pa.int64())])
_RESULT = pa.schema([*FRAMES, ("video", pa.string()), ("error", pa.string()), ("seconds", pa.float64())])


@dataclass
class Progress:
    """Counts of a run."""

    clips: int = 0
    failed: int = 0
    pictures: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """Spent by all tasks."""
    errors: list[dict[str, str]] = field(default_factory=list)


def missing(table: str) -> pa.Table:
    """The clips without stored frames, and where they lie in the table: clip_id, file, row_group, row."""
    _, places = locate(table)
    rows = []
    for path in tables.data_files(table):
        file = tables.open_file(path)
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, ["clip_id"])["clip_id"].to_pylist()
            rows += [
                {"clip_id": clip_id, "file": path, "row_group": group, "row": row}
                for row, clip_id in enumerate(ids)
                if clip_id not in places
            ]
    return pa.Table.from_pylist(rows, _PLACE)


def store(
    table: str,
    places: pa.Table,
    *,
    most: int,
    crop: Crop,
    max_attempts: int = 3,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Make the frames of some clips of a table, and write them beside it.

    Args:
        table: URI.
        places: from `missing`.
        most: frames of a clip at most.
        crop: around the clip's people, or whole frames.
        max_attempts: deaths of its worker after which a clip is a failure.
        on_progress: called with the running counts after each clip.
    """
    attempts = cluster.attempts_here()

    def cut(batch: pa.Table) -> pa.Table:
        (place,) = batch.to_pylist()
        clip_id = place["clip_id"]
        began, row = time.monotonic(), {**dict.fromkeys(_RESULT.names), "clip_id": clip_id, "video": ""}
        try:
            # Ray runs a dead worker's task again without end; a task is one clip, so its deaths are that clip's.
            if (deaths := ray.get(attempts.deaths.remote(clip_id))) >= max_attempts:
                raise VideoError(f"{clip_id}: its worker process died {deaths} times")
            ray.get(attempts.begin.remote(clip_id))
            group = tables.open_file(place["file"]).read_row_group(place["row_group"])
            (clip,) = tables.arrow_to_clips(group.slice(place["row"], 1))
            row["video"] = clip.video
            row |= to_row(clip_id, cut_frames(clip, most=most, crop=crop))
        except Exception as error:  # one bad video must not stop a job, nor a storage that fails to give one clip
            row["error"] = str(error) if isinstance(error, VideoError) else f"{type(error).__name__}: {error}"
        ray.get(attempts.end.remote(clip_id))
        row["seconds"] = time.monotonic() - began
        return pa.Table.from_pylist([row], _RESULT)

    progress = Progress()
    waiting: list[dict[str, Any]] = []
    held = told = 0

    def commit() -> None:
        nonlocal waiting, held
        if waiting:
            write_frames(waiting, table, uuid.uuid4().hex)
        waiting, held = [], 0

    def tell() -> None:
        nonlocal told
        if new := progress.errors[told:]:
            now = datetime.datetime.now(datetime.UTC)
            rows = [{**error, "stage": STAGE, "attempts": 1, "time": now} for error in new]
            tables.write_file(pa.Table.from_pylist(rows, tables.FAILURES), tables.failures_uri(table))
        told = len(progress.errors)

    try:
        for start in range(0, places.num_rows, cluster.WAVE):
            wave = places.slice(start, cluster.WAVE)
            blocks = ray.data.from_arrow([wave.slice(i, 1000) for i in range(0, wave.num_rows, 1000)])
            results = blocks.repartition(target_num_rows_per_block=1, strict=True).map_batches(
                cut, batch_size=1, batch_format="pyarrow"
            )
            for block in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in block.to_pylist():
                    progress.seconds += row["seconds"]
                    if row["error"] is not None:
                        progress.failed += 1
                        error = {name: unsigned(row[name]) for name in ("video", "error")}
                        progress.errors.append({"clip_id": row["clip_id"], **error})
                    else:
                        size = sum(map(len, row["images"]))
                        progress.clips, progress.pictures = progress.clips + 1, progress.pictures + len(row["images"])
                        progress.bytes, held = progress.bytes + size, held + size
                        waiting.append({name: row[name] for name in FRAMES.names})
                        if held >= COMMIT_BYTES:
                            commit()
                on_progress(progress)
            tell()
    finally:
        commit()
        tell()
    return progress
