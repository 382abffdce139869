"""Job: trained runs + keypoint table -> accuracy, `python -m jobs.evaluate RUN... --table URI --split EXPR`."""

import csv
import hashlib
import io
import itertools
import json
import logging
import posixpath
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import tyro

from jobs import _job, _ray, _terminal
from pipelines import cluster, predict
from posec3d import draw, metrics
from posec3d import table as tables
from posec3d.checkpoint import Checkpoint
from posec3d.index import Index, index, index_options
from posec3d.skeletons import counterparts, skeleton
from posec3d.storage import read_whole, write_whole

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
    """Folder of the results; default: a folder in the first run's, named after the test, and after the table if the run
    was trained on another."""
    actors: int | None = None
    """Copies of a model that work in parallel; default: one a CPU."""
    use_gpu: bool = False
    """One GPU a copy."""


def run(job: Evaluate) -> dict[str, Any]:
    """Score the split with every run, fuse, and write what came out."""
    _job.require_weights(job.weights, job.runs)
    if job.weights is not None and job.weights_split is not None:
        raise _job.UsageError("give --weights or --weights-split, not both")
    _job.require_least(job, clips=1, actors=1)
    job = _job.absolute(job, "runs", "table", "out")
    files, models = _job.models(job.runs)
    with _job.usage(FileNotFoundError):
        found = tables.summary(job.table)
    names = models[0].labels
    for uri, model in zip(job.runs, models, strict=True):
        for kind in found["skeletons"] - {model.skeleton}:
            lost = [joint for joint in skeleton(model.skeleton).joints if not counterparts(joint, skeleton(kind))]
            log.warning("%s looks at %s; clips of %s lack: %s", uri, model.skeleton, kind, ", ".join(lost) or "nothing")
    for number, name in found["labels"].items():
        if number >= len(names) or names[number] != name:
            known = names[number] if number < len(names) else "none"
            raise _job.UsageError(f"label {number} is {name!r} in {job.table}, but {known!r} in {job.runs[0]}")
    _job.require_splits(job.table, found, job.split, job.weights_split)
    asked = {job.split} if job.weights_split is None else {job.split, job.weights_split}
    learnt, chose = _sides(job)
    clips = _clips(job.table, asked.union(learnt.values(), chose.values()))
    _require_clips(job, {split: clips[split] for split in asked}, found)
    for uri, split in learnt.items():
        _tell_learnt(uri, clips[job.split], clips[split], "this is no test of it")
        if job.weights_split is not None:
            _tell_learnt(uri, clips[job.weights_split], clips[split], "weights chosen on them favour what overfits")
    for uri, split in chose.items():
        _tell_chosen(uri, clips[job.split], clips[split])

    indices = {split: [_index(job, model, split) for model in models] for split in asked}

    _ray.connect()
    weights = np.array(job.weights or [1.0] * len(models))
    if job.weights_split is not None:
        _, labels, scores = _scores(job, files, indices[job.weights_split])
        weights = metrics.fusion_weights(scores, labels)
    weights = weights / weights.sum()
    ids, labels, scores = _scores(job, files, indices[job.split])
    fused = np.tensordot(weights, scores, 1)
    result = metrics.evaluate(fused, labels, names)

    out = job.out or _default_out(job)
    _write(out, result, ids, labels, fused, names)
    each = [
        {"run": uri, "weight": float(weight), "top1": metrics.top_k(score, labels, 1)}
        for uri, weight, score in zip(job.runs, weights, scores, strict=True)
    ]
    for row in each if len(each) > 1 else ():
        log.info("%s: weight %.3f, top-1 alone %.4f", *row.values())
    return {
        "path": out,
        **({} if "://" in out else {"picture": f"{out}/confusion.png"}),
        "table": job.table,
        "runs": each,
        "split": job.split,
        "test clips": job.clips,
        "flip": job.flip,
        **result,
    }


def _default_out(job: Evaluate) -> str:
    """A folder in the first run's, named after the test: another one for each thing that can be tested."""
    split = "all" if job.split is None else job.split
    test = f"{split}-{job.clips}clip{'s' if job.clips > 1 else ''}{'-flip' if job.flip else ''}"
    folder = job.runs[0].removesuffix(".safetensors")
    if _trained(job.runs[0]).get("table") != job.table:  # not what it was trained on
        test += f"-on-{posixpath.basename(job.table)}-{_digest(job.table)}"
    if len(job.runs) > 1:  # beside the first run's own result, and that of its fusion with others
        test += f"-fused-{_digest(repr((job.runs, job.weights, job.weights_split)))}"
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", test)
    if name != test or job.split == "all":  # other splits, or None, are called the same
        name += f"-{_digest(test)}"
    return f"{folder}/evaluate/{name}"


