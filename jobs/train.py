"""Job: keypoint table -> trained model, `python -m jobs.train PRESET --table URI --out DIR`."""

import contextlib
import dataclasses
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import ray
import torch
import tyro

from jobs import _job, _trainer
from pipelines.render import Render
from posec3d import checkpoint as checkpoints
from posec3d import table as tables
from posec3d.config import PRESETS, TrainConfig
from posec3d.feed import index
from posec3d.speed import Precision
from posec3d.storage import read_whole, write_whole


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
    precision: Precision = "auto"
    """What convolutions compute in; auto is bfloat16 on GPUs that have it, else float32."""
    compile: bool = False
    """Run the model through torch.compile, where that works: minutes at the start, for faster steps on GPUs."""
    render: Render = "device"
    """Where volumes are drawn: on the device that trains, or by Ray's workers, which send them (8 bits a pixel)."""
    cache_gb: float = 10
    """Disk of each machine for copies of a remote table's files, each fetched once; larger tables stay there."""
    skeleton: str | None = None
    """Give all clips the joints of this skeleton, as far as they have them; None is the table's own."""
    init: tuple[str, ...] = ()
    """Run or checkpoint of the same model whose weights to start from; what is about other classes or other joints
    starts anew. For rgbpose-slowfast also two: of an rgb-slowonly, and of a pose-pathway."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def run(job: Train) -> dict[str, Any]:
    """Check everything that can be checked before a worker starts, train, and summarise the run."""
    job = _job.absolute(job, "table", "out")
    plan = prepare(job)
    _job.connect()
    _job.require(job.workers, "training workers")
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if job.use_gpu and gpus < job.workers:
        raise _job.UsageError(f"--use-gpu with {job.workers} workers needs {job.workers} GPUs, Ray has {gpus}")
    with _job.lock(job.out):
        _same_config(job, plan)
        last = plan.file("last.safetensors")
        if not checkpoints.exists(last) or checkpoints.load(last).epoch < plan.config.epochs:
            with _job.progress("train", plan.config.epochs) as advance, _watch(plan, advance):
                _trainer.fit(plan)
        rows = _trainer.read_metrics(plan.file("metrics.csv"))
        best = max(rows, key=lambda row: row.get("val_top1", row["epoch"]))
        if "://" not in job.out:
            from posec3d import draw

            draw.learning_curves(plan.file("learning_curves.png"), rows)
    final = rows[-1]
    return {
        "path": job.out,
        "epochs": int(final["epoch"]),
        "clips": plan.train.clips,
        "left out (nobody, or no label)": plan.train.skipped,
        "steps": plan.steps * plan.config.epochs,
        "train top-1": final["train_top1"],
        **({"val top-1": final["val_top1"], "best val top-1": best["val_top1"]} if "val_top1" in final else {}),
        "best epoch": int(best["epoch"]),
        "samples/s": final["samples_per_s"],
        "stall": final["stall"],
        "checkpoint": plan.file("best.safetensors"),
    }


@contextlib.contextmanager
def _watch(plan: _trainer.Run, advance: Callable[[int, str], None]) -> Iterator[None]:
    """Show each epoch as its row appears in metrics.csv."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(2):
            rows = _trainer.read_metrics(plan.file("metrics.csv"))
            if rows:
                named = {"train_loss": "loss", "train_top1": "train top-1", "val_top1": "val top-1"}
                note = ", ".join(f"{name} {rows[-1][key]:.3f}" for key, name in named.items() if key in rows[-1])
                advance(len(rows), note)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


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
    _job.require_splits(job.table, found, job.train_split, job.val_split)
    if job.workers < 1 or config.batch % job.workers:
        raise _job.UsageError(f"batch {config.batch} cannot be shared out among {job.workers} workers evenly")
    if job.precision == "float16" and not job.use_gpu:
        raise _job.UsageError("--precision float16 is for --use-gpu; on CPUs take auto, bfloat16 or float32")
    if (config.clip.space != "volume" or config.clip.rgb_length) and job.render == "worker":
        raise _job.UsageError(f"--render worker draws volumes, and {config.model.name} takes none, or not only")
    three_d = config.clip.space == "body"
    try:
        rgb = config.clip.rgb_length > 0
        common: dict[str, Any] = {"skeleton": job.skeleton, "three_d": three_d, "rgb": rgb, "cache_gb": job.cache_gb}
        train = index(job.table, job.train_split, **common)
        val = None if job.val_split is None else index(job.table, job.val_split, people=False, **common)
    except ValueError as error:
        raise _job.UsageError(str(error)) from error
    if not train.clips:
        raise _job.UsageError(f"no labelled clip with people in the training split {job.train_split!r}")
    if train.clips * config.repeat < config.batch:
        raise _job.UsageError(
            f"{train.clips} clips x {config.repeat} repeats do not fill one batch of {config.batch}; "
            "lower --batch or raise --repeat"
        )
    if val is not None and not val.clips:
        raise _job.UsageError(f"no labelled clip in the validation split {job.val_split!r}")
    numbers = found["labels"]
    labels = tuple(numbers.get(i, str(i)) for i in range(max(numbers) + 1))
    try:
        with torch.device("meta"):
            checkpoints.build_model(config, train.skeleton, len(labels))
    except ValueError as error:
        raise _job.UsageError(str(error)) from error
    return _trainer.Run(
        config=config,
        train=train,
        val=val,
        labels=labels,
        skeleton=train.skeleton,
        init=_initial_weights(job.init, config, train.skeleton, labels) if job.init else None,
        out=job.out,
        workers=job.workers,
        use_gpu=job.use_gpu,
        precision=job.precision,
        compiled=job.compile,
        render=job.render,
    )


def _initial_weights(
    runs: tuple[str, ...], config: TrainConfig, skeleton: str, labels: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Weights to start from; what starts anew is of the config's seed."""
    torch.manual_seed(config.seed)
    try:
        given = [checkpoints.load(uri) for uri in runs]
        if len(given) == 1:
            return checkpoints.adapted(given[0], config, skeleton, labels)
        return checkpoints.merged(given, config, skeleton, labels)
    except (FileNotFoundError, ValueError) as error:
        raise _job.UsageError(f"--init {' '.join(runs)}: {error}") from error


def _same_config(job: Train, plan: _trainer.Run) -> None:
    """Write config.json, or see that the folder's is this one. Other workers or GPUs are the same run."""
    uri = plan.file("config.json")
    decides = {
        k: v
        for k, v in dataclasses.asdict(job).items()
        if k not in ("out", "workers", "use_gpu", "compile", "render", "cache_gb")
    }
    decides |= {"labels": plan.labels, "clips": [plan.train.clips, plan.val.clips if plan.val else 0]}
    text = json.dumps(decides, indent=1).encode()
    before = read_whole(uri)
    # Without a checkpoint there is nothing yet that another config could spoil.
    if before not in (None, text) and checkpoints.exists(plan.file("last.safetensors")):
        raise _job.UsageError(
            f"{job.out} holds a run with another config, or of other clips (see {uri}); give another --out"
        )
    write_whole(uri, text)


def parse(args: list[str] | None = None) -> Train:
    """The command line: a preset, and whatever overrides it."""
    presets = {
        name: (line, Train(table=tyro.MISSING, out=tyro.MISSING, config=config))
        for name, (line, config) in PRESETS.items()
    }
    return tyro.extras.overridable_config_cli(presets, prog="python -m jobs.train", args=args)


if __name__ == "__main__":
    sys.exit(_job.main(parse, run))
