"""Annotations -> table: what every format has in common. A source has entries; each is read into one clip, or fails."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from posec3d.annotations.source import SourceError
from posec3d.compact import FAR
from posec3d.skeletons import SKELETONS
from posec3d.table import FARTHEST, Clip

MAX_FRAMES = 200_000
"""Of a clip: almost two hours at 30 a second."""
MAX_SIDE = MAX_LABELS = 100_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may say where a format leaves it open; None is the format's own choice."""

    skeleton: str | None = None
    size: tuple[int, int] | None = None
    """(h, w) of the frames, in pixels."""
    fps: float = 0.0
    max_persons: int | None = None
    labels: tuple[str, ...] | None = None
    """Names of the labels by number."""


@dataclass(frozen=True)
class Entry:
    """One clip of a source that is not read yet.

    `uri` says where it is. `read` makes the clip and raises ValueError or OSError if it cannot, SourceError if then
    none can. `share` is how much of the source has been read by then, in 0..1.
    """

    clip_id: str
    uri: str
    read: Callable[[], Clip]
    share: float


@dataclass(frozen=True)
class Annotations:
    """The entries of a source, in its order and found as one goes, and notes for the metadata of a table's schema."""

    entries: Iterator[Entry]
    notes: dict[str, str] = field(default_factory=dict)


def failing(error: Exception) -> Callable[[], Clip]:
    """What reads an entry of which it is known already that it cannot be read."""

    def read() -> Clip:
        raise error

    return read


def make_clip(
    clip_id: str,
    xy: np.ndarray,
    score: np.ndarray,
    *,
    size: tuple[int, int],
    skeleton: str,
    source: str,
    options: Options,
    label: tuple[int, str] | None = None,
    splits: Sequence[str] = (),
    xyz: np.ndarray | None = None,
    start_frame: int = 0,
) -> Clip:
    """Make the row of a clip from what a source says.

    Args:
        clip_id: unique in the table.
        xy: (M, T, V, 2) pixels. Points that are not finite, or so far outside the frame that no person is there, are
            taken for missing.
        score: (M, T, V) in 0..1; what is beyond is cut off.
        size: (h, w) of the frame.
        skeleton: name of the joints' order.
        source: what the row says it was made of.
        options: fps and max_persons; people beyond that are left out.
        label: number and name.
        splits: protocol parts.
        xyz: (M, T, V, 3) metres; what is not finite becomes 0.
        start_frame: number of the first frame.

    Raises:
        ValueError: arrays of other shapes, no frames, or a frame without pixels.
    """
    joints = len(SKELETONS[skeleton].joints)
    for name, array, wanted in (
        ("keypoints", xy, (*score.shape[:2], joints, 2)),
        ("scores", score, (*xy.shape[:2], joints)),
        ("3D keypoints", xyz, (*score.shape[:2], joints, 3)),
    ):
        if array is not None and (array.shape != wanted or array.dtype.kind not in "biuf"):
            raise ValueError(
                f"{name} of shape {array.shape} and type {array.dtype}, wanted numbers of shape (M, T, V={joints}, ...)"
                f" for the skeleton {skeleton}"
            )
    if not (1 <= xy.shape[1] <= MAX_FRAMES and 1 <= min(size) <= max(size) <= MAX_SIDE):
        raise ValueError(
            f"{xy.shape[1]} frames of {size[0]} x {size[1]} pixels, wanted at least one of each and at most "
            f"{MAX_FRAMES} frames of {MAX_SIDE} x {MAX_SIDE}"
        )
    people = slice(options.max_persons)
    xy, score = xy[people].astype(np.float32), score[people].astype(np.float32)
    with np.errstate(invalid="ignore"):
        height, width = size
        margin = FAR * max(size) - 1
        low, high = max(-margin, -FARTHEST), np.minimum([width + margin, height + margin], FARTHEST)
        near = np.all((xy > low) & (xy < high), -1)
    if xyz is not None:
        xyz = np.nan_to_num(xyz[people].astype(np.float32), nan=0, posinf=0, neginf=0)
    return Clip(
        clip_id=clip_id,
        num_frames=xy.shape[1],
        height=height,
        width=width,
        keypoints=np.where(near[..., None], xy, 0),
        scores=np.where(near, np.clip(np.nan_to_num(score), 0, 1), 0),
        skeleton=skeleton,
        start_frame=start_frame,
        fps=options.fps,
        label=None if label is None else label[0],
        label_name=None if label is None else label[1],
        splits=tuple(splits),
        keypoints_3d=xyz,
        pose_model=f"import {source}",
    )


def project(xyz: np.ndarray, focal: float, centre: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Look at points with a pinhole camera at the origin, y up.

    Args:
        xyz: (..., 3) metres, z the distance; z <= 0 or not finite: missing.
        focal: length in pixels.
        centre: x and y of the image's centre, in pixels.

    Returns:
        Pixels (..., 2), y down, and a score (...) of 1, 0 for what is missing.
    """
    there = np.isfinite(xyz).all(-1) & (xyz[..., 2] > 1e-3)
    x, y, z = np.moveaxis(np.where(there[..., None], xyz, (0.0, 0.0, 1.0)), -1, 0)
    pixels = np.stack([centre[0] + focal * x / z, centre[1] - focal * y / z], -1)
    return np.where(there[..., None], pixels, 0), there.astype(np.float32)


def by_number(number: int, options: Options, name: str) -> tuple[int, str]:
    """A label that a source numbers, and its name: the user's, else `name`.

    Raises:
        SourceError: the user gave too few names.
        ValueError: a negative number, or one that no data set needs.
    """
    if not 0 <= number < MAX_LABELS:
        raise ValueError(f"a label that is not from 0 to {MAX_LABELS - 1}; a model has an output for each below it too")
    if options.labels is None:
        return number, name
    if number >= len(options.labels):
        raise SourceError(f"label {number}, but the labels file has {len(options.labels)} names; give one a line")
    return number, options.labels[number]


def by_name(name: str, names: Sequence[str], options: Options) -> tuple[int, str]:
    """A label that a source names, and its number: its place in the user's list, else in `names`.

    Raises:
        ValueError: it is in neither.
    """
    known = options.labels or names
    if name not in known:
        raise ValueError(f"the label {name!r} is none of {', '.join(known[:30])}")
    return list(known).index(name), name


def choose_skeleton(joints: int, options: Options, usual: dict[int, str]) -> str:
    """The skeleton of so many joints: the user's, else the usual one, else the only one that has so many.

    Raises:
        SourceError: several have so many, and the user did not say which.
        ValueError: none has, or the user's has not.
    """
    if options.skeleton is not None:
        wanted = len(SKELETONS[options.skeleton].joints)
        if wanted != joints:
            raise ValueError(f"poses of {joints} joints, but the skeleton {options.skeleton} has {wanted}")
        return options.skeleton
    if joints in usual:
        return usual[joints]
    fitting = sorted(name for name, skeleton in SKELETONS.items() if len(skeleton.joints) == joints)
    if not fitting:
        counts = sorted({len(skeleton.joints) for skeleton in SKELETONS.values()})
        raise ValueError(f"poses of {joints} joints; the known skeletons have {', '.join(map(str, counts))}")
    if len(fitting) > 1:
        raise SourceError(f"poses of {joints} joints may be {' or '.join(fitting)}; say which by --skeleton")
    return fitting[0]
