"""Extraction: videos -> keypoint table. Ray Data actors decode and estimate; the driver alone writes.

One video, or one piece of a long one, is one block, one actor call and one row. Actors return rows and failures alike;
the driver appends them to the table in whole files, so a clip is in the table once or not at all however often a worker
or the driver dies. What has not filled a file yet is kept in `<table>/_extract/pending/`; what a killed driver loses is
what came in after it last saved there: seconds of work (`pipelines.writer`), and what was in the actors.
"""

import contextlib
import datetime
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from pipelines import cluster, writer
from pipelines.plan import Video
from pipelines.worker import (
    RESULT,
    STAGES,
    VIDEO,
    ExtractPoses,
    Options,
    cut_into_pieces,
    extract_row,
    load,
    to_arrow,
)
from posec3d import openmmlab
from posec3d import table as tables
from posec3d.given import Given
from posec3d.stored import HEATMAPS, heatmaps_uri
from posec3d.video import VideoError, require_nvdec, segments
from posec3d.weights import Network

log = logging.getLogger(__name__)

PENDING = "_extract/pending"


@dataclass
class Progress:
    """Counts of a running extraction."""

    videos: float = 0
    """Videos ended, well or not; of one cut into pieces, the share of its pieces."""
    clips: int = 0
    failed: int = 0
    failed_videos: set[str] = field(default_factory=set)
    without_people: int = 0
    frames: int = 0
    crops: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """Spent by all actors in each stage."""
    working: float = 0
    """Seconds of calls, of all actors."""
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of each actor: when its first call began, and its last one ended."""
    since: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))
    first: float | None = None
    """Monotonic seconds when the first result came: start-up was over."""
    last: float = 0
    """The same of the last result so far."""

    def elapsed(self) -> float:
        """Seconds from the end of start-up to the last result, never 0."""
        return 1e-3 if self.first is None else max(self.last - self.first, 1e-3)

    def count(self, results: pa.Table) -> None:
        """Add rows of `RESULT`."""
        self.last = time.monotonic()
        if self.first is None:
            self.first = self.last - max(pc.max(results["ended"]).as_py() - pc.min(results["began"]).as_py(), 0)
        failed = results.num_rows - results["error"].null_count
        self.videos += pc.sum(results["share"]).as_py()
        self.clips += results.num_rows - failed
        self.failed += failed
        self.failed_videos.update(results.filter(pc.is_valid(results["error"]))["video"].to_pylist())
        self.without_people += results["num_persons"].to_pylist().count(0)
        self.frames += pc.sum(results["num_frames"]).as_py() or 0
        self.crops += pc.sum(results["crops"]).as_py() or 0
        for stage in STAGES:
            self.seconds[stage] += pc.sum(results[f"{stage}_s"]).as_py() or 0
        for row in results.select(["worker", "began", "ended"]).to_pylist():
            first, last = self.spans.get(row["worker"], (row["began"], row["ended"]))
            self.spans[row["worker"]] = min(first, row["began"]), max(last, row["ended"])
            self.working += row["ended"] - row["began"]

    def busy(self, streams: int) -> float:
        """Share of their life, from the first call to the last, that actors of so many streams spent in calls."""
        return self.working / max(streams * sum(last - first for first, last in self.spans.values()), 1e-9)


def write(results: pa.Table, table: str, name: str) -> None:
    """Append rows of `RESULT`, as files of this name: the good ones to the table, the others to its failures.

    The clips come last, and after their heatmaps: what ends a write half-way doubles no clip when it is tried again.
    """
    good = writer.write_failures(results, table, name)
    kept = good.filter(pc.is_valid(good["regions"]))
    if kept.num_rows:
        tables.write_file(kept.select(HEATMAPS.names).cast(HEATMAPS), heatmaps_uri(table), name, row_group=1)
    if good.num_rows:
        tables.write_file(good.select(tables.SCHEMA.names).cast(tables.SCHEMA), table, name)


def recover(table: str) -> int:
    """Write what a killed driver left pending into the table; returns the number of its rows."""
    return writer.recover(table, RESULT, write, PENDING)


def extract(
    videos: Sequence[Video],
    table: str,
    detector: Network | Given,
    pose: Network | Given,
    options: Options,
    *,
    actors: tuple[int, int],
    streams: int = 1,
    gpus_per_actor: float = 0,
    rows_per_file: int = 512,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Extract videos into a table.

    Args:
        videos: what to extract, no clip_id twice; from `pipelines.plan.plan`.
        table: URI of the table to append to.
        detector: finds people; travels through the object store, so workers need neither files nor npm.
        pose: finds their keypoints; likewise.
        options: how.
        actors: fewest and most that work in parallel.
        streams: videos an actor works on at the same time, one CPU each.
        gpus_per_actor: GPUs, or the share of one, each of them has.
        rows_per_file: of the table's files.
        on_progress: called with the running counts after each clip.
    """
    progress, kept = Progress(), writer.Writer(table, rows_per_file, write, PENDING)
    attempts = cluster.attempts_here()
    arguments = (ray.put(detector), ray.put(pose), options, attempts, gpus_per_actor, streams)
    try:
        for start in range(0, len(videos), cluster.WAVE):
            rows = _rows(videos[start : start + cluster.WAVE], options, attempts)
            results_of = rows.map_batches(
                ExtractPoses,
                fn_constructor_args=arguments,
                batch_size=1,
                batch_format="pyarrow",
                num_cpus=streams,
                num_gpus=gpus_per_actor or None,
                runtime_env=environment(pose),
                compute=ActorPoolStrategy(
                    min_size=actors[0],
                    max_size=actors[1],
                    max_concurrent_calls_per_actor=streams,
                    enable_true_multi_threading=True,
                ),
            )
            for results in results_of.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                progress.count(results)
                on_progress(progress)
                kept.add(results)
    finally:
        kept.close()
    return progress


