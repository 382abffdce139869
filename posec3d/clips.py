"""Clips: a table row -> a sampled, cropped, augmented clip of coordinates, ready to be drawn as a volume.

Everything here works on coordinates (a few KB a clip), so that CPU workers send those and the volume (10 MB) is drawn
where it is consumed. Section 3.2 of the paper: uniform sampling and subject-centred cropping.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

Rng = np.random.Generator | np.random.RandomState

RGB_SCALE = 4
"""Pixels of an RGB clip to a heatmap pixel, each way (paper, section 3.4)."""

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


def stride_sample(
    num_frames: int, clip_len: int, stride: int, *, num_clips: int = 1, rng: Rng | None = None
) -> np.ndarray:
    """Take every `stride`-th frame from one start on: what uniform sampling is compared with (paper, section 4.2).

    Args:
        num_frames: T of the video, >= 1; a clip longer than it begins again at its start.
        clip_len: T of the clip.
        stride: frames from one to the next.
        num_clips: how many clips.
        rng: draws the starts; None spreads them evenly, one clip lies in the middle.

    Returns:
        int64 (num_clips, clip_len), frame numbers in [0, num_frames).

    Raises:
        ValueError: a size under 1.
    """
    if min(num_frames, clip_len, stride, num_clips) < 1:
        raise ValueError(
            f"num_frames, clip_len, stride and num_clips must be >= 1, got "
            f"{num_frames}, {clip_len}, {stride}, {num_clips}"
        )
    room = max(num_frames - (clip_len - 1) * stride, 1)  # places a clip can begin at
    if rng is None:
        starts = ((np.arange(num_clips) + 0.5) * room / num_clips).astype(np.int64)
    else:
        starts = np.array([_integers(rng, 0, room) for _ in range(num_clips)], np.int64)
    return (starts[:, None] + np.arange(clip_len) * stride) % num_frames


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
    x, y, w, h = subject_box(xy, score, frame_size, padding, min_size, aspect)
    if (x, y, h, w) == (0, 0, *frame_size):
        return xy, frame_size
    present = (score > 0) & np.isfinite(xy).all(-1)
    cropped = np.where(present[..., None], xy - np.array([x, y], xy.dtype), xy)
    return cropped.astype(xy.dtype), (h, w)


def subject_box(
    xy: np.ndarray,
    score: np.ndarray,
    frame_size: tuple[int, int],
    padding: float = 0.25,
    min_size: int = 10,
    aspect: float | None = 1.0,
) -> tuple[int, int, int, int]:
    """The box x, y, w, h that `subject_crop` crops to, pixels; all of the frame where nothing is cropped."""
    h, w = frame_size
    points = xy.reshape(-1, 2)[score.reshape(-1) > 0]
    x0, y0, x1, y1 = _extent(points)
    if not math.isfinite(x0 + y0 + x1 + y1):  # seldom, so looked at only then
        x0, y0, x1, y1 = _extent(points[np.isfinite(points).all(-1)])
    if not (x1 - x0 >= min_size and y1 - y0 >= min_size):
        return 0, 0, w, h
    half_w, half_h = (x1 - x0) / 2 * (1 + padding), (y1 - y0) / 2 * (1 + padding)
    if aspect is not None:
        half_h = max(aspect * half_w, half_h)
        half_w = max(half_h / aspect, half_w)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    left, top = int(x - half_w), int(y - half_h)
    return left, top, int(x + half_w) - left, int(y + half_h) - top


def clip_box(
    xy: np.ndarray, score: np.ndarray, frame_size: tuple[int, int], padding: float | None
) -> tuple[int, int, int, int]:
    """The box x, y, w, h that a clip shows, in pixels of the frame.

    Args:
        xy: (M, T, V, 2) pixels.
        score: (M, T, V), 0 = not detected.
        frame_size: (h, w) of the frame in pixels.
        padding: as of `subject_box`; None is the whole frame, whoever is in it, as a square of its longer side around
            its centre: what sticks out above and below, or left and right, is empty.
    """
    if padding is not None:
        return subject_box(xy, score, frame_size, padding)
    h, w = frame_size
    side = max(h, w)
    return int((w - side) / 2), int((h - side) / 2), side, side


def _extent(points: np.ndarray) -> tuple[float, float, float, float]:
    """Least x and y, greatest x and y of points (P, 2); without any, least above greatest."""
    x, y = points[:, 0], points[:, 1]
    low = float(x.min(initial=np.inf)), float(y.min(initial=np.inf))
    return *low, float(x.max(initial=-np.inf)), float(y.max(initial=-np.inf))


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

    Pixel centres lie at whole coordinates, so flipping coordinates draws the mirrored volume, but for 0.011 of the peak
    in pixels that a Gaussian's window, whose ends are truncated as published, has on one side only. (The reference
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
    rgb_length: int = 0
    """Frames of the video beside the poses, for networks that see RGB, `RGB_SCALE` times as large; 0 for none."""
    size: int = 56
    """Side H = W of the volume in training, in heatmap pixels."""
    test_size: int = 64
    """Side H = W of the volume in testing, in heatmap pixels."""
    padding: float | None = 0.25
    """Growth of the subject-centred crop, relative; None crops nothing: the clip is the whole frame, as a square."""
    area: tuple[float, float] = (0.56, 1.0)
    """Range of the random resized crop's area in training, relative; 1 1 switches it off."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    rotate: float = 0.0
    """Largest rotation of a clip in training, degrees to either side."""
    scale: float = 0.0
    """Largest change of a clip's scale in training, relative, to either side."""
    drop: float = 0.0
    """Probability in training that a joint of a person is lost in a frame: score 0."""
    noise: float = 0.0
    """Standard deviation of what is added to a joint's place in training, in heatmap pixels of `size`."""
    offset: float = 0.0
    """The same, but one draw for a person's joint in all frames of a clip: bodies differ, and so do pose estimators."""
    share: float = 1.0
    """Least share of a video's frames that a training clip is drawn from: a stretch of random length and place."""
    stride: int | None = None
    """Every stride-th frame from one start on, to compare with; None is uniform sampling, as published."""
    persons: int | None = None
    """M people of a clip, of whom more are cut and fewer padded; None is as many as the table has at most. A crop holds
    those who are cut, too: so a subject is as large whatever the number."""
    maps: Literal["drawn", "stored"] = "drawn"
    """What fills a volume: Gaussians at the coordinates, or the pose network's own heatmaps, which
    `jobs.extract --store heatmaps` keeps beside a table; to compare."""
    space: Literal["volume", "frame", "subject", "body"] = "volume"
    """What coordinates are for: a volume around the subjects, or a graph network, relative to the frame (-1 to 1, with
    the score), to the subject-centred crop (the same), or in 3D to the body (metres). Of graph networks sizes mean
    nothing, padding only that crop's, and noise and offset are in units of the space."""
    stream: Literal["joint", "bone", "joint-motion", "bone-motion"] = "joint"
    """What a graph network looks at."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.padding is not None and not 0 <= self.padding < math.inf:
            raise ValueError(f"clip.padding must be >= 0, or None for the whole frame, got {self.padding}")
        if not (0 <= self.rotate <= 180 and 0 <= self.scale < 1 and min(self.noise, self.offset) >= 0):
            raise ValueError(
                f"clip.rotate must be in [0, 180], clip.scale in [0, 1), clip.noise and clip.offset >= 0, got "
                f"{self.rotate}, {self.scale}, {self.noise}, {self.offset}"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"clip.share must be in (0, 1], got {self.share}")
        if not 0 <= self.drop < 1:
            raise ValueError(f"clip.drop must be in [0, 1), got {self.drop}")
        if self.stride is not None and self.stride < 1:
            raise ValueError(f"clip.stride must be >= 1, got {self.stride}")
        if min(self.length, self.size, self.test_size) < 1:
            raise ValueError(f"clip.length, size, test_size must be >= 1, got {self}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"clip.area must be 0 < low <= high <= 1, got {self.area}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"clip.flip must be in [0, 1], got {self.flip}")
        if self.rgb_length < 0 or (self.rgb_length and self.space != "volume"):
            raise ValueError(f"clip.rgb_length must be >= 0, and 0 unless clip.space is volume, got {self.rgb_length}")
        if self.rgb_length and (self.stride is not None or self.share < 1):
            raise ValueError("clip.stride and clip.share are for poses alone: RGB frames lie all over the video")
        if self.maps == "stored" and (self.space != "volume" or self.rgb_length):
            raise ValueError("clip.maps stored is for volumes of poses alone, without RGB frames")
        if self.maps == "stored" and (self.drop or self.noise or self.offset):
            raise ValueError("clip.drop, noise and offset change coordinates: they must be 0 with clip.maps stored")
        if self.persons is not None and self.persons < 1:
            raise ValueError(f"clip.persons must be >= 1, got {self.persons}")
        if self.space == "volume" and self.stream != "joint":
            raise ValueError(
                f"clip.stream {self.stream} is for graph networks; of volumes, heatmap.kind limb draws bones"
            )


class Poses(Protocol):
    """What of a table's row a clip is made from; `posec3d.table.Clip` is one."""

    @property
    def keypoints(self) -> np.ndarray:
        """(M, T, V, 2) pixels."""

    @property
    def scores(self) -> np.ndarray:
        """(M, T, V), 0 = not detected."""

    @property
    def height(self) -> int:
        """Of the frame, pixels."""

    @property
    def width(self) -> int:
        """Of the frame, pixels."""


