"""Inside a worker of an extraction: rows of videos -> rows of keypoints or failures.

A Ray Data actor holds the networks; threads of it take a video each, from its first frame to its row.
"""

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.util.metrics import Counter as Metric

from pipelines import cluster
from posec3d import estimators
from posec3d import table as tables
from posec3d.given import Given, given_poses
from posec3d.pose import Detector, Extracted, PoseEstimator, extract_poses
from posec3d.redaction import unsigned
from posec3d.stored import HEATMAPS, heatmaps_row
from posec3d.video import Decoder, Segment, VideoError, require_nvdec, segments
from posec3d.weights import Network

log = logging.getLogger(__name__)

STAGES = ("decode", "detect", "pose", "track")
STORES = ("aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google")
"""Packages that reach object stores; many of their errors are no OSErrors."""
VIDEO = pa.schema(
    [
        *(tables.SCHEMA.field(name) for name in ("clip_id", "video", "label", "label_name", "splits")),
        ("attempts", pa.int32()),
        ("pieces", pa.list_(pa.struct([("clip_id", pa.string()), ("attempts", pa.int32())]))),
        # A piece of a long video:
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("start_frame", pa.int64()),
        ("num_frames", pa.int64()),
        ("share", pa.float64()),
        ("error", pa.string()),  # it could not be cut
    ]
)
OUTCOME = [
    pa.field("stage", pa.string()),
    pa.field("error", pa.string()),
    pa.field("attempts", pa.int32()),
    pa.field("share", pa.float64()),  # of what was missing of its video
    pa.field("crops", pa.int32()),
    *(pa.field(f"{stage}_s", pa.float32()) for stage in STAGES),
    pa.field("worker", pa.string()),  # which actor, node and GPU
    pa.field("began", pa.float64()),  # seconds on the worker's clock
    pa.field("ended", pa.float64()),
    *(HEATMAPS.field(name) for name in ("map_height", "map_width", "regions", "maps")),
]
RESULT = pa.schema([*tables.SCHEMA, *OUTCOME])


@dataclass(frozen=True)
class Options:
    """How videos become rows: alike for all rows of a table, but for `max_attempts` and `decoder`."""

    fps: float | None = None
    segment_seconds: float | None = None
    detect_every: int = 1
    max_persons: int = 10
    keep_heatmaps: bool = False
    max_attempts: int = 3
    decoder: Decoder = "ffmpeg"


class ExtractPoses:
    """Ray Data actor: rows of videos, or of their pieces -> rows of `RESULT`, a keypoint row or a failure each.

    Args:
        detector: a network, or the file the boxes come from.
        pose: a network, or the file the poses come from.
        options: how.
        attempts: who counts which clips were begun.
        gpus: share of a GPU this actor has; without CUDA it works on the CPU.
        streams: calls that run at the same time, in a thread each, and share the networks.
    """

    def __init__(
        self,
        detector: "ray.ObjectRef[Network | Given]",
        pose: "ray.ObjectRef[Network | Given]",
        options: Options,
        attempts: Any,  # an actor handle, which Ray gives no type
        gpus: float,
        streams: int,
    ) -> None:
        self.options, self.attempts = options, attempts
        self.streams = streams
        if options.decoder == "nvdec":  # once, not as the failure of each video
            require_nvdec()
        self.detector, self.estimator, device = load(ray.get(detector), ray.get(pose), gpus)
        if device == "cuda" and streams > 1 and not isinstance(self.estimator, Given):
            self.estimator = Together(self.estimator)
        self.gate = Gate()
        here = ray.get_runtime_context()
        seen = f", GPU {os.environ.get('CUDA_VISIBLE_DEVICES')}" if gpus else ""
        self.worker = f"actor {here.get_actor_id()[:12]} on node {here.get_node_id()[:12]}, {device}{seen}"
        self.metrics = {
            name: Metric(f"posec3d_extract_{name}", description=f"{name} so far")
            for name in ("clips", "failures", "frames", "crops", "seconds")
        }

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Extract the one clip of a batch, unless it ended too many workers already."""
        (row,) = batch.to_pylist()
        began = time.time()
        deaths = ray.get(self.attempts.deaths.remote(row["clip_id"]))
        row = {**row, "attempts": row["attempts"] + deaths}
        # With several streams its only death may have been another clip's fault.
        excused = 1 if self.streams > 1 else 0
        if deaths > excused and row["attempts"] >= self.options.max_attempts:
            reason = f"its worker process died {deaths} times (crashed decoder, out of memory, or a lost node)"
            result = failure(row, "worker", reason, row["attempts"])
        else:
            with self.gate.alone() if deaths else self.gate.shared():
                ray.get(self.attempts.begin.remote(row["clip_id"]))
                result = extract_row(row, self.detector, self.estimator, self.options)
        self.attempts.end.remote(row["clip_id"])
        result |= {"worker": self.worker, "began": began, "ended": time.time()}
        self.metrics["failures" if result["error"] else "clips"].inc()
        self.metrics["seconds"].inc(result["ended"] - began)
        for name, value in (("frames", result["num_frames"]), ("crops", result["crops"])):
            if value:
                self.metrics[name].inc(value)
        return to_arrow([result])


def load(
    detector: Network | Given, pose: Network | Given, gpus: float = 0
) -> tuple[Detector | Given, PoseEstimator | Given, str]:
    """Put the networks on what this process may compute on, "cuda" or "cpu"; files stay as they are."""
    import cv2

    cv2.setNumThreads(1)  # by default each worker would start a thread per core of the machine
    device = cluster.device(gpus)
    boxes = detector if isinstance(detector, Given) else estimators.detector(detector, device)
    people = pose if isinstance(pose, Given) else estimators.estimator(pose, device)
    if "torch" in sys.modules:  # the streams are the threads
        sys.modules["torch"].set_num_threads(1)
    return boxes, people, device


def extract_row(
    row: dict[str, Any], detector: Detector | Given, estimator: PoseEstimator | Given, options: Options
) -> dict[str, Any]:
    """One clip's row; one that cannot be read or understood gets `stage` and `error` instead of keypoints."""
    if row.get("error") is not None:
        return failure(row, "decode", row["error"], row["attempts"] + 1)
    piece = None
    if row.get("num_frames") is not None:
        piece = Segment(row["start_s"], row["end_s"], row["start_frame"], row["num_frames"])
    try:
        if isinstance(estimator, Given):
            clip = given_poses(row["video"], estimator, max_persons=options.max_persons)
            done = Extracted(clip, dict.fromkeys(STAGES, 0.0), 0)
        else:
            done = extract_poses(
                row["video"],
                detector,
                estimator,
                piece=piece,
                fps=options.fps,
                detect_every=options.detect_every,
                max_persons=options.max_persons,
                keep_heatmaps=options.keep_heatmaps,
                decoder=options.decoder,
            )
    except Exception as error:  # one bad video must not stop a job: any error becomes its failure row
        cluster.end_if_lost(error)  # then the clip is tried again
        of_store = type(error).__module__.split(".")[0] in STORES
        stage = "decode" if of_store or isinstance(error, VideoError | OSError) else "pose"
        if stage == "pose":
            log.exception("pose estimation failed on %s", unsigned(row["video"]))
        message = str(error) if isinstance(error, VideoError) else f"{type(error).__name__}: {error}"
        return failure(row, stage, message, row["attempts"] + 1)
    known = {name: row[name] for name in ("clip_id", "video", "label", "label_name", "splits")}
    result = {**dict.fromkeys(RESULT.names), **tables.to_row(done.clip), **known, "share": row.get("share") or 1.0}
    result |= {f"{stage}_s": seconds for stage, seconds in done.seconds.items()} | {"crops": done.crops}
    if done.heatmaps is not None:
        result |= heatmaps_row(done.heatmaps)
    return result


