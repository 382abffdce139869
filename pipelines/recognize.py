"""Inside a worker of a prediction: rows of clips, or of videos in pieces -> rows of named actions or failures.

A Ray Data actor holds the models and reads the poses from their table; it also makes the pictures.
"""

import functools
import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import ray

from pipelines import cluster
from posec3d import checkpoint as checkpoints
from posec3d import draw
from posec3d import table as tables
from posec3d.evidence import evidence, explains
from posec3d.recognizer import Fusion, Predictor, Recognizer
from posec3d.table import Clip
from posec3d.timeline import How, Timeline, timelines
from posec3d.video import VideoError

log = logging.getLogger(__name__)

PREDICTIONS = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video", pa.string()),
        ("person", pa.int32()),  # null: everybody together
        ("start_s", pa.float64()),  # null: the video's rate is unknown
        ("end_s", pa.float64()),
        ("people", pa.int32()),  # tracks in the video
        ("label", pa.string()),  # null: nobody there
        ("probability", pa.float32()),
        ("top", pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))),
        ("scores", pa.list_(pa.float32())),  # of all classes, in the order of the schema's metadata
    ]
)
"""A row is an action: of a whole clip, of a person in it, or from one time to another."""
RESULT = pa.schema([*PREDICTIONS, ("stage", pa.string()), ("error", pa.string()), ("attempts", pa.int32())])
TODO = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video", pa.string()),
        ("attempts", pa.int32()),
        ("pieces", pa.list_(pa.list_(pa.int32()))),  # file, row group, row
        ("pictures", pa.bool_()),
    ]
)


class Recognize:
    """Ray Data actor: rows of `TODO` -> rows of `RESULT`, and pictures in a folder."""

    def __init__(
        self,
        models: "ray.ObjectRef[list[bytes]]",
        weights: Sequence[float],
        how: How,
        files: Sequence[str],
        clips: int,
        flipped: bool,
        folder: str,
        attempts: Any,  # an actor handle, which Ray gives no type
        max_attempts: int,
        gpus: float,
    ) -> None:
        device = cluster.device(gpus)
        parts = [Recognizer(checkpoints.loads(data, "the model"), device) for data in ray.get(models)]
        self.recognizer = Fusion(parts, weights)
        self.how, self.files, self.folder = how, files, folder
        self.look = functools.partial(self.recognizer.probabilities, clips=clips, flipped=flipped)
        self.clips, self.attempts, self.max_attempts = clips, attempts, max_attempts

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predict a block of videos together; if that fails or has ended a worker, one after the other."""
        rows = batch.to_pylist()
        deaths = ray.get([self.attempts.deaths.remote(row["clip_id"]) for row in rows])
        results = None
        if not any(deaths):
            results = self._together(rows)
        if results is None:
            results = [part for row, died in zip(rows, deaths, strict=True) for part in self._alone(row, died)]
        return pa.Table.from_pylist(results, RESULT)

    def _together(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        names = [row["clip_id"] for row in rows]
        ray.get([self.attempts.begin.remote(name) for name in names])
        try:
            return [
                part for row, line in zip(rows, self._timelines(rows), strict=True) for part in self._told(row, line)
            ]
        except Exception as error:  # of one of them: found out by `_alone`
            cluster.end_if_lost(error)
            return None
        finally:
            ray.get([self.attempts.end.remote(name) for name in names])

    def _alone(self, row: dict[str, Any], deaths: int) -> list[dict[str, Any]]:
        """One video's rows; one that cannot be looked at is a failure row."""
        attempts = row["attempts"] + deaths
        # Those that were in a block with it have not shown yet whose fault the first death was.
        if deaths > 1 and attempts >= self.max_attempts:
            ray.get(self.attempts.end.remote(row["clip_id"]))
            return [_failure(row, "worker", f"its worker process died {deaths} times", attempts)]
        ray.get(self.attempts.begin.remote(row["clip_id"]))
        try:
            return self._told(row, self._timelines([row])[0])
        except Exception as error:  # one bad video must not stop a job
            cluster.end_if_lost(error)
            if not isinstance(error, ValueError | OSError):
                log.exception("prediction failed on %s", row["clip_id"])
            message = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            stage = "decode" if isinstance(error, VideoError | OSError) else "recognize"
            return [_failure(row, stage, message, attempts + 1)]
        finally:
            ray.get(self.attempts.end.remote(row["clip_id"]))

    def _timelines(self, rows: list[dict[str, Any]]) -> list[Timeline]:
        pieces = [_Pieces(row["clip_id"], self.files, row["pieces"]) for row in rows]
        return timelines(pieces, self.look, self.recognizer.labels, self.how)

    def _told(self, row: dict[str, Any], line: Timeline) -> list[dict[str, Any]]:
        """A timeline's rows; its pictures are made first, so that a video with rows has them."""
        if row["pictures"]:
            try:
                write_pictures(self.recognizer, line, f"{self.folder.rstrip('/')}/{_file(row['clip_id'])}", self.clips)
            except Exception as error:  # what was recognised is right all the same
                cluster.end_if_lost(error)
                log.warning("no pictures of %s: %s", line.video or row["clip_id"], error)
        known = {"clip_id": row["clip_id"], "video": line.video, "people": line.people}
        return [
            {
                **known,
                "person": a.person,
                "start_s": line.seconds(a.start_frame),
                "end_s": line.seconds(a.end_frame),
                "label": a.label,
                "probability": a.probability,
                "top": [{"label": name, "probability": p} for name, p in line.top(a.scores)],
                "scores": a.scores,
            }
            for a in line.actions
        ] or [known]


