"""Keypoint table: tracks -> Parquet -> clips. The one thing the project stores, at any URI.

Data files lie directly in the table's directory; everything else lies in `_name/` beside them. One row is one clip.
Coordinates are stored in quarter pixels as int16 and scores as uint8, so that any Parquet reader understands them.
"""

import hashlib
import logging
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from posec3d.redaction import unsigned
from posec3d.skeletons import convert, skeleton
from posec3d.storage import open_copy, reaching, write_whole

log = logging.getLogger(__name__)

VERSION = 1
VERSION_KEY = b"posec3d.version"
UNITS_PER_PIXEL = 4  # coordinates are stored in quarters of a pixel
FARTHEST = np.iinfo(np.int16).max // UNITS_PER_PIXEL  # pixels to either side that a table has room for
ROW_GROUP = 64  # clips
WAITING_BYTES = 2**25  # of rows that wait to be written
_BLOCK_BYTES = 2**16  # fetched at least; as much as pyarrow asks for first, a file's footer

SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video", pa.string()),
        ("start_frame", pa.int64()),
        ("num_frames", pa.int32()),
        ("fps", pa.float32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("label", pa.int32()),
        ("label_name", pa.string()),
        ("splits", pa.list_(pa.string())),
        ("skeleton", pa.string()),
        ("num_persons", pa.int32()),
        ("keypoints", pa.list_(pa.int16())),
        ("scores", pa.list_(pa.uint8())),
        ("keypoints_3d", pa.list_(pa.float32())),
        ("boxes", pa.list_(pa.int16())),
        ("pose_model", pa.string()),
        ("detector", pa.string()),
    ],
    metadata={VERSION_KEY: str(VERSION).encode()},
)


@dataclass(frozen=True, eq=False)
class Clip:
    """One row of the table: a whole video or one segment of a long one.

    `keypoints` is float32 (M, T, V, 2) in pixels, x then y; `scores` is float32 (M, T, V) in [0, 1], 0 = not detected.
    `boxes` is float32 (M, T, 4) x1 y1 x2 y2 in pixels, zeros where the person is absent; `keypoints_3d` (M, T, V, 3) is
    in metres. `video` is a URI, empty for imported poses; `start_frame` and `num_frames` are its segment; `fps` is 0
    when unknown; `height` and `width` are of the frame the keypoints are given in. `label` is None when unlabelled.
    `splits` are the protocol parts the clip belongs to. `pose_model` and `detector` name what made the row.
    """

    clip_id: str
    num_frames: int
    height: int
    width: int
    keypoints: np.ndarray
    scores: np.ndarray
    skeleton: str = "coco17"
    video: str = ""
    start_frame: int = 0
    fps: float = 0.0
    label: int | None = None
    label_name: str | None = None
    splits: tuple[str, ...] = ()
    keypoints_3d: np.ndarray | None = None
    boxes: np.ndarray | None = None
    pose_model: str = ""
    detector: str = ""

    def __post_init__(self) -> None:
        """Check that the arrays agree with each other and with the skeleton."""
        joints = len(skeleton(self.skeleton).joints)
        wanted = (*self.keypoints.shape[:1], self.num_frames, joints)
        if self.keypoints.shape != (*wanted, 2) or self.scores.shape != wanted:
            raise ValueError(
                f"clip {self.clip_id}: keypoints {self.keypoints.shape} and scores {self.scores.shape}, wanted "
                f"(M, T={self.num_frames}, V={joints}, 2) and (M, T, V) for skeleton {self.skeleton}"
            )
        for name, channels in (("keypoints_3d", 3), ("boxes", 4)):
            array = getattr(self, name)
            shape = (*wanted, 3) if channels == 3 else (*wanted[:2], 4)
            if array is not None and array.shape != shape:
                raise ValueError(f"clip {self.clip_id}: {name} has shape {array.shape}, wanted {shape}")

    @property
    def num_persons(self) -> int:
        """M, the number of tracks."""
        return self.keypoints.shape[0]


def with_skeleton(clip: Clip, name: str) -> Clip:
    """The clip with the joints of another skeleton, as far as it has them; see `posec3d.skeletons.convert`."""
    if clip.skeleton == name:
        return clip
    source, target = skeleton(clip.skeleton), skeleton(name)
    keypoints, scores = convert(clip.keypoints, clip.scores, source, target)
    keypoints_3d = clip.keypoints_3d
    if keypoints_3d is not None:
        keypoints_3d, _ = convert(keypoints_3d, clip.scores, source, target)
    return replace(clip, keypoints=keypoints, scores=scores, keypoints_3d=keypoints_3d, skeleton=name)


