"""Boxes and poses from a file instead of a network: ground truth or another program's -> boxes -> keypoints -> tracks.

The file is Parquet or JSON at any fsspec URI. Everywhere frames count from 0, coordinates are pixels of the upright
frame, and a keypoint's score is 0 (absent) to 1; COCO's 1 (hidden) and 2 (visible) both become 1, for an annotator
placed the point either way.

- Parquet, one row a person and frame: `video` (string), `frame` (int); optional `person` (int, the track), `x1 y1 x2
  y2`, `score` of the box, `keypoints` (list of 17 times x y score, COCO-17). The rows of a video should lie together,
  in row groups of some 10,000 rows: a query reads the row groups that hold its video, and no others. A row with
  neither box nor keypoints says that the file knows the video.
- JSON, COCO keypoints: `images`, `annotations` (image_id, bbox x y width height, keypoints, score, track_id; of the
  category person, where there are `categories`; crowds are left out). An image belongs to a video by video_id and
  frame_id (or frame_index) where there is a list `videos` (id, name), as in COCO-VID; else by its file_name,
  `<video>/<frame number>.jpg`, as in PoseTrack.

An entry of the file, that is a name in `video`, is meant for a video when the whole of it is the tail of the video's
URI, by whole folder names, with the video's extension or without: `b/x.mp4`, `b/x`, `x.mp4` or `x` for `/a/b/x.mp4`.
"""

import hashlib
import io
import json
import math
import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from posec3d import coco
from posec3d.skeletons import COCO17
from posec3d.table import Clip, clip_id, open_parquet
from posec3d.track import link
from posec3d.video import open_video, segments

CORNERS = ("x1", "y1", "x2", "y2")
SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("frame", pa.int64()),
        ("person", pa.int64()),
        *((name, pa.float32()) for name in CORNERS),
        ("score", pa.float32()),
        ("keypoints", pa.list_(pa.float32())),
    ]
)

_JOINTS = len(COCO17.joints)
_ROW_GROUP = 4096  # people of a JSON file


@dataclass(frozen=True, eq=False)
class People:
    """The n people of one frame, as a file has them; the surest box first."""

    boxes: np.ndarray
    """(n, 5) float32: x1 y1 x2 y2 in pixels (the extent of the keypoints where the file has no box), score in 0..1."""
    keypoints: np.ndarray
    """(n, 17, 3) float32: x and y in pixels, score in 0..1; zeros where the file has none."""
    tracks: np.ndarray | None
    """(n,) int64: who they are; None where the file does not say."""


