"""Frames -> person boxes -> keypoints -> tracks: what every detector and pose network is, and the path of one video."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from posec3d.given import Given
from posec3d.skeletons import skeleton
from posec3d.stored import Heatmaps, pack
from posec3d.table import FARTHEST, Clip, clip_id
from posec3d.track import colours, iou, link, nearness
from posec3d.video import Decoder, Segment, VideoError, open_video

MIN_MEAN_SCORE = 0.2
"""Of a person's 17 keypoint scores: at 0.22 to 0.29 the joints of a pair of legs (the rest out of the frame) sit
right, at 0.18 and less nothing does (looked at on UT-Interaction; whole people have 0.3 to 0.8)."""
MAX_NEARNESS = 0.7
"""Keypoints nearer than this to a surer person's are the same body: a crop of two people shows the wrong one."""
BATCH_FRAMES = 16
BATCH_BYTES = 2**28
"""At most so many frames, and so many bytes of them, are held at a time: 10 frames in 4K."""
MOST_CROPS = 256
"""And so many people cut out of them: a crowd is estimated part by part."""


@dataclass(frozen=True)
class Crop:
    """How a pose network wants people cut out: a region of the frame, scaled to (height, width) pixels."""

    height: int
    width: int
    margin: float = 1.25
    """Size of the region, in units of the box grown to the crop's aspect."""
    antialias: bool = True
    """Average where the region shrinks by more than two; False is plain bilinear, as in MMPose."""


class PoseEstimator(Protocol):
    """A top-down pose network on its device. One whose maps are images also has `map_size` and `heatmaps`."""

    name: str
    """Network and digest of its weights, for the table's pose_model column."""
    skeleton: str
    crop: Crop

    def estimate(self, crops: np.ndarray) -> np.ndarray:
        """Find the keypoints of the person in the middle of each crop.

        Args:
            crops: (B, crop.height, crop.width, 3) uint8 RGB, any B; of any frames and videos.

        Returns:
            (B, V, 3) float32: x and y in crop pixels, so that frame xy = region's corner + xy * region's size /
            (width, height); score in 0..1.
        """
        ...


class Detector(Protocol):
    """A person detector on its device."""

    name: str
    """Network and digest of its weights, for the table's detector column."""

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Find people.

        Args:
            frames: (B, H, W, 3) uint8 RGB.

        Returns:
            For each frame (n, 5) float32: x1 y1 x2 y2 in frame pixels, score in 0..1; best first, after threshold
            and suppression.
        """
        ...


class WholeFrame:
    """The detector for videos cut around one person: the box is the frame."""

    name = "whole-frame"

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """(B, H, W, 3) -> the frame's edges with score 1, for each frame."""
        height, width = frames.shape[1:3]
        return [np.array([[-0.5, -0.5, width - 0.5, height - 0.5, 1]], np.float32) for _ in frames]


def regions(boxes: np.ndarray, crop: Crop) -> np.ndarray:
    """Boxes (n, 4 or more) x1 y1 x2 y2 -> regions (n, 4) x y width height around them, of the crop's aspect."""
    sizes = np.maximum(boxes[:, 2:4] - boxes[:, :2], 1)
    aspect = crop.width / crop.height
    width = np.maximum(sizes[:, 0], sizes[:, 1] * aspect) * crop.margin
    sizes = np.stack([width, width / aspect], 1)
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:4]) / 2 - sizes / 2, sizes], 1)


