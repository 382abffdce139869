"""Prediction: clips or videos -> class scores, by Ray Data actors that each hold the model."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import ray
from ray.data import ActorPoolStrategy

from pipelines import render
from pipelines.plan import Video
from posec3d import checkpoint as checkpoints
from posec3d import estimators
from posec3d.feed import Index
from posec3d.recognizer import Recognizer, Result
from posec3d.weights import Network

log = logging.getLogger(__name__)

BATCH = 8  # clips a model looks at together


class _Classify:
    """Test clips of `render.testing_samples` -> class probabilities."""

    def __init__(self, model: "ray.ObjectRef[bytes]", flipped: bool, device: str) -> None:
        self.recognizer = Recognizer(checkpoints.loads(ray.get(model), "the model"), device)
        self.flipped = flipped

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        scores = self.recognizer.scores(batch, flipped=self.flipped)
        return {"clip_id": batch["clip_id"], "label": batch["label"], "scores": scores}


def scores(
    chosen: Index, model: bytes, *, num_clips: int, flipped: bool, actors: int, use_gpu: bool = False
) -> ray.data.Dataset:
    """Class probabilities of a table's clips, averaged over their views.

    Args:
        chosen: which clips.
        model: a checkpoint file's content.
        num_clips: test clips sampled from each row.
        flipped: look at each mirrored too.
        actors: how many work in parallel, one CPU (and one GPU) each.
        use_gpu: run on GPUs.

    Returns:
        Rows: clip_id, label (-1 where there is none), scores (classes,) float32.
    """
    config = checkpoints.loads(model, "the model").config
    return render.testing_samples(chosen, config.clip, num_clips=num_clips).map_batches(
        _Classify,
        fn_constructor_args=(ray.put(model), flipped, "cuda" if use_gpu else "cpu"),
        batch_size=BATCH,
        num_cpus=1,
        num_gpus=1 if use_gpu else None,
        compute=ActorPoolStrategy(size=actors),
    )


class _PredictVideo:
    """Videos -> the likeliest labels, and pictures in the output folder."""

    def __init__(
        self,
        model: "ray.ObjectRef[bytes]",
        detector: "ray.ObjectRef[Network]",
        pose: "ray.ObjectRef[Network]",
        out: str,
        clips: int,
    ) -> None:
        self.recognizer = Recognizer(checkpoints.loads(ray.get(model), "the model"))
        self.recognizer.networks = estimators.detector(ray.get(detector)), estimators.estimator(ray.get(pose))
        self.out = out
        self.clips = clips

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        answer = {"video": row["video"], "clip_id": row["clip_id"], "people": 0, "top": [], "error": None}
        try:
            result = self.recognizer.predict(row["video"], clips=self.clips)
            write_pictures(result, f"{self.out.rstrip('/')}/{row['clip_id']}")
        except Exception as error:  # one bad video must not stop a job
            log.exception("prediction failed on %s", row["video"])
            return {**answer, "error": f"{type(error).__name__}: {error}"}
        # What a model says of an empty volume means nothing.
        likely = result.top(5) if result.clip.num_persons else []
        top = [{"label": name, "probability": probability} for name, probability in likely]
        return {**answer, "people": result.clip.num_persons, "top": top}


def videos(found: Sequence[Video], model: bytes, out: str, *, clips: int, actors: int) -> ray.data.Dataset:
    """Name the action in each video; writes <clip_id>.mp4 (overlay) and <clip_id>.gif (volume) into `out`.

    Returns:
        Rows: video, clip_id, people, top (list of label and probability, best first), error (None if all went well).
    """
    rows = [{"video": v.video, "clip_id": v.clip_id} for v in found]
    networks = [ray.put(estimators.network(names[0])) for names in (estimators.DETECTORS, estimators.POSES)]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _PredictVideo,
        fn_constructor_args=(ray.put(model), *networks, out, clips),
        num_cpus=1,
        compute=ActorPoolStrategy(size=min(actors, len(rows))),
    )


def write_pictures(result: Result, uri: str) -> None:
    """Write `uri`.mp4, the video with skeletons and label, and `uri`.gif, the heatmap volume, to any fsspec URI.

    A model that sees no volumes has no .gif.
    """
    fs, path = fsspec.url_to_fs(uri)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        overlay, volume = Path(folder) / "overlay.mp4", Path(folder) / "volume.gif"
        result.overlay(overlay)
        fs.put(str(overlay), f"{path}.mp4")
        if result.volume is not None:
            result.volume_gif(volume)
            fs.put(str(volume), f"{path}.gif")
