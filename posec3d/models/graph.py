"""The skeleton as a graph: adjacency matrices of the graph networks, entry [source, target]."""

import itertools

import numpy as np
from torch import Tensor, float32, tensor

from posec3d.skeletons import Skeleton


def spatial_partition(skeleton: Skeleton) -> Tensor:
    """From each joint itself, the next one inward, those outward (ST-GCN's spatial partition): (3, V, V) float32."""
    inward = np.zeros((len(skeleton.joints),) * 2)
    for joint, centre in skeleton.bones:
        inward[centre, joint] = 1
    parts = [np.eye(len(inward)), *(_columns_sum_to_one(part) for part in (inward, inward.T))]
    return tensor(np.stack(parts), dtype=float32)


def neighbourhoods(skeleton: Skeleton, scales: int, frames: int = 1) -> Tensor:
    """Joints exactly k bones apart, and each to itself, for k = 0 .. scales - 1 (MS-G3D, section 3.2).

    Args:
        skeleton: V joints.
        scales: K distances.
        frames: of a window, in which every joint is next to itself and its neighbours in all the others.

    Returns:
        (K, frames * V, frames * V) float32, columns that sum to one.
    """
    near = np.eye(len(skeleton.joints))
    for joint, centre in skeleton.bones:
        near[joint, centre] = near[centre, joint] = 1
    near = np.tile(near, (frames, frames))
    itself = np.eye(len(near))
    within = [itself]  # at most k steps away
    for _ in range(1, scales):
        within.append(np.minimum(within[-1] @ near, 1))
    exactly = [itself, *(more - less + itself for less, more in itertools.pairwise(within))]
    return tensor(np.stack([_columns_sum_to_one(part) for part in exactly]), dtype=float32)


def _columns_sum_to_one(matrix: np.ndarray) -> np.ndarray:
    total = matrix.sum(0)
    return matrix / np.where(total > 0, total, 1)
