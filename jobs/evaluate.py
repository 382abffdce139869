"""Job: trained runs + keypoint table -> accuracy, `python -m jobs.evaluate RUN... --table URI --split EXPR`."""

import csv
import io
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import tyro

from jobs import _job
from pipelines import extract, predict
from posec3d import checkpoint as checkpoints
from posec3d import draw, metrics
from posec3d import table as tables
from posec3d.checkpoint import Checkpoint
from posec3d.feed import index
from posec3d.skeletons import counterparts, skeleton
from posec3d.storage import write_whole

log = logging.getLogger("posec3d")


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Test a trained run on a split of a keypoint table; several runs are fused by a weighted mean of scores."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of jobs.train, or .safetensors files."""
    table: str
    """Keypoint table to test on. Clips of another skeleton are given the joints of the model's."""
    split: str | None = "test"
    """Clips to test on: a split, !split for all others, or several joined by ','; None takes all."""
    clips: int = 1
    """Test clips sampled from each row, their scores averaged; 10 is the paper's multi-clip test."""
    flip: bool = False
    """Look at each clip mirrored too."""
    weights: tuple[float, ...] | None = None
    """Of the runs' scores, one each; None weighs all alike."""
    weights_split: str | None = None
    """Choose the weights instead, on these clips: those that make their labels likeliest. None of them is tested."""
    out: str | None = None
    """Folder of the results; default: a folder named after the test in the first run's folder."""
    actors: int | None = None
    """Copies of a model that work in parallel; default: one a CPU."""
    use_gpu: bool = False
    """One GPU a copy."""


def run(job: Evaluate) -> dict[str, Any]:
    """Score the split with every run, fuse, and write what came out."""
    if not job.runs:
        raise _job.UsageError("give at least one run: the folder of a jobs.train run, or a .safetensors file")
    if job.weights is not None and (len(job.weights) != len(job.runs) or not all(w >= 0 for w in job.weights)):
        raise _job.UsageError(f"--weights wants a number >= 0 for each of {len(job.runs)} runs, got {job.weights}")
    if job.weights is not None and (job.weights_split is not None or not sum(job.weights)):
        raise _job.UsageError("give --weights of which one is positive, or --weights-split")
    job = _job.absolute(job, "table", "out")
    try:
        files = [checkpoints.read(uri) for uri in job.runs]
        found = tables.summary(job.table)
    except FileNotFoundError as error:
        raise _job.UsageError(str(error)) from error
    models = [checkpoints.loads(data, uri) for data, uri in zip(files, job.runs, strict=True)]
    names = models[0].labels
    for uri, model in zip(job.runs, models, strict=True):
        if model.labels != names:
            raise _job.UsageError(f"{uri} knows other classes than {job.runs[0]}; they cannot be fused")
        for kind in found["skeletons"] - {model.skeleton}:
            lost = [joint for joint in skeleton(model.skeleton).joints if not counterparts(joint, skeleton(kind))]
            log.warning("%s looks at %s; clips of %s lack: %s", uri, model.skeleton, kind, ", ".join(lost) or "nothing")
    for number, name in found["labels"].items():
        if number >= len(names) or names[number] != name:
            known = names[number] if number < len(names) else "none"
            raise _job.UsageError(f"label {number} is {name!r} in {job.table}, but {known!r} in {job.runs[0]}")
    _job.require_splits(job.table, found, job.split, job.weights_split)
    _require_clips(job, found)

    _job.connect()
    weights = np.array(job.weights or [1.0] * len(models))
    if job.weights_split is not None:
        _, labels, scores = _scores(job, files, models, job.weights_split)
        weights = metrics.fusion_weights(scores, labels)
    weights = weights / weights.sum()
    ids, labels, scores = _scores(job, files, models, job.split)
    fused = np.tensordot(weights, scores, 1)
    result = metrics.evaluate(fused, labels, names)

    test = f"{job.split or 'all'}-{job.clips}clip{'s' if job.clips > 1 else ''}{'-flip' if job.flip else ''}"
    folder = job.runs[0].removesuffix(".safetensors").rstrip("/")
    out = (job.out or f"{folder}/evaluate/{re.sub(r'[^A-Za-z0-9_-]+', '_', test)}").rstrip("/")
    _write(out, result, ids, labels, fused, names)
    each = [
        {"run": uri, "weight": float(weight), "top1": metrics.top_k(score, labels, 1)}
        for uri, weight, score in zip(job.runs, weights, scores, strict=True)
    ]
    for row in each if len(each) > 1 else ():
        log.info("%s: weight %.3f, top-1 alone %.4f", *row.values())
    return {
        "path": out,
        "runs": each,
        "split": job.split,
        "test clips": job.clips,
        "flip": job.flip,
        **result,
    }