def training_clips(
    videos: Sequence[Poses], config: ClipConfig, mirror: Sequence[int], rngs: Sequence[Rng], persons: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sample, crop and augment one training clip of each video.

    Draws are made video by video, each from its own generator: a clip does not depend on its neighbours. What they
    mean for the coordinates, crop, resize, random crop, rotation and flip, is one affine map a clip, for all at once.

    Args:
        videos: N of them, of one skeleton with V joints, of any M and T each.
        config: lengths, sizes and augmentation.
        mirror: `Skeleton.mirror`.
        rngs: N sources of all draws.
        persons: M of the result; more people are cut from the end, fewer padded with nobody.

    Returns:
        xy float32 (N, persons, config.length, V, 2) in heatmap pixels of (config.size, config.size), score float32
        (N, persons, config.length, V), the maps from each video's frame to these pixels, float64 (N, 2, 3), and which
        frames of the video they are, int64 (N, config.length).
    """
    shape = (len(videos), persons, config.length, len(mirror))
    xy, score = np.zeros((*shape, 2), np.float32), np.zeros(shape, np.float32)
    place = np.empty((len(videos), 2, 3))  # float64: a small subject may be far from the origin of a large frame
    flipped = np.zeros(len(videos), bool)
    frames = np.empty((len(videos), config.length), np.int64)
    for n, (video, rng) in enumerate(zip(videos, rngs, strict=True)):
        frames[n] = sample_frames(video.keypoints.shape[1], config, rng=rng)[0]
        points, seen = video.keypoints[:, frames[n]], video.scores[:, frames[n]]
        people = min(persons, len(points))
        xy[n, :people], score[n, :people] = points[:people], seen[:people]
        place[n], flipped[n] = _draw_place(points, seen, (video.height, video.width), config, rng)
        if config.drop:
            score[n, :people] *= rng.random((people, *shape[2:])) >= config.drop
    x, y = xy[..., 0], xy[..., 1]
    a, b = place[:, :, :, None, None, None].transpose(1, 2, 0, 3, 4, 5)
    xy = np.stack([a[0] * x + a[1] * y + a[2], b[0] * x + b[1] * y + b[2]], -1).astype(np.float32)
    if config.noise or config.offset:
        for n, (video, rng) in enumerate(zip(videos, rngs, strict=True)):
            there = xy[n, : len(video.keypoints)]
            there += jitter(there.shape, config, rng)
    if flipped.any():
        xy[flipped], score[flipped] = flip(xy[flipped], score[flipped], config.size, mirror)
        place[flipped, 0] = [0, 0, config.size - 1] - place[flipped, 0]
    return xy, score, place, frames


def jitter(shape: tuple[int, ...], config: ClipConfig, rng: Rng) -> np.ndarray:
    """Draw what joints (M, T, V, C) are moved by in training: `config.noise` and `config.offset`, float32."""
    moved = np.zeros(shape, np.float32)
    if config.noise:
        moved += config.noise * rng.standard_normal(shape)
    if config.offset:
        moved += config.offset * rng.standard_normal((shape[0], 1, *shape[2:]))
    return moved


def _draw_place(
    xy: np.ndarray, score: np.ndarray, frame_size: tuple[int, int], config: ClipConfig, rng: Rng
) -> tuple[tuple[tuple[float, float, float], tuple[float, float, float]], bool]:
    """Draw where a clip goes: the affine map (2, 3) from its frame to its volume, and whether it is flipped then."""
    left, top, w, h = clip_box(xy, score, frame_size, config.padding)
    # As published: to the size of testing first, then the random crop of that to the size of training.
    side = config.test_size
    x, y, crop_w, crop_h = random_resized_crop((side, side), rng, area=config.area)
    to_x, to_y = config.size / crop_w, config.size / crop_h
    scale_x, scale_y = side / w, side / h
    cos, sin = 1.0, 0.0
    if config.rotate or config.scale:
        angle, zoom = math.radians(config.rotate * rng.uniform(-1, 1)), 1 + config.scale * rng.uniform(-1, 1)
        cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    turned = rng.random() < config.flip
    # p -> crop(rotate(resize(p - corner) - centre) + centre), written out.
    centre = (side - 1) / 2
    from_x, from_y = -left * scale_x - centre, -top * scale_y - centre
    return (
        (to_x * cos * scale_x, -to_x * sin * scale_y, to_x * (cos * from_x - sin * from_y + centre - x)),
        (to_y * sin * scale_x, to_y * cos * scale_y, to_y * (sin * from_x + cos * from_y + centre - y)),
    ), turned


def sample_frames(num_frames: int, config: ClipConfig, *, num_clips: int = 1, rng: Rng | None = None) -> np.ndarray:
    """Frame numbers (num_clips, config.length) by the config's way of sampling; None as `rng` is the test draw."""
    first = 0
    if rng is not None and config.share < 1:
        stretch = max(round(num_frames * rng.uniform(config.share, 1)), 1)
        first, num_frames = int(_integers(rng, 0, num_frames - stretch + 1)), stretch
    if config.stride is not None:
        return first + stride_sample(num_frames, config.length, config.stride, num_clips=num_clips, rng=rng)
    return first + uniform_sample(num_frames, config.length, num_clips=num_clips, rng=rng)


def testing_clips(
    xy: np.ndarray, score: np.ndarray, frame_size: tuple[int, int], config: ClipConfig, num_clips: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample the clips a video is tested with and crop them by one box; nothing is random.

    Returns:
        xy float32 (num_clips, M, config.length, V, 2) in heatmap pixels of (config.test_size, config.test_size), score
        (num_clips, M, config.length, V), and the map from the video's frame to these pixels, float64 (2, 3).
    """
    frames = sample_frames(xy.shape[1], config, num_clips=num_clips).ravel()
    xy, score = xy[:, frames], score[:, frames]
    left, top, w, h = clip_box(xy, score, frame_size, config.padding)
    x, y = config.test_size / w, config.test_size / h
    xy = ((xy - np.array([left, top], np.float32)) * np.array([x, y], np.float32)).astype(np.float32)
    people, _, joints = score.shape
    xy = xy.reshape(people, num_clips, config.length, joints, 2).swapaxes(0, 1)
    score = score.reshape(people, num_clips, config.length, joints).swapaxes(0, 1)
    return xy, score, np.array([[x, 0, -left * x], [0, y, -top * y]])


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
