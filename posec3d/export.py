"""Export: a checkpoint -> one file, ONNX or torch.export, that takes a clip's coordinates and gives scores.

All that lies between is inside, so that whoever uses the file needs neither this package nor Python: the crop around the
subjects and the drawing of the volume, or the normalisation and the stream of a graph network, then the network. It is
written once more here, in operations without branches that every exporter knows, and held to `clips`, `heatmaps` and
`streams` by `difference`. Only the choice of frames is left to the caller.
"""

import io
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

import posec3d
from posec3d.checkpoint import Checkpoint
from posec3d.clips import ClipConfig, sample_frames
from posec3d.heatmaps import FAR
from posec3d.recognizer import Recognizer
from posec3d.skeletons import skeleton
from posec3d.streams import MIN_SCORE
from posec3d.table import Clip

Scores = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""keypoints, scores, frame_size -> probabilities, as arrays; see `module`."""

INPUTS = ("keypoints", "scores", "frame_size")
OUTPUT = "probabilities"
METADATA = "metadata.json"
"""Under which name a torch.export file holds what ONNX has fields for."""


def module(checkpoint: Checkpoint) -> nn.Module:
    """The checkpoint's network with all that comes before it, in evaluation mode, on the CPU.

    Returns:
        A module of three float32 inputs: keypoints (N, M, T, V, 2), x then y, in pixels of the frame; scores
        (N, M, T, V) in [0, 1], 0 = not detected; frame_size (N, 2), the frame's height and width in pixels. N and M
        are free, >= 1 (nobody is one person of score 0); T is config.clip.length; of a motion stream it is twice that:
        the frames of the clip, then the one that follows each of them in the video. Points that are not finite count
        as not detected. It returns class probabilities (N, classes).

    Raises:
        ValueError: a model of 3D people.
    """
    clip = checkpoint.config.clip
    if clip.space == "volume":
        return VolumeScores(checkpoint).eval()
    if clip.space == "frame":
        return GraphScores(checkpoint).eval()
    # Whoever adds a network of other inputs (frames beside poses, say) adds its module here.
    raise ValueError(
        f"a {checkpoint.config.model.name} of clip.space {clip.space} cannot be exported: its people are turned by the "
        "whole video, which the file never sees; train it with clip.space frame"
    )


def onnx(checkpoint: Checkpoint) -> bytes:
    """An ONNX file (opset 17) of `module`, with `metadata` in its metadata_props.

    Inputs and output are named as in `INPUTS` and `OUTPUT`.

    Raises:
        ValueError: as of `module`.
    """
    from onnx import helper, load_from_string

    free = {name: {0: "N", 1: "M"} for name in INPUTS[:2]} | {name: {0: "N"} for name in (INPUTS[2], OUTPUT)}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter warns that it is old; the newer one needs another package and does no better here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module(checkpoint), _example(checkpoint), file, input_names=list(INPUTS), output_names=[OUTPUT],
            dynamic_axes=free, opset_version=17, dynamo=False,
        )  # fmt: skip
    model = load_from_string(file.getvalue())
    helper.set_model_props(model, metadata(checkpoint))
    return model.SerializeToString()


def program(checkpoint: Checkpoint) -> bytes:
    """A file of torch.export (.pt2) of `module`, with `metadata` as JSON in its extra file `METADATA`.

    Raises:
        ValueError: as of `module`.
    """
    clips, people = torch.export.Dim("N", min=1), torch.export.Dim("M", min=1)
    shapes = ({0: clips, 1: people}, {0: clips, 1: people}, {0: clips})
    with torch.no_grad():
        exported = torch.export.export(module(checkpoint), _example(checkpoint), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(exported, file, extra_files={METADATA: json.dumps(metadata(checkpoint))})
    return file.getvalue()


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What a user of the file must know: text, or JSON where it is a list or an object."""
    config, body = checkpoint.config, skeleton(checkpoint.skeleton)
    length, (frames, remark) = config.clip.length, _frames(config.clip)
    return {
        "format": "posec3d 1",
        "posec3d_version": posec3d.__version__,
        "model": config.model.name,
        "labels": json.dumps(checkpoint.labels),
        "skeleton": body.name,
        "joints": json.dumps(body.joints),
        "clip_length": str(length),
        "stream": config.clip.stream if config.clip.space == "frame" else config.heatmap.kind,
        "config": json.dumps(asdict(config)),
        "inputs": f"keypoints float32 (N, M, {frames}, {len(body.joints)}, 2): N clips, M people, frames, joints; x then "
        "y in pixels of the frame. scores float32 without the last axis, 0 .. 1, 0 = not detected. frame_size float32 "
        "(N, 2): height, width in pixels. N and M are free, at least 1; person m is one track through the clip; pad "
        "with people of score 0. Not finite = not detected.",
        "output": "probabilities float32 (N, classes), in the order of labels; the mean over several clips of a video is "
        "better than one.",
        "sampling": remark,
    }


