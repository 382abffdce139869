"""Streams: a table row -> what graph networks see of it: joints, bones or their motion, people by frames by joints.

Coordinates are relative to the frame or to the subjects (2D), or to a body (3D), as PYSKL, whose graph networks these
are, prepares them. No volume is drawn.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from posec3d.clips import ClipConfig, Rng, clip_box, jitter, sample_frames
from posec3d.skeletons import Skeleton, convert, skeleton

if TYPE_CHECKING:
    from posec3d.table import Clip

MIN_SCORE = 0.01
"""A joint of this score or less has no place."""

_AXES = Skeleton("axes", ("hip_centre", "torso", "right_shoulder", "left_shoulder"), (), (), ())
"""Joints that say where a body stands and how it is turned; every skeleton has them."""


def relative_to_box(xy: np.ndarray, score: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Scale a box, such as the frame, to -1 .. 1 and put the scores beside the coordinates.

    Args:
        xy: (..., V, 2) pixels.
        score: (..., V); joints of `MIN_SCORE` or less go to (0, 0), the box's centre.
        box: x, y, w, h in pixels.

    Returns:
        (..., V, 3) float32: x, y, score.
    """
    x, y, w, h = box
    half = np.array([w / 2, h / 2], np.float32)
    score = np.where(np.isfinite(xy).all(-1), score, 0)
    points = np.where((score > MIN_SCORE)[..., None], (xy - half - np.array([x, y], np.float32)) / half, 0)
    return np.concatenate([points, score[..., None]], -1, dtype=np.float32)


def relative_to_body(xyz: np.ndarray, body: Skeleton) -> np.ndarray:
    """Turn and move people so that the first of them begins upright along z, shoulders along x, spine in the origin.

    The first person is whoever is there in most frames; frames without them are left out. All as published.

    Args:
        xyz: (M, T, V, 3) metres; zeros, or what is not finite, where a joint is absent.
        body: whose joints they are.

    Returns:
        (M, T', V, 3) float32, T' the frames that have the first person; all T, and zeros, where nobody is there.
    """
    points = np.where(np.isfinite(xyz).all(-1, keepdims=True), xyz, 0).astype(np.float64)
    present = (points != 0).any((2, 3))  # (M, T)
    if not present.any():
        return np.zeros(xyz.shape, np.float32)
    points = points[np.argsort(-present.sum(1), kind="stable")]
    points = points[:, (points[0] != 0).any((1, 2))]
    there = (points != 0).any(-1, keepdims=True)
    axes, known = convert(points[0], there[0, ..., 0], body, _AXES)
    hips, spine, right, left = axes[known.all(1).argmax()]  # of the first frame that has them
    turn = _turn(spine - hips, np.array([0.0, 0, 1]))
    turn = _turn(turn @ (right - left), np.array([1.0, 0, 0])) @ turn
    return np.where(there, (points - spine) @ turn.T, 0).astype(np.float32)


def _turn(direction: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The smallest rotation that brings a direction onto a unit axis: (3, 3), by Rodrigues' formula."""
    length = np.linalg.norm(direction)
    across = np.cross(direction, axis)
    if length < 1e-6 or np.linalg.norm(across) < 1e-6 * length:
        return np.eye(3)  # no direction, or along the axis already
    cos = direction @ axis / length
    x, y, z = across / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cos)


def stream(points: np.ndarray, name: str, body: Skeleton, frames: np.ndarray, *, scored: bool) -> np.ndarray:
    """Features of some frames.

    Args:
        points: (M, T, V, C), all frames.
        name: joint, bone (from the joint's parent to it), joint-motion or bone-motion (from a frame to the next one
            of the video, not of the clip; of the last frame 0).
        body: whose joints they are.
        frames: (L,) numbers of frames.
        scored: the last channel is a score; that of a difference is the mean of the two.

    Returns:
        (M, L, V, C).
    """

    def at(numbers: np.ndarray) -> np.ndarray:
        joints = points[:, numbers]
        return _difference(joints, joints[:, :, list(body.parents)], scored) if name.startswith("bone") else joints

    now = at(frames)
    if not name.endswith("motion"):
        return now
    last = points.shape[1] - 1
    motion = _difference(at(np.minimum(frames + 1, last)), now, scored)
    motion[:, frames == last] = 0
    return motion


