"""Pieces: poses of a long video, a clip a piece -> people with one number through all of it -> frames of any pieces."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from posec3d.table import Clip
from posec3d.track import nearness

LEAST_PRESENCE = 0.5
"""A person who is seen in less of a window is not there in it, where each is looked at alone."""

_PIECES_GAP_S = 0.5
"""Longest time around a cut in which the same person may be unseen."""
_PIECES_RADIUS = 0.5
"""Distance at which a joint counts 1/e as near, in sizes of the body."""
_PIECES_NEARNESS = 0.15
"""Least mean nearness of the joints of one person on both sides of a cut."""


def alone(clip: Clip, person: int, first: int = 0, end: int | None = None) -> Clip:
    """The clip with one of its people only, in frames first..end of it."""
    end = clip.num_frames if end is None else end
    part: Any = (slice(person, person + 1), slice(first, end))
    return replace(
        clip,
        start_frame=clip.start_frame + first,
        num_frames=end - first,
        keypoints=clip.keypoints[part],
        scores=clip.scores[part],
        keypoints_3d=None if clip.keypoints_3d is None else clip.keypoints_3d[part],
        boxes=None if clip.boxes is None else clip.boxes[part],
    )


def numbered(pieces: Iterable[Clip]) -> Iterator[tuple[Clip, list[int]]]:
    """Pieces of a video with the numbers their people have through all of it.

    Who is last seen before a cut is who is first seen, near there, after it; all others are new.
    """
    before: Clip | None = None
    numbers: list[int] = []
    count = 0
    for clip in pieces:
        same = np.full(clip.num_persons, -1) if before is None else _same_people(before, clip)
        new = itertools.count(count)
        numbers = [numbers[m] if m >= 0 else next(new) for m in same]
        count = next(new)
        yield clip, numbers
        before = clip


def _same_people(before: Clip, after: Clip) -> np.ndarray:
    """Of each person of a piece, who that is in the one before; -1 for nobody."""
    same = np.full(after.num_persons, -1)
    if not before.num_persons or not after.num_persons or before.start_frame + before.num_frames != after.start_frame:
        return same
    gap = _PIECES_GAP_S * (after.fps or 25)

    def edge(clip: Clip, last: bool) -> tuple[np.ndarray, np.ndarray]:
        """(M, V, 3) x y score of where each person is nearest to the cut, and (M,) how many frames that is away."""
        seen: Any = (clip.scores > 0).any(-1)
        away = (seen[:, ::-1] if last else seen).argmax(1)
        at = clip.num_frames - 1 - away if last else away
        rows = np.arange(clip.num_persons)
        points = np.concatenate([clip.keypoints[rows, at], clip.scores[rows, at][..., None]], -1)
        return points, np.where(seen.any(1), away, np.inf)

    (left, left_away), (right, right_away) = edge(before, True), edge(after, False)
    size = np.array([np.ptp(p[p[:, 2] > 0, :2], axis=0).max(initial=1) if (p[:, 2] > 0).any() else 1 for p in left])
    near = nearness(left[:, None], right[None], _PIECES_RADIUS * size[:, None])
    near[left_away > gap], near[:, right_away > gap] = 0, 0
    for m, n in zip(*linear_sum_assignment(-near), strict=True):
        if near[m, n] >= _PIECES_NEARNESS:
            same[n] = m
    return same


def _weight(xy: np.ndarray, score: np.ndarray) -> float:
    """Presence times size times score of one person, (T, V, 2) and (T, V): tables have people in this order."""
    there = (score > 0).any(1)
    xy, score = xy[there], score[there]
    seen = (score > 0)[..., None]
    sides = np.where(seen, xy, -np.inf).max(1) - np.where(seen, xy, np.inf).min(1)
    return float((np.sqrt(sides.prod(1)) * score.mean(1)).sum())


def joined(held: Sequence[tuple[Clip, list[int]]], start: int, end: int) -> tuple[Clip, list[int]]:
    """Frames start..end of pieces as one clip, of who is seen in them, the main subject first, and their numbers."""
    for clip, numbers in held:
        if (clip.start_frame, clip.start_frame + clip.num_frames) == (start, end):
            return clip, numbers
    parts = []
    weights: dict[int, float] = defaultdict(float)  # by number
    for clip, numbers in held:
        low, high = max(start, clip.start_frame), min(end, clip.start_frame + clip.num_frames)
        for m, number in enumerate(numbers):
            cut: Any = (m, slice(low - clip.start_frame, max(high, low) - clip.start_frame))
            if (clip.scores[cut] > 0).any():
                weights[number] += _weight(clip.keypoints[cut], clip.scores[cut])
                parts.append((clip, cut, number, slice(low - start, high - start)))
    by_weight = sorted(weights, key=lambda number: (-round(weights[number], 2), number))  # sums differ in rounding
    rows = {number: row for row, number in enumerate(by_weight)}  # a model may take the first alone
    first = held[0][0]
    shape = (len(rows), end - start, first.scores.shape[2])
    keypoints, scores = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    keypoints_3d = np.zeros((*shape, 3), np.float32) if first.keypoints_3d is not None else None
    for clip, cut, number, there in parts:
        keypoints[rows[number], there], scores[rows[number], there] = clip.keypoints[cut], clip.scores[cut]
        if keypoints_3d is not None and clip.keypoints_3d is not None:
            keypoints_3d[rows[number], there] = clip.keypoints_3d[cut]
    whole = replace(
        first, start_frame=start, num_frames=end - start, keypoints=keypoints, scores=scores,
        keypoints_3d=keypoints_3d, boxes=None,
    )  # fmt: skip
    return whole, list(rows)
