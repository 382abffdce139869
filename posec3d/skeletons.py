"""Skeletons: which joints a keypoint table's rows hold, which pairs are limbs, and what a mirror swaps."""

import itertools
import re
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Skeleton:
    """Names and pairs of one joint convention; all indices are 0-based into `joints`."""

    name: str
    joints: tuple[str, ...]
    """`left_x` and `right_x` are a pair, which a mirror swaps."""
    limbs: tuple[tuple[int, int], ...]
    """The L limbs in drawing order, (start, end). The order is part of a trained limb model."""
    bones: tuple[tuple[int, int], ...]
    """(joint, the next one toward the body's centre) for all joints but the centre: the tree of graph networks."""
    parents: tuple[int, ...]
    """From which joint a graph network's bone vector of each joint is measured; of one joint from itself."""

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(left, right) joints, which a horizontal flip swaps."""
        number = {joint: i for i, joint in enumerate(self.joints)}
        left = [joint for joint in self.joints if joint.startswith("left_")]
        return tuple((number[joint], number[joint.replace("left_", "right_")]) for joint in left)

    @property
    def mirror(self) -> tuple[int, ...]:
        """Joint order after a horizontal flip: `flipped = joints[mirror]`."""
        order = list(range(len(self.joints)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return tuple(order)


def _skeleton(
    name: str,
    joints: str,
    chains: str,
    *,
    across: str = "hip",
    limbs: tuple[tuple[int, int], ...] | None = None,
    parents: dict[int, int] | None = None,
) -> Skeleton:
    """Write a skeleton down by names.

    Args:
        name: of the skeleton.
        joints: in order; `l_x` and `r_x` stand for left_x and right_x.
        chains: joints from the outside in, `;` between chains. A joint that comes in pairs stands for both sides.
        across: the pair that a last limb joins; empty for none.
        limbs: in place of the bones, start and end exchanged, and that last one.
        parents: joint -> where its bone vector begins, where that is not the next joint inward.
    """
    full = tuple(re.sub(r"^l_", "left_", re.sub(r"^r_", "right_", joint)) for joint in joints.split())
    number = {joint: i for i, joint in enumerate(full)}
    sides = [
        [joint if joint in number else f"{side}_{joint}" for joint in chain.split()]
        for chain in chains.split(";")
        for side in ("left", "right")
    ]
    bones = tuple(dict.fromkeys((number[a], number[b]) for side in sides for a, b in itertools.pairwise(side)))
    if limbs is None:
        ends = ((number[f"left_{across}"], number[f"right_{across}"]),) if across else ()
        limbs = (*((b, a) for a, b in bones), *ends)
    inward = {i: i for i in range(len(full))} | dict(bones) | (parents or {})
    return Skeleton(name, full, limbs, bones, tuple(inward[i] for i in range(len(full))))


_BOTH = " ".join(f"l_{part} r_{part}" for part in "shoulder elbow wrist hip knee ankle".split())
_FACE = "nose l_eye r_eye l_ear r_ear"
_FEET = "big_toe ankle; small_toe ankle; heel ankle"

COCO17 = _skeleton(
    "coco17",
    f"{_FACE} {_BOTH}",
    "wrist elbow shoulder nose; ankle knee hip shoulder; ear eye nose",  # PYSKL's graph
    # The order of PYSKL's limb configurations, which its limb checkpoints expect.
    limbs=(
        (0, 5), (0, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (11, 13), (13, 15),
        (6, 12), (12, 14), (14, 16), (0, 1), (0, 2), (1, 3), (2, 4), (11, 12),
    ),
    parents={11: 0, 12: 0},
)  # fmt: skip

_OPENPOSE_ARMS = "nose neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist"

SKELETONS = {
    skeleton.name: skeleton
    for skeleton in (
        COCO17,
        # PYSKL's graph; its bone vectors begin at the nose.
        _skeleton(
            "openpose18",
            f"{_OPENPOSE_ARMS} r_hip r_knee r_ankle l_hip l_knee l_ankle r_eye l_eye r_ear l_ear",
            "wrist elbow shoulder neck; ankle knee hip shoulder; ear eye nose neck",
            parents={0: 0, 1: 0},
        ),
        _skeleton(
            "openpose25",
            f"{_OPENPOSE_ARMS} mid_hip r_hip r_knee r_ankle l_hip l_knee l_ankle r_eye l_eye r_ear l_ear "
            "l_big_toe l_small_toe l_heel r_big_toe r_small_toe r_heel",
            f"wrist elbow shoulder neck; ankle knee hip mid_hip neck; ear eye nose neck; {_FEET}",
            across="",
        ),
        _skeleton(
            "halpe26",
            f"{_FACE} {_BOTH} head neck mid_hip l_big_toe r_big_toe l_small_toe r_small_toe l_heel r_heel",
            f"wrist elbow shoulder neck; ankle knee hip mid_hip neck; ear eye nose neck; head neck; {_FEET}",
            across="",
        ),
        # Kinect 2. PYSKL's graph; in its bone vectors the tip of a hand hangs on the thumb.
        _skeleton(
            "ntu25",
            "hip_centre spine neck head l_shoulder l_elbow l_wrist l_hand r_shoulder r_elbow r_wrist r_hand "
            "l_hip l_knee l_ankle l_foot r_hip r_knee r_ankle r_foot shoulder_centre "
            "l_hand_tip l_thumb r_hand_tip r_thumb",
            "hand wrist elbow shoulder shoulder_centre; foot ankle knee hip hip_centre spine shoulder_centre; "
            "head neck shoulder_centre; hand_tip hand; thumb hand",
            across="",
            parents={21: 22, 23: 24},
        ),
        # Penn Action. Nearly every other skeleton holds these joints: the subset to compare on.
        _skeleton("penn13", f"head {_BOTH}", "wrist elbow shoulder head; ankle knee hip shoulder"),
        _skeleton(
            "jhmdb15",
            "neck belly face r_shoulder l_shoulder r_hip l_hip r_elbow l_elbow r_knee l_knee r_wrist l_wrist "
            "r_ankle l_ankle",
            "wrist elbow shoulder neck; ankle knee hip belly neck; face neck",
            across="",
        ),
        _skeleton(
            "sbu15",
            "head neck torso l_shoulder l_elbow l_hand r_shoulder r_elbow r_hand l_hip l_knee l_foot "
            "r_hip r_knee r_foot",
            "hand elbow shoulder neck; foot knee hip torso neck; head neck",
            across="",
        ),
        # Kinect 1, as in UTD-MHAD.
        _skeleton(
            "utd20",
            "head shoulder_centre spine hip_centre l_shoulder l_elbow l_wrist l_hand r_shoulder r_elbow r_wrist "
            "r_hand l_hip l_knee l_ankle l_foot r_hip r_knee r_ankle r_foot",
            "hand wrist elbow shoulder shoulder_centre; foot ankle knee hip hip_centre spine shoulder_centre; "
            "head shoulder_centre",
            across="",
        ),
        _skeleton(
            "blazepose33",
            "nose l_eye_inner l_eye l_eye_outer r_eye_inner r_eye r_eye_outer l_ear r_ear l_mouth r_mouth "
            "l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_pinky r_pinky l_index r_index l_thumb r_thumb "
            "l_hip r_hip l_knee r_knee l_ankle r_ankle l_heel r_heel l_foot_index r_foot_index",
            "wrist elbow shoulder nose; ankle knee hip shoulder; ear eye_outer eye eye_inner nose; mouth nose; "
            "pinky wrist; index wrist; thumb wrist; heel ankle; foot_index heel",
        ),
    )
}


def skeleton(name: str) -> Skeleton:
    """Look a skeleton up by the name a keypoint table carries.

    Raises:
        ValueError: no skeleton of that name.
    """
    if name not in SKELETONS:
        raise ValueError(f"unknown skeleton {name!r}; known: {', '.join(sorted(SKELETONS))}")
    return SKELETONS[name]


# What one convention has in place of another's joint; the first that is there is taken.
_SAME = [
    ("head", "nose", "face"),
    ("neck", "shoulder_centre"),
    ("hip_centre", "mid_hip"),
    ("torso", "spine", "belly"),
    *((f"{side}_{a}", f"{side}_{b}") for side in ("left", "right")
      for a, b in (("wrist", "hand"), ("ankle", "foot"), ("big_toe", "foot_index"))),
]  # fmt: skip
_SHOULDERS, _HIPS = ("left_shoulder", "right_shoulder"), ("left_hip", "right_hip")
_BETWEEN = {
    "neck": _SHOULDERS, "shoulder_centre": _SHOULDERS, "hip_centre": _HIPS, "mid_hip": _HIPS,
    "torso": _SHOULDERS + _HIPS, "spine": _SHOULDERS + _HIPS, "belly": _SHOULDERS + _HIPS,
}  # fmt: skip
"""What lies in the middle of others, where it is not a joint of its own."""


def counterparts(joint: str, source: Skeleton) -> tuple[int, ...]:
    """The joints of `source` whose mean is `joint`, or comes nearest to it; empty where there is no such joint."""
    same = [joint, *(other for group in _SAME if joint in group for other in group)]
    for name in same:
        if name in source.joints:
            return (source.joints.index(name),)
    between = [source.joints.index(name) for name in _BETWEEN.get(joint, ()) if name in source.joints]
    return tuple(between) if between and len(between) == len(_BETWEEN[joint]) else ()


def convert(
    points: np.ndarray, scores: np.ndarray, source: Skeleton, target: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """Give people the joints of another skeleton, as far as they have them: to compare across datasets and estimators.

    Args:
        points: (..., V, C) of `source`.
        scores: (..., V), 0 = not detected.
        source: what the joints are.
        target: what they are to be.

    Returns:
        Points (..., V', C) and scores (..., V'). A joint between others has the lowest of their scores; one that the
        source lacks is 0 with score 0.
    """
    if source.name == target.name:
        return points, scores
    shape = (*scores.shape[:-1], len(target.joints))
    new_points, new_scores = np.zeros((*shape, points.shape[-1]), points.dtype), np.zeros(shape, scores.dtype)
    for i, joint in enumerate(target.joints):
        found = list(counterparts(joint, source))
        if found:
            new_scores[..., i] = scores[..., found].min(-1)
            new_points[..., i, :] = points[..., found, :].mean(-2)
            if len(found) > 1:  # there is no middle between a joint and one that is missing
                new_points[new_scores[..., i] == 0, i] = 0
    return new_points, new_scores
