"""Clips: a table row -> a sampled, cropped, augmented clip of coordinates, ready to be drawn as a volume.

Everything here works on coordinates (a few KB a clip), so that CPU workers send those and the volume (10 MB) is drawn
where it is consumed. Sections 3.2 of the paper: uniform sampling and subject-centred cropping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

Rng = np.random.Generator | np.random.RandomState

TEST_SEED = 255  # of the published test draw


def _integers(rng: Rng, low: Any, high: Any) -> Any:
    """Uniform integers in [low, high); both of NumPy's generators, vectorised over the bounds."""
    return rng.randint(low, high) if isinstance(rng, np.random.RandomState) else rng.integers(low, high)


def uniform_sample(num_frames: int, clip_len: int, *, num_clips: int = 1, rng: Rng | None = None) -> np.ndarray:
    """Draw one random frame from each of `clip_len` equal segments of a video (paper, section 3.2).

    A video shorter than the clip is looped from its start (training: from a random frame); one shorter than two clips
    gives all frames but for random skips. The draws and their order are those of MMAction2's published sampler.

    Args:
        num_frames: T of the video, >= 1.
        clip_len: T of the clip.
        num_clips: how many clips.
        rng: source of the draws. None is the published test draw: NumPy's legacy generator seeded with 255 at each
            call, and evenly spread starts for videos shorter than the clip.

    Returns:
        int64 (num_clips, clip_len), frame numbers in [0, num_frames).

    Raises:
        ValueError: a size under 1.
    """
    if min(num_frames, clip_len, num_clips) < 1:
        raise ValueError(f"num_frames, clip_len and num_clips must be >= 1, got {num_frames}, {clip_len}, {num_clips}")
    testing = rng is None
    draw = np.random.RandomState(TEST_SEED) if rng is None else rng
    steps = np.arange(clip_len)
    clips = []
    for clip in range(num_clips):
        if num_frames < clip_len:
            if not testing:
                start = int(_integers(draw, 0, num_frames))
            else:
                start = clip if num_frames < num_clips else clip * num_frames // num_clips
            clips.append(start + steps)
        elif num_frames < 2 * clip_len:
            skips = np.zeros(clip_len + 1, np.int64)
            skips[draw.choice(clip_len + 1, num_frames - clip_len, replace=False)] = 1
            clips.append(steps + np.cumsum(skips)[:-1])
        else:
            edges = np.arange(clip_len + 1) * num_frames // clip_len
            clips.append(edges[:-1] + _integers(draw, 0, np.diff(edges)))
    return np.stack(clips).astype(np.int64) % num_frames