def _frames(clip: ClipConfig) -> tuple[int, str]:
    """How many frames the file takes, and in words which."""
    how = (
        f"Cut the video into {clip.length} equal parts and take a random frame of each; begin a shorter one again."
        if clip.stride is None
        else f"Take {clip.length} frames, every {clip.stride}th; begin a video that ends before again."
    )
    if not _moves(clip):
        return clip.length, how
    return 2 * clip.length, (
        f"{how} After these, give {clip.length} more: the frame of the video after each. The video's last frame has "
        "none: give it twice, with scores of 0."
    )


def _moves(clip: ClipConfig) -> bool:
    return clip.space == "frame" and clip.stream.endswith("motion")


def sampled(clip: Clip, config: ClipConfig) -> tuple[np.ndarray, np.ndarray]:
    """The frames of a clip that the file wants, of the first test clip.

    Returns:
        keypoints (M, T, V, 2) and scores (M, T, V), T as of `module`.
    """
    (frames,) = sample_frames(clip.num_frames, config)
    if not _moves(config):
        return clip.keypoints[:, frames], clip.scores[:, frames]
    last = clip.num_frames - 1
    both = np.concatenate([frames, np.minimum(frames + 1, last)])
    return clip.keypoints[:, both], clip.scores[:, both] * (np.tile(frames, 2) < last)[:, None]


def open_onnx(data: bytes, threads: int | None = None) -> Scores:
    """Run an ONNX file on the CPU with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda *arrays: session.run(None, dict(zip(INPUTS, arrays, strict=True)))[0]


def open_program(data: bytes) -> Scores:
    """Run a torch.export file on the CPU."""
    run = torch.export.load(io.BytesIO(data)).module()

    @torch.inference_mode()
    def scores(*arrays: np.ndarray) -> np.ndarray:
        return run(*map(torch.from_numpy, arrays)).numpy()

    return scores


def difference(scores: Scores, checkpoint: Checkpoint, *, people: Sequence[int] = (1, 2, 5), seed: int = 0) -> float:
    """The greatest difference of a file's probabilities from those of `Recognizer.predict`.

    Args:
        scores: of an opened file.
        checkpoint: what it was made of.
        people: M; of each, clips of random people, as a batch of one and one of three.
        seed: of the people.
    """
    recognizer, rng = Recognizer(checkpoint), np.random.default_rng(seed)
    worst = 0.0
    for count in people:
        clips = [random_clip(checkpoint, count, rng) for _ in range(3)]
        wanted = np.stack([result.scores for result in recognizer.predict(clips, clips=1)])
        points, known = map(np.stack, zip(*(sampled(clip, checkpoint.config.clip) for clip in clips), strict=True))
        sizes = np.array([(clip.height, clip.width) for clip in clips], np.float32)
        for n in (1, 3):
            # Written so that what is not a number is no small difference.
            apart = np.abs(scores(points[:n], known[:n], sizes[:n]) - wanted[:n]).max()
            worst = float(apart) if not apart <= worst else worst
    return worst


def random_clip(checkpoint: Checkpoint, people: int, rng: np.random.Generator) -> Clip:
    """A clip of people whose joints lie anywhere in a part of the frame, a fifth of them not detected."""
    frames, joints = 2 * checkpoint.config.clip.length + 1, len(skeleton(checkpoint.skeleton).joints)
    height, width = 480, 640
    corner, size = rng.uniform(0, 300, (people, 1, 1, 2)), rng.uniform(20, 180, (people, 1, 1, 2))
    keypoints = (corner + size * rng.random((people, frames, joints, 2))).astype(np.float32)
    scores = rng.random((people, frames, joints), np.float32) * (rng.random((people, frames, joints)) > 0.2)
    return Clip("random", frames, height, width, keypoints, scores, skeleton=checkpoint.skeleton)


def _example(checkpoint: Checkpoint) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs to trace with; more than one of what is free."""
    rng = np.random.default_rng(0)
    clips = [random_clip(checkpoint, 3, rng) for _ in range(2)]
    points, known = map(np.stack, zip(*(sampled(clip, checkpoint.config.clip) for clip in clips), strict=True))
    return torch.from_numpy(points), torch.from_numpy(known), torch.tensor([[480.0, 640.0]] * 2)