def clip_id(video: str) -> str:
    """A name for a whole video that is stable across runs: its file name and a digest of its URI without signatures."""
    video = unsigned(video)
    stem = video.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return f"{stem}-{hashlib.blake2b(video.encode(errors='surrogateescape'), digest_size=6).hexdigest()}"


_PIECE = re.compile(r"(.+-[0-9a-f]{12})-(\d+)of(\d+)$")
"""With the digest of `clip_id`: names of imported clips may end like that, too."""


def piece_id(clip_id: str, number: int, count: int) -> str:
    """A name for piece `number` (from 1) of a video cut into `count`; a video in one piece keeps its name."""
    return clip_id if count == 1 else f"{clip_id}-{number}of{count}"


def base_and_count(clip_id: str) -> tuple[str, int]:
    """The name of the whole video, and how many pieces it was cut into: `piece_id` backwards."""
    piece = _PIECE.match(clip_id)
    return (piece[1], int(piece[3])) if piece else (clip_id, 1)


def _quarter_pixels(pixels: np.ndarray) -> np.ndarray:
    limits = np.iinfo(np.int16)
    return np.clip(np.rint(np.nan_to_num(pixels) * UNITS_PER_PIXEL), limits.min, limits.max).astype(np.int16)


def to_row(clip: Clip) -> dict[str, Any]:
    """A clip as a row of `SCHEMA`; points that are not finite get score 0."""
    row: dict[str, Any] = {
        f.name: getattr(clip, f.name)
        for f in fields(clip)
        if f.name not in ("keypoints", "scores", "keypoints_3d", "boxes")
    }
    finite = np.isfinite(clip.keypoints).all(-1)
    limits = np.iinfo(np.int16)
    row |= {
        "splits": list(clip.splits),
        "num_persons": clip.num_persons,
        "keypoints": _quarter_pixels(clip.keypoints).ravel(),
        "scores": np.rint(np.clip(np.where(finite, clip.scores, 0), 0, 1) * 255).astype(np.uint8).ravel(),
        "keypoints_3d": None if clip.keypoints_3d is None else clip.keypoints_3d.astype(np.float32).ravel(),
        "boxes": None
        if clip.boxes is None
        else np.clip(np.rint(clip.boxes), limits.min, limits.max).astype(np.int16).ravel(),
    }
    return row


