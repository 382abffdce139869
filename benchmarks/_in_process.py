"""A run of benchmarks.accuracy in this process, for machines without Ray: what the jobs do with one worker.

The loop, batches, seeds, checkpoints and tests are those of `posec3d`, as the jobs use them; a test holds both to the
same weights. Needs torch, numpy, pyarrow, fsspec, pydantic and safetensors, and scipy for importing .mat files.
"""

import copy
import json
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from posec3d import checkpoint as checkpoints
from posec3d import feed, metrics, speed, training
from posec3d import table as tables
from posec3d.annotations import Options, open_annotations
from posec3d.annotations.to_table import import_clips
from posec3d.checkpoint import Checkpoint
from posec3d.config import TrainConfig
from posec3d.index import Index, index, index_options, testing_groups
from posec3d.recognizer import Recognizer
from posec3d.skeletons import skeleton
from posec3d.starting import starting
from posec3d.storage import exists, read_whole, write_whole

BATCH = 8  # clips a model looks at together, as in jobs.evaluate


def import_poses(name: str, source: str, table: str) -> None:
    """As jobs.import_poses without flags."""
    import_clips(open_annotations(name, source, Options()), table)


def train(
    config: TrainConfig,
    table: str,
    split: str,
    out: str,
    *,
    init: Sequence[str] = (),
    watch: str | None = None,
    device: str = "cpu",
    precision: speed.Precision = "auto",
) -> list[dict[str, float]]:
    """As jobs.train with one worker: goes on from last.safetensors, whose copy is best.safetensors, whatever it sees.

    Args:
        config: the recipe.
        table: URI.
        split: of training.
        out: the run's folder.
        init: runs to start from.
        watch: split it is validated on after each epoch; None is none.
        device: where it runs.
        precision: as in jobs.train.

    Returns:
        Metrics of all epochs.

    Raises:
        ValueError: another recipe began in this folder.
    """
    torch.manual_seed(config.seed)
    chosen = index(table, split, **index_options(config.clip))
    val = index(table, watch, need_people=False, **index_options(config.clip)) if watch else None
    numbers = tables.summary(table)["labels"]
    labels = tuple(numbers.get(i, str(i)) for i in range(max(numbers) + 1))
    model = checkpoints.build_model(config, chosen.skeleton, len(labels)).to(device)
    if init:
        given = [checkpoints.load(run) for run in init]
        model.load_state_dict(starting(given, config, chosen.skeleton, labels))
    averaged = copy.deepcopy(model) if config.optim.ema else None
    optimizer = training.make_optimizer(model, config.optim)
    begun = {"config": repr(config), "split": split, "init": list(init), "watch": watch, "precision": precision}
    done: list[dict[str, float]] = []
    if exists(f"{out}/last.safetensors"):
        last = checkpoints.load(f"{out}/last.safetensors")
        model.load_state_dict(last.trained or last.weights)
        if averaged is not None:
            averaged.load_state_dict(last.weights)
        checkpoints.unpack_optimizer(optimizer, last.optimizer)
        before = json.loads(read_whole(f"{out}/in_process.json") or b"{}")
        if before.get("begun") != begun:
            raise ValueError(f"{out} was begun by another recipe, or by jobs.train: remove it, and it is made anew")
        done = before["epochs"][: last.epoch]

    def batches(epoch: int) -> Iterable[training.Batch]:
        torch.manual_seed(config.seed * 100_003 + epoch * 1009)
        return feed.training_batches(
            chosen,
            config.clip,
            config.batch,
            seed=config.seed,
            epoch=epoch,
            repeat=config.repeat,
            balanced=config.balanced,
        )

    def validate(val: Index) -> Iterable[training.Batch]:
        for group in testing_groups(val, piece=BATCH):
            samples = feed.testing_samples(group, val, config.clip)
            yield {name: array[:, 0] if name in training.INPUTS else array for name, array in samples.items()}

    counts = np.concatenate([unit.labels for unit in chosen.units])
    for epoch_metrics in training.fit(
        model,
        optimizer,
        config,
        skeleton(chosen.skeleton),
        batches,
        partial(validate, val) if val else None,
        steps=chosen.clips * config.repeat // config.batch,
        first_epoch=len(done),
        class_weights=training.weigh_classes(counts, len(labels), config.optim.class_weight),
        device=device,
        dtype=speed.resolve(precision, device),
        averaged=averaged,
    ):
        done.append(epoch_metrics)
        data = checkpoints.dumps(
            Checkpoint(
                config=config,
                labels=labels,
                skeleton=chosen.skeleton,
                weights=(averaged or model).state_dict(),
                trained=model.state_dict() if averaged is not None else {},
                optimizer=checkpoints.pack_optimizer(optimizer),
                epoch=len(done),
                metrics=epoch_metrics,
            )
        )
        write_whole(f"{out}/in_process.json", json.dumps({"begun": begun, "epochs": done}).encode())
        write_whole(f"{out}/best.safetensors", data)
        write_whole(f"{out}/last.safetensors", data)
        now = (epoch_metrics[name] for name in ("epoch", "train_loss", "train_top1", "seconds"))
        print("  epoch {:.0f}: loss {:.3f}, train top-1 {:.3f}, {:.0f} s".format(*now), flush=True)
    return done


def evaluate(
    runs: Sequence[str], table: str, split: str, clips: int, *, flipped: bool = False, device: str = "cpu"
) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """As jobs.evaluate: the mean of the runs' scores on a split.

    Returns:
        Its metrics, and clip_id, label and prediction of each clip.
    """
    parts = []
    for run in runs:
        recognizer = Recognizer(checkpoints.load(run), device)
        wanted = index_options(recognizer.config.clip)
        chosen = index(table, split, need_people=False, skeleton=recognizer.skeleton.name, **wanted)
        rows: dict[str, tuple[int, np.ndarray]] = {}
        for group in testing_groups(chosen, piece=BATCH):
            samples = feed.testing_samples(group, chosen, recognizer.config.clip, num_clips=clips)
            scores = recognizer.scores(samples, flipped=flipped)
            rows |= {
                i: (int(label), score)
                for i, label, score in zip(samples["clip_id"], samples["label"], scores, strict=True)
            }
        parts.append(rows)
    ids, names = sorted(parts[0]), recognizer.labels
    labels = np.array([parts[0][i][0] for i in ids])
    fused = np.mean([[part[i][1] for i in ids] for part in parts], 0)
    said = [(str(i), names[a], names[b]) for i, a, b in zip(ids, labels, fused.argmax(1), strict=True)]
    return metrics.evaluate(fused, labels, names), said
