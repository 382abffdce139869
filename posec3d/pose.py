"""Frames -> person boxes -> keypoints -> tracks: MoveNet in onnxruntime on the CPU, and the whole path of one video."""

from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
import onnxruntime

from posec3d.table import Clip, clip_id
from posec3d.track import iou, link, nearness
from posec3d.video import open_video
from posec3d.weights import MoveNet

DETECTOR_SIDE = 256
"""Long side to which frames are scaled for the detector, in pixels; larger ones find chairs and lose near people."""
CROP_SIDE = 256  # as posec3d.movenet.CROP_SIZE, which is not imported here because it brings torch
"""Side of the crops the pose network takes, in pixels."""
MIN_BOX_SCORE = 0.3
MAX_BOX_IOU = 0.6
CROP_MARGIN = 1.25
"""Side of the square crop, in units of the box's long side."""

MIN_MEAN_SCORE = 0.2
"""Of a person's 17 keypoint scores: at 0.22 to 0.29 the joints of a pair of legs (the rest out of the frame) sit
right, at 0.18 and less nothing does (looked at on UT-Interaction; whole people have 0.3 to 0.8)."""
MAX_NEARNESS = 0.7
"""Keypoints nearer than this to a surer person's are the same body: a crop of two people shows the wrong one."""

_RUN_SIZE = 1  # images a network takes at once: on one thread 8 are 5 to 10 % slower each, on two it is the same


