"""Comparison: the same clips in two keypoint tables -> how far apart their joints are, by joint and class."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from posec3d.skeletons import counterparts, skeleton
from posec3d.table import Clip, with_skeleton

COMPARED = {
    "unmatched": "share of the two tables' clips that only one of them has",
    "distance": "mean distance of the joints that both tables have, over the subject's size",
    "far": "share of these joints that are further than a tenth of the subject's size apart",
    "found_less": "share of joints found in the other table less the share found in this one",
}
"""Measures of a comparison, which a threshold file may limit."""

SUMS = ("frames", "both", "distance", "far", "found_here", "found_there", "score_here", "score_there")
"""Of each joint of paired people: frames either table has its person in, frames both have it in, and sums over them."""

FAR = 0.1  # of the subject's size
APART = 1.0  # mean distance over the size from which on two people are not the same


@dataclass
class Differences:
    """What the comparisons of clips add up to."""

    joints: dict[tuple[str, str, str], np.ndarray] = field(default_factory=dict)
    """float64 (V, 8) of `SUMS` by (skeleton, label, name)."""
    clips: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Clips compared by (label, name)."""
    totals: Counter[str] = field(default_factory=Counter)
    """other_length; people, people_only_here, people_only_there."""

    def add(self, other: "Differences") -> None:
        """Add other clips' differences."""
        self.clips.update(other.clips)
        self.totals.update(other.totals)
        for key, sums in other.joints.items():
            self.joints[key] = self.joints.get(key, 0) + sums

    def add_clip(self, here: Clip, there: Clip) -> None:
        """Compare a clip's rows. Those of different lengths are only counted: their frames are not the same."""
        if here.num_frames != there.num_frames:
            self.totals["other_length"] += 1
            return
        target, source = skeleton(here.skeleton), skeleton(there.skeleton)
        shared = np.array([bool(counterparts(joint, source)) for joint in target.joints])
        there = with_skeleton(there, here.skeleton)
        scale = np.array([here.width / there.width, here.height / there.height], np.float32)
        theirs = there.keypoints * scale
        sizes = [_size(*person) for person in zip(here.keypoints, here.scores, strict=True)]
        pairs = _paired(here, theirs, there.scores, sizes)
        name = ("" if here.label is None else str(here.label), here.label_name or "")
        self.clips[name] += 1
        self.totals.update(
            people=len(pairs),
            people_only_here=here.num_persons - len(pairs),
            people_only_there=there.num_persons - len(pairs),
        )
        for m, n in pairs:
            a, b = here.scores[m], there.scores[n]
            frames = (a > 0).any(-1) | (b > 0).any(-1)
            both = (a > 0) & (b > 0)
            distance = np.where(both, _distance(here.keypoints[m], theirs[n]) / sizes[m], 0)
            sums = (
                np.full(a.shape[1], frames.sum()),
                *(values.sum(0) for values in (both, distance, distance > FAR, a > 0, b > 0, a, b)),
            )
            key = (here.skeleton, *name)
            self.joints[key] = self.joints.get(key, 0) + np.stack(sums, -1) * shared[:, None]


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.hypot(one[..., 0] - other[..., 0], one[..., 1] - other[..., 1])


def _size(xy: np.ndarray, scores: np.ndarray) -> float:
    """Median over frames of the longer side of a person's box, pixels, at least 1."""
    seen = scores > 0
    there = seen.any(-1)
    if not there.any():
        return 1.0
    sides = [
        np.where(seen, axis, -np.inf)[there].max(-1) - np.where(seen, axis, np.inf)[there].min(-1)
        for axis in (xy[..., 0], xy[..., 1])
    ]
    return max(float(np.median(np.maximum(*sides))), 1.0)


def _paired(here: Clip, theirs: np.ndarray, scores: np.ndarray, sizes: list[float]) -> list[tuple[int, int]]:
    """People of both rows that are the same: the pairing with the least mean distance."""
    cost = np.full((here.num_persons, len(theirs)), 2 * APART)
    for m in range(here.num_persons):
        for n in range(len(theirs)):
            both = (here.scores[m] > 0) & (scores[n] > 0)
            if both.any():
                cost[m, n] = min(_distance(here.keypoints[m], theirs[n])[both].mean() / sizes[m], 2 * APART)
    return [(int(m), int(n)) for m, n in zip(*linear_sum_assignment(cost), strict=True) if cost[m, n] < APART]


def summarise(found: Differences, here: int, there: int, matched: int, chosen: int, against: str) -> dict[str, Any]:
    """Differences as numbers that people read.

    Args:
        found: of all clips compared.
        here: clip_ids of the table; one that several rows have counts once, here as in `matched`.
        there: those of the other one.
        matched: clip_ids in both.
        chosen: how many of them were looked at.
        against: the other table's URI.

    Returns:
        A dictionary that JSON can hold; joints and classes are tables, measures those of `COMPARED`.
    """
    by_skeleton: dict[str, np.ndarray] = {}
    by_class: dict[tuple[str, str], np.ndarray] = {}
    for (kind, label, name), sums in found.joints.items():
        by_skeleton[kind] = by_skeleton.get(kind, 0) + sums
        by_class[label, name] = by_class.get((label, name), 0) + sums.sum(0)
    joints = [
        {"skeleton": kind, "joint": joint, **_row(sums)}
        for kind, rows in sorted(by_skeleton.items())
        for joint, sums in zip(skeleton(kind).joints, rows, strict=True)
    ]
    classes = [
        {"label": int(label) if label else None, "name": name, "clips": clips, **_row(by_class[label, name])}
        for (label, name), clips in found.clips.items()
        if (label, name) in by_class
    ]
    classes.sort(key=lambda row: (-(row["distance"] or 0), row["name"]))
    everything = _row(sum(by_class.values(), np.zeros(len(SUMS))))
    every = here + there - matched
    less = None
    if everything["found_here"] is not None:
        less = round(everything["found_there"] - everything["found_here"], 6)
    return {
        "against": against,
        "matched": matched,
        "only_here": here - matched,
        "only_there": there - matched,
        "compared": sum(found.clips.values()),
        "sampled": chosen < matched,
        **{name: found.totals[name] for name in ("other_length", "people", "people_only_here", "people_only_there")},
        "joints": joints,
        "classes": classes,
        "measures": {
            "unmatched": round((every - matched) / every, 6) if every else 0.0,
            "distance": everything["distance"],
            "far": everything["far"],
            "found_less": less,
        },
    }


def _row(sums: np.ndarray) -> dict[str, Any]:
    """Sums of `SUMS` as the numbers shown."""
    frames, both, distance, far, here, there, score_here, score_there = sums.tolist()

    def over(part: float, whole: float) -> float | None:
        return round(part / whole, 6) if whole else None

    return {
        "distance": over(distance, both),
        "far": over(far, both),
        "found_here": over(here, frames),
        "found_there": over(there, frames),
        "score_here": over(score_here, here),
        "score_there": over(score_there, there),
    }
