"""Prediction: keypoint table -> class scores, or named actions, by Ray Data actors that each hold the models.

Actions are written as keypoints are by extraction: by the driver alone, in whole files, a video's rows once or not at
all, what fails as rows of `_failures/`, what waits in `_pending/`.
"""

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy

from pipelines import cluster, render, writer
from pipelines.recognize import PREDICTIONS, RESULT, TODO, Recognize
from posec3d import checkpoint as checkpoints
from posec3d import table as tables
from posec3d.index import Index
from posec3d.recognizer import Recognizer
from posec3d.timeline import How

BATCH = 8  # clips a model looks at together
BLOCK = 16
"""Videos an actor is given at a time, at most."""
PENDING = "_pending"
ROWS_PER_FILE = 10_000
LABELS_KEY = b"posec3d.labels"
"""Of the predictions' metadata: the names of the classes, in the order of `scores`."""


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


@dataclass(frozen=True)
class Todo:
    """What of a table is still to be predicted."""

    files: tuple[str, ...]
    """Of the table."""
    missing: tuple[dict[str, Any], ...]
    """Rows: clip_id, video, attempts, and for each piece (file, row group, row)."""
    videos: dict[str, str]
    """The video of each clip_id that the table has, of long videos once."""
    done: int
    waiting: frozenset[str]
    """Long videos of which a piece is still to be extracted."""


def plan(table: str, out: str, *, whole: bool, max_attempts: int = 3, retry_failed: bool = False) -> Todo:
    """Compare what a table holds with what has been predicted and what failed.

    Args:
        table: URI of a keypoint table.
        out: URI of the folder of predictions.
        whole: put pieces of a long video together; else each is a clip of its own.
        max_attempts: a clip that failed so often is given up; so is a piece that could not be extracted.
        retry_failed: forget earlier failures of prediction.
    """
    files = tuple(tables.require_table(table))
    pieces: defaultdict[str, list[tuple[int, tuple[int, int, int]]]] = defaultdict(list)
    counts: dict[str, int] = {}
    sources: dict[str, str] = {}
    there: set[str] = set()
    for number, path in enumerate(files):
        file = tables.open_file(path)
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=["clip_id", "video", "start_frame"]).to_pylist()
            there.update(row["clip_id"] for row in rows)
            for place, row in enumerate(rows):
                name, count = tables.base_and_count(row["clip_id"]) if whole else (row["clip_id"], 1)
                counts[name], sources[name] = count, row["video"]
                pieces[name].append((row["start_frame"] or 0, (number, group, place)))
    lost: dict[str, int] = defaultdict(int)  # pieces that will not come any more
    if whole:
        for name, failure in tables.read_failures(table).items():
            base, count = tables.base_and_count(name)
            # A failure stays written down when its piece came after all, and when a whole video could not be cut once.
            lost[base] += count > 1 and name not in there and failure["attempts"] >= max_attempts
    done: set[str] = set()
    for ids in writer.clip_ids(out):
        done.update(ids.unique().to_pylist())
    failures = {} if retry_failed else tables.read_failures(out)
    attempts = {name: row["attempts"] for name, row in failures.items() if name not in done}
    missing, waiting = [], set()
    for name, found in pieces.items():
        if name in done or attempts.get(name, 0) >= max_attempts:
            continue
        if len(found) + lost[name] < counts[name]:
            waiting.add(name)
        else:
            places = [place for _, place in sorted(found)]
            tried = attempts.get(name, 0)
            missing.append({"clip_id": name, "video": sources[name], "attempts": tried, "pieces": places})
    return Todo(files, tuple(missing), sources, len(done & pieces.keys()), frozenset(waiting))


@dataclass
class Progress:
    """Counts of a running prediction."""

    videos: int = 0
    """Videos, or clips, that ended, well or not."""
    failed: int = 0
    without_people: int = 0

    def count(self, results: pa.Table) -> None:
        """Add rows of `RESULT`."""
        self.videos += len(results["clip_id"].unique())
        self.failed += results.num_rows - results["error"].null_count
        self.without_people += pc.sum(pc.equal(results["people"], 0)).as_py() or 0


def predict(
    todo: Todo,
    models: Sequence[bytes],
    weights: Sequence[float],
    how: How,
    out: str,
    *,
    clips: int,
    flipped: bool,
    pictures: int,
    pictures_folder: str,
    actors: int,
    gpus_per_actor: float = 0,
    max_attempts: int = 3,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Name what is done in the clips of a table.

    Args:
        todo: from `plan`.
        models: checkpoint files' contents, whose probabilities are averaged.
        weights: of the models.
        how: in windows or not, everybody together or each alone.
        out: URI of the folder of predictions to append to.
        clips: test clips sampled from each look.
        flipped: look at each mirrored too.
        pictures: of so many of the videos, the first ones, pictures are made too.
        pictures_folder: URI of the folder for them.
        actors: how many work in parallel, one CPU each.
        gpus_per_actor: GPUs, or the share of one, each of them has.
        max_attempts: deaths of its worker after which a video is a failure.
        on_progress: called with the running counts.
    """
    labels = checkpoints.loads(models[0], "the model").labels
    put = functools.partial(write, labels=labels)
    progress, kept = Progress(), writer.Writer(out, ROWS_PER_FILE, put, PENDING)
    attempts = cluster.attempts_here()
    arguments = (
        ray.put(list(models)), tuple(weights), how, todo.files, clips, flipped, pictures_folder, attempts, max_attempts,
        gpus_per_actor,
    )  # fmt: skip
    shown = set(sorted(todo.videos)[:pictures])  # of all, so that going on makes no more of them
    rows = [{**row, "pictures": row["clip_id"] in shown} for row in todo.missing]
    try:
        for start in range(0, len(rows), cluster.WAVE):
            wave = pa.Table.from_pylist(rows[start : start + cluster.WAVE], TODO)
            block = max(1, min(BLOCK, wave.num_rows // (4 * actors)))
            parts = [wave.slice(i, 1000) for i in range(0, wave.num_rows, 1000)]
            dataset = ray.data.from_arrow(parts).repartition(target_num_rows_per_block=block, strict=True)
            results_of = dataset.map_batches(
                Recognize,
                fn_constructor_args=arguments,
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=1,
                num_gpus=gpus_per_actor or None,
                compute=ActorPoolStrategy(size=actors),
            )
            for results in results_of.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                progress.count(results)
                on_progress(progress)
                kept.add(results)
    finally:
        kept.close()
    return progress


def write(results: pa.Table, folder: str, name: str, labels: Sequence[str]) -> None:
    """Append rows of `RESULT`, as files of this name: the good ones to the predictions, the others to the failures."""
    good = writer.write_failures(results, folder, name)
    if good.num_rows:
        schema = PREDICTIONS.with_metadata({LABELS_KEY: json.dumps(labels).encode()})
        tables.write_file(good.select(schema.names).cast(schema), folder, name)


def recover(out: str, labels: Sequence[str]) -> int:
    """Write what a killed driver left pending into the predictions; returns the number of its rows."""
    return writer.recover(out, RESULT, functools.partial(write, labels=labels), PENDING)


def read(out: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a folder of predictions."""
    for path in tables.data_files(out):
        for batch in tables.open_parquet(path).iter_batches(1000, columns=columns):
            yield from batch.to_pylist()
