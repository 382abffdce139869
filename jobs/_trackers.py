"""Where a run's numbers go beside metrics.csv: TensorBoard, MLflow, Weights & Biases."""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from posec3d.config import TrainConfig, flat
from posec3d.storage import read_whole, write_whole

log = logging.getLogger("posec3d")

Tracker = Literal["tensorboard", "mlflow", "wandb"]
Say = Callable[[dict[str, float]], None]


def missing(trackers: Sequence[Tracker]) -> list[str]:
    """The packages that are wanted and not installed."""
    packages = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
    return [packages[name] for name in trackers if importlib.util.find_spec(packages[name]) is None]


@contextlib.contextmanager
def track(trackers: Sequence[Tracker], out: str, config: TrainConfig) -> Iterator[Say]:
    """Give what takes an epoch's metrics to all trackers; a resumed run goes on in the same place.

    TensorBoard and MLflow write into the run's folder unless that is on an object store, where MLflow goes to
    $MLFLOW_TRACKING_URI and TensorBoard nowhere; Weights & Biases goes where its own settings say.
    """
    with contextlib.ExitStack() as stack:
        says = [stack.enter_context(_spared(_TRACKERS[name](out, config), name)) for name in trackers]

        def say(metrics: dict[str, float]) -> None:
            named = {re.sub("^(train|val|final)_", r"\1/", k): v for k, v in metrics.items() if k != "epoch"}
            for one in says:
                one(named, int(metrics["epoch"]))

        yield say


@contextlib.contextmanager
def _spared(tracker: "contextlib.AbstractContextManager[_Log]", name: str) -> Iterator["_Log"]:
    """A tracker whose errors are warnings: a server that is away must not end a training, metrics.csv has it all."""
    one: _Log | None = None
    with contextlib.ExitStack() as held:
        with _warned(name):
            one = held.enter_context(tracker)

        def say(metrics: dict[str, float], epoch: int) -> None:
            if one is not None:
                with _warned(name):
                    one(metrics, epoch)

        yield say
        with _warned(name):
            held.close()


@contextlib.contextmanager
def _warned(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        log.warning("%s: %s; metrics.csv has what it was not given", name, error)


_Log = Callable[[dict[str, float], int], Any]


@contextlib.contextmanager
def _tensorboard(out: str, config: TrainConfig) -> Iterator[_Log]:
    if "://" in out:
        yield lambda metrics, epoch: None
        return
    from tensorboardX import SummaryWriter

    with SummaryWriter(f"{out}/tensorboard") as board:

        def add(metrics: dict[str, float], epoch: int) -> None:
            for name, value in metrics.items():
                board.add_scalar(name, value, epoch)
            board.flush()

        yield add


@contextlib.contextmanager
def _mlflow(out: str, config: TrainConfig) -> Iterator[_Log]:
    # MLflow 3 wants to be told that its store of plain files, which needs no server and no database, is meant.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    if "MLFLOW_TRACKING_URI" not in os.environ and "://" not in out:
        mlflow.set_tracking_uri(f"file:{out}/mlruns")
    mlflow.set_experiment("posec3d")
    before = mlflow.search_runs(filter_string=f"tags.folder = '{_identity(out)}'", output_format="list")
    tags = {"folder": _identity(out), "out": out}
    with mlflow.start_run(before[0].info.run_id if before else None, run_name=_name(out), tags=tags):
        if not before:
            mlflow.log_params(flat(dataclasses.asdict(config)))
        yield lambda metrics, epoch: mlflow.log_metrics(metrics, epoch)


def _identity(out: str) -> str:
    """Of a run, kept in its folder: the same after an interruption, another in a folder that was begun anew."""
    uri = f"{out}/_state/tracked"
    known = read_whole(uri)
    if known is None:
        known = secrets.token_hex(8).encode()
        write_whole(uri, known)
    return known.decode()


def _name(out: str) -> str:
    return out.rsplit("/", 1)[-1]


@contextlib.contextmanager
def _wandb(out: str, config: TrainConfig) -> Iterator[_Log]:
    import wandb

    run = wandb.init(
        project="posec3d",
        name=_name(out),
        id=_identity(out),
        resume="allow",
        dir=None if "://" in out else out,
        config=flat(dataclasses.asdict(config)),
    )
    try:
        yield lambda metrics, epoch: run.log(metrics, step=epoch)
    finally:
        run.finish()


_TRACKERS = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