def failure(row: dict[str, Any], stage: str, error: str, attempts: int) -> dict[str, Any]:
    """A row of `RESULT` for a clip that failed."""
    known = {"clip_id": row["clip_id"], "video": row["video"], "share": row.get("share") or 1.0}
    return {**dict.fromkeys(RESULT.names), **known, "stage": stage, "error": error, "attempts": attempts}


def to_arrow(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as `extract_row` makes them, as a table of `RESULT`."""
    outcome = [pa.array([row[f.name] for row in rows], f.type) for f in OUTCOME]
    return pa.Table.from_arrays([*tables.rows_to_arrow(rows).columns, *outcome], schema=RESULT)


class Gate:
    """Lets many through at a time, or one alone: a clip that was in a dying worker must not take others with it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting_alone = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Inside with others."""
        with self._changed:
            self._changed.wait_for(lambda: self._inside >= 0 and not self._waiting_alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside with nobody else."""
        with self._changed:
            self._waiting_alone += 1
            self._changed.wait_for(lambda: self._inside == 0)
            self._waiting_alone -= 1
            self._inside = -1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0
                self._changed.notify_all()


class Together:
    """A pose network that several threads share: what they bring while it is busy goes through it in one batch."""

    def __init__(self, estimator: PoseEstimator) -> None:
        self._estimator = estimator
        self.name, self.skeleton, self.crop = estimator.name, estimator.skeleton, estimator.crop
        self.map_size = getattr(estimator, "map_size", None)
        self._busy = threading.Lock()
        self._queue = threading.Lock()
        self._waiting: list[_Request] = []

    def estimate(self, crops: np.ndarray) -> np.ndarray:
        """As `PoseEstimator.estimate`."""
        return self._run("estimate", crops)

    def heatmaps(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `PoseEstimator.heatmaps`."""
        return self._run("heatmaps", crops)

    def _run(self, what: str, crops: np.ndarray) -> Any:
        request = _Request(crops)
        with self._queue:
            self._waiting.append(request)
        with self._busy:
            if request.answer is None and request.error is None:  # else the thread before this one has done it
                with self._queue:
                    batch, self._waiting = self._waiting, []
                try:
                    answer = getattr(self._estimator, what)(np.concatenate([r.crops for r in batch]))
                except Exception as error:
                    for r in batch:
                        r.error = error
                else:
                    ends = np.cumsum([len(r.crops) for r in batch])[:-1]
                    parts = answer if isinstance(answer, tuple) else (answer,)
                    for r, *own in zip(batch, *(np.split(part, ends) for part in parts), strict=True):
                        r.answer = tuple(own) if isinstance(answer, tuple) else own[0]
        if request.error is not None:
            raise request.error
        return request.answer


@dataclass(eq=False)
class _Request:
    crops: np.ndarray
    answer: Any = None
    error: Exception | None = None


def cut_into_pieces(row: dict[str, Any], options: Options) -> list[dict[str, Any]]:
    """A video's row -> rows of its pieces that are still to be done."""
    known = {piece["clip_id"]: piece["attempts"] for piece in row["pieces"]}
    try:
        pieces = segments(row["video"], options.segment_seconds or math.inf, options.fps)
    except Exception as error:  # its failure row is made where all others are
        return [{**row, "error": str(error) or type(error).__name__}]
    rows = []
    for number, piece in enumerate(pieces, 1):
        name = tables.piece_id(row["clip_id"], number, len(pieces))
        attempts = known.get(name, row["attempts"])
        if attempts < options.max_attempts:
            rows.append({**row, **asdict(piece), "clip_id": name, "attempts": attempts, "pieces": []})
    return [{**row, "share": 1 / len(rows)} for row in rows]
