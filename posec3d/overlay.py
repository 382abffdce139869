"""Overlay: a video, its poses and what is done in it -> the video with skeletons, track numbers and actions on it."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from posec3d import draw
from posec3d.frames import clip_frames
from posec3d.pieces import numbered
from posec3d.skeletons import skeleton
from posec3d.table import Clip
from posec3d.video import write_video

if TYPE_CHECKING:
    from posec3d.timeline import Action


def write_overlay(path: str | Path, pieces: Iterable[Clip], actions: "Sequence[Action]") -> None:
    """Write a video with skeletons, the tracks' numbers and, at each moment, what is done.

    Args:
        path: a local file name.
        pieces: the poses, in order, of one video.
        actions: of everybody together, which stand below; or each person's, which stand above them.

    Raises:
        ValueError: the clips have no video (imported poses).
    """
    first = next(iter(pieces))
    frames = (frame for clip, numbers in numbered(pieces) for frame in _drawn(clip, numbers, actions))
    write_video(str(path), frames, first.fps or 25)


def _drawn(clip: Clip, numbers: list[int], actions: "Sequence[Action]") -> Iterator[np.ndarray]:
    """The frames of a clip, drawn on."""
    body = skeleton(clip.skeleton)
    end = clip.start_frame + clip.num_frames
    here = [a for a in actions if a.start_frame < end and a.end_frame > clip.start_frame]
    together = not any(a.person is not None for a in actions)
    for t, frame in enumerate(clip_frames(clip)):
        now = {a.person: a for a in here if a.start_frame <= clip.start_frame + t < a.end_frame}
        said = {person: f"{a.label} {a.probability:.0%}" for person, a in now.items()}
        keypoints, scores = clip.keypoints[:, t], clip.scores[:, t]
        frame = draw.skeleton_overlay(frame, keypoints, scores, body, numbers=numbers)
        frame = draw.name_tags(frame, keypoints, scores, [f"#{n} {said.get(n, '')}" for n in numbers], numbers)
        if together:
            frame = draw.caption(frame, said.get(None, "" if actions or numbers else "nobody found"))
        yield frame
