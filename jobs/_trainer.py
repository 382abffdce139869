"""Ray Train glue: one training run over workers, around `posec3d.training` and `pipelines.render`.

The run's folder holds config.json, metrics.csv (a row an epoch), tensorboard/, last.safetensors, best.safetensors,
final.json. Rank 0 writes them, each whole or not at all; a restarted worker group, or the same command again, goes on
from last.safetensors.
"""

import copy
import csv
import io
import json
import logging
import math
import os
import platform
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from jobs._trackers import Tracker, track
from pipelines import render
from pipelines.render import Render
from posec3d import checkpoint as checkpoints
from posec3d import metrics as measures
from posec3d import speed, synced, training
from posec3d.checkpoint import Checkpoint
from posec3d.config import TrainConfig
from posec3d.index import Index, Share
from posec3d.machine import MALLOC, cores
from posec3d.recognizer import Recognizer
from posec3d.skeletons import skeleton
from posec3d.storage import exists, read_whole, remove, write_whole

log = logging.getLogger(__name__)

DEATHS = 3
"""Times that workers may die in one epoch: that a machine goes is not the run's fault, but an epoch that kills is."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every worker of a run needs to know."""

    config: TrainConfig
    train: Index
    val: Index | None
    labels: tuple[str, ...]
    skeleton: str
    """Whose joints the clips are given with."""
    init: dict[str, torch.Tensor] | None
    """Weights to start from."""
    out: str
    workers: tuple[int, int]
    """At least and at most."""
    use_gpu: bool
    precision: speed.Precision = "auto"
    compiled: bool = False
    render: Render = "device"
    """Where training volumes are drawn."""
    accumulate: int = 1
    """Parts of a worker's batch that go through the model one after another."""
    sync_bn: bool | None = None
    """Normalise over the batches of all workers; None does where they are small."""
    val_every: int = 1
    """Epochs from one validation to the next."""
    final_clips: int = 0
    """Test clips of each row for the test of the best model at the end; 0 is none."""
    keep: int = 0
    """Newest epochs whose checkpoints are kept, beside the last and the best."""
    best_by: str = "val_top1"
    """Metric of the best epoch."""
    neighbours: int = 0
    """Other runs that train on the same machine at the same time."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    def file(self, name: str) -> str:
        """URI of a file in the run's folder."""
        return f"{self.out}/{name}"

    def batch(self, rank: int, world: int) -> int:
        """Samples of a step that are this worker's."""
        return self.config.batch * (rank + 1) // world - self.config.batch * rank // world

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch, with any number of workers."""
        return self.train.clips * self.config.repeat // self.config.batch

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        last = self.file("last.safetensors")
        if not exists(last) or checkpoints.load(last).epoch < self.config.epochs:
            return False
        tested = json.loads(read_whole(self.file("final.json")) or b"{}")
        return not self.tested_at_the_end or tested.get("views") == self.final_clips

    @property
    def tested_at_the_end(self) -> bool:
        """Whether the best model is tested at the end."""
        return self.val is not None and self.final_clips > 0


class _Trainer(TorchTrainer):
    """Leaves Ctrl-C to the job: Ray would end the process with exit code 0, at the third time."""

    def _register_sigint_handler(self, controller: Any) -> None:
        pass


def fit(run: Run) -> None:
    """Train until all epochs are done, on as many of `run.workers` as there is room for.

    A worker group of which a worker, or a machine, dies is started again and goes on from the last checkpoint, if
    need be with fewer workers.

    Raises:
        ValueError: what the same run again would end with too: the loss diverged, the data are wrong, or workers died
            more than `DEATHS` times in one epoch.
    """
    for name in ("error", "last", "starts"):
        _say(run, name, "")
    least, most = run.workers
    _Trainer(
        _worker,
        train_loop_config={"run": run},
        scaling_config=ray.train.ScalingConfig(
            num_workers=most if least == most else (least, most),
            use_gpu=run.use_gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if run.use_gpu else {})},
        ),
        torch_config=TorchConfig(backend="nccl" if run.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            # What ends a run is told in its folder: Ray cannot tell a death from a mistake. This is for a folder that
            # workers cannot write to.
            storage_path=run.file("_ray"),
            worker_runtime_env={"env_vars": {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", MALLOC)}},
            failure_config=ray.train.FailureConfig(max_failures=(DEATHS + 1) * (run.config.epochs + 1)),
        ),
    ).fit()
    if error := _said(run, "error"):
        raise ValueError(error)


def _said(run: Run, name: str) -> str:
    """What workers wrote down for those after them: `error`, which ends the run; the `last` one; their `starts`."""
    return (read_whole(run.file(f"_state/{name}")) or b"").decode()


def _say(run: Run, name: str, text: str) -> None:
    write_whole(run.file(f"_state/{name}"), text.encode())


def _worker(settings: dict[str, Any]) -> None:
    """One worker's part; what would happen again is written down, and ends the run when Ray starts the group again."""
    run: Run = settings["run"]
    if _said(run, "error"):
        return
    try:
        _train(run)
    except Exception as error:
        final = isinstance(error, training.Diverged | ValueError | _Dying)
        _say(run, "error" if final else "last", str(error) or type(error).__name__)
        raise


