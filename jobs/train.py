"""Job: keypoint table -> trained model, `python -m jobs.train PRESET --table URI --out DIR`."""

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import fsspec
import tyro

from jobs import _job, _trainer
from pipelines import render
from posec3d import checkpoint as checkpoints
from posec3d import table as tables
from posec3d.config import PRESETS, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model on a keypoint table.

    The same command again goes on where the last one stopped.
    """

    table: str
    """Keypoint table to learn from."""
    out: str
    """Folder of the run: checkpoints, metrics.csv, tensorboard. On several machines it must be shared or s3://."""
    train_split: str | None = "train"
    """Clips to learn from: a split, !split for all others, or several joined by ','; None takes all."""
    val_split: str | None = "test"
    """Clips to validate with after each epoch; None validates nothing."""
    workers: int = 1
    """Training workers; the batch is shared out among them."""
    use_gpu: bool = False
    """One GPU a worker."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def run(job: Train) -> dict[str, Any]:
    """Check everything that can be checked before a worker starts, train, and summarise the run."""
    job = _job.absolute(job, "table", "out")
    plan = prepare(job)
    with _job.lock(job.out):
        _same_config(job, plan)
        if not checkpoints.exists(plan.file("last.safetensors")) or (
            checkpoints.load(plan.file("last.safetensors")).epoch < plan.config.epochs
        ):
            _trainer.fit(plan)
        rows = _trainer.read_metrics(plan.file("metrics.csv"))
        best = max(rows, key=lambda row: row.get("val_top1", row["epoch"]))
        if "://" not in job.out:
            from posec3d import draw

            draw.learning_curves(plan.file("learning_curves.png"), rows)
    last = rows[-1]
    return {
        "path": job.out,
        "epochs": int(last["epoch"]),
        "clips": plan.train.clips,
        "left out (nobody, or no label)": plan.train.skipped,
        "steps": plan.steps * plan.config.epochs,
        "train top-1": last["train_top1"],
        **({"val top-1": last["val_top1"], "best val top-1": best["val_top1"]} if "val_top1" in last else {}),
        "best epoch": int(best["epoch"]),
        "samples/s": last["samples_per_s"],
        "stall": last["stall"],
        "checkpoint": plan.file("best.safetensors"),
    }


def prepare(job: Train) -> _trainer.Run:
    """The run's plan.

    Raises:
        UsageError: the table, a split, the batch or the workers cannot work together.
    """
    config = job.config
    try:
        found = tables.summary(job.table)
    except FileNotFoundError as error:
        raise _job.UsageError(str(error)) from error
    for expression in (job.train_split, job.val_split):
        for name in tables.split_names(expression):
            if name not in found["splits"]:
                known = ", ".join(f"{k} ({v})" for k, v in sorted(found["splits"].items())) or "none"
                raise _job.UsageError(f"no split {name!r} in {job.table}; it has {known}")
    if len(found["skeletons"]) != 1:
        raise _job.UsageError(f"{job.table} mixes skeletons {sorted(found['skeletons'])}; train on one")
    if job.workers < 1 or config.batch % job.workers:
        raise _job.UsageError(f"batch {config.batch} cannot be shared out among {job.workers} workers evenly")
    train = render.index(job.table, job.train_split)
    val = None if job.val_split is None else render.index(job.table, job.val_split, people=False)
    if train.clips * config.repeat < config.batch:
        raise _job.UsageError(
            f"{train.clips} clips x {config.repeat} repeats do not fill one batch of {config.batch}; "
            "lower --batch or raise --repeat"
        )
    if val is not None and not val.clips:
        raise _job.UsageError(f"no labelled clip in the validation split {job.val_split!r}")
    numbers = found["labels"]
    labels = tuple(numbers.get(i, str(i)) for i in range(max(numbers) + 1))
    return _trainer.Run(
        config=config,
        train=train,
        val=val,
        labels=labels,
        skeleton=found["skeletons"].pop(),
        out=job.out,
        workers=job.workers,
        use_gpu=job.use_gpu,
    )


def _same_config(job: Train, plan: _trainer.Run) -> None:
    """Write config.json, or see that the folder's is this one. Other workers or GPUs are the same run."""
    uri = plan.file("config.json")
    decides = {k: v for k, v in dataclasses.asdict(job).items() if k not in ("out", "workers", "use_gpu")}
    text = json.dumps(decides, indent=1)
    if checkpoints.exists(uri):
        with fsspec.open(uri, "rt") as file:
            if file.read() != text:
                raise _job.UsageError(
                    f"{job.out} holds a run with another config (see {uri}); give another --out, or the same config"
                )
        return
    fs, path = fsspec.url_to_fs(uri)
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    fs.pipe_file(path, text.encode())


def parse(args: list[str] | None = None) -> Train:
    """The command line: a preset, and whatever overrides it."""
    presets = {
        name: (line, Train(table=tyro.MISSING, out=tyro.MISSING, config=config))
        for name, (line, config) in PRESETS.items()
    }
    return tyro.extras.overridable_config_cli(presets, prog="python -m jobs.train", args=args)


if __name__ == "__main__":
    sys.exit(_job.main(parse, run))
