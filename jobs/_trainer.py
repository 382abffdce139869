"""Ray Train glue: one training run over workers, around `posec3d.training` and `pipelines.render`.

The run's folder holds config.json, metrics.csv (a row an epoch), tensorboard/, last.safetensors, best.safetensors.
Rank 0 writes them, each whole or not at all; a restarted worker group, or the same command again, goes on from
last.safetensors.
"""

import csv
import io
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from tensorboardX import SummaryWriter
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines import render
from posec3d import checkpoint as checkpoints
from posec3d import speed, training
from posec3d.checkpoint import Checkpoint
from posec3d.config import TrainConfig
from posec3d.feed import Index, Share
from posec3d.skeletons import skeleton
from posec3d.storage import read_whole, write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True)
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
    workers: int
    use_gpu: bool
    precision: speed.Precision
    compiled: bool
    render: render.Render
    """Where training volumes are drawn."""

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return self.train.clips * self.config.repeat // self.workers // (self.config.batch // self.workers)

    def file(self, name: str) -> str:
        """URI of a file in the run's folder."""
        return f"{self.out.rstrip('/')}/{name}"


def fit(run: Run) -> None:
    """Train on `run.workers` workers until all epochs are done; a dead worker group is started again, up to 3 times."""
    gpus = {"GPU": 1} if run.use_gpu else {}
    TorchTrainer(
        _worker,
        train_loop_config={"run": run},
        scaling_config=ray.train.ScalingConfig(
            num_workers=run.workers, use_gpu=run.use_gpu, resources_per_worker={"CPU": 1, **gpus}
        ),
        torch_config=TorchConfig(backend="nccl" if run.use_gpu else "gloo"),
        run_config=ray.train.RunConfig(
            storage_path=run.file("_ray"), failure_config=ray.train.FailureConfig(max_failures=3)
        ),
    ).fit()


def _worker(settings: dict[str, Any]) -> None:
    run: Run = settings["run"]
    config = run.config
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    share = Share(rank, world)
    device = ray.train.torch.get_device()
    # Ray gives a worker one OpenMP thread a CPU it holds; the machine's cores are shared out instead.
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    torch.manual_seed(config.seed)

    body = skeleton(run.skeleton)
    sizes = (config.clip.size, config.clip.test_size) if config.clip.space == "volume" else ()
    for size in sizes:  # what draws is compiled now, not in the first step
        nobody = torch.zeros(1, run.train.persons, config.clip.length, len(body.joints), 2, device=device)
        training.draw(nobody, nobody[..., 0], size, config.heatmap, body)

    model = checkpoints.build_model(config, run.skeleton, len(run.labels))
    model = model.to(device)
    optimizer = training.make_optimizer(model, config.optim)
    done, best = 0, -1.0
    if run.init is not None:
        model.load_state_dict(run.init)
    if checkpoints.exists(run.file("last.safetensors")):
        last = checkpoints.load(run.file("last.safetensors"))
        model.load_state_dict(last.weights)
        checkpoints.unpack_optimizer(optimizer, last.optimizer)
        done, best = last.epoch, last.best

    def train(epoch: int) -> Iterable[training.Batch]:
        # Dropout of an epoch, too, is the same whether or not the run was interrupted before it.
        torch.manual_seed(config.seed * 100_003 + epoch * 1009 + rank)
        return render.training_batches(
            run.train,
            config.clip,
            config.batch // world,
            seed=config.seed,
            epoch=epoch,
            repeat=config.repeat,
            balanced=config.balanced,
            share=share,
            heatmap=config.heatmap if run.render == "worker" else None,
        )

    def validate() -> Iterable[training.Batch]:
        if world > 1:  # each rank has running statistics of its own; the checkpoint has those of rank 0
            for buffer in model.buffers():
                distributed.broadcast(buffer, 0)
        for batch in render.testing_batches(run.val, config.clip, config.batch // world, share=share):  # type: ignore[arg-type]
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
        class_weights=training.class_weights(labels, len(run.labels), config.optim.class_weight),
        device=device,
        dtype=speed.resolve(run.precision, device),
        compiled=run.compiled,
        wrap=_wrap(world, device),
        gather=_gather(world),
    )
    board = SummaryWriter(run.file("tensorboard")) if rank == 0 and "://" not in run.out else None
    for metrics in epochs:
        if rank == 0:
            score = metrics.get("val_top1", metrics["epoch"])  # without validation the last is the best
            state = Checkpoint(
                config=config,
                labels=run.labels,
                skeleton=run.skeleton,
                weights=model.state_dict(),
                optimizer=checkpoints.pack_optimizer(optimizer),
                epoch=int(metrics["epoch"]),
                metrics=metrics,
                best=max(best, score),
            )
            # The best first: a kill between the two repeats the epoch, and nothing is lost.
            if score > best:
                checkpoints.save(state, run.file("best.safetensors"))
            append_metrics(run.file("metrics.csv"), metrics)
            checkpoints.save(state, run.file("last.safetensors"))
            best = state.best
            if board is not None:
                for name, value in metrics.items():
                    board.add_scalar(re.sub("^(train|val)_", r"\1/", name), value, int(metrics["epoch"]))
                board.flush()
        ray.train.report(metrics)


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
    writer = csv.DictWriter(text, rows[-1].keys(), extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(uri, text.getvalue().encode())
