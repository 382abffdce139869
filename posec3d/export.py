"""Export: a checkpoint -> one file, ONNX or torch.export, that takes a clip's coordinates and gives scores.

Where the network sees RGB it takes pictures too. All that lies between is inside (`export_torch`), so that whoever uses
the file needs neither this package nor Python. Only the choice of frames is left to them.
"""

import io
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch

import posec3d
from posec3d.checkpoint import Checkpoint
from posec3d.clips import ClipConfig, sample_frames, uniform_sample
from posec3d.export_torch import has_motion, module
from posec3d.recognizer import Recognizer
from posec3d.skeletons import skeleton
from posec3d.table import Clip

if TYPE_CHECKING:
    from posec3d.frames import Frames

Scores = Callable[..., np.ndarray]
"""keypoints, scores, frame_size (, rgb, rgb_region) -> probabilities, as arrays; see `export_torch.module`."""

INPUTS = {"keypoints": {0: "N", 1: "M"}, "scores": {0: "N", 1: "M"}, "frame_size": {0: "N"}}
"""And which of their axes are free."""
PICTURES = {"rgb": {0: "N", 2: "H", 3: "W"}, "rgb_region": {0: "N"}}
"""The same, of what networks that see RGB take beside those."""
OUTPUT = "probabilities"
METADATA = "metadata.json"
"""Under which name a torch.export file holds what ONNX has fields for."""