class VolumeScores(nn.Module):
    """Crop, draw, look: the 3D-CNNs."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        config, body = checkpoint.config, skeleton(checkpoint.skeleton)
        pairs = body.limbs if config.heatmap.kind == "limb" else [(joint, joint) for joint in range(len(body.joints))]
        self.clip = config.clip
        self.volume = Volume(pairs, config.clip.test_size, config.heatmap.sigma)
        self.network = checkpoint.model()

    def forward(self, keypoints: Tensor, scores: Tensor, frame_size: Tensor) -> Tensor:
        """See `module`."""
        there = _finite(keypoints)
        scores = torch.where(there, scores, 0)
        xy = torch.where(there[..., None], keypoints, 0)
        xy = subject_crop(xy, scores, frame_size, self.clip.test_size, self.clip.padding)
        return self.network(self.volume(xy, scores)).softmax(1)


class GraphScores(nn.Module):
    """Normalise, take the stream, cut or pad the people, look: the graph networks."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.clip = checkpoint.config.clip
        self.register_buffer("parents", torch.tensor(skeleton(checkpoint.skeleton).parents), persistent=False)
        self.network = checkpoint.model()

    parents: Tensor

    def forward(self, keypoints: Tensor, scores: Tensor, frame_size: Tensor) -> Tensor:
        """See `module`."""
        if self.clip.persons is not None:
            keypoints, scores = (_people(array, self.clip.persons) for array in (keypoints, scores))
        scores = torch.where(_finite(keypoints), scores, 0)
        half = (frame_size.flip(-1) / 2)[:, None, None, None]
        xy = torch.where((scores > MIN_SCORE)[..., None], (keypoints - half) / half, 0)
        features = torch.cat([xy, scores[..., None]], -1)
        if self.clip.stream.startswith("bone"):
            features = _minus(features, features.index_select(-2, self.parents))
        if _moves(self.clip):
            now, following = features.split(self.clip.length, 2)
            features = _minus(following, now)
        return self.network(features).softmax(1)