@dataclass(frozen=True)
class _Pieces:
    """The clips of a video's pieces, read from their table whenever somebody goes through them."""

    clip_id: str
    files: Sequence[str]
    places: Sequence[tuple[int, int, int]]

    def __iter__(self) -> Iterator[Clip]:
        for file, group, row in self.places:
            (clip,) = tables.arrow_to_clips(_row_group(self.files[file], group).slice(row, 1))
            yield replace(clip, clip_id=self.clip_id)


@functools.lru_cache(2)
def _row_group(path: str, group: int) -> pa.Table:
    return tables.open_file(path).read_row_group(group)


def _failure(row: dict[str, Any], stage: str, error: str, attempts: int) -> dict[str, Any]:
    known = {name: row[name] for name in ("clip_id", "video")}
    return {**known, "stage": stage, "error": error, "attempts": attempts}


def _file(clip_id: str) -> str:
    """What pictures of a clip are called: as its id, unless that leads elsewhere or is a file's of the job itself."""
    parts = [part for part in clip_id.split("/") if part not in ("", ".", "..")]
    if parts and "/".join(parts) == clip_id and clip_id not in ("settings", "summary", "predictions"):
        return clip_id
    digest = hashlib.blake2b(clip_id.encode(), digest_size=4).hexdigest()  # so that no two have one name
    return f"{'/'.join(parts)}-{digest}"


def write_pictures(recognizer: Predictor, line: Timeline, uri: str, clips: int) -> None:
    """Write `uri`.mp4, the video with what was found in it, and what else there is to see, to any fsspec URI.

    Of a whole clip, its people together, that is `uri`.gif, the heatmap volume, if the model sees one, and
    `uri`-why.png, where it saw the action, if it can say; of windows `uri`.json and .csv, the timeline, and .png, the
    same as a picture.

    Raises:
        ValueError: the clip has no video, or one that cannot be read; the timeline is written all the same.
    """
    fs, path = fsspec.url_to_fs(uri)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:

        def put(suffix: str, make: Callable[[Path], Any]) -> None:
            make(local := Path(folder) / f"picture{suffix}")
            fs.put(str(local), f"{path}{suffix}")

        if line.how.window_s is not None:
            put(".json", lambda p: p.write_text(json.dumps(line.as_dict(), indent=1)))
            put(".csv", lambda p: p.write_text(line.as_csv(), newline=""))
            put(".png", line.strip)
        elif not line.how.per_person:  # all people at once are not what was seen of each alone
            clip = next(iter(line.pieces))
            if (volume := recognizer.volume(clip, clips=clips)) is not None:
                put(".gif", lambda p: draw.write_gif(p, draw.volume_picture(volume), fps=12))
            if explains(recognizer) and line.actions:
                # One view of one model might call it something else.
                put("-why.png", lambda p: evidence(recognizer, clip, line.actions[0].label).picture(p))
        put(".mp4", line.overlay)
