"""Counts: keypoint table -> what its statistics need, a row group at a time, to add up on any number of machines.

A clip of 10 KB becomes one row of scalars (`CLIP`, with its pose signature some 300 bytes); what belongs to joints and
frames becomes sums. Both are all that leaves a machine: `posec3d.statistics` makes the report's numbers of them.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from posec3d import table as tables
from posec3d.clips import subject_box
from posec3d.table import Clip

COLUMNS = [f.name for f in tables.SCHEMA if f.name not in ("start_frame", "keypoints_3d", "boxes")]

_NAME = pa.dictionary(pa.int32(), pa.string())
SIGNATURE = (4, 16)  # times and joints of a signature
CLIP = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video", pa.int64()),  # a digest, 0 without one
        ("folder", _NAME),
        ("splits", _NAME),  # a JSON list, sorted
        ("label", pa.int32()),
        ("label_name", _NAME),
        ("skeleton", _NAME),
        ("pose_model", _NAME),
        ("detector", _NAME),
        ("frames", pa.int32()),
        ("fps", pa.float32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("persons", pa.int32()),
        ("quality", pa.float32()),  # mean score of all joints where their person is there; null: nobody is
        ("box", pa.float32()),  # shares of the frame's area: the box of all people in all frames, training's crop
        ("crop", pa.float32()),
        ("exchanges", pa.int32()),
        ("jumps", pa.int32()),
        ("content", pa.int64()),  # a digest of the coordinates, 0 without people
        ("signature", pa.binary(2 * SIGNATURE[0] * SIGNATURE[1])),
        ("file", _NAME),
        ("row_group", pa.int32()),
    ]
)

SUMS = ("present", "scored", "score", "outside")
"""Of each joint: frames its person is there, frames it has a score, its scores in 1/255, scored outside the frame."""

TRACKED = 8  # people of a clip among whom exchanges are looked for
MISSING = -128  # in a signature
SIGNATURE_UNIT = 40  # steps a spread of the body


class Part(NamedTuple):
    """A part of a table whose joints are summed: all clips of a skeleton, or those of one of its splits or classes."""

    skeleton: str
    kind: Literal["", "split", "class"] = ""
    name: str = ""
    label: int | None = None


@dataclass
class Counts:
    """What one or many row groups add up to."""

    clips: list[pa.Table] = field(default_factory=list)
    """Parts of one table of `CLIP`."""
    joints: dict[Part, np.ndarray] = field(default_factory=dict)
    """int64 (V, 4) of `SUMS`."""
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    """By skeleton: int64 (256,), histogram of the stored scores of all joints where their person is there."""
    people: Counter[int] = field(default_factory=Counter)
    """Frames by how many people are in them."""
    tracks: Counter[int] = field(default_factory=Counter)
    """Tracks by the frames in which their person is there."""
    totals: Counter[str] = field(default_factory=Counter)
    """files, row_groups, bytes, and keypoints and person_frames stored."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """int64 (2,): bytes of each column in its files, and before compression."""

    def add(self, other: "Counts") -> None:
        """Add another part of the same table."""
        self.clips += other.clips
        self.people.update(other.people)
        self.tracks.update(other.tracks)
        self.totals.update(other.totals)
        for part, sums in other.joints.items():
            self.joints[part] = self.joints.get(part, 0) + sums
        for name, histogram in other.scores.items():
            self.scores[name] = self.scores.get(name, 0) + histogram
        for name, size in other.columns.items():
            self.columns[name] = self.columns.get(name, 0) + size


def count_file(path: str) -> Counts:
    """Count one data file of a table, one row group in memory at a time.

    Raises:
        ValueError: not a keypoint table.
    """
    file = tables.open_file(path)
    counts = Counts()
    for number in range(file.num_row_groups):
        counts.add(count_row_group(file.read_row_group(number, columns=COLUMNS), (path, number)))
        group = file.metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            name = column.path_in_schema.split(".")[0]
            size = np.array([column.total_compressed_size, column.total_uncompressed_size], np.int64)
            counts.columns[name] = counts.columns.get(name, 0) + size
    if counts.clips:
        counts.clips = [pa.concat_tables(counts.clips).unify_dictionaries().combine_chunks()]
    counts.totals.update(files=1, row_groups=file.num_row_groups)
    return counts


def count_row_group(group: pa.Table, where: tuple[str, int] = ("", 0)) -> Counts:
    """Count one row group.

    Args:
        group: with `COLUMNS`.
        where: its file and number, so that a clip is found again.
    """
    counts = Counts()
    rows = [_count_clip(counts, clip, where) for clip in tables.arrow_to_clips(group)]
    columns = list(zip(*rows, strict=True)) or [()] * len(CLIP)
    counts.clips = [pa.table([pa.array(c, f.type) for c, f in zip(columns, CLIP, strict=True)], schema=CLIP)]
    return counts


def _count_clip(counts: Counts, clip: Clip, where: tuple[str, int]) -> tuple:
    xy, scores = clip.keypoints, clip.scores
    joints = scores.shape[-1]
    levels = np.rint(scores * 255).astype(np.uint8)
    scored = levels > 0
    there = scored.any(-1)
    x, y = xy[..., 0], xy[..., 1]
    # Pixels are around whole coordinates: the frame begins half a pixel before the first one.
    inside = (x >= -0.5) & (x <= clip.width - 0.5) & (y >= -0.5) & (y <= clip.height - 0.5)
    present = int(there.sum())
    sums = np.empty((joints, len(SUMS)), np.int64)
    sums[:, 0] = present
    sums[:, 1] = scored.sum((0, 1))
    sums[:, 2] = levels.sum((0, 1), dtype=np.int64)
    sums[:, 3] = (scored & ~inside).sum((0, 1))
    parts = [Part(clip.skeleton), *(Part(clip.skeleton, "split", split) for split in sorted(set(clip.splits)))]
    if clip.label is not None:
        parts.append(Part(clip.skeleton, "class", clip.label_name or "", clip.label))
    for part in parts:
        counts.joints[part] = counts.joints.get(part, 0) + sums
    histogram = np.bincount(levels.ravel(), minlength=256)
    histogram[0] -= joints * (there.size - present)
    counts.scores[clip.skeleton] = counts.scores.get(clip.skeleton, 0) + histogram
    counts.people.update(there.sum(0).tolist() or [0] * clip.num_frames)
    counts.tracks.update(there.sum(1).tolist())
    counts.totals.update(keypoints=scores.size, person_frames=there.size)

    frame = (clip.height, clip.width)
    area = max(clip.height * clip.width, 1)
    # Without padding and aspect it is the box itself.
    tight, crop = subject_box(xy, scores, frame, padding=0, min_size=1, aspect=None), subject_box(xy, scores, frame)
    exchanges, jumps = identity_breaks(xy, scored, clip.fps)
    return (
        clip.clip_id,
        _digest(clip.video.encode()) if clip.video else 0,
        clip.video.rpartition("/")[0] if clip.video else None,
        json.dumps(sorted(set(clip.splits))),
        clip.label,
        clip.label_name,
        clip.skeleton,
        clip.pose_model,
        clip.detector,
        clip.num_frames,
        clip.fps,
        clip.height,
        clip.width,
        clip.num_persons,
        int(sums[:, 2].sum()) / 255 / (present * joints) if present else None,
        tight[2] * tight[3] / area if present else None,
        crop[2] * crop[3] / area if present else None,
        exchanges,
        jumps,
        _digest(xy.tobytes()) if present else 0,
        signature(xy, scores),
        *where,
    )


def _digest(data: bytes) -> int:
    """A number of 63 bits, and not 0."""
    return 1 + (int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 2)


def identity_breaks(xy: np.ndarray, scored: np.ndarray, fps: float) -> tuple[int, int]:
    """Where tracks seem to change their person: suspicions, to be looked at.

    An exchange: from a frame to the next two people together go further than a body's height, and only a quarter of
    it if their places are swapped. A jump: one goes further than its height in a frame. Under 10 frames a second
    people may go proportionally further.

    Args:
        xy: (M, T, V, 2) pixels; the first `TRACKED` people are looked at.
        scored: (M, T, V) bool.
        fps: 0 when unknown.

    Returns:
        Exchanges and jumps; the jumps of an exchange are not counted again.
    """
    xy, scored = xy[:TRACKED], scored[:TRACKED]
    people, frames = scored.shape[:2]
    if not people or frames < 2:
        return 0, 0
    weight = scored.astype(np.float32)
    number = weight.sum(-1)  # (M, T)
    x = np.einsum("mtv,mtv->mt", xy[..., 0], weight) / np.maximum(number, 1)
    y = np.einsum("mtv,mtv->mt", xy[..., 1], weight) / np.maximum(number, 1)
    squares = ((xy[..., 0] - x[..., None]) ** 2 + (xy[..., 1] - y[..., None]) ** 2) * weight
    # The joints of a standing person spread by some 0.3 of the height around their mean.
    height = np.sqrt(squares.sum((1, 2)) / np.maximum(number.sum(1), 1)) / 0.3
    reach = height * max(1.0, 10 / fps if fps > 0 else 1.0)
    there = number > 0
    # (T - 1, M, M): from person a in a frame to person b in the next.
    before, after = slice(None, -1), slice(1, None)
    step = np.hypot(x[:, None, before] - x[None, :, after], y[:, None, before] - y[None, :, after]).transpose(2, 0, 1)
    both = (there[:, before] & there[:, after]).T
    own = np.where(both, np.diagonal(step, axis1=1, axis2=2), 0)
    jumped = own > reach
    together = own[:, :, None] + own[:, None, :]
    swapped = step + step.transpose(0, 2, 1)
    pairs = both[:, :, None] & both[:, None, :] & np.triu(np.ones((people, people), bool), 1)
    exchanged = pairs & (together > (reach[:, None] + reach[None, :]) / 2) & (swapped < together / 4)
    taken = exchanged.any(1) | exchanged.any(2)
    return int(exchanged.sum()), int((jumped & ~taken).sum())


def signature(xy: np.ndarray, scores: np.ndarray) -> bytes:
    """The pose of the person with the highest sum of scores at four times, whatever its place and size.

    Args:
        xy: (M, T, V, 2) pixels.
        scores: (M, T, V).

    Returns:
        int8 (4, 16, 2), 1/40 of the joints' spread around their mean; `MISSING` where a joint has no score.
    """
    times, count = SIGNATURE
    result = np.full((times, count, 2), MISSING, np.int8)
    people, frames, joints = scores.shape
    if people and frames:
        person = scores.sum((1, 2)).argmax()
        chosen = ((np.arange(times) + 0.5) * frames / times).astype(int)
        which = np.arange(joints) if joints <= count else np.arange(count) * joints // count
        points, seen = xy[person, chosen][:, which], scores[person, chosen][:, which] > 0
        if seen.any():
            points = points - points[seen].mean(0)
            spread = np.sqrt((points[seen] ** 2).sum(-1).mean()) + 1e-6
            steps = np.clip(np.rint(np.nan_to_num(points) / spread * SIGNATURE_UNIT), -127, 127)
            result[:, : len(which)] = np.where(seen[..., None], steps, MISSING)
    return result.tobytes()