class Volume(nn.Module):
    """Joints or limbs by the rules of `posec3d.heatmaps`: xy (N, M, T, V, 2), score (N, M, T, V) -> (N, C, T, H, W).

    Where a window ends and which limb is short is decided in float64, as there. A channel at a time: beside the volume
    that takes the memory of one channel of all people, and it stays in the cache.

    Args:
        pairs: start and end of each channel's limb; a joint is a limb from itself to itself.
        size: side H = W in pixels.
        sigma: spread in pixels.
        min_score: peaks under this draw nothing.
    """

    starts: Tensor
    ends: Tensor
    pixels: Tensor

    def __init__(self, pairs: Sequence[tuple[int, int]], size: int, sigma: float, min_score: float = 1e-3) -> None:
        super().__init__()
        self.sigma, self.min_score = sigma, min_score
        self.joints = all(start == end for start, end in pairs)
        for name, ends in zip(("starts", "ends"), zip(*pairs, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(ends), persistent=False)
        self.register_buffer("pixels", torch.arange(size), persistent=False)

    def forward(self, xy: Tensor, score: Tensor) -> Tensor:
        """Draw; all points are finite."""
        start, end = xy.index_select(-2, self.starts), xy.index_select(-2, self.ends)
        first = score.index_select(-1, self.starts)
        peak = torch.minimum(first, score.index_select(-1, self.ends))
        short = (end.double() - start.double()).square().sum(-1) < 1
        peak = torch.where(peak >= self.min_score, torch.where(short, first, peak), 0)
        end = torch.where(short[..., None], start, end)
        # Both axes at once, (N, M, T, C, 2, pixels): what a joint's Gaussian, or a limb's window, is on each.
        low, high = (edge.double()[..., None] for edge in (torch.minimum(start, end), torch.maximum(start, end)))
        inside = (self.pixels >= (low - 3 * self.sigma).long()) & (self.pixels <= (high + 3 * self.sigma).long())
        offset = self.pixels.float() - start[..., None]
        axes = torch.where(inside, self._gaussian(offset.square()), 0) if self.joints else inside.float()
        across, down = axes[..., 0, :], axes[..., 1, :] * peak[..., None]
        planes = []
        for c in range(len(self.starts)):
            plane = down[..., c, :, None] * across[..., c, None, :]
            if not self.joints:
                plane = plane * self._gaussian(_distance2(offset[..., c, :, :], (end - start)[..., c, :]))
            planes.append(plane.amax(1))
        return torch.stack(planes, 1)

    def _gaussian(self, distance2: Tensor) -> Tensor:
        return torch.exp(distance2 / (-2 * self.sigma**2))


def _distance2(offset: Tensor, limb: Tensor) -> Tensor:
    """Squared distance to a segment, of pixels `offset` (..., 2, pixels) from its start: (..., H, W)."""
    x, y = offset[..., 0, None, :], offset[..., 1, :, None]
    limb_x, limb_y = limb[..., 0, None, None], limb[..., 1, None, None]
    # A short limb has become a point, of squared length 0; all others have 1 or more.
    length2 = (limb_x.square() + limb_y.square()).clamp(min=1)
    along = (x * (limb_x / length2) + y * (limb_y / length2)).clamp(0, 1)
    return (x - along * limb_x).square() + (y - along * limb_y).square()


def subject_crop(
    xy: Tensor, score: Tensor, frame_size: Tensor, size: int, padding: float, *, min_size: int = 10
) -> Tensor:
    """Crop as `posec3d.clips.subject_crop` does, to a square, and resize that to `size` pixels.

    Args:
        xy: (N, M, T, V, 2) pixels, finite.
        score: (N, M, T, V), 0 = not detected.
        frame_size: (N, 2) height, width.
        size: side of the result in pixels.
        padding: growth of each half side, relative.
        min_size: with a box side under this, or no point at all, the whole frame is resized.

    Returns:
        (N, M, T, V, 2) in pixels of the result.
    """
    seen = (score > 0)[..., None]
    low = torch.where(seen, xy, math.inf).amin((1, 2, 3)).double()  # (N, 2)
    high = torch.where(seen, xy, -math.inf).amax((1, 2, 3)).double()
    whole = ((high - low).amin(1, keepdim=True) < min_size)  # of no point at all it is minus infinity
    low, high = torch.where(whole, 0, low), torch.where(whole, 0, high)
    half = ((high - low) / 2 * (1 + padding)).amax(1, keepdim=True)
    centre = (low + high) / 2
    first, last = (centre - half).long(), (centre + half).long()  # truncated toward zero, as published
    side = torch.where(whole, frame_size.flip(1).double(), (last - first).double())
    return (xy - first.float()[:, None, None, None]) * (size / side).float()[:, None, None, None]


def _finite(xy: Tensor) -> Tensor:
    near = xy.abs() < FAR  # false for what is not a number
    return near[..., 0] & near[..., 1]


def _people(array: Tensor, persons: int) -> Tensor:
    """Cut or zero-pad the second axis to `persons`, whatever it was."""
    nobody = torch.zeros_like(array[:, :1])
    return torch.cat([array, *[nobody] * (persons - 1)], 1)[:, :persons]


def _minus(a: Tensor, b: Tensor) -> Tensor:
    """A difference of features; its score, the last channel, is the mean of the two."""
    return torch.cat([a[..., :-1] - b[..., :-1], (a[..., -1:] + b[..., -1:]) / 2], -1)