def _count_start(run: Run, world: int) -> None:
    """Count the starts since the last finished epoch; a group of another size was not started by a death.

    Raises:
        _Dying: too many.
    """
    before, starts = (_said(run, "starts") or f"{world} 0").split()
    now = int(starts) + 1 if int(before) == world else 1
    _say(run, "starts", f"{world} {now}")
    if now > DEATHS + 1:
        why = _said(run, "last") or "nothing was raised, so something killed them: often a machine without memory"
        raise _Dying(f"workers died {now - 1} times in one epoch; the last time: {why}")


class _Dying(RuntimeError):
    """Workers die again and again."""


def _train(run: Run) -> None:
    config = run.config
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if rank == 0:
        _count_start(run, world)
    share = Share(rank, world)
    device = ray.train.torch.get_device()
    # Ray gives a worker one OpenMP thread a CPU it holds; the machine's cores are shared out instead. Threads that have
    # no core to themselves wait for each other: two runs with all cores each take twice as long as one after the other.
    # A machine may be several of Ray's nodes: its own name tells who shares it.
    gather = _gather(world)
    here = gather(platform.node()).count(platform.node())
    torch.set_num_threads(max(1, cores() // (here * (1 + run.neighbours))))
    torch.manual_seed(config.seed)

    body = skeleton(run.skeleton)
    drawn = config.clip.space == "volume" and config.clip.maps == "drawn"
    sizes = (config.clip.size, config.clip.test_size) if drawn else ()
    for size in sizes:  # what draws is compiled now, not in the first step
        nobody = torch.zeros(1, run.train.persons, config.clip.length, len(body.joints), 2, device=device)
        training.draw(nobody, nobody[..., 0], size, config.heatmap, body)

    model = checkpoints.build_model(config, run.skeleton, len(run.labels))
    mine = run.batch(rank, world)
    few = config.batch // world // run.accumulate < synced.FEW  # the same for all workers, whose shares may differ
    if world > 1 and (few if run.sync_bn is None else run.sync_bn):
        model = synced.synced(model, device)
    model = model.to(device)
    if device.type == "cpu" and torch.get_num_threads() == 1:
        speed.for_one_thread(model)
    if run.init is not None:
        model.load_state_dict(run.init)
    averaged = copy.deepcopy(model) if config.optim.ema else None
    optimizer = training.make_optimizer(model, config.optim)
    dtype = speed.resolve(run.precision, device)
    scaler = training.loss_scaler(dtype, device)
    done, best, best_by = 0, -math.inf, run.best_by
    if exists(run.file("last.safetensors")):
        last = checkpoints.load(run.file("last.safetensors"))
        model.load_state_dict(last.trained or last.weights)
        if averaged is not None:
            averaged.load_state_dict(last.weights)
        checkpoints.unpack_optimizer(optimizer, last.optimizer)
        if last.scaler:
            scaler.load_state_dict(last.scaler)
        done, best, best_by = last.epoch, last.best, last.best_by or best_by  # a sweep may have chosen by another
    kept = averaged or model

    def train(epoch: int) -> Iterable[training.Batch]:
        # Dropout of an epoch, too, is the same whether or not the run was interrupted before it.
        torch.manual_seed(config.seed * 100_003 + epoch * 1009 + rank)
        return render.training_batches(
            run.train,
            config.clip,
            mine,
            seed=config.seed,
            epoch=epoch,
            repeat=config.repeat,
            balanced=config.balanced,
            share=share,
            batch=config.batch if world > 1 else None,
            heatmap=config.heatmap if run.render == "worker" and config.clip.maps == "drawn" else None,
        )

    def validate() -> Iterable[training.Batch]:
        if world > 1:  # each rank has running statistics of its own; the checkpoint has those of rank 0
            for buffer in kept.buffers():
                distributed.broadcast(buffer, 0)
        size = -(-mine // run.accumulate)
        for batch in render.testing_batches(run.val, config.clip, size, share=share):  # type: ignore[arg-type]
            yield {name: array[:, 0] if name in training.INPUTS else array for name, array in batch.items()}

    labels = np.concatenate([unit.labels for unit in run.train.units])
    epochs = training.fit(
        model,
        optimizer,
        config,
        body,
        train,
        validate if run.val is not None else None,
        steps=run.steps,
        first_epoch=done,
        class_weights=training.weigh_classes(labels, len(run.labels), config.optim.class_weight),
        device=device,
        dtype=dtype,
        compiled=run.compiled,
        scaler=scaler,
        averaged=averaged,
        accumulate=run.accumulate,
        val_every=run.val_every,
        portion=mine * world / config.batch,
        wrap=_wrap(world, device),
        gather=gather,
    )
    with track(run.trackers if rank == 0 else (), run.out, config) as say:
        with _Writer() as writer:
            for metrics in epochs:
                if rank == 0:
                    # Without validation the last is the best; an epoch that skipped it never is.
                    score = metrics["epoch"] if run.val is None else -math.inf
                    if best_by in metrics:
                        score = -metrics[best_by] if best_by == "val_loss" else metrics[best_by]
                    state = Checkpoint(
                        config=config,
                        labels=run.labels,
                        skeleton=run.skeleton,
                        weights=kept.state_dict(),
                        trained=model.state_dict() if averaged is not None else {},
                        optimizer=checkpoints.pack_optimizer(optimizer),
                        epoch=int(metrics["epoch"]),
                        metrics=metrics,
                        best=max(best, score),
                        best_by=best_by,
                        scaler=scaler.state_dict(),
                    )
                    writer.write(run, checkpoints.dumps(state), metrics, score > best)
                    best = state.best
                    say(metrics)
                ray.train.report(metrics)
        if run.tested_at_the_end:
            ray.train.report({})  # a barrier: the best model is written
            final = _final_test(run, share, device, gather)
            if rank == 0:
                write_whole(run.file("final.json"), json.dumps(final, indent=1).encode())
                say({"epoch": config.epochs, **{f"final_{name}": value for name, value in final.items()}})


class _Writer:
    """Writes epochs' files in a thread while the next epoch trains, one epoch after another."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *failed: object) -> None:
        self._thread.shutdown()
        if self._last is not None and not failed[0]:
            self._last.result()

    def write(self, run: Run, data: bytes, metrics: dict[str, float], is_best: bool) -> None:
        """Write an epoch's checkpoint and metrics, once the epoch before is written; its errors are raised here."""
        if self._last is not None:
            self._last.result()
        self._last = self._thread.submit(_write, run, data, metrics, is_best)


def _write(run: Run, data: bytes, metrics: dict[str, float], is_best: bool) -> None:
    # The last at the end: a kill in between repeats the epoch, and nothing is lost.
    if is_best:
        write_whole(run.file("best.safetensors"), data)
    epoch = int(metrics["epoch"])
    if run.keep:
        write_whole(run.file(f"epochs/{epoch:04}.safetensors"), data)
    append_metrics(run.file("metrics.csv"), metrics)
    write_whole(run.file("last.safetensors"), data)
    _say(run, "starts", "")
    if run.keep:
        remove(run.file(f"epochs/{epoch - run.keep:04}.safetensors"))


def _final_test(run: Run, share: Share, device: torch.device, gather: Callable[[Any], list[Any]]) -> dict[str, float]:
    """Test the best model on the validation split, every clip once, shared out among the workers."""
    recognizer = Recognizer(checkpoints.load(run.file("best.safetensors")), device)
    scores, labels = [np.empty((0, len(run.labels)), np.float32)], [np.empty(0, np.int64)]
    batches = render.testing_batches(
        run.val,  # type: ignore[arg-type]
        run.config.clip,
        8,
        num_clips=run.final_clips,
        share=share,
    )
    for batch in batches:
        scores.append(recognizer.scores(batch))
        labels.append(np.asarray(batch["label"]))
    parts = gather((np.concatenate(scores), np.concatenate(labels)))
    score, label = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    found = measures.evaluate(score, label, list(run.labels))
    return {"clips": len(label), "views": run.final_clips, **{k: found[k] for k in ("top1", "top5", "mean_class")}}


def _wrap(world: int, device: torch.device) -> Callable[[nn.Module], nn.Module]:
    if world == 1:
        return lambda module: module
    ids = [device] if device.type == "cuda" else None
    return lambda module: DistributedDataParallel(module, device_ids=ids)


def _gather(world: int) -> Callable[[Any], list[Any]]:
    if world == 1:
        return lambda value: [value]

    def gather(value: Any) -> list[Any]:
        parts = [None] * world
        distributed.all_gather_object(parts, value)
        return parts

    return gather


def read_metrics(uri: str) -> list[dict[str, float]]:
    """Rows of a metrics.csv, one an epoch; empty if there is none."""
    text = (read_whole(uri) or b"").decode()
    return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(io.StringIO(text, newline=""))]


def append_metrics(uri: str, metrics: dict[str, float]) -> None:
    """Add an epoch's row to a metrics.csv; a repeated epoch replaces the rows from it on."""
    rows = [row for row in read_metrics(uri) if row["epoch"] < metrics["epoch"]] + [metrics]
    text = io.StringIO(newline="")
    names = dict.fromkeys(name for row in rows for name in row)  # epochs without validation have fewer
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(uri, text.getvalue().encode())
