"""Skeletons: which joints a keypoint table's rows hold, which pairs are limbs, and what a mirror swaps."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """Names and pairs of one joint convention; all indices are 0-based into `joints`."""

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    """The L limbs in drawing order, (start, end). The order is part of a trained limb model."""
    pairs: tuple[tuple[int, int], ...]
    """(left, right) joints, which a horizontal flip swaps."""
    bones: tuple[tuple[int, int], ...]
    """(joint, the next one toward the body's centre) for all joints but the centre: the tree of graph networks."""

    @property
    def mirror(self) -> tuple[int, ...]:
        """Joint order after a horizontal flip: `flipped = joints[mirror]`."""
        order = list(range(len(self.joints)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return tuple(order)

    @property
    def limb_mirror(self) -> tuple[int, ...]:
        """Limb order after a horizontal flip, start and end of a limb taken as a set."""
        position = {frozenset(limb): i for i, limb in enumerate(self.limbs)}
        mirror = self.mirror
        return tuple(position[frozenset((mirror[a], mirror[b]))] for a, b in self.limbs)


COCO17 = Skeleton(
    name="coco17",
    joints=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    # The order of PYSKL's limb configurations, which its limb checkpoints expect.
    limbs=(
        (0, 5), (0, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (11, 13), (13, 15),
        (6, 12), (12, 14), (14, 16), (0, 1), (0, 2), (1, 3), (2, 4), (11, 12),
    ),
    pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    # PYSKL's graph.
    bones=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 5), (12, 6), (9, 7), (7, 5),
        (10, 8), (8, 6), (5, 0), (6, 0), (1, 0), (3, 1), (2, 0), (4, 2),
    ),
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO17,)}


def skeleton(name: str) -> Skeleton:
    """Look a skeleton up by the name a keypoint table carries.

    Raises:
        ValueError: no skeleton of that name.
    """
    if name not in SKELETONS:
        raise ValueError(f"unknown skeleton {name!r}; known: {', '.join(sorted(SKELETONS))}")
    return SKELETONS[name]
