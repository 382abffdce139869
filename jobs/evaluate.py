"""Job: trained runs + keypoint table -> accuracy, `python -m jobs.evaluate RUN... --table URI --split EXPR`."""

import csv
import io
import re
import sys
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
from posec3d.feed import index
from posec3d.storage import write_whole


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Test a trained run on a split of a keypoint table; several runs are fused by the mean of their scores."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Folders of jobs.train, or .safetensors files."""
    table: str
    """Keypoint table to test on."""
    split: str | None = "test"
    """Clips to test on: a split, !split for all others, or several joined by ','; None takes all."""
    clips: int = 1
    """Test clips sampled from each row, their scores averaged; 10 is the paper's multi-clip test."""
    flip: bool = False
    """Look at each clip mirrored too."""
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
    job = _job.absolute(job, "table", "out")
    try:
        models = [checkpoints.read(uri) for uri in job.runs]
        found = tables.summary(job.table)
    except FileNotFoundError as error:
        raise _job.UsageError(str(error)) from error
    loaded = [checkpoints.loads(data, uri) for data, uri in zip(models, job.runs, strict=True)]
    names = loaded[0].labels
    for uri, model in zip(job.runs, loaded, strict=True):
        if model.labels != names:
            raise _job.UsageError(f"{uri} knows other classes than {job.runs[0]}; they cannot be fused")
    for number, name in found["labels"].items():
        if number >= len(names) or names[number] != name:
            known = names[number] if number < len(names) else "none"
            raise _job.UsageError(f"label {number} is {name!r} in {job.table}, but {known!r} in {job.runs[0]}")
    _job.require_splits(job.table, found, job.split)
    if found["skeletons"] != {loaded[0].skeleton}:
        raise _job.UsageError(f"{job.table} has skeletons {sorted(found['skeletons'])}, the model {loaded[0].skeleton}")
    chosen = index(job.table, job.split, people=False)
    if not chosen.clips:
        raise _job.UsageError(
            f"no labelled clip in split {job.split!r} of {job.table}; it has {sorted(found['splits'])}"
        )

    _job.connect()
    spare = int(ray.cluster_resources().get("CPU", 0)) - 1
    actors = job.actors or max(1, min(spare, extract.default_actors(), -(-chosen.clips // predict.BATCH)))
    _job.require(actors, "copies of a model")
    parts = []
    for data in models:
        rows: dict[str, tuple[int, np.ndarray]] = {}
        with _job.progress("evaluate", chosen.clips) as advance:
            dataset = predict.scores(
                chosen,
                data,
                num_clips=job.clips,
                flipped=job.flip,
                actors=actors,
                use_gpu=job.use_gpu,
            )
            for row in dataset.iter_rows():
                rows[row["clip_id"]] = (int(row["label"]), np.asarray(row["scores"]))
                advance(len(rows), "clips")
        parts.append(rows)
    ids = sorted(parts[0])
    labels = np.array([parts[0][i][0] for i in ids])
    scores = np.mean([[part[i][1] for i in ids] for part in parts], axis=0)
    result = metrics.evaluate(scores, labels, names)

    test = f"{job.split or 'all'}-{job.clips}clip{'s' if job.clips > 1 else ''}{'-flip' if job.flip else ''}"
    folder = job.runs[0].removesuffix(".safetensors").rstrip("/")
    out = (job.out or f"{folder}/evaluate/{re.sub(r'[^A-Za-z0-9_-]+', '_', test)}").rstrip("/")
    _write(out, result, ids, labels, scores, names)
    return {
        "path": out,
        "runs": list(job.runs),
        "split": job.split,
        "test clips": job.clips,
        "flip": job.flip,
        **result,
    }


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