class PoseEstimator:
    """MoveNet MultiPose boxes and MoveNet Thunder keypoints (COCO-17), on CPU threads.

    Args:
        models: both networks; `posec3d.movenet.onnx_models()` makes them.
        threads: CPU threads a network may use. OpenCV gets as many, which holds for the whole process.
    """

    def __init__(self, models: MoveNet, *, threads: int = 1) -> None:
        self.name = f"movenet-thunder@{models.digest}"
        self.detector = f"movenet-multipose@{models.digest}"
        cv2.setNumThreads(threads)  # by default each worker would start a thread per core of the machine
        self._boxes, self._pose = (_session(model, threads) for model in (models.detector, models.pose))

    def detect(self, frames: np.ndarray) -> list[np.ndarray]:
        """Find people.

        Args:
            frames: (B, H, W, 3) uint8 RGB.

        Returns:
            For each frame (n, 5) float32: x1 y1 x2 y2 in frame pixels, score in 0..1; best first.
        """
        height, width = frames.shape[1:3]
        scale = DETECTOR_SIDE / max(height, width)
        small_height, small_width = max(round(height * scale), 1), max(round(width * scale), 1)
        shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        images = np.zeros((len(frames), -(-small_height // 32) * 32, -(-small_width // 32) * 32, 3), np.uint8)
        for image, frame in zip(images, frames, strict=True):
            image[:small_height, :small_width] = cv2.resize(frame, (small_width, small_height), interpolation=shrinks)
        found = _run(self._boxes, images, (20, 5))
        # Pixel centres are whole numbers on both sides; cv2.resize keeps edges, hence the halves.
        grow = np.tile((width / small_width, height / small_height), 2).astype(np.float32)
        found[..., :4] = (found[..., :4] + 0.5) * grow - 0.5
        return [_suppress(boxes[boxes[:, 4] >= MIN_BOX_SCORE]) for boxes in found]

    def estimate(self, frames: np.ndarray, boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Find the 17 COCO keypoints of each boxed person.

        Args:
            frames: (B, H, W, 3) uint8 RGB.
            boxes: for each frame (n, 4 or more), x1 y1 x2 y2 in frame pixels.

        Returns:
            For each frame (n, 17, 3) float32: x and y in frame pixels, score in 0..1.
        """
        counts = [len(b) for b in boxes]
        owners = np.repeat(np.arange(len(frames)), counts)
        corners = np.concatenate([np.asarray(b, np.float32)[:, :4] for b in boxes]) if counts else np.zeros((0, 4))
        middles = (corners[:, :2] + corners[:, 2:]) / 2
        sides = CROP_MARGIN * (corners[:, 2:] - corners[:, :2]).max(1, initial=1)
        origins = middles - sides[:, None] / 2
        crops = np.empty((len(corners), CROP_SIDE, CROP_SIDE, 3), np.uint8)
        for crop, owner, origin, side in zip(crops, owners, origins, sides, strict=True):
            crop[:] = _crop(frames[owner], origin, side)
        keypoints = _run(self._pose, crops, (17, 3))
        keypoints[..., :2] = keypoints[..., :2] * (sides / CROP_SIDE)[:, None, None] + origins[:, None]
        return [keypoints[end - n : end] for n, end in zip(counts, np.cumsum(counts), strict=True)]


def extract_poses(video_uri: str, estimator: PoseEstimator, *, batch_frames: int = 16, max_persons: int = 10) -> Clip:
    """Take a video all the way: decode, find people, estimate keypoints, link people over time.

    Never holds more than `batch_frames` frames, so memory does not grow with the video's length.

    Args:
        video_uri: a path or any URI fsspec opens.
        estimator: the networks.
        batch_frames: frames that go through the networks together.
        max_persons: at most so many tracks are kept, the largest and longest ones.

    Returns:
        The whole video as a row of the keypoint table, without label and splits: people as tracks, the main one
        first, zeros where a person is absent; M = 0 when nobody is in it.

    Raises:
        posec3d.video.VideoError: the video cannot be read.
    """
    boxes: list[np.ndarray] = []
    keypoints: list[np.ndarray] = []
    with open_video(video_uri) as video:
        info = video.info
        for frames in _batches((frame for _, frame in video), batch_frames, (info.height, info.width, 3)):
            found = estimator.detect(frames)
            people = estimator.estimate(frames, found)
            for b, k in zip(found, people, strict=True):
                real = _real(b, k)
                boxes.append(b[real])
                keypoints.append(k[real])
    tracks = link(boxes, keypoints, fps=info.fps, max_persons=max_persons)
    persons, frames_of = np.nonzero(tracks >= 0)
    out = Clip(
        clip_id=clip_id(video_uri),
        video=video_uri,
        num_frames=len(boxes),
        height=info.height,
        width=info.width,
        fps=info.fps,
        keypoints=np.zeros((*tracks.shape, 17, 2), np.float32),
        scores=np.zeros((*tracks.shape, 17), np.float32),
        boxes=(corners := np.zeros((*tracks.shape, 4), np.float32)),
        pose_model=estimator.name,
        detector=estimator.detector,
    )
    for m, t in zip(persons, frames_of, strict=True):
        i = tracks[m, t]
        out.keypoints[m, t], out.scores[m, t] = keypoints[t][i, :, :2], keypoints[t][i, :, 2]
        corners[m, t] = boxes[t][i, :4]
    return out


def _batches(frames: Iterable[np.ndarray], size: int, shape: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """Collect frames into (B, H, W, 3) arrays; each is overwritten by the next one."""
    batch, count = np.empty((size, *shape), np.uint8), 0
    for frame in frames:
        batch[count] = frame
        count += 1
        if count == size:
            yield batch
            count = 0
    if count:
        yield batch[:count]


def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Workers share the cores: a thread that waits must not burn one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, images: np.ndarray, output: tuple[int, int]) -> np.ndarray:
    """(B, H, W, 3) uint8 -> (B, *output) float32."""
    out = np.empty((len(images), *output), np.float32)
    for i in range(0, len(images), _RUN_SIZE):
        out[i : i + _RUN_SIZE] = session.run(None, {"images": images[i : i + _RUN_SIZE]})[0]
    return out


def _suppress(boxes: np.ndarray) -> np.ndarray:
    """Non-maximum suppression of (n, 5) boxes, best first."""
    keep: list[int] = []
    overlap = iou(boxes, boxes)
    for i in range(len(boxes)):
        if not keep or overlap[i, keep].max() <= MAX_BOX_IOU:
            keep.append(i)
    return boxes[keep]


def _crop(frame: np.ndarray, origin: np.ndarray, side: float) -> np.ndarray:
    """Cut the square that starts at origin (x, y) out of a frame, scaled to (256, 256, 3); black outside."""
    # Linear interpolation reads 2x2 pixels; what shrinks more is drawn larger and then averaged.
    times = max(int(np.ceil(side / CROP_SIDE / 2)), 1)
    step = side / (CROP_SIDE * times)
    x, y = origin - (times - 1) / 2 * step
    matrix = np.array([[step, 0, x], [0, step, y]], np.float32)
    large = (CROP_SIDE * times, CROP_SIDE * times)
    crop = cv2.warpAffine(frame, matrix, large, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return crop if times == 1 else cv2.resize(crop, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA)


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