def _trained(uri: str) -> dict[str, Any]:
    """config.json of a run, which is given as its folder or a checkpoint in it or in its epochs/; empty without one."""
    run = posixpath.dirname(uri).removesuffix("/epochs") if uri.endswith(".safetensors") else uri
    found: dict[str, Any] = json.loads(read_whole(f"{run}/config.json") or b"{}")
    return found


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _clips(table: str, splits: Iterable[str | None]) -> dict[str | None, set[str]]:
    """Ids of the labelled clips in each of some split expressions, of one reading: a remote table is slow."""
    found: dict[str | None, set[str]] = {split: set() for split in splits}
    for group in tables.read_row_groups(table, ["clip_id", "label", "splits"]):
        for row in group.to_pylist():
            for split, ids in found.items():
                if row["label"] is not None and tables.in_split(row["splits"] or (), split):
                    ids.add(row["clip_id"])
    return found


def _require_clips(job: Evaluate, clips: dict[str | None, set[str]], found: dict[str, Any]) -> None:
    """See that there is something to test, and that the weights are not chosen on any of it."""
    for split, ids in clips.items():
        if not ids:
            raise _job.UsageError(
                f"no labelled clip in split {split!r} of {job.table}; it has {sorted(found['splits'])}"
            )
    if job.weights_split is not None and (shared := clips[job.split] & clips[job.weights_split]):
        raise _job.UsageError(
            f"{len(shared)} clips of --weights-split {job.weights_split!r} are tested too, for example {min(shared)}; "
            "weights chosen on them would flatter the test"
        )


def _sides(job: Evaluate) -> tuple[dict[str, str | None], dict[str, str]]:
    """Of the runs that were trained on this table: what each has learnt from, and what chose its epoch, if it was."""
    trained = {uri: said for uri in job.runs if (said := _trained(uri)).get("table") == job.table}
    # A folder stands for its best epoch; last.safetensors, and those of epochs/, nothing has chosen.
    best = {uri for uri in trained if not uri.endswith(".safetensors") or posixpath.basename(uri) == "best.safetensors"}
    chose = {
        uri: said["val_split"] for uri, said in trained.items() if uri in best and said.get("val_split") is not None
    }
    return {uri: said["train_split"] for uri, said in trained.items()}, chose


def _tell_learnt(uri: str, asked: set[str], learnt: set[str], consequence: str) -> None:
    """Say so if a run has learnt from clips that it is asked about."""
    if seen := asked & learnt:
        log.warning("%s has learnt from %d of the %d clips: %s", uri, len(seen), len(asked), consequence)


def _tell_chosen(uri: str, asked: set[str], chose: set[str]) -> None:
    """Say so if a run's epoch was chosen by clips that it is asked about."""
    if seen := asked & chose:
        log.warning(
            "%s is the epoch that was best on %d of the %d clips, so it looks better on them than on others: test "
            "last.safetensors, or train with another --val-split",
            uri,
            len(seen),
            len(asked),
        )


def _index(job: Evaluate, model: Checkpoint, split: str | None) -> Index:
    """The clips that a model is tested with.

    Raises:
        UsageError: it sees RGB, and there is nothing of that, or no whole frames where it sees those.
    """
    with _job.usage(ValueError):
        chosen = index(job.table, split, need_people=False, skeleton=model.skeleton, **index_options(model.config.clip))
    _job.require_sight(chosen, job.table, split)
    return chosen


def _scores(job: Evaluate, files: list[bytes], indices: list[Index]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Clip ids, labels (N,) and probabilities (runs, N, classes) of the clips that all runs can see, in one order."""
    parts = []
    gpus = float(job.use_gpu)
    for data, chosen in zip(files, indices, strict=True):
        spare = int(ray.cluster_resources().get("CPU", 0)) - 1
        most = min(spare, cluster.default_actors(gpus_per_actor=gpus), -(-chosen.clips // predict.BATCH))
        actors = job.actors or max(1, most)
        _ray.require(actors, "copies of a model", gpus=gpus)
        rows: dict[str, tuple[int, np.ndarray]] = {}
        with _terminal.progress("evaluate", chosen.clips, "clips") as advance:
            dataset = predict.scores(
                chosen, data, num_clips=job.clips, flipped=job.flip, actors=actors, use_gpu=job.use_gpu
            )
            for row in dataset.iter_rows():
                rows[row["clip_id"]] = (int(row["label"]), np.asarray(row["scores"]))
                advance(len(rows), "")
        parts.append(rows)
    ids = sorted(set.intersection(*map(set, parts)))
    return ids, np.array([parts[0][i][0] for i in ids]), np.array([[part[i][1] for i in ids] for part in parts])


def _write(
    out: str, result: dict[str, Any], ids: list[str], labels: np.ndarray, scores: np.ndarray, names: tuple[str, ...]
) -> None:
    """classes.csv, scores.csv (a row a clip, for fusing elsewhere) and, in a local folder, confusion.png."""
    classes = result["classes"]
    write_whole(f"{out}/classes.csv", _csv(classes[0], (row.values() for row in classes)))
    header = ["clip_id", "label", "predicted", *(f"score:{name}" for name in names)]
    rows = (
        [id_, names[label], names[score.argmax()], *score.tolist()]
        for id_, label, score in zip(ids, labels, scores, strict=True)
    )
    write_whole(f"{out}/scores.csv", _csv(header, rows))
    if "://" not in out:
        draw.confusion_matrix(f"{out}/confusion.png", np.array(result["confusion"]), names)


def _csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(itertools.chain([header], rows))
    return text.getvalue().encode()


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Evaluate), run))