def _difference(a: np.ndarray, b: np.ndarray, scored: bool) -> np.ndarray:
    difference = a - b
    if scored:
        difference[..., -1] = (a[..., -1] + b[..., -1]) / 2
    return difference


def training_people(video: "Clip", config: ClipConfig, persons: int, rng: Rng) -> np.ndarray:
    """Sample and augment one clip.

    Args:
        video: a table's row.
        config: its space is "frame", "subject" or "body".
        persons: M; people are cut or zero-padded to so many.
        rng: source of all draws.

    Returns:
        (M, config.length, V, 3) float32: x, y, score, or in "body" x, y, z in metres.
    """
    body = skeleton(video.skeleton)
    points, scored = _points(video, config, body, rng)
    (frames,) = sample_frames(points.shape[1], config, rng=rng)
    people = stream(points, config.stream, body, frames, scored=scored)
    axes = 2 if scored else 3
    if config.rotate or config.scale:
        change = np.eye(axes)
        if config.rotate:
            angles = np.radians(config.rotate) * rng.uniform(-1, 1, axes * (axes - 1) // 2)
            for (a, b), angle in zip(((0, 1), (1, 2), (0, 2)), angles, strict=False):
                plane = np.eye(axes)
                plane[a, a] = plane[b, b] = math.cos(angle)
                plane[a, b], plane[b, a] = -math.sin(angle), math.sin(angle)
                change = plane @ change
        change = (1 + config.scale * rng.uniform(-1, 1, axes))[:, None] * change
        people[..., :axes] = people[..., :axes] @ change.T.astype(np.float32)
    if config.noise or config.offset:
        there = (people != 0).any(-1, keepdims=True)
        people[..., :axes] += there * jitter((*people.shape[:-1], axes), config, rng)
    if rng.random() < config.flip:
        people = flipped(people, body)
    return padded(people, persons)


def testing_people(video: "Clip", config: ClipConfig, persons: int, num_clips: int = 1) -> np.ndarray:
    """Sample the clips a video is tested with; nothing is random.

    Returns:
        (num_clips, M, config.length, V, 3), as of `training_people`.
    """
    body = skeleton(video.skeleton)
    points, scored = _points(video, config, body)
    frames = sample_frames(points.shape[1], config, num_clips=num_clips)
    return np.stack([padded(stream(points, config.stream, body, clip, scored=scored), persons) for clip in frames])


def _points(video: "Clip", config: ClipConfig, body: Skeleton, rng: Rng | None = None) -> tuple[np.ndarray, bool]:
    """All frames (M, T, V, 3) in the config's space, and whether the last channel is a score."""
    keep = rng.random(video.scores.shape) >= config.drop if rng is not None and config.drop else None
    if config.space == "body":
        if video.keypoints_3d is None:
            raise ValueError(f"clip {video.clip_id} has no keypoints_3d, which clip.space body needs; take frame")
        xyz = video.keypoints_3d if keep is None else video.keypoints_3d * keep[..., None]
        return relative_to_body(xyz, body), False
    scores = video.scores if keep is None else video.scores * keep
    size = video.height, video.width
    box = (0, 0, *size[::-1]) if config.space == "frame" else clip_box(video.keypoints, scores, size, config.padding)
    return relative_to_box(video.keypoints, scores, box), True


def flipped(people: np.ndarray, body: Skeleton) -> np.ndarray:
    """Mirror people (..., V, C) left to right: x -> -x, and left joints become right ones."""
    mirrored = people[..., list(body.mirror), :].copy()
    mirrored[..., 0] *= -1
    return mirrored


def padded(people: np.ndarray, persons: int) -> np.ndarray:
    """Cut or zero-pad the first axis of people (M, T, V, C) to `persons`."""
    people = people[:persons]
    return np.pad(people, [(0, persons - len(people)), (0, 0), (0, 0), (0, 0)])
