"""People of single frames -> tracks: which boxes and keypoints are one person through a video."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

MAX_GAP_S = 0.5
"""A person who is out of sight for longer comes back as a new track."""
MIN_PRESENCE_S = 0.4
"""Tracks seen for less are dropped: on real clips false boxes lasted up to 1/3 s, people 2/3 s and more."""

_MIN_SIMILARITY = 0.1
_UNKNOWN_FPS = 30.0


def link(
    boxes: Sequence[np.ndarray], keypoints: Sequence[np.ndarray], *, fps: float, max_persons: int = 10
) -> np.ndarray:
    """Link the people of T frames into tracks.

    Each frame's people are assigned to the tracks so that the sum of similarities is largest; a similarity is the
    mean of box overlap and keypoint nearness. The keypoints keep two people apart whose boxes cross.

    Args:
        boxes: for each frame (n, 4 or more), x1 y1 x2 y2 in pixels.
        keypoints: for each frame (n, V, 3), x and y in pixels and a score.
        fps: frames per second; 0 when unknown, which is taken for 30.
        max_persons: at most so many tracks are kept.

    Returns:
        (M, T) int64: the person's index in that frame's boxes, -1 where absent. Ordered by presence times size, so
        that person 0 is the main subject.
    """
    fps = fps or _UNKNOWN_FPS
    tracks: list[dict[int, int]] = []  # frame -> index; frames ascend, so the last key is the latest sight
    for t, (new_boxes, new_keypoints) in enumerate(zip(boxes, keypoints, strict=True)):
        live = [track for track in tracks if t - _latest(track) <= 1 + MAX_GAP_S * fps]
        unmatched = set(range(len(new_boxes)))
        if live and unmatched:
            similarity = np.stack(
                [_similarity(track, t, fps, boxes, keypoints, new_boxes, new_keypoints) for track in live]
            )
            for row, i in zip(*linear_sum_assignment(-similarity), strict=True):
                if similarity[row, i] >= _MIN_SIMILARITY:
                    live[row][t] = int(i)
                    unmatched.remove(int(i))
        tracks += [{t: i} for i in sorted(unmatched)]
    # In a very short clip nobody is seen for long: a third of it is enough there.
    shortest = min(MIN_PRESENCE_S * fps, len(boxes) / 3)
    tracks = [track for track in tracks if len(track) >= shortest]
    tracks.sort(key=lambda track: -sum(_size(boxes[t][i]) for t, i in track.items()))
    table = np.full((min(len(tracks), max_persons), len(boxes)), -1, np.int64)
    for row, track in zip(table, tracks, strict=False):
        row[list(track)] = list(track.values())
    return table


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4 or more) and (m, 4 or more) -> (n, m) in 0..1."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    common = np.clip(high - low, 0, None).prod(-1)
    area_a, area_b = (np.clip(x[:, 2:4] - x[:, :2], 0, None).prod(-1) for x in (a, b))
    return common / np.maximum(area_a[:, None] + area_b[None] - common, 1e-9)


def nearness(a: np.ndarray, b: np.ndarray, radius: float) -> np.ndarray:
    """How well one person's keypoints lie on other people's.

    Args:
        a: (V, 3), x y score.
        b: (n, V, 3).
        radius: distance, in pixels, at which a joint counts 1/e.

    Returns:
        (n,) in 0..1; joints that either is unsure of count less.
    """
    squared = ((a[:, :2] - b[:, :, :2]) ** 2).sum(-1)
    weight = np.minimum(a[:, 2], b[:, :, 2]) + 1e-6
    return (np.exp(-squared / radius**2) * weight).sum(1) / weight.sum(1)


def _similarity(
    track: dict[int, int],
    t: int,
    fps: float,
    boxes: Sequence[np.ndarray],
    keypoints: Sequence[np.ndarray],
    new_boxes: np.ndarray,
    new_keypoints: np.ndarray,
) -> np.ndarray:
    """Compare a track's latest sight with the (n,) people of frame t; 0..1."""
    before = _latest(track)
    box, points = boxes[before][track[before]], keypoints[before][track[before]]
    # Somebody who walks moves 2 to 4 times the root of their box's area in a second.
    radius = min(0.1 + 4 * (t - before) / fps, 0.5) * _size(box)
    return (iou(box[None], new_boxes)[0] + nearness(points, new_keypoints, radius)) / 2


def _latest(track: dict[int, int]) -> int:
    return next(reversed(track))


def _size(box: np.ndarray) -> float:
    """Root of a box's area, in pixels; at least 1."""
    return float(np.sqrt(np.clip(box[2:4] - box[:2], 1, None).prod()))