def onnx(checkpoint: Checkpoint) -> bytes:
    """An ONNX file (opset 17) of `export_torch.module`, with `metadata` in its metadata_props.

    Inputs and output are named as in `INPUTS`, `PICTURES` and `OUTPUT`.

    Raises:
        NotExportable: as of `export_torch.module`.
    """
    from onnx import TensorProto, helper, load

    free, example = _free(checkpoint), _example(checkpoint)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter warns that it is old; the newer one needs another package and does no better here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module(checkpoint),
            example,
            f"{folder}/model",
            input_names=list(free),
            output_names=[OUTPUT],
            dynamic_axes=free | {OUTPUT: {0: "N"}},
            opset_version=17,
            dynamo=False,
        )
        model = load(f"{folder}/model")
    kept = {given.name for given in model.graph.input}
    for place, ((name, axes), given) in enumerate(zip(free.items(), example, strict=True)):
        if name not in kept:  # RGB alone without a crop needs no people, but all files take the same
            shape = [axes.get(axis, size) for axis, size in enumerate(given.shape)]
            model.graph.input.insert(place, helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    helper.set_model_props(model, metadata(checkpoint))
    return model.SerializeToString()


def program(checkpoint: Checkpoint) -> bytes:
    """A file of torch.export (.pt2) of `export_torch.module`, with `metadata` as JSON in its extra file `METADATA`.

    Raises:
        NotExportable: as of `export_torch.module`.
    """
    sizes = {name: torch.export.Dim(name, min=1) for name in "NMHW"}
    shapes = tuple({axis: sizes[name] for axis, name in axes.items()} for axes in _free(checkpoint).values())
    with torch.no_grad():
        exported = torch.export.export(module(checkpoint), _example(checkpoint), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(exported, file, extra_files={METADATA: json.dumps(metadata(checkpoint))})
    return file.getvalue()


def _free(checkpoint: Checkpoint) -> dict[str, dict[int, str]]:
    """Inputs of the file, and which of their axes are free."""
    return INPUTS | PICTURES if checkpoint.config.clip.rgb_length else INPUTS


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """What a user of the file must know: text, or JSON where it is a list or an object."""
    config, body = checkpoint.config, skeleton(checkpoint.skeleton)
    length, (frames, remark) = config.clip.length, _frames(config.clip)
    rgb = (
        f" rgb uint8 (N, {config.clip.rgb_length}, H, W, 3): pictures of whole frames or of a part of them, red, "
        "green, blue, of any size H x W. rgb_region float32 (N, 4): x, y, width, height of what they show, in pixels "
        "of the frame; of whole frames 0, 0, width, height."
        if config.clip.rgb_length
        else ""
    )
    return {
        "format": "posec3d 1",
        "posec3d_version": posec3d.__version__,
        "model": config.model.name,
        "labels": json.dumps(checkpoint.labels),
        "skeleton": body.name,
        "joints": json.dumps(body.joints),
        "clip_length": str(length),
        "rgb_length": str(config.clip.rgb_length),
        "stream": config.clip.stream if config.clip.space == "frame" else config.heatmap.kind,
        "config": json.dumps(asdict(config)),
        "inputs": f"keypoints float32 (N, M, {frames}, {len(body.joints)}, 2): N clips, M people, frames, joints; x, y "
        "in pixels of the frame. scores float32, the same without the last axis, 0 .. 1, 0 = not detected. frame_size "
        "float32 (N, 2): height, width in pixels. N and M are free, at least 1; person m is one track through the "
        "clip; pad with people of score 0. Points that are not finite are not detected." + rgb,
        "output": "probabilities float32 (N, classes), in the order of labels; better averaged over several clips.",
        "sampling": remark,
    }


def _frames(clip: ClipConfig) -> tuple[int, str]:
    """How many frames the file takes, and in words which."""
    how = (
        f"Cut the video into {clip.length} equal parts and take a random frame of each; begin a shorter one again."
        if clip.stride is None
        else f"Take {clip.length} frames, every {clip.stride}th; begin a video that ends before again."
    )
    if clip.rgb_length:
        how += f" Of the whole video, apart from these, take {clip.rgb_length} pictures the same way."
    if not has_motion(clip):
        return clip.length, how
    return 2 * clip.length, (
        f"{how} After these, give {clip.length} more: the frame of the video after each. The video's last frame has "
        "none: give it twice, with scores of 0."
    )


def sampled(clip: Clip, config: ClipConfig, frames: "Frames | None" = None) -> tuple[np.ndarray, ...]:
    """What the file wants of a clip, of the first test clip, without N.

    Args:
        clip: of the network's skeleton.
        config: the network's.
        frames: the clip's pictures, for a network that sees RGB.

    Returns:
        keypoints (M, T, V, 2), scores (M, T, V), frame_size (2,), T as of `export_torch.module`; for a network that
        sees RGB also rgb (R, H, W, 3) and rgb_region (4,).
    """
    (numbers,), last = sample_frames(clip.num_frames, config), clip.num_frames - 1
    keypoints, scores, size = clip.keypoints, clip.scores, np.array([clip.height, clip.width], np.float32)
    if has_motion(config):
        both = np.concatenate([numbers, np.minimum(numbers + 1, last)])
        return keypoints[:, both], scores[:, both] * (np.tile(numbers, 2) < last)[:, None], size
    if frames is None:
        return keypoints[:, numbers], scores[:, numbers], size
    import cv2

    (chosen,) = uniform_sample(len(frames.images), config.rgb_length)
    pictures = [cv2.imdecode(np.frombuffer(frames.images[i], np.uint8), cv2.IMREAD_COLOR) for i in chosen]
    rgb = np.stack(pictures)[..., ::-1].copy()  # type: ignore[arg-type] # of a damaged one, None, it makes an error
    return keypoints[:, numbers], scores[:, numbers], size, rgb, np.array(frames.region, np.float32)


def open_onnx(data: bytes, threads: int | None = None) -> Scores:
    """Run an ONNX file on the CPU with onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0]


def open_program(data: bytes) -> Scores:
    """Run a torch.export file on the CPU."""
    run = torch.export.load(io.BytesIO(data)).module()

    @torch.inference_mode()
    def scores(*arrays: np.ndarray) -> np.ndarray:
        return run(*map(torch.from_numpy, arrays)).numpy()

    return scores


def difference(scores: Scores, checkpoint: Checkpoint, *, people: Sequence[int] = (1, 2, 5)) -> float:
    """The greatest difference of a file's probabilities from those of the `Recognizer`.

    Args:
        scores: of an opened file.
        checkpoint: what it was made of.
        people: M; of each, clips of random people (and random pictures), as a batch of one and one of three.
    """
    recognizer, rng = Recognizer(checkpoint), np.random.default_rng(0)
    apart = []
    for count in people:
        clips = [random_clip(checkpoint, count, rng) for _ in range(3)]
        frames = random_frames(checkpoint, len(clips), rng)
        samples = [recognizer.samples(clip, of, clips=1) for clip, of in zip(clips, frames, strict=True)]
        wanted = np.concatenate([recognizer.scores(sample) for sample in samples])
        given = batch(clips, checkpoint.config.clip, frames)
        for n in (1, 3):
            apart.append(np.abs(scores(*(array[:n] for array in given)) - wanted[:n]).max())
    return float(np.max(apart))  # NaN if one is


def batch(clips: Sequence[Clip], config: ClipConfig, frames: "Sequence[Frames | None]" = ()) -> tuple[np.ndarray, ...]:
    """`sampled` of clips of as many people each, and of their pictures, as the file takes them: with N."""
    each = zip(clips, frames or [None] * len(clips), strict=True)
    return tuple(np.stack(arrays) for arrays in zip(*(sampled(clip, config, of) for clip, of in each), strict=True))


def random_clip(checkpoint: Checkpoint, people: int, rng: np.random.Generator) -> Clip:
    """A clip of people whose joints lie anywhere in a part of the frame, a fifth of them not detected."""
    frames, joints = 2 * checkpoint.config.clip.length + 1, len(skeleton(checkpoint.skeleton).joints)
    height, width = 480, 640
    corner, size = rng.uniform(0, 300, (people, 1, 1, 2)), rng.uniform(20, 180, (people, 1, 1, 2))
    keypoints = (corner + size * rng.random((people, frames, joints, 2))).astype(np.float32)
    scores = rng.random((people, frames, joints), np.float32) * (rng.random((people, frames, joints)) > 0.2)
    return Clip("random", frames, height, width, keypoints, scores, skeleton=checkpoint.skeleton)


def random_frames(checkpoint: Checkpoint, count: int, rng: np.random.Generator) -> "list[Frames | None]":
    """Pictures of each of so many random clips, of one size; None if none are looked at.

    They show other parts of the frame each, or all of it where the network wants that. They are coarse, so that
    colours are left after the warp, and each pixel differs much from the next.
    """
    length = checkpoint.config.clip.rgb_length
    if not length:
        return [None] * count
    import cv2

    from posec3d.frames import Frames

    def frames() -> Frames:
        images = rng.integers(0, 256, (2 * length + 1, *size, 3), np.uint8)
        (x, y), (w, h) = ((0, 0), (640, 480)) if whole else (rng.integers(0, 100, 2), rng.integers(250, 380, 2))
        lossless = [cv2.imencode(".png", image)[1].tobytes() for image in images]
        return Frames(np.arange(len(images)), (int(x), int(y), int(w), int(h)), lossless)

    size, whole = rng.integers(20, 60, 2), checkpoint.config.clip.padding is None
    return [frames() for _ in range(count)]


def _example(checkpoint: Checkpoint) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with; more than one of what is free."""
    rng = np.random.default_rng(0)
    clips = [random_clip(checkpoint, 3, rng) for _ in range(2)]
    return tuple(map(torch.from_numpy, batch(clips, checkpoint.config.clip, random_frames(checkpoint, 2, rng))))