def rows_to_arrow(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows as `to_row` makes them, as one Arrow table of exactly `SCHEMA`."""
    columns = []
    for field in SCHEMA:
        values = [row[field.name] for row in rows]
        if pa.types.is_list(field.type) and field.name != "splits":
            columns.append(_list_array(values, field.type))
        else:
            columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _list_array(values: Sequence[np.ndarray | None], kind: pa.ListType) -> pa.Array:
    # From one flat buffer: pa.array() on a list of arrays is several times slower.
    lengths = [0 if v is None else len(v) for v in values]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    flat = np.concatenate([np.zeros(0, np.int8), *(np.asarray(v) for v in values if v is not None)])
    mask = pa.array([v is None for v in values], pa.bool_())
    return pa.ListArray.from_arrays(offsets, pa.array(flat, kind.value_type), type=kind, mask=mask)


def from_row(row: dict[str, Any]) -> Clip:
    """The clip of one row; columns that were not read keep the defaults of `Clip`.

    Args:
        row: column name -> value, list columns as sequences or arrays. Needs clip_id, num_frames, num_persons,
            height, width, skeleton, keypoints and scores.
    """
    m, t, v = row["num_persons"], row["num_frames"], len(skeleton(row["skeleton"]).joints)
    given = {f.name: row[f.name] for f in fields(Clip) if f.name in row}
    given["keypoints"] = np.asarray(row["keypoints"], np.float32).reshape(m, t, v, 2) / UNITS_PER_PIXEL
    given["scores"] = np.asarray(row["scores"], np.float32).reshape(m, t, v) / 255
    if "splits" in row:
        given["splits"] = tuple(row["splits"] if row["splits"] is not None else ())
    for name, shape in (("keypoints_3d", (m, t, v, 3)), ("boxes", (m, t, 4))):
        if row.get(name) is not None:
            given[name] = np.asarray(row[name], np.float32).reshape(shape)
    return Clip(**given)


def arrow_to_clips(table: pa.Table) -> Iterator[Clip]:
    """Clips of an Arrow table with the columns of `SCHEMA` (or some of them, see `from_row`)."""
    lists = [f.name for f in table.schema if pa.types.is_list(f.type) and f.name != "splits"]
    plain = table.drop_columns(lists).to_pylist()
    arrays = {name: table.column(name).combine_chunks() for name in lists}
    for i, row in enumerate(plain):
        for name, column in arrays.items():
            cell = column[i]
            row[name] = cell.values.to_numpy(zero_copy_only=False) if cell.is_valid else None
        yield from_row(row)


def in_split(splits: Iterable[str], expression: str | None) -> bool:
    """Whether a clip with these `splits` belongs to a split expression.

    An expression is a name, `!name` for its complement, or several joined by `,`: their union. None is everything.
    """
    if expression is None:
        return True
    have = set(splits)
    return any(
        term[1:] not in have if term.startswith("!") else term in have
        for term in (part.strip() for part in expression.split(","))
    )


def split_names(expression: str | None) -> list[str]:
    """Names a split expression refers to."""
    return [] if expression is None else [part.strip().removeprefix("!") for part in expression.split(",")]


def require_table(uri: str) -> list[str]:
    """The table's data files.

    Raises:
        FileNotFoundError: there are none.
    """
    files = data_files(uri)
    if not files:
        raise FileNotFoundError(f"no keypoint table at {uri}: no .parquet files there; make one with jobs.extract")
    return files


def data_files(uri: str) -> list[str]:
    """Paths of the table's Parquet files, sorted, in the form `open_file` takes; empty if there is no table yet."""
    fs, root = fsspec.url_to_fs(uri)
    fs.invalidate_cache(root)  # others may have added files since
    with reaching(uri):
        if not fs.exists(root):
            return []
        files = [path for path in fs.ls(root, detail=False) if path.endswith(".parquet")]
    return sorted(fs.unstrip_protocol(path) for path in files)


def size(uri: str) -> int:
    """Bytes of a table's data files; 0 if there is no table."""
    fs, root = fsspec.url_to_fs(uri)
    with reaching(uri):
        if not fs.exists(root):
            return 0
        return sum(file["size"] for file in fs.ls(root, detail=True) if file["name"].endswith(".parquet"))


def open_parquet(path: str) -> pq.ParquetFile:
    """Open any Parquet file, of which what is asked for is fetched and little more.

    pyarrow joins what lies side by side to one request. s3fs alone would add 50 MB to each, the whole of most files.

    Args:
        path: a local path, or any URI fsspec opens.

    Raises:
        ValueError: not a Parquet file, or a damaged one.
    """
    fs, name = fsspec.url_to_fs(path)
    return pq.ParquetFile(fs.open(name, "rb", block_size=_BLOCK_BYTES), pre_buffer=True)


def open_file(path: str, *, version: str = "", cache: int = 0) -> pq.ParquetFile:
    """Open one data file and check the version of its schema.

    Args:
        path: from `data_files`.
        version: of its content, where a copy is to be opened.
        cache: open a copy on this machine's disk, where so many bytes of copies may lie; 0 opens the file itself.

    Raises:
        ValueError: not a keypoint table, a damaged file, or one of a newer version.
    """
    try:
        file = pq.ParquetFile(open_copy(path, version, cache), pre_buffer=True) if cache else open_parquet(path)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(  # a ValueError, too
            f"{path}: no Parquet file, or a damaged one ({error}); jobs.compact TABLE --out NEW leaves such files out"
        ) from error
    found = (file.schema_arrow.metadata or {}).get(VERSION_KEY)
    if found is None:
        raise ValueError(f"{path}: Parquet, but not a keypoint table (no {VERSION_KEY.decode()} in its schema)")
    if int(found) > VERSION:
        raise ValueError(
            f"{path}: keypoint table version {int(found)}, this release reads up to {VERSION}; update posec3d"
        )
    return file


def read_table(uri: str, columns: Sequence[str] | None = None, split: str | None = None) -> Iterator[Clip]:
    """Yield the clips of a table, one row group in memory at a time.

    Args:
        uri: the table's directory, any fsspec URI.
        columns: columns to read beside those that a `Clip` cannot do without; None reads all.
        split: split expression, see `in_split`.

    Raises:
        FileNotFoundError: there is no table at `uri`.
    """
    needed = {"clip_id", "num_frames", "num_persons", "height", "width", "skeleton", "keypoints", "scores"}
    wanted = None if columns is None else sorted(needed | set(columns) | ({"splits"} if split else set()))
    for group in read_row_groups(uri, wanted):
        for clip in arrow_to_clips(group):
            if in_split(clip.splits, split):
                yield clip


def read_row_groups(uri: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the table's row groups as Arrow tables.

    Raises:
        FileNotFoundError: there is no table at `uri`.
    """
    for path in require_table(uri):
        file = open_file(path)
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=columns)


def write_table(clips: Iterable[Clip], uri: str, *, rows_per_file: int = 512) -> int:
    """Append clips to a table in files of at most `rows_per_file` rows; returns how many were written.

    Files of long clips have fewer rows, for rows wait in memory.
    """
    rows: list[dict[str, Any]] = []
    written = held = 0
    for clip in clips:
        rows.append(to_row(clip))
        held += clip.keypoints.nbytes
        if len(rows) == rows_per_file or held >= WAITING_BYTES:
            write_file(rows_to_arrow(rows), uri)
            written, rows, held = written + len(rows), [], 0
    if rows:
        write_file(rows_to_arrow(rows), uri)
    return written + len(rows)


def write_file(table: pa.Table, uri: str, name: str | None = None, *, row_group: int = ROW_GROUP) -> str:
    """Write one Arrow table as one new Parquet file in the directory `uri`, whole or not at all; returns its path.

    A write that seemed to fail may have succeeded: who tries again gives the same `name`, by default a random one.

    Row groups, of so many rows, are small, for they are what training reads in random order. Delta encoding of the
    coordinates was measured against plain and byte-stream-split and is the smallest on real tracks.
    """
    delta = {f"{name}.list.element": "DELTA_BINARY_PACKED" for name in ("keypoints", "boxes")}
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=row_group,
        compression="zstd",
        compression_level=6,
        use_dictionary=[f.name for f in table.schema if pa.types.is_string(f.type)],
        column_encoding={k: v for k, v in delta.items() if k.split(".")[0] in table.column_names} or None,
    )
    path = f"{uri.rstrip('/')}/{name or uuid.uuid4().hex}.parquet"
    write_whole(path, sink.getvalue().to_pybytes())
    return path


FAILURES = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
        ("time", pa.timestamp("ms", tz="UTC")),
    ]
)


def failures_uri(uri: str) -> str:
    """Where the failure rows of the table at `uri` lie."""
    return f"{uri.rstrip('/')}/_failures"


def read_failures(uri: str) -> dict[str, dict[str, Any]]:
    """The latest failure row of each clip of the table at `uri`, by clip_id."""
    latest: dict[str, dict[str, Any]] = {}
    for path in data_files(failures_uri(uri)):
        for row in open_parquet(path).read().to_pylist():
            if row["clip_id"] not in latest or row["time"] >= latest[row["clip_id"]]["time"]:
                latest[row["clip_id"]] = row
    return latest


def summary(uri: str) -> dict[str, Any]:
    """What a job needs to know of a table before it starts, from the small columns alone.

    Returns:
        clips, persons (largest M), skeletons (set), labels (label -> name), splits (name -> clips).

    Raises:
        ValueError: a label number has two names.
    """
    found: dict[str, Any] = {"clips": 0, "persons": 0, "skeletons": set(), "labels": {}, "splits": {}}
    for group in read_row_groups(uri, ["label", "label_name", "splits", "skeleton", "num_persons"]):
        for row in group.to_pylist():
            found["clips"] += 1
            found["persons"] = max(found["persons"], row["num_persons"])
            found["skeletons"].add(row["skeleton"])
            for split in row["splits"] or ():
                found["splits"][split] = found["splits"].get(split, 0) + 1
            if row["label"] is not None:
                name = row["label_name"] or str(row["label"])
                if found["labels"].setdefault(row["label"], name) != name:
                    raise ValueError(
                        f"{uri}: label {row['label']} is {found['labels'][row['label']]!r} in one clip and {name!r} "
                        "in another; extract both parts with one labels file"
                    )
    return found