class Given:
    """A file of boxes or poses. Once made, it can be pickled; a copy does not read the file again.

    Args:
        uri: a path or any fsspec URI.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file as this module describes.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        fs, path = fsspec.url_to_fs(uri)
        try:
            with fs.open(path, "rb") as file:
                digest = hashlib.sha256()
                while block := file.read(2**22):
                    digest.update(block)
                file.seek(0)
                # A COCO file becomes the same rows as a Parquet file has, once.
                self._content = None if file.read(4) == b"PAR1" else _parquet_of_coco(uri, file)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no file of boxes or poses at {uri}") from error
        self.name = f"file:{posixpath.basename(path)}@{digest.hexdigest()[:8]}"
        """Of the table's detector and pose_model columns."""
        self._groups: dict[str, list[int]] = {}  # entry -> row groups that have rows of it
        try:
            with self._open() as parquet:
                columns = set(parquet.schema_arrow.names)
                self._cast(parquet.schema_arrow.empty_table())
                for group in range(parquet.num_row_groups if "video" in columns else 0):
                    for entry in pa.compute.unique(parquet.read_row_group(group, ["video"])["video"]).to_pylist():
                        self._groups.setdefault(entry, []).append(group)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{uri}: damaged Parquet file ({error}); write it again") from error
        self.has_poses = "keypoints" in columns
        if not {"video", "frame"} <= columns or not ({*CORNERS} <= columns or self.has_poses):
            raise ValueError(
                f"{uri}: columns {', '.join(sorted(columns))}; wanted video, frame, and x1 y1 x2 y2 or keypoints"
            )
        if None in self._groups:
            raise ValueError(f"{uri}: there are rows without a video; leave them out")
        self._entries: dict[str, list[str]] = {}  # in the form that is compared -> as the file has it
        for entry in self._groups:
            self._entries.setdefault(_path(entry), []).append(entry)

    def check(self, videos: Iterable[str]) -> list[str]:
        """Compare the file with all videos of a job before it starts.

        Args:
            videos: their URIs.

        Returns:
            The videos that have no entry.

        Raises:
            ValueError: two entries are for the same video, or two videos have the same entry.
        """
        missing, owners = [], dict[str, str]()
        for video in videos:
            entry = self._find(video)
            if entry is None:
                missing.append(video)
            elif owners.setdefault(entry, video) != video:
                raise ValueError(
                    f"{self.uri}: the entry {entry!r} is for {owners[entry]} and for {video}; put as many folders into "
                    "the names of the entries as tell the videos apart"
                )
        return missing

    def boxes(self, video_uri: str) -> dict[int, np.ndarray]:
        """Find the boxes of a video's people.

        Returns:
            Frame -> (n, 5) float32: x1 y1 x2 y2 in pixels, score in 0..1 (1 where the file has none), best first.
            Frames without people are not in it.

        Raises:
            ValueError: no entry for this video, or two, or one with impossible values.
        """
        return {frame: people.boxes for frame, people in self._people(video_uri).items()}

    def poses(self, video_uri: str) -> dict[int, People]:
        """Find the poses of a video's people, by frame; people without a single keypoint are left out.

        Raises:
            ValueError: as `boxes`, and when the file has boxes alone.
        """
        if not self.has_poses:
            raise ValueError(f"{self.uri}: boxes without keypoints; use it in place of a detector, not of poses")
        poses = {}
        for frame, people in self._people(video_uri).items():
            seen = people.keypoints[..., 2].any(1)
            if seen.any():
                tracks = None if people.tracks is None else people.tracks[seen]
                poses[frame] = People(people.boxes[seen], people.keypoints[seen], tracks)
        return poses

    def _open(self) -> pq.ParquetFile:
        return open_parquet(self.uri) if self._content is None else pq.ParquetFile(io.BytesIO(self._content))

    def _find(self, video_uri: str) -> str | None:
        """The entry that is for a video."""
        path = _path(video_uri)
        found: list[str] = []
        for whole in dict.fromkeys((path, posixpath.splitext(path)[0])):
            folders = whole.split("/")
            for i in range(len(folders)):
                found += self._entries.get("/".join(folders[i:]), ())
        if len(found) > 1:
            names = " and ".join(map(repr, sorted(found)))
            raise ValueError(f"{self.uri}: the entries {names} are all for {video_uri}; wanted one")
        return found[0] if found else None

    def _people(self, video_uri: str) -> dict[int, People]:
        entry = self._find(video_uri)
        if entry is None:
            stem = posixpath.splitext(posixpath.basename(video_uri))[0]
            near = [e for e in self._groups if stem in e] or [*self._groups]
            raise ValueError(
                f"{self.uri}: no entry for {video_uri}; wanted {stem!r} or a longer tail of that path, the file has "
                f"{len(self._groups)} entries, such as {', '.join(map(repr, near[:3]))}"
            )
        with self._open() as parquet:
            columns = [name for name in SCHEMA.names if name in parquet.schema_arrow.names]
            rows = parquet.read_row_groups(self._groups[entry], columns)
        rows = self._cast(rows.filter(pa.compute.equal(rows["video"].cast(pa.string()), entry)))
        return _by_frame(rows, f"{self.uri}: {entry}")

    def _cast(self, rows: pa.Table) -> pa.Table:
        """Rows with exactly the columns of `SCHEMA`; nulls in those that the file lacks."""
        columns = []
        for field in SCHEMA:
            if field.name not in rows.column_names:
                columns.append(pa.nulls(len(rows), field.type))
                continue
            try:
                columns.append(rows[field.name].cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise ValueError(
                    f"{self.uri}: column {field.name} is {rows[field.name].type}, wanted {field.type} ({error})"
                ) from error
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def given_poses(video_uri: str, given: Given, *, max_persons: int = 10) -> Clip:
    """Make the row of a video whose poses are known: only its frames are counted, and no network is asked.

    Args:
        video_uri: a path or any URI fsspec opens.
        given: the file that has its poses.
        max_persons: at most so many tracks are kept.

    Returns:
        As `posec3d.pose.extract_poses`: without label and splits, people as tracks, the main one first. Tracks are the
        file's, or linked where it has none.

    Raises:
        posec3d.video.VideoError: the video cannot be read.
        ValueError: the file has no poses for this video, or poses in frames that it does not have.
    """
    poses = given.poses(video_uri)
    (whole,) = segments(video_uri, math.inf)
    with open_video(video_uri) as video:
        info = video.info
    if max(poses, default=0) >= whole.num_frames:
        raise ValueError(
            f"{given.uri}: a pose in frame {max(poses)} of {video_uri}, which has frames 0 to {whole.num_frames - 1}; "
            "count frames from 0, and give the video that the poses were made of"
        )
    nobody = People(np.zeros((0, 5), np.float32), np.zeros((0, _JOINTS, 3), np.float32), None)
    people = [poses.get(t, nobody) for t in range(whole.num_frames)]
    if any(frame.tracks is not None for frame in people):
        tracks = _given_tracks(people, max_persons)
    else:
        boxes, keypoints = [frame.boxes for frame in people], [frame.keypoints for frame in people]
        tracks = link(boxes, keypoints, fps=info.fps, max_persons=max_persons)
    clip = Clip(
        clip_id=clip_id(video_uri),
        video=video_uri,
        num_frames=whole.num_frames,
        height=info.height,
        width=info.width,
        fps=info.fps,
        skeleton=COCO17.name,
        keypoints=np.zeros((*tracks.shape, _JOINTS, 2), np.float32),
        scores=np.zeros((*tracks.shape, _JOINTS), np.float32),
        boxes=(corners := np.zeros((*tracks.shape, 4), np.float32)),
        pose_model=given.name,
        detector=given.name,
    )
    for m, t in zip(*np.nonzero(tracks >= 0), strict=True):
        i = tracks[m, t]
        clip.keypoints[m, t], clip.scores[m, t] = people[t].keypoints[i, :, :2], people[t].keypoints[i, :, 2]
        corners[m, t] = people[t].boxes[i, :4]
    return clip


def _given_tracks(people: list[People], max_persons: int) -> np.ndarray:
    """Tracks (M, T) of indices into each frame's people, -1 where absent, in the order of `posec3d.track.link`."""
    rows: dict[int, np.ndarray] = {}
    size: dict[int, float] = {}
    for t, frame in enumerate(people):
        for i, track in enumerate(() if frame.tracks is None else frame.tracks.tolist()):
            rows.setdefault(track, np.full(len(people), -1, np.int64))[t] = i
            sides = np.clip(frame.boxes[i, 2:4] - frame.boxes[i, :2], 1, None)
            size[track] = size.get(track, 0.0) + float(np.sqrt(sides.prod()))
    kept = sorted(rows, key=lambda track: -size[track])[:max_persons]
    return np.array([rows[track] for track in kept], np.int64).reshape(len(kept), len(people))


def _path(uri: str) -> str:
    """The form in which videos and entries are compared."""
    return posixpath.normpath(uri.split("://", 1)[-1].strip("/"))


def _by_frame(rows: pa.Table, where: str) -> dict[int, People]:
    """Rows of one video, as `SCHEMA` has them -> its people by frame."""
    if rows["frame"].null_count:
        raise ValueError(f"{where}: {rows['frame'].null_count} rows have no frame number")
    frames = rows["frame"].to_numpy()

    def refuse(wrong: np.ndarray, what: str) -> None:
        if wrong.any():
            raise ValueError(f"{where}, frame {frames[wrong][0]}: {what}")

    refuse(frames < 0, "frames count from 0")
    keypoints = _keypoints(rows["keypoints"], refuse)
    corners = np.stack([rows[name].to_numpy() for name in CORNERS], 1)  # a null becomes a NaN
    seen = np.where(keypoints[..., 2:] > 0, keypoints[..., :2], np.nan)
    unboxed, unseen = ~np.isfinite(corners).all(1), np.isnan(seen).all((1, 2))
    extent = unboxed & ~unseen
    corners[extent] = np.concatenate([np.nanmin(seen[extent], 1), np.nanmax(seen[extent], 1)], 1)
    crossed = (corners[:, 2] < corners[:, 0]) | (corners[:, 3] < corners[:, 1])
    refuse(crossed, "a box with x2 < x1 or y2 < y1; wanted two corners, not a corner and a size")
    score = rows["score"].to_numpy()
    boxes = np.concatenate([corners, np.where(np.isnan(score), 1, score)[:, None]], 1).astype(np.float32)
    there = ~(unboxed & unseen)
    tracked = rows["person"].is_valid().to_numpy()
    tracks = rows["person"].fill_null(0).to_numpy()
    alone = there & ~tracked & (there & tracked).any()
    refuse(alone, "a person without a track, where others have one; give all or none")
    order = np.lexsort((-boxes[:, 4], frames))
    order = order[there[order]]
    numbers, starts = np.unique(frames[order], return_index=True)
    people = {}
    for number, these in zip(numbers, np.split(order, starts[1:]), strict=False):  # of nothing, split makes one part
        if tracked[these].all() and len(set(tracks[these])) < len(these):
            raise ValueError(f"{where}, frame {number}: two people with the same track")
        people[int(number)] = People(boxes[these], keypoints[these], tracks[these] if tracked[these].all() else None)
    return people


def _keypoints(column: pa.ChunkedArray, refuse: Callable[[np.ndarray, str], None]) -> np.ndarray:
    """Lists of x y score -> (n, 17, 3) float32, zeros where there is no list; scores in 0..1."""
    wanted = 3 * _JOINTS
    lengths = pa.compute.list_value_length(column).fill_null(wanted).to_numpy()
    odd = lengths != wanted
    got = next(iter(lengths[odd]), 0)
    refuse(odd, f"{got} keypoint values, wanted {wanted}: x y score of the {_JOINTS} joints of COCO")
    flat = np.zeros((len(column), wanted), np.float32)
    flat[column.is_valid().to_numpy()] = pa.compute.list_flatten(column).to_numpy().reshape(-1, wanted)
    keypoints = flat.reshape(-1, _JOINTS, 3)
    keypoints[~np.isfinite(keypoints[..., :2]).all(-1)] = 0
    score = keypoints[..., 2]
    odd = ~(((score >= 0) & (score <= 1)) | (score == 2))
    refuse(odd.any(1), f"a keypoint has the score {next(iter(score[odd]), 0):g}, wanted 0 to 1 (or 0, 1, 2 as in COCO)")
    np.minimum(score, 1, out=score)
    return keypoints


def _parquet_of_coco(uri: str, file: Any) -> bytes:
    """A COCO keypoint file, read from its start, as Parquet with the columns of `SCHEMA`."""
    file.seek(0)
    try:
        content = json.load(file)
    except ValueError as error:
        raise ValueError(f"{uri}: neither Parquet nor JSON ({error})") from error
    try:
        rows = pa.Table.from_pylist(list(_coco_rows(content)), SCHEMA)
    except (KeyError, TypeError, AttributeError, pa.ArrowInvalid) as error:
        cause = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{uri}: not COCO keypoints as the module posec3d.given describes: {cause}") from error
    except ValueError as error:
        raise ValueError(f"{uri}: {error}") from error
    sink = pa.BufferOutputStream()
    pq.write_table(rows.sort_by("video"), sink, row_group_size=_ROW_GROUP)
    return bytes(sink.getvalue().to_pybytes())


def _coco_rows(content: Any) -> Iterator[dict[str, Any]]:
    places = coco.places(content)
    for video, frame in places.values():
        yield {"video": video, "frame": frame}  # the file knows the video, though perhaps nobody is in it
    for (video, frame), annotation in coco.people(content, places):
        box = annotation.get("bbox")
        if box and len(box) != 4:
            raise ValueError(
                f"an annotation of frame {frame} of {video} has a bbox of {len(box)} values, wanted x y width height"
            )
        x, y, width, height = box or (np.nan,) * 4
        row = {"video": video, "frame": frame, "person": annotation.get("track_id"), "score": annotation.get("score")}
        row |= dict(zip(CORNERS, (x, y, x + width, y + height), strict=True))
        yield row | {"keypoints": annotation.get("keypoints") or None}
