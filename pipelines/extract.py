"""Extraction: videos -> keypoint table. Ray Data actors decode and estimate; the driver alone writes.

One video is one block, one actor call and one row. Actors return rows and failures alike; the driver appends them to
the table in whole files, so a clip is in the table once or not at all however often a worker or the driver dies. What
a killed driver loses is what had not been written yet: the results that came in less than `FLUSH_SECONDS` before the
last one, `FLUSH_ROWS` at most.
"""

import csv
import datetime
import logging
import os
import posixpath
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute
import ray
from fsspec.implementations.local import LocalFileSystem
from ray.data import ActorPoolStrategy

from posec3d import table as tables
from posec3d.pose import PoseEstimator, extract_poses
from posec3d.video import VideoError
from posec3d.weights import MoveNet

log = logging.getLogger(__name__)

EXTENSIONS = ".avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split()
FLUSH_SECONDS = 15.0
FLUSH_ROWS = 512
MAX_ATTEMPTS = 3  # runs that try a video which fails; what fails for a reason outside it may go well the next time

OUTCOME = [pa.field("stage", pa.string()), pa.field("error", pa.string()), pa.field("attempts", pa.int32())]
RESULT = pa.schema([*tables.SCHEMA, *OUTCOME])


@dataclass(frozen=True)
class Video:
    """One video to extract, and what is known of it."""

    clip_id: str
    video: str
    label: int | None = None
    label_name: str | None = None
    splits: tuple[str, ...] = ()
    attempts: int = 0
    """Earlier runs that failed on it."""


def find_videos(root: str, labels: str | None = None) -> list[Video]:
    """The videos under a folder (or the one file) `root`, or those that a labels file names.

    Args:
        root: any fsspec URI.
        labels: URI of a CSV with the header video,label[,split]: videos relative to `root` or absolute, several
            splits joined by `;`. Without it a video's folder is its label and the folder above that its split, as
            far as there are folders below `root`: root/split/label/x.mp4, root/label/x.mp4, root/x.mp4.

    Raises:
        FileNotFoundError: nothing at `root`.
        ValueError: no video there, a bad header, a video named twice.
    """
    fs, top = fsspec.url_to_fs(root)
    top = top.rstrip("/")

    def uri(path: str) -> str:
        # A name that is not UTF-8 cannot be stored; escaped, it becomes a failure row that shows it.
        path = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return posixpath.normpath(path) if isinstance(fs, LocalFileSystem) else fs.unstrip_protocol(path)

    if labels is not None:
        found = [
            (name if "://" in name else uri(name if name.startswith("/") else f"{top}/{name}"), label, splits)
            for name, label, splits in _read_labels(labels)
        ]
    else:
        if not fs.exists(top):
            raise FileNotFoundError(f"no folder or video at {root}")
        paths = [top] if fs.isfile(top) else sorted(fs.find(top))
        found = []
        for path in paths:
            hidden = path.rsplit("/", 1)[-1].startswith(".")
            if not hidden and path[path.rfind(".") :].lower() in EXTENSIONS:
                above = path.removeprefix(top).strip("/").split("/")[:-1]
                found.append((uri(path), above[-1] if above else None, tuple(above[-2:-1])))
    if not found:
        what = f"{labels} names no video" if labels else f"no videos at {root}: looked for {' '.join(EXTENSIONS)}"
        raise ValueError(what)
    seen: set[str] = set()
    for path, _, _ in found:
        if path in seen:
            raise ValueError(f"{labels}: {path} is named twice; join its splits by ';' in one row")
        seen.add(path)
    return [Video(tables.clip_id(path), path, None, label, splits) for path, label, splits in found]


