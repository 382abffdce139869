"""Extraction: videos -> keypoint table. Ray Data actors decode and estimate; the driver alone writes.

One video, or one piece of a long one, is one block, one actor call and one row. Actors return rows and failures alike;
the driver appends them to the table in whole files, so a clip is in the table once or not at all however often a worker
or the driver dies. What has not filled a file yet is kept in `<table>/_extract/pending/`; what a killed driver loses is
what came in after it last saved there: `SAVE_SECONDS` of work, and what was in the actors.
"""

import contextlib
import datetime
import io
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.data import ActorPoolStrategy
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.plan import Video
from pipelines.worker import (
    RESULT,
    STAGES,
    VIDEO,
    Attempts,
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
from posec3d.storage import write_whole
from posec3d.stored import HEATMAPS, heatmaps_uri
from posec3d.video import VideoError, require_nvdec, segments
from posec3d.weights import Network

log = logging.getLogger(__name__)

SAVE_SECONDS = 15.0
COMMIT_BYTES = 2**28
"""Waiting results of so many bytes are written even if they do not fill a file: stored heatmaps are large."""
WAVE = 100_000
"""Videos of one Ray Data execution, which keeps some 8 KB of each on the driver until it ends."""


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

    def elapsed(self) -> float:
        """Seconds since start-up was over, never 0."""
        return max(time.monotonic() - (self.first or 0.0), 1e-3) if self.first else 1e-3

    def count(self, results: pa.Table) -> None:
        """Add rows of `RESULT`."""
        if self.first is None:
            self.first = time.monotonic() - max(pc.max(results["ended"]).as_py() - pc.min(results["began"]).as_py(), 0)
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


class Writer:
    """Appends results to a table in files of many rows; what has not filled one yet is kept in `_extract/pending/`.

    A row is in the table once: a pending file is removed after its rows are in a table file, and `recover` drops those
    that were there already.
    """

    def __init__(self, table: str, rows_per_file: int) -> None:
        self.table = table.rstrip("/")
        self.rows_per_file = rows_per_file
        self._waiting: list[pa.Table] = []
        self._saved = 0  # of them, how many are in pending files
        self._files: list[str] = []
        self._name = uuid.uuid4().hex  # of the next file: a write that is tried again must not make two
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._error: Exception | None = None
        self._saver = threading.Thread(target=self._save_regularly, daemon=True)
        self._saver.start()

    def add(self, results: pa.Table) -> None:
        """Take rows of `RESULT`; write what is waiting when it fills a file.

        Raises:
            OSError: the storage refuses, now or when it was to keep rows safe.
        """
        if self._error:
            raise self._error
        with self._lock:
            self._waiting.append(results)
            rows = sum(part.num_rows for part in self._waiting)
            if rows >= self.rows_per_file or sum(part.nbytes for part in self._waiting) >= COMMIT_BYTES:
                self._commit()

    def close(self) -> None:
        """Write what is waiting."""
        self._ended.set()
        self._saver.join()
        with self._lock:
            self._commit()

    def save(self) -> None:
        """Keep what is waiting safe in a pending file."""
        with self._lock:
            if len(self._waiting) == self._saved:
                return
            sink = io.BytesIO()
            pq.write_table(pa.concat_tables(self._waiting[self._saved :]), sink, compression="zstd")
            path = f"{self.table}/_extract/pending/{time.time_ns()}.parquet"
            write_whole(path, sink.getvalue())
            self._files.append(path)
            self._saved = len(self._waiting)

    def _save_regularly(self) -> None:
        while not self._error and not self._ended.wait(SAVE_SECONDS):
            try:
                self.save()
            except Exception as error:  # said where the job's own thread meets it
                self._error = error

    def _commit(self) -> None:
        if self._waiting:
            write(pa.concat_tables(self._waiting), self.table, self._name)
        self._waiting, self._saved, self._name = [], 0, uuid.uuid4().hex
        remove(self._files)
        self._files = []


def recover(table: str) -> int:
    """Write what a killed driver left pending into the table; returns the number of its clips."""
    files = tables.data_files(f"{table.rstrip('/')}/_extract/pending")
    if not files:
        return 0
    parts = []
    for path in files:
        fs, name = fsspec.url_to_fs(path)
        parts.append(pq.ParquetFile(fs.open(name, "rb")).read().cast(RESULT))
    results = pa.concat_tables(parts)
    if tables.data_files(table):
        for group in tables.read_row_groups(table, ["clip_id"]):
            results = results.filter(pc.invert(pc.is_in(results["clip_id"], group["clip_id"])))
    if results.num_rows:
        write(results, table, uuid.uuid4().hex)
    remove(files)
    return results.num_rows


def remove(files: Sequence[str]) -> None:
    """Remove files at any URI."""
    for path in files:
        fs, name = fsspec.url_to_fs(path)
        fs.rm_file(name)


def write(results: pa.Table, table: str, name: str) -> None:
    """Append rows of `RESULT`, as files of this name: the good ones to the table, the others to its failures.

    The clips come last, and after their heatmaps: what ends a write half-way doubles no clip when it is tried again.
    """
    good, bad = (results.filter(keep(results["error"])) for keep in (pc.is_null, pc.is_valid))
    if bad.num_rows:
        now = datetime.datetime.now(datetime.UTC)
        columns = [column for column in tables.FAILURES.names if column != "time"]
        rows = [{**row, "time": now} for row in bad.select(columns).to_pylist()]
        tables.write_file(pa.Table.from_pylist(rows, tables.FAILURES), tables.failures_uri(table), name)
    kept = good.filter(pc.is_valid(good["regions"]))
    if kept.num_rows:
        tables.write_file(kept.select(HEATMAPS.names).cast(HEATMAPS), heatmaps_uri(table), name)
    if good.num_rows:
        tables.write_file(good.select(tables.SCHEMA.names).cast(tables.SCHEMA), table, name)


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
    progress, writer = Progress(), Writer(table, rows_per_file)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    attempts = ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=here).remote()
    arguments = (ray.put(detector), ray.put(pose), options, attempts, gpus_per_actor, streams)
    try:
        for start in range(0, len(videos), WAVE):
            rows = _rows(videos[start : start + WAVE], options)
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
                writer.add(results)
    finally:
        writer.close()
    return progress


