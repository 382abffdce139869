"""Other poses for benchmarks.accuracy: copies of a table's test clips, with joints lost, moved or guessed."""

import hashlib
from dataclasses import replace

import numpy as np

from posec3d import table as tables
from posec3d.skeletons import skeleton
from posec3d.table import Clip

LIMBS = ("elbow", "wrist", "knee", "ankle")


def perturbed(clip: Clip, kind: str, amount: float) -> Clip:
    """A clip with other poses, the same for the same clip, kind and amount.

    Args:
        clip: any.
        kind: drop: in each frame each person loses, with probability `amount`, one of the eight limb joints, its score
            becoming 0 (paper, section 4.2); centre: the same joints lie at the frame's centre instead, with the score
            they had; jitter: all joints move by a Gaussian of `amount` times the larger side of
            the box around all people of the clip; guess: the joints of Penn Action that are marked invisible, but for
            which an annotator guessed a place, count as seen with a score of `amount`.
        amount: the probability, the share, or the score.

    Raises:
        ValueError: no such kind.
    """
    draws = "drop" if kind == "centre" else kind
    seed = hashlib.blake2b(f"{clip.clip_id} {draws}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(seed))
    if kind in ("drop", "centre"):
        joints = skeleton(clip.skeleton).joints
        limbs = [i for i, name in enumerate(joints) if name.endswith(LIMBS)]
        scores = clip.scores.copy()
        person, frame = np.nonzero(rng.random(scores.shape[:2]) < amount)
        scores[person, frame, rng.choice(limbs, len(person))] = 0
        if kind == "drop":
            return replace(clip, scores=scores)
        middle = np.array([clip.width, clip.height], np.float32) / 2
        lost = (scores == 0) & (clip.scores > 0)
        return replace(clip, keypoints=np.where(lost[..., None], middle, clip.keypoints))
    if kind == "jitter":
        seen = clip.keypoints[clip.scores > 0]
        side = float(np.ptp(seen, axis=0).max()) if len(seen) else 0.0
        noise = rng.standard_normal(clip.keypoints.shape).astype(np.float32)
        return replace(clip, keypoints=clip.keypoints + np.float32(amount * side) * noise)
    if kind == "guess":
        # Where nobody guessed lies (s, s), with one small s a clip.
        x, y = clip.keypoints[..., 0], clip.keypoints[..., 1]
        guessed = (clip.scores == 0) & ~((x == y) & (x < 2))
        return replace(clip, scores=np.where(guessed, np.float32(amount), clip.scores))
    raise ValueError(f"kind must be drop, centre, jitter or guess, got {kind!r}")


def write(source: str, split: str, kind: str, amount: float, target: str) -> None:
    """Write perturbed copies of a split's clips as a new table."""
    tables.write_table((perturbed(clip, kind, amount) for clip in tables.read_table(source, split=split)), target)
