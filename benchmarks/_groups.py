"""Groups for benchmarks.accuracy: people from several clips of one class, who do the same thing side by side."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from posec3d import table as tables
from posec3d.clips import uniform_sample
from posec3d.table import Clip

FRAMES = 20  # of a group clip, as in the volleyball videos of the paper (section 4.4)
CELL = (120, 100)  # pixels of one person's place, h and w
FILLED = 0.8  # of the place, by the larger side of the person


def grid(people: int) -> tuple[int, int]:
    """Rows and columns for so many people, about a third wider than high in pixels."""
    columns = math.ceil(math.sqrt(people * 4 / 3 * CELL[0] / CELL[1]))
    return -(-people // columns), columns


def grouped(members: Sequence[Clip]) -> Clip:
    """One clip of `FRAMES` frames with the first person of each clip, in a place of their own, in random order.

    Args:
        members: clips of one class and skeleton; the group has the id, label and splits of the first.
    """
    rows, columns = grid(len(members))
    digest = hashlib.blake2b(members[0].clip_id.encode(), digest_size=8).digest()
    places = np.random.default_rng(int.from_bytes(digest)).permutation(rows * columns)[: len(members)]
    xy, score = [], []
    for member, place in zip(members, places, strict=True):
        frames = uniform_sample(member.num_frames, FRAMES)[0]
        points, seen = member.keypoints[0, frames], member.scores[0, frames]
        there = points[seen > 0] if (seen > 0).any() else np.zeros((1, 2))
        low, high = there.min(0), there.max(0)
        scale = FILLED * min((CELL[1], CELL[0]) / np.maximum(high - low, 1))
        centre = np.array([(place % columns + 0.5) * CELL[1], (place // columns + 0.5) * CELL[0]])
        xy.append((points - (low + high) / 2) * scale + centre)
        score.append(seen)
    return replace(
        members[0],
        num_frames=FRAMES,
        start_frame=0,
        height=rows * CELL[0],
        width=columns * CELL[1],
        keypoints=np.stack(xy).astype(np.float32),
        scores=np.stack(score).astype(np.float32),
        keypoints_3d=None,
        boxes=None,
    )


def write(source: str, people: int, target: str) -> None:
    """Write a table with a group for each clip of another: that clip's person and others of its class and splits."""
    sides: defaultdict[tuple[int | None, tuple[str, ...]], list[Clip]] = defaultdict(list)
    for clip in sorted(tables.read_table(source), key=lambda clip: clip.clip_id):
        side = tuple(split for split in clip.splits if split in ("train", "test"))
        sides[clip.label, side].append(replace(clip, splits=side))
    groups = []
    for clips in sides.values():
        for i, clip in enumerate(clips):
            others = np.random.default_rng(i).permutation([j for j in range(len(clips)) if j != i])
            groups.append(grouped([clip, *(clips[j] for j in others[: people - 1])]))
    tables.write_table(groups, target)