def _rows(videos: Sequence[Video], options: Options) -> ray.data.Dataset:
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
            return pa.Table.from_pylist(cut_into_pieces(batch.to_pylist()[0], options), VIDEO)

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
    *,
    seconds: float = 30.0,
) -> Sample:
    """Extract parts of the first videos in this process, for about so long, and store nothing.

    Raises:
        VideoError: `options` want NVDEC, which is not to be had here.
    """
    if options.decoder == "nvdec":
        require_nvdec()
    boxes, people, _ = load(detector, pose)
    start, count, failed, spent, rows = time.monotonic(), 0, 0, 0.0, 0.0
    for video in videos:
        if time.monotonic() - start > seconds:
            break
        count += 1
        row: dict[str, Any] = {**asdict(video), "splits": list(video.splits)}
        times = 1.0
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


def default_actors(cpus_per_actor: int = 1, gpus_per_actor: float = 0) -> int:
    """As many as have their CPUs and GPUs in the cluster, less a CPU for the tasks that feed them, or on this machine.

    Where Ray is local it counts more CPUs than the machine has, so that no core idles.
    """
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(resources.get(kind, 0) for resources in alive) for kind in ("CPU", "GPU"))
    cpus = min(cpus, os.cpu_count() or 1) if len(alive) == 1 and cpus > (os.cpu_count() or 1) else cpus - 1
    most = cpus // cpus_per_actor
    return max(1, int(min(most, gpus // gpus_per_actor) if gpus_per_actor else most))