def _read_labels(labels: str) -> Iterator[tuple[str, str | None, tuple[str, ...]]]:
    with fsspec.open(labels, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            header = reader.fieldnames or []
        except UnicodeDecodeError as error:
            raise ValueError(f"{labels}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
        if not {"video", "label"} <= set(header):
            raise ValueError(f"{labels}: header is {','.join(header) or 'empty'}, wanted video,label[,split]")
        for row in reader:
            if not row["video"]:
                raise ValueError(f"{labels}:{reader.line_num}: no video in this row")
            splits = tuple(s.strip() for s in (row.get("split") or "").split(";") if s.strip())
            yield row["video"].strip(), (row["label"] or "").strip() or None, splits


def number_labels(videos: Sequence[Video], known: dict[int, str], *, given: bool = False) -> list[Video]:
    """Number the labels: names a table already has keep their number, new ones follow by sorted name.

    Args:
        videos: to be numbered.
        known: number -> name of labels that have one.
        given: names that are all whole numbers are the numbers, as a labels file may give them.
    """
    names = {v.label_name for v in videos if v.label_name is not None}
    if given and all(name.isdecimal() and name == str(int(name)) and int(name) < 2**31 for name in names):
        numbers = {name: int(name) for name in names}
    else:
        numbers = {name: number for number, name in known.items()}
        start = max(known, default=-1) + 1
        numbers |= {name: start + i for i, name in enumerate(sorted(names - set(numbers)))}
    return [v if v.label_name is None else replace(v, label=numbers[v.label_name]) for v in videos]


@dataclass(frozen=True)
class Todo:
    """What a table lacks of some videos."""

    missing: tuple[Video, ...]
    """No row yet, and tried less than MAX_ATTEMPTS times; in a fixed random order, so that classes come mixed."""
    done: int
    given_up: int
    relabelled: int
    """Rows whose label or splits are not those of the videos any more."""


def plan(videos: Sequence[Video], table: str) -> Todo:
    """Compare videos with what a table holds and what failed."""
    rows: dict[str, tuple[str | None, tuple[str, ...]]] = {}
    if tables.data_files(table):
        for group in tables.read_row_groups(table, ["clip_id", "label_name", "splits"]):
            for row in group.to_pylist():
                rows[row["clip_id"]] = (row["label_name"], tuple(row["splits"] or ()))
    failures = tables.read_failures(table)
    tried = {id_: row["attempts"] for id_, row in failures.items()}
    left = [v for v in videos if v.clip_id not in rows]
    missing = [v for v in left if tried.get(v.clip_id, 0) < MAX_ATTEMPTS]
    random.Random(0).shuffle(missing)  # noqa: S311 - an order, not a secret
    return Todo(
        missing=tuple(replace(v, attempts=tried.get(v.clip_id, 0)) for v in missing),
        done=len(videos) - len(left),
        given_up=len(left) - len(missing),
        relabelled=sum(rows.get(v.clip_id, (v.label_name, v.splits)) != (v.label_name, v.splits) for v in videos),
    )


class ExtractPoses:
    """Ray Data actor: rows of videos -> rows of `RESULT`, a keypoint row or a failure each."""

    def __init__(self, models: "ray.ObjectRef[MoveNet]", threads: int) -> None:
        self.estimator = PoseEstimator(ray.get(models), threads=threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Extract each video of the batch."""
        rows = [
            extract_row(Video(**{**row, "splits": tuple(row["splits"])}), self.estimator) for row in batch.to_pylist()
        ]
        outcome = pa.table({f.name: pa.array([r[f.name] for r in rows], f.type) for f in OUTCOME})
        result = tables.rows_to_arrow(rows)
        return pa.Table.from_arrays([*result.columns, *outcome.columns], schema=RESULT)


def extract_row(video: Video, estimator: PoseEstimator) -> dict[str, Any]:
    """One video's row; one that cannot be read or understood gets `stage` and `error` instead of keypoints."""
    try:
        clip = extract_poses(video.video, estimator)
    except Exception as error:  # one bad video must not stop a job: any error becomes its failure row
        stage = "decode" if isinstance(error, VideoError) else "pose"
        if stage == "pose":
            log.exception("pose estimation failed on %s", video.video)
        empty: dict[str, Any] = dict.fromkeys(tables.SCHEMA.names)
        message = str(error) if stage == "decode" else f"{type(error).__name__}: {error}"
        return {**empty, **asdict(video), "stage": stage, "error": message, "attempts": video.attempts + 1}
    return {**tables.to_row(clip), **asdict(video), "splits": list(video.splits), "stage": None, "error": None}


@dataclass
class Progress:
    """Counts of a running extraction."""

    clips: int = 0
    failed: int = 0
    without_people: int = 0
    frames: int = 0


def extract(
    videos: Sequence[Video],
    table: str,
    models: MoveNet,
    *,
    actors: int,
    gpus_per_actor: float = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Extract videos into a table.

    Args:
        videos: what to extract, no clip_id twice; from `plan`.
        table: URI of the table to append to.
        models: the networks; they travel through the object store, so workers need neither files nor npm.
        actors: how many work in parallel, one CPU each.
        gpus_per_actor: reserved for each of them.
        on_progress: called with the running counts after each video.
    """
    progress = Progress()
    if not videos:
        return progress
    rows = [{**asdict(v), "splits": list(v.splits)} for v in videos]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        ExtractPoses,
        fn_constructor_args=(ray.put(models), 1),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        num_gpus=gpus_per_actor or None,
        compute=ActorPoolStrategy(size=min(actors, len(rows))),
    )
    waiting: list[pa.Table] = []
    flushed = time.monotonic()
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            waiting.append(batch)
            failed = batch.num_rows - batch["error"].null_count
            progress.clips += batch.num_rows - failed
            progress.failed += failed
            progress.without_people += batch["num_persons"].to_pylist().count(0)
            progress.frames += sum(n or 0 for n in batch["num_frames"].to_pylist())
            on_progress(progress)
            if len(waiting) >= FLUSH_ROWS or time.monotonic() - flushed > FLUSH_SECONDS:
                done, waiting = waiting, []
                write(pa.concat_tables(done), table)
                flushed = time.monotonic()
    finally:
        if waiting:
            write(pa.concat_tables(waiting), table)
    return progress


def write(results: pa.Table, table: str) -> None:
    """Append rows of `RESULT`: the good ones to the table, the others to its failures."""
    good = results.filter(pa.compute.is_null(results["error"])).select(tables.SCHEMA.names)
    if good.num_rows:
        tables.write_file(good.cast(tables.SCHEMA), table)
    bad = results.filter(pa.compute.is_valid(results["error"]))
    if bad.num_rows:
        now = datetime.datetime.now(datetime.UTC)
        columns = [name for name in tables.FAILURES.names if name != "time"]
        rows = [{**row, "time": now} for row in bad.select(columns).to_pylist()]
        tables.write_file(pa.Table.from_pylist(rows, tables.FAILURES), tables.failures_uri(table))


def default_actors() -> int:
    """One a CPU of the cluster, or of this machine where Ray is local."""
    cpus = sum(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    alone = len([node for node in ray.nodes() if node["Alive"]]) == 1
    return max(1, int(min(cpus, os.cpu_count() or 1) if alone else cpus))