def _rows(videos: Sequence[Video], options: Options, attempts: Any) -> ray.data.Dataset:
    """Videos, or their pieces, as a dataset of one row a block: the unit in which Ray Data hands out work."""
    rows = [
        {**asdict(v), "splits": list(v.splits), "pieces": [dict(clip_id=i, attempts=n) for i, n in v.pieces]}
        for v in videos
    ]
    empty = dict.fromkeys(VIDEO.names)
    whole = pa.Table.from_pylist([{**empty, **row} for row in rows], VIDEO)
    blocks = [whole.slice(i, 1000) for i in range(0, whole.num_rows, 1000)]
    dataset = ray.data.from_arrow(blocks).repartition(target_num_rows_per_block=1, strict=True)
    if options.segment_seconds:

        def cut(batch: pa.Table) -> pa.Table:
            (row,) = batch.to_pylist()
            # Ray runs a dead worker's task again without end; a task is one video, so its deaths are that video's.
            deaths = ray.get(attempts.deaths.remote(row["clip_id"]))
            if deaths and row["attempts"] + deaths >= options.max_attempts:
                said = f"its worker process died {deaths} times while it was cut (crashed decoder, or out of memory)"
                pieces = [{**row, "error": said, "attempts": row["attempts"] + deaths - 1}]  # the actor counts one more
            else:
                ray.get(attempts.begin.remote(row["clip_id"]))
                pieces = cut_into_pieces(row, options)
            ray.get(attempts.end.remote(row["clip_id"]))
            return pa.Table.from_pylist(pieces, VIDEO)

        dataset = dataset.map_batches(cut, batch_size=1, batch_format="pyarrow")
        dataset = dataset.repartition(target_num_rows_per_block=1, strict=True)
    return dataset


def environment(pose: Network | Given) -> dict[str, Any] | None:
    """The runtime environment of the actors: MMPose, for its networks, where this driver has none either."""
    if pose.name not in openmmlab.NAMES or find_spec("mmpose"):
        return None
    return openmmlab.RUNTIME_ENV


@dataclass(frozen=True)
class Sample:
    """What a few videos took."""

    videos: int
    failed: int
    seconds: float
    """For a video, in one process."""
    bytes: float
    """Of a video's row and heatmaps."""


def measure(
    videos: Sequence[Video],
    detector: Network | Given,
    pose: Network | Given,
    options: Options,
) -> Sample:
    """Extract parts of the first videos in this process, for about half a minute, and store nothing.

    Raises:
        VideoError: `options` want NVDEC, which is not to be had here.
    """
    if options.decoder == "nvdec":
        require_nvdec()
    boxes, people, _ = load(detector, pose)
    start, count, failed, spent, rows = time.monotonic(), 0, 0, 0.0, 0.0
    for video in videos:
        if time.monotonic() - start > 30:
            break
        count += 1
        row: dict[str, Any] = {**asdict(video), "splits": list(video.splits)}
        times = 1.0
        if not isinstance(people, Given):  # a file's poses are read of the whole video at once
            with contextlib.suppress(VideoError, OSError):  # said by extract_row
                pieces = segments(video.video, 10.0, options.fps)
                middle = pieces[len(pieces) // 2]
                times = sum(piece.num_frames for piece in pieces) / max(middle.num_frames, 1)
                row |= asdict(middle)
        began = time.monotonic()
        result = extract_row(row, boxes, people, options)
        spent += (time.monotonic() - began) * times
        if result["error"]:
            failed += 1
            continue
        sink = f"memory://measure-{uuid.uuid4().hex}"
        write(to_arrow([result | dict.fromkeys(("began", "ended"), 0.0)]), sink, "sample")
        rows += times * (tables.size(sink) + tables.size(heatmaps_uri(sink)))
        fsspec.filesystem("memory").rm(sink, recursive=True)
    return Sample(count, failed, spent / count, rows / max(count - failed, 1))