def subject_crop(
    xy: np.ndarray,
    score: np.ndarray,
    frame_size: tuple[int, int],
    *,
    padding: float = 0.25,
    min_size: int = 10,
    aspect: float | None = 1.0,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Crop to the smallest box around all people in all frames (paper, section 3.2; published behaviour).

    The box is grown by `padding`, then its short side until h / w = `aspect`; its edges are truncated toward zero and
    may leave the frame. Points without a score stay as they are.

    Args:
        xy: (M, T, V, 2) pixels.
        score: (M, T, V), 0 = not detected.
        frame_size: (h, w) of the frame in pixels.
        padding: growth of each half side, relative.
        min_size: with a box side under this many pixels, or no point at all, nothing is cropped.
        aspect: h / w of the result; None leaves it as it is.

    Returns:
        The coordinates in the crop, (M, T, V, 2), and its size (h, w).
    """
    present = (score > 0) & np.isfinite(xy).all(-1)
    if not present.any():
        return xy, frame_size
    points = xy[present].astype(np.float64)
    low, high = points.min(0), points.max(0)
    if (high - low).min() < min_size:
        return xy, frame_size
    centre = (low + high) / 2
    half_w, half_h = (high - low) / 2 * (1 + padding)
    if aspect is not None:
        half_h = max(aspect * half_w, half_h)
        half_w = max(half_h / aspect, half_w)
    half = np.array([half_w, half_h])
    # astype truncates toward zero, as int() does.
    x0, y0 = (centre - half).astype(np.int64)
    x1, y1 = (centre + half).astype(np.int64)
    cropped = np.where(present[..., None], xy - np.array([x0, y0], xy.dtype), xy)
    return cropped.astype(xy.dtype), (int(y1 - y0), int(x1 - x0))


def random_resized_crop(
    frame_size: tuple[int, int],
    rng: Rng,
    *,
    area: tuple[float, float] = (0.56, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Draw a crop window of random area and aspect inside a frame; the first of ten draws that fits.

    Args:
        frame_size: (h, w).
        rng: source of the draws.
        area: range of the window's area relative to the frame's.
        aspect: range of its w / h, drawn log-uniformly.

    Returns:
        x, y, w, h of the window in pixels; the central square if no draw fits.
    """
    h, w = frame_size
    ratios = np.exp(rng.uniform(np.log(aspect[0]), np.log(aspect[1]), 10))
    areas = rng.uniform(area[0], area[1], 10) * h * w
    widths = np.rint(np.sqrt(areas * ratios)).astype(int)
    heights = np.rint(np.sqrt(areas / ratios)).astype(int)
    fits = np.flatnonzero((widths <= w) & (heights <= h) & (widths > 0) & (heights > 0))
    if len(fits):
        crop_w, crop_h = int(widths[fits[0]]), int(heights[fits[0]])
        return (
            int(_integers(rng, 0, w - crop_w + 1)),
            int(_integers(rng, 0, h - crop_h + 1)),
            crop_w,
            crop_h,
        )
    side = min(h, w)
    return (w - side) // 2, (h - side) // 2, side, side


def flip(xy: np.ndarray, score: np.ndarray, width: float, mirror: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Mirror people left to right: x -> width - 1 - x, and left joints become right ones.

    Pixel centres lie at whole coordinates, so flipping coordinates draws exactly the mirrored volume. (The reference
    systems use width - x in training and mirror pixels in testing, one pixel apart.)

    Args:
        xy: (..., V, 2) pixels.
        score: (..., V).
        width: W of the frame in pixels.
        mirror: joint order after the flip, `Skeleton.mirror`.
    """
    order = list(mirror)
    flipped = xy[..., order, :].copy()
    flipped[..., 0] = width - 1 - flipped[..., 0]
    return flipped, score[..., order]


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """How a table row becomes a clip."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    length: int = 48
    """Frames T of a clip."""
    size: int = 56
    """Side H = W of the volume in training, in heatmap pixels."""
    test_size: int = 64
    """Side H = W of the volume in testing, in heatmap pixels."""
    padding: float = 0.25
    """Growth of the subject-centred crop, relative."""
    area: tuple[float, float] = (0.56, 1.0)
    """Range of the random resized crop's area in training, relative; 1 1 switches it off."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if min(self.length, self.size, self.test_size) < 1:
            raise ValueError(f"clip.length, size, test_size must be >= 1, got {self}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"clip.area must be 0 < low <= high <= 1, got {self.area}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"clip.flip must be in [0, 1], got {self.flip}")


def training_clip(
    xy: np.ndarray,
    score: np.ndarray,
    frame_size: tuple[int, int],
    config: ClipConfig,
    mirror: Sequence[int],
    rng: Rng,
) -> tuple[np.ndarray, np.ndarray]:
    """Sample, crop and augment one clip for training.

    Args:
        xy: (M, T, V, 2) pixels of a frame of `frame_size` (h, w).
        score: (M, T, V).
        frame_size: (h, w).
        config: lengths, sizes and augmentation.
        mirror: `Skeleton.mirror`.
        rng: source of all draws.

    Returns:
        xy float32 (M, config.length, V, 2) in heatmap pixels of (config.size, config.size), and score.
    """
    frames = uniform_sample(xy.shape[1], config.length, rng=rng)[0]
    xy, score = xy[:, frames], score[:, frames]
    xy, size = subject_crop(xy, score, frame_size, padding=config.padding)
    # As published: to the size of testing first, then the random crop of that to the size of training.
    xy = _resize(xy, size, config.test_size)
    x, y, w, h = random_resized_crop((config.test_size, config.test_size), rng, area=config.area)
    xy = _resize(xy - np.array([x, y], np.float32), (h, w), config.size)
    if rng.random() < config.flip:
        xy, score = flip(xy, score, config.size, mirror)
    return xy, score


def testing_clips(
    xy: np.ndarray, score: np.ndarray, frame_size: tuple[int, int], config: ClipConfig, num_clips: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Sample the clips a video is tested with and crop them by one box; nothing is random.

    Returns:
        xy float32 (num_clips, M, config.length, V, 2) in heatmap pixels of (config.test_size, config.test_size), and
        score (num_clips, M, config.length, V).
    """
    frames = uniform_sample(xy.shape[1], config.length, num_clips=num_clips).ravel()
    xy, score = xy[:, frames], score[:, frames]
    xy, size = subject_crop(xy, score, frame_size, padding=config.padding)
    xy = _resize(xy, size, config.test_size)
    people, _, joints = score.shape
    xy = xy.reshape(people, num_clips, config.length, joints, 2).swapaxes(0, 1)
    return xy, score.reshape(people, num_clips, config.length, joints).swapaxes(0, 1)


def _resize(xy: np.ndarray, frame_size: tuple[int, int], side: int) -> np.ndarray:
    h, w = frame_size
    return (xy * np.array([side / w, side / h], np.float32)).astype(np.float32)


def pad_persons(xy: np.ndarray, score: np.ndarray, persons: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut or zero-pad the people axis of xy (..., M, T, V, 2) and score (..., M, T, V) to `persons`.

    People are ordered by how much of the video they fill, so a cut loses the least present ones.
    """
    xy, score = xy[..., :persons, :, :, :], score[..., :persons, :, :]
    missing = persons - score.shape[-3]
    if missing:
        people = [(0, 0)] * (score.ndim - 3) + [(0, missing), (0, 0), (0, 0)]
        xy, score = np.pad(xy, [*people, (0, 0)]), np.pad(score, people)
    return xy, score
