"""Job: keypoint table -> trained model, `python -m jobs.train PRESET --table URI --out DIR`."""

import contextlib
import dataclasses
import functools
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import tyro
from pydantic import TypeAdapter

from jobs import _job, _ray, _terminal, _trackers, _trainer
from pipelines.render import Render
from posec3d import checkpoint as checkpoints
from posec3d import table as tables
from posec3d.config import TrainConfig, flat
from posec3d.index import Index, index, index_options
from posec3d.speed import Precision
from posec3d.starting import starting
from posec3d.storage import exists, read_whole, write_whole

log = logging.getLogger("posec3d")


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
    workers: str = "1"
    """Training workers, N or MIN:MAX; the batch is shared out among them. With MIN:MAX training starts, and goes on
    when machines leave or come, with as many as there is room for."""
    use_gpu: bool = False
    """One GPU a worker."""
    precision: Precision = "auto"
    """What convolutions compute in; auto is bfloat16 on GPUs that have it, else float32."""
    compile: bool = False
    """Run the model through torch.compile, where that works: minutes at the start, for faster steps on GPUs."""
    accumulate: int = 1
    """Parts in which a worker's share of a batch goes through the model, for batches larger than its memory."""
    sync_bn: bool | None = None
    """Normalise over the batches of all workers; None does where a worker sees fewer than 8 clips at a time."""
    val_every: int = 1
    """Epochs from one validation to the next; the last one is always validated."""
    final_clips: int = 10
    """Test the best model at the end on the validation split, with so many clips of each row; 0 does not."""
    keep: int = 0
    """Keep the checkpoints of the newest N epochs, beside the last and the best."""
    track: tuple[_trackers.Tracker, ...] = ("tensorboard",)
    """Where metrics go beside metrics.csv."""
    render: Render = "device"
    """Where volumes are drawn: on the device that trains, or by Ray's workers, which send them (8 bits a pixel); those
    of stored heatmaps always are."""
    cache_gb: float = 10
    """Disk of each machine for copies of a remote table's files, each fetched once; larger tables stay there."""
    skeleton: str | None = None
    """Give all clips the joints of this skeleton, as far as they have them; None is the table's own."""
    init: tuple[str, ...] = ()
    """Run or checkpoint of the same model whose weights to start from; what is about other classes or other joints
    starts anew. For rgbpose-slowfast also two: of an rgb-slowonly, and of a pose-pathway."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)

    resumes: ClassVar[bool] = True


def run(job: Train) -> dict[str, Any]:
    """Check everything that can be checked before a worker starts, train, and summarise the run."""
    job = _job.absolute(job, "table", "out", "init")
    plan = prepare(job)
    with _job.lock(job.out):
        same_config(job, plan)
        if plan.finished:
            log.info("all %d epochs are done already; more want another --out", plan.config.epochs)
        else:
            _ray.connect()
            _ray.require(plan.workers[0], "training workers", gpus=1 if job.use_gpu else 0)
            _ray.require_shared(job.out)
            plan = dataclasses.replace(plan, workers=_ray.room(plan.workers))
            log.info("the workers start; then comes a line for each epoch")
            with _terminal.progress("train", plan.config.epochs, "epochs") as advance, _watch(plan, advance):
                _trainer.fit(plan)
        rows = _trainer.read_metrics(plan.file("metrics.csv"))
        chosen = checkpoints.load(plan.file("best.safetensors")).epoch
        best = next((row for row in rows if row["epoch"] == chosen), rows[-1])
        if "://" not in job.out:
            from posec3d import draw

            draw.learning_curves(plan.file("learning_curves.png"), rows)
    final = rows[-1]
    tested = json.loads(read_whole(plan.file("final.json")) or b"{}") if plan.tested_at_the_end else {}
    return {
        "path": job.out,
        "epochs": int(final["epoch"]),
        "clips": plan.train.clips,
        "left out (nobody, or no label)": plan.train.skipped,
        **({"left out (no RGB frames)": plan.train.blind} if plan.train.blind else {}),
        "train top-1": final["train_top1"],
        **({"val top-1": final["val_top1"], "best val top-1": best["val_top1"]} if "val_top1" in final else {}),
        "best epoch": int(best["epoch"]),
        **({f"best, {tested['views']} clips": tested["top1"], "final": tested} if tested else {}),
        "samples/s": final["samples_per_s"],
        "stall": final["stall"],
        "peak memory (GB)": final["memory_gb"],
        "checkpoint": plan.file("best.safetensors"),
    }


@contextlib.contextmanager
def _watch(plan: _trainer.Run, advance: Callable[[int, str], None]) -> Iterator[None]:
    """Show each epoch as its row appears in metrics.csv."""
    over = threading.Event()
    named = {"train_loss": "loss", "train_top1": "train top-1", "val_top1": "val top-1"}

    def look() -> None:
        with contextlib.suppress(Exception):  # of a storage that is away; what trains will tell
            rows = _trainer.read_metrics(plan.file("metrics.csv"))
            last = rows[-1] if rows else {}
            advance(len(rows), ", ".join(f"{name} {last[key]:.3f}" for key, name in named.items() if key in last))

    def watch() -> None:
        while not over.wait(2):
            look()

    look()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
        look()
    finally:
        over.set()
        thread.join()


@dataclass(frozen=True, eq=False)
class Seen:
    """What of a table decides whether a model can be trained on it."""

    labels: dict[int, str]
    train: Index
    val: Index | None


def look(table: str, train_split: str | None, val_split: str | None, **how: Any) -> Seen:
    """See what there is to train on and to validate with.

    Args:
        table: URI.
        train_split: as of `Train`.
        val_split: as of `Train`.
        how: arguments of `index`.

    Raises:
        UsageError: there is no table, or nothing of a split.
    """
    with _job.usage(FileNotFoundError, ValueError):
        found = tables.summary(table)
        _job.require_splits(table, found, train_split, val_split)
        train = index(table, train_split, **how)
        val = None if val_split is None else index(table, val_split, need_people=False, **how)
    _job.require_sight(train, table, train_split)
    if not train.clips:
        raise _job.UsageError(f"no labelled clip with people in the training split {train_split!r}")
    if val is not None:
        _job.require_sight(val, table, val_split)
        if not val.clips:
            raise _job.UsageError(f"no labelled clip in the validation split {val_split!r}")
    return Seen(found["labels"], train, val)


def prepare(job: Train, look: Callable[..., Seen] = look) -> _trainer.Run:
    """The run's plan.

    Args:
        job: what is asked for.
        look: at the table; whoever prepares many runs looks once.

    Raises:
        UsageError: the table, a split, the batch or the workers cannot work together.
    """
    config = job.config
    workers = _job.span("--workers", job.workers)
    least = config.batch // workers[1]
    if job.accumulate < 1 or least < job.accumulate:
        parts = f" in {job.accumulate} parts" if job.accumulate != 1 else ""
        raise _job.UsageError(
            f"batch {config.batch} cannot be shared out among {workers[1]} workers{parts}: each part needs a clip"
        )
    _job.require_least(job, val_every=1, final_clips=0, keep=0)
    if packages := _trackers.missing(job.track):
        raise _job.UsageError(f"--track needs packages that are not installed: pip install {' '.join(packages)}")
    if config.balanced and config.optim.class_weight:
        raise _job.UsageError(
            "--balanced draws every class equally often, and --optim.class-weight would count rare ones twice: take "
            "one of the two"
        )
    if job.precision == "float16" and not job.use_gpu:
        raise _job.UsageError("--precision float16 is for --use-gpu; on CPUs take auto, bfloat16 or float32")
    if (config.clip.space != "volume" or config.clip.rgb_length) and job.render == "worker":
        raise _job.UsageError(f"--render worker draws volumes, and {config.model.name} takes none, or not only")
    splits = job.train_split, job.val_split
    seen = look(job.table, *splits, skeleton=job.skeleton, cache_gb=job.cache_gb, **index_options(config.clip))
    train = seen.train
    if train.clips * config.repeat < config.batch:
        raise _job.UsageError(
            f"{train.clips} clips x {config.repeat} repeats do not fill one batch of {config.batch}; lower --batch, or "
            "raise --repeat"
        )
    labels = tuple(seen.labels.get(i, str(i)) for i in range(max(seen.labels) + 1))
    with _job.usage(ValueError):
        with torch.device("meta"):
            checkpoints.build_model(config, train.skeleton, len(labels))
    begun = exists(f"{job.out}/last.safetensors")
    return _trainer.Run(
        config=config,
        train=train,
        val=seen.val,
        labels=labels,
        skeleton=train.skeleton,
        init=_initial_weights(job.init, config, train.skeleton, labels) if job.init and not begun else None,
        out=job.out,
        workers=workers,
        use_gpu=job.use_gpu,
        precision=job.precision,
        compiled=job.compile,
        render=job.render,
        accumulate=job.accumulate,
        sync_bn=job.sync_bn,
        val_every=job.val_every,
        final_clips=job.final_clips,
        keep=job.keep,
        trackers=job.track,
    )


def _initial_weights(
    runs: tuple[str, ...], config: TrainConfig, skeleton: str, labels: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """Weights to start from."""
    try:
        return starting([checkpoints.load(uri) for uri in runs], config, skeleton, labels)
    except (FileNotFoundError, ValueError) as error:
        raise _job.UsageError(f"--init {' '.join(runs)}: {error}") from error


DECIDES = ("table", "train_split", "val_split", "precision", "skeleton", "init")
"""Flags beside the config that decide what a run computes; others may change when it is taken up again."""


def same_config(job: Train, plan: _trainer.Run) -> None:
    """Write config.json, or see that the folder's is this one.

    Raises:
        UsageError: it is of another run.
    """
    now = {name: getattr(job, name) for name in DECIDES} | {
        "labels": plan.labels,
        "clips": [plan.train.clips, plan.val.clips if plan.val else 0],
        "config": dataclasses.asdict(plan.config),
    }
    begun = exists(plan.file("last.safetensors"))  # before that there is nothing another config could spoil
    same_as_before(plan.file("config.json"), now, begun, "a run with another config, or of other clips", Train)


def same_as_before(uri: str, now: dict[str, Any], begun: bool, other: str, flags: type) -> None:
    """Write what decides a result as JSON, or see that what was begun is just that; fields it lacks are at defaults.

    Args:
        uri: of the JSON file.
        now: flags by name, `config` among them.
        begun: whether there is something that another one would spoil.
        other: what the folder holds if it is not this.
        flags: the dataclass that has their defaults.

    Raises:
        UsageError: it is of something else.
    """
    text = json.dumps(now, indent=1).encode()
    if begun and (before := read_whole(uri)):
        defaults = {f.name: f.default for f in dataclasses.fields(flags) if f.name in now}
        held = {**defaults, **json.loads(before)}
        held["config"] = dataclasses.asdict(TypeAdapter(TrainConfig).validate_python(held["config"]))
        wanted, there = (flat(json.loads(json.dumps(one, default=str))) for one in (now, held))
        if different := sorted(name for name in wanted.keys() | there.keys() if wanted.get(name) != there.get(name)):
            raise _job.UsageError(
                f"{uri.rsplit('/', 1)[0]} holds {other} ({', '.join(different)}; see {uri}); give another --out"
            )
    write_whole(uri, text)


parse = functools.partial(_job.parse_preset, Train)


if __name__ == "__main__":
    sys.exit(_job.main(parse, run))