def _require_clips(job: Evaluate, found: dict[str, Any]) -> None:
    """See that there is something to test, and that the weights are not chosen on any of it."""
    tested, weighed = (
        {row["clip_id"] for row in _small(job.table) if tables.in_split(row["splits"] or (), split)}
        for split in (job.split, job.weights_split)
    )
    for split, clips in ((job.split, tested), (job.weights_split, weighed)):
        if not clips:
            raise _job.UsageError(
                f"no labelled clip in split {split!r} of {job.table}; it has {sorted(found['splits'])}"
            )
    if job.weights_split is not None and (shared := tested & weighed):
        raise _job.UsageError(
            f"{len(shared)} clips of --weights-split {job.weights_split!r} are tested too, for example {min(shared)}; "
            "weights chosen on them would flatter the test"
        )


def _small(table: str) -> Iterator[dict[str, Any]]:
    for group in tables.read_row_groups(table, ["clip_id", "label", "splits"]):
        yield from (row for row in group.to_pylist() if row["label"] is not None)


def _scores(
    job: Evaluate, files: list[bytes], models: list[Checkpoint], split: str | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Clip ids, labels (N,) and probabilities (runs, N, classes) of a split, in one order."""
    parts = []
    for data, model in zip(files, models, strict=True):
        three_d = model.config.clip.space == "body"
        rgb = model.config.clip.rgb_length > 0
        chosen = index(job.table, split, people=False, skeleton=model.skeleton, three_d=three_d, rgb=rgb)
        spare = int(ray.cluster_resources().get("CPU", 0)) - 1
        actors = job.actors or max(1, min(spare, extract.default_actors(), -(-chosen.clips // predict.BATCH)))
        _job.require(actors, "copies of a model")
        rows: dict[str, tuple[int, np.ndarray]] = {}
        with _job.progress("evaluate", chosen.clips) as advance:
            dataset = predict.scores(
                chosen, data, num_clips=job.clips, flipped=job.flip, actors=actors, use_gpu=job.use_gpu
            )
            for row in dataset.iter_rows():
                rows[row["clip_id"]] = (int(row["label"]), np.asarray(row["scores"]))
                advance(len(rows), "clips")
        parts.append(rows)
    ids = sorted(parts[0])
    return ids, np.array([parts[0][i][0] for i in ids]), np.array([[part[i][1] for i in ids] for part in parts])


def _write(
    out: str, result: dict[str, Any], ids: list[str], labels: np.ndarray, scores: np.ndarray, names: tuple[str, ...]
) -> None:
    """classes.csv, scores.csv (a row a clip, for fusing elsewhere) and, in a local folder, confusion.png."""
    write_whole(f"{out}/classes.csv", _csv(result["classes"]))
    rows = [
        {
            "clip_id": id_,
            "label": names[label],
            "predicted": names[score.argmax()],
            **{f"score:{name}": float(value) for name, value in zip(names, score, strict=True)},
        }
        for id_, label, score in zip(ids, labels, scores, strict=True)
    ]
    write_whole(f"{out}/scores.csv", _csv(rows))
    if "://" not in out:
        draw.confusion_matrix(f"{out}/confusion.png", np.array(result["confusion"]), names)


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Evaluate), run))