def cut(frame: np.ndarray, region: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut a region (4,) x y width height out of a frame, scaled to (height, width, 3); black outside the frame."""
    size = np.array([crop.width, crop.height])
    # Linear interpolation reads 2x2 pixels; what shrinks more is drawn larger and then averaged.
    times = max(int(np.ceil((region[2:] / size).max() / 2)), 1) if crop.antialias else 1
    step = region[2:] / size / times
    # The crop's first pixel lies on the region's corner; averaged, it is the mean of `times` by `times` pixels there.
    x, y = region[:2] - (times - 1) / 2 * step
    matrix = np.array([[step[0], 0, x], [0, step[1], y]], np.float64)
    large = (crop.width * times, crop.height * times)
    image = cv2.warpAffine(frame, matrix, large, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return image if times == 1 else cv2.resize(image, (crop.width, crop.height), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True, eq=False)
class Extracted:
    """What came out of one video, or of a piece of it."""

    clip: Clip
    seconds: dict[str, float]
    """Time spent in each stage: decode, detect, pose, track."""
    crops: int
    """Crops the pose network saw."""
    heatmaps: Heatmaps | None = None
    """The network's own maps, if they were to be kept."""


def extract_poses(
    video_uri: str,
    detector: Detector | Given,
    estimator: PoseEstimator,
    *,
    piece: Segment | None = None,
    fps: float | None = None,
    detect_every: int = 1,
    max_persons: int = 10,
    keep_heatmaps: bool = False,
    decoder: Decoder = "ffmpeg",
) -> Extracted:
    """Take a video all the way: decode, find people, estimate keypoints, link people over time.

    Never holds more than `BATCH_FRAMES` frames, so memory grows with the length by a few KB a frame only.

    Args:
        video_uri: a path or any URI fsspec opens.
        detector: finds people; or the file that says where they are.
        estimator: finds their keypoints.
        piece: the part to take, from `posec3d.video.segments` with the same `fps`; None is the whole video.
        fps: take so many frames a second; None, or more than the video has, is every frame.
        detect_every: find people in every n-th frame, and between them follow their boxes.
        max_persons: at most so many tracks are kept, the most present, largest and surest.
        keep_heatmaps: give the network's own maps too.
        decoder: as for `posec3d.video.open_video`.

    Returns:
        The clip is a row of the keypoint table, without label and splits: people as tracks, the main one first, zeros
        where a person is absent; M = 0 when nobody is in it.

    Raises:
        posec3d.video.VideoError: the video cannot be read.
        ValueError: the file has boxes after its end.
    """
    spent = dict.fromkeys(("decode", "detect", "pose", "track"), 0.0)
    seen: list[Seen] = []  # by frame
    crops = 0
    start = piece.start_frame if piece else 0
    given = detector.boxes(video_uri) if isinstance(detector, Given) else {}

    def timed(stage: str, since: float) -> float:
        now = time.perf_counter()
        spent[stage] += now - since
        return now

    at = time.perf_counter()
    start_s, end_s = (piece.start_s, piece.end_s) if piece else (0.0, None)
    with open_video(video_uri, start_s=start_s, end_s=end_s, fps=fps, decoder=decoder) as video:
        info = video.info
        if max(info.height, info.width) > FARTHEST + 1:
            raise VideoError(
                f"{video_uri}: frames of {info.width} x {info.height}, and a table has room for {FARTHEST + 1} pixels "
                "to a side: scale the video down first"
            )
        for frames in _batches((frame for _, frame in video), (info.height, info.width, 3)):
            at = timed("decode", at)
            if isinstance(detector, Given):
                first = start + len(seen)
                found = [given.get(first + i, np.zeros((0, 5), np.float32)) for i in range(len(frames))]
            else:
                found = _detect(detector, frames, detect_every)
            at = timed("detect", at)
            people = estimate(estimator, frames, found, keep_heatmaps=keep_heatmaps)
            seen += (person.real() for person in people)
            crops += sum(map(len, found))
            at = timed("pose", at)
    at = timed("decode", at)
    if isinstance(detector, Given) and end_s is None and max(given, default=-1) >= start + len(seen):
        raise ValueError(
            f"{detector.uri}: a box in frame {max(given)} of {video_uri}, which has frames 0 to "
            f"{start + len(seen) - 1}; count frames from 0, and give the video that the boxes were made of"
        )
    clip, tracks = tracked(seen, (info.height, info.width), info.fps, estimator.skeleton, max_persons=max_persons)
    clip = replace(
        clip,
        clip_id=clip_id(video_uri),
        video=video_uri,
        start_frame=start,
        pose_model=estimator.name,
        detector=detector.name,
    )
    heatmaps = None
    if keep_heatmaps:
        nowhere = np.zeros((*tracks.shape, 4), np.float32), [[b""] * len(seen) for _ in tracks]
        heatmaps = Heatmaps(*nowhere, size=estimator.map_size)  # type: ignore[attr-defined]
        for m, t in zip(*np.nonzero(tracks >= 0), strict=True):
            heatmaps.regions[m, t] = seen[t].regions[tracks[m, t]]
            heatmaps.maps[m][t] = seen[t].maps[tracks[m, t]]
    timed("track", at)
    return Extracted(clip, spent, crops, heatmaps)


def tracked(
    seen: Sequence["Seen"], frame_size: tuple[int, int], fps: float, body: str, *, max_persons: int = 10
) -> tuple[Clip, np.ndarray]:
    """Link the people of T frames into the tracks of a clip.

    Args:
        seen: by frame.
        frame_size: (h, w).
        fps: frames per second; 0 when unknown.
        body: name of the skeleton.
        max_persons: at most so many tracks are kept.

    Returns:
        The clip, without a name or a video, and (M, T) which of the frame's people each one is, -1 where absent.
    """
    boxes, keypoints = [s.boxes for s in seen], [s.keypoints for s in seen]
    tracks = link(boxes, keypoints, fps=fps, colours=[s.colours for s in seen], max_persons=max_persons)
    shape = (*tracks.shape, len(skeleton(body).joints))
    points, corners = np.zeros((*shape, 3), np.float32), np.zeros((*tracks.shape, 4), np.float32)
    for m, t in zip(*np.nonzero(tracks >= 0), strict=True):
        points[m, t], corners[m, t] = keypoints[t][tracks[m, t]], boxes[t][tracks[m, t], :4]
    height, width = frame_size
    clip = Clip(
        "", len(seen), height, width, points[..., :2].copy(), points[..., 2].copy(), body, fps=fps, boxes=corners
    )
    return clip, tracks


@dataclass(frozen=True, eq=False)
class Seen:
    """The n people of one frame."""

    boxes: np.ndarray
    """(n, 5) x1 y1 x2 y2 score."""
    keypoints: np.ndarray
    """(n, V, 3) x y score, frame pixels."""
    regions: np.ndarray
    """(n, 4) x y width height of their crops, frame pixels."""
    colours: np.ndarray
    """(n, bands, 3) of their clothes, which tell them apart where they cross."""
    maps: list[bytes]
    """Their packed heatmaps; empty when those are not kept."""

    def only(self, chosen: np.ndarray) -> "Seen":
        """Keep these of them, in this order."""
        maps = [self.maps[i] for i in chosen] if self.maps else []
        return Seen(self.boxes[chosen], self.keypoints[chosen], self.regions[chosen], self.colours[chosen], maps)

    def real(self) -> "Seen":
        """Those who are people, surest first: no false boxes, and nobody twice."""
        return self.only(_real(self.boxes, self.keypoints))


def estimate(
    estimator: PoseEstimator, frames: np.ndarray, boxes: Sequence[np.ndarray], *, keep_heatmaps: bool = False
) -> list[Seen]:
    """Find the keypoints of boxed people; the crops of all frames go through the network together.

    Args:
        estimator: the network.
        frames: (B, H, W, 3) uint8 RGB.
        boxes: for each frame (n, 5), x1 y1 x2 y2 in frame pixels, score.
        keep_heatmaps: keep the network's own maps.

    Returns:
        The people of each frame, `.keypoints` (n, V, 3) float32: x and y in frame pixels, score in 0..1.
    """
    crop, counts = estimator.crop, [len(b) for b in boxes]
    where = regions(np.concatenate(boxes), crop)
    owners = np.repeat(np.arange(len(frames)), counts)
    maps: list[bytes] = []
    parts = []
    for first in range(0, max(len(where), 1), MOST_CROPS):
        people = list(zip(owners[first : first + MOST_CROPS], where[first : first + MOST_CROPS], strict=True))
        crops = np.empty((len(people), crop.height, crop.width, 3), np.uint8)
        for i, (owner, region) in enumerate(people):
            crops[i] = cut(frames[owner], region, crop)
        if keep_heatmaps:
            found, heatmaps = estimator.heatmaps(crops)  # type: ignore[attr-defined]
            maps += [pack(heatmap) for heatmap in heatmaps]
        else:
            found = estimator.estimate(crops)
        parts.append(found)
    keypoints = np.concatenate(parts)
    scale = where[:, 2:] / (crop.width, crop.height)
    keypoints[..., :2] = keypoints[..., :2] * scale[:, None] + where[:, None, :2]
    ends = np.cumsum(counts)
    return [
        Seen(b, keypoints[end - len(b) : end], where[end - len(b) : end], colours(frame, b), maps[end - len(b) : end])
        for frame, b, end in zip(frames, boxes, ends, strict=True)
    ]


def _detect(detector: Detector, frames: np.ndarray, every: int) -> list[np.ndarray]:
    """Boxes of all B frames, found in every n-th and in the last one, and followed between."""
    looked = sorted({*range(0, len(frames), every), len(frames) - 1})
    found = detector.detect(frames[looked] if every > 1 else frames)
    boxes: list[np.ndarray] = []
    for first, last, before, after in zip(looked, looked[1:], found, found[1:], strict=False):
        boxes += [_between(before, after, t / (last - first)) for t in range(last - first)]
    return [*boxes, found[-1]]


def _between(before: np.ndarray, after: np.ndarray, share: float) -> np.ndarray:
    """Boxes at a share of the way from one look to the next: people seen in both move evenly, others stay half-way."""
    if share == 0:
        return before
    overlap = iou(before, after)
    rows, columns = linear_sum_assignment(-overlap)
    same = overlap[rows, columns] > 0
    rows, columns = rows[same], columns[same]
    moved = before[rows] * (1 - share) + after[columns] * share
    alone = np.delete(before, rows, 0) if share < 0.5 else np.delete(after, columns, 0)
    return np.concatenate([moved, alone]).astype(np.float32)


def _batches(frames: Iterable[np.ndarray], shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Collect frames into (B, H, W, 3) arrays; each is overwritten by the next one."""
    size = max(1, min(BATCH_FRAMES, BATCH_BYTES // math.prod(shape)))
    batch, count = np.empty((size, *shape), np.uint8), 0
    for frame in frames:
        batch[count] = frame
        count += 1
        if count == size:
            yield batch
            count = 0
    if count:
        yield batch[:count]


def suppress(boxes: np.ndarray, max_iou: float) -> np.ndarray:
    """Non-maximum suppression of (n, 5) boxes, best first."""
    keep: list[int] = []
    overlap = iou(boxes, boxes)
    for i in range(len(boxes)):
        if not keep or overlap[i, keep].max() <= max_iou:
            keep.append(i)
    return boxes[keep]


def _real(boxes: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Tell people from false boxes and from second skeletons on one body; indices, surest first."""
    sureness = keypoints[:, :, 2].mean(1)
    keep: list[int] = []
    for i in np.argsort(-sureness, kind="stable"):
        radius = 0.2 * float(np.sqrt(np.clip(boxes[i, 2:4] - boxes[i, :2], 1, None).prod()))
        double = keep and nearness(keypoints[i], keypoints[keep], radius).max() > MAX_NEARNESS
        if sureness[i] >= MIN_MEAN_SCORE and not double:
            keep.append(int(i))
    return np.array(keep, np.int64)
