"""Export: a checkpoint -> one file, ONNX or torch.export, that takes a clip's coordinates and gives scores.

All that lies between is inside (`export_torch`), so that whoever uses the file needs neither this package nor Python.
Only the choice of frames is left to them.
"""

import io
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import torch

import posec3d
from posec3d.checkpoint import Checkpoint
from posec3d.clips import ClipConfig, sample_frames
from posec3d.export_torch import has_motion, module
from posec3d.recognizer import Recognizer
from posec3d.skeletons import skeleton
from posec3d.table import Clip

Scores = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""keypoints, scores, frame_size -> probabilities, as arrays; see `export_torch.module`."""

INPUTS = ("keypoints", "scores", "frame_size")
OUTPUT = "probabilities"
METADATA = "metadata.json"
"""Under which name a torch.export file holds what ONNX has fields for."""


def onnx(checkpoint: Checkpoint) -> bytes:
    """An ONNX file (opset 17) of `export_torch.module`, with `metadata` in its metadata_props.

    Inputs and output are named as in `INPUTS` and `OUTPUT`.

    Raises:
        NotExportable: as of `export_torch.module`.
    """
    from onnx import helper, load

    free = {name: {0: "N", 1: "M"} for name in INPUTS[:2]} | {name: {0: "N"} for name in (INPUTS[2], OUTPUT)}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The exporter warns that it is old; the newer one needs another package and does no better here.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module(checkpoint),
            _example(checkpoint),
            f"{folder}/model",
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_axes=free,
            opset_version=17,
            dynamo=False,
        )
        model = load(f"{folder}/model")
    helper.set_model_props(model, metadata(checkpoint))
    return model.SerializeToString()


def program(checkpoint: Checkpoint) -> bytes:
    """A file of torch.export (.pt2) of `export_torch.module`, with `metadata` as JSON in its extra file `METADATA`.

    Raises:
        NotExportable: as of `export_torch.module`.
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
        "inputs": f"keypoints float32 (N, M, {frames}, {len(body.joints)}, 2): N clips, M people, frames, joints; x, y "
        "in pixels of the frame. scores float32, the same without the last axis, 0 .. 1, 0 = not detected. frame_size "
        "float32 (N, 2): height, width in pixels. N and M are free, at least 1; person m is one track through the "
        "clip; pad with people of score 0. Points that are not finite are not detected.",
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
    if not has_motion(clip):
        return clip.length, how
    return 2 * clip.length, (
        f"{how} After these, give {clip.length} more: the frame of the video after each. The video's last frame has "
        "none: give it twice, with scores of 0."
    )


def sampled(clip: Clip, config: ClipConfig) -> tuple[np.ndarray, np.ndarray]:
    """The frames of a clip that the file wants, of the first test clip.

    Returns:
        keypoints (M, T, V, 2) and scores (M, T, V), T as of `export_torch.module`.
    """
    (frames,) = sample_frames(clip.num_frames, config)
    if not has_motion(config):
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
    apart = []
    for count in people:
        clips = [random_clip(checkpoint, count, rng) for _ in range(3)]
        wanted = np.stack([result.scores for result in recognizer.predict(clips, clips=1)])
        points, known = map(np.stack, zip(*(sampled(clip, checkpoint.config.clip) for clip in clips), strict=True))
        sizes = np.array([(clip.height, clip.width) for clip in clips], np.float32)
        for n in (1, 3):
            apart.append(np.abs(scores(points[:n], known[:n], sizes[:n]) - wanted[:n]).max())
    return float(np.max(apart))  # NaN if one is


def random_clip(checkpoint: Checkpoint, people: int, rng: np.random.Generator) -> Clip:
    """A clip of people whose joints lie anywhere in a part of the frame, a fifth of them not detected."""
    frames, joints = 2 * checkpoint.config.clip.length + 1, len(skeleton(checkpoint.skeleton).joints)
    height, width = 480, 640
    corner, size = rng.uniform(0, 300, (people, 1, 1, 2)), rng.uniform(20, 180, (people, 1, 1, 2))
    keypoints = (corner + size * rng.random((people, frames, joints, 2))).astype(np.float32)
    scores = rng.random((people, frames, joints), np.float32) * (rng.random((people, frames, joints)) > 0.2)
    return Clip("random", frames, height, width, keypoints, scores, skeleton=checkpoint.skeleton)


def _example(checkpoint: Checkpoint) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with; more than one of what is free."""
    rng = np.random.default_rng(0)
    clips = [random_clip(checkpoint, 3, rng) for _ in range(2)]
    points, known = map(np.stack, zip(*(sampled(clip, checkpoint.config.clip) for clip in clips), strict=True))
    return torch.from_numpy(points), torch.from_numpy(known), torch.tensor([[480.0, 640.0]] * 2)
