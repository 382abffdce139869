"""Job: keypoint table -> many trained models and the best of them, `python -m jobs.tune PRESET --table URI --out DIR`.

Each trial is a run as `jobs.train` makes them, in OUT/trials/NAME/. What is known of a trial lies there: trial.json has
its values and how it ended, metrics.csv how it went. So the same command again needs nothing of Ray's to go on.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import ray
import tyro
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from rich.table import Table

from jobs import _job, _ray, _space, _terminal, _trainer
from jobs import train as train_job
from posec3d import sweep as sweeps
from posec3d.index import index_options
from posec3d.redaction import redacted
from posec3d.storage import clear, exists, read_whole, remove, write_whole
from posec3d.sweep import Trial

log = logging.getLogger("posec3d")

DRAWS = 20
POLL = 1.0  # seconds
Metric = Literal["val_top1", "val_mean_class", "val_loss"]


@dataclass(frozen=True, kw_only=True)
class Tune(train_job.Train):
    """Train a model many times, each time with other values of some fields, and keep the best.

    What is searched: --search FIELD=KIND:VALUES ..., --space FILE or --sweep NAME, over any field of the preset.
    The same command again goes on where the last one stopped; more --trials add to those there are.
    Choose on a validation split: a test split that chose the best trial says nothing about it any more.
    """

    out: str
    """Folder of the sweep: trials/, best/, trials.csv, report.html. On several machines it must be shared or s3://."""
    val_split: str = field()
    """Clips that decide which trial is best. Never those of the final test; there is no default for that reason."""
    final_clips: int = 0
    """Test a trial's best model when it has trained to its end, on the validation split, with so many clips of a row;
    trials that are over already are not tested. 0 tests none."""
    search: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
    """FIELD=KIND:VALUES, such as optim.lr=loguniform:1e-4,1e-1 heatmap.sigma=choice:0.6,1.0 clip.length=grid:16,32;
    kinds: grid (each), choice, uniform, loguniform, int, logint (lowest,highest). A+B=grid:[1,2],[3,4] sets two."""
    space: str | None = None
    """Python file with SPACE = {"optim.lr": ray.tune.loguniform(1e-4, 1e-1), ...}."""
    sweep: _space.SweepName | None = None
    """A ready grid over what the paper varies."""
    trials: int | None = None
    """Trials in all; None is each combination of a grid, or 20 where something is drawn. Fewer than there are train
    none, and all are ranked."""
    metric: Metric = "val_top1"
    """What is best, in the best epoch of each trial."""
    scheduler: Literal["asha", "none"] = "asha"
    """asha stops trials that are worse than others were after as many epochs; none trains all to their end."""
    grace: int = 1
    """Epochs that asha lets every trial have; at least --val-every."""
    reduction: int = 3
    """asha keeps one of so many trials after 1, n, n^2, ... times --grace epochs."""
    searcher: Literal["random", "optuna"] = "random"
    """Who draws; optuna learns from the trials that are over."""
    concurrent: int = 1
    """Trials at once, each of --workers workers."""
    retry_failed: bool = False
    """Train trials again that failed."""

    @property
    def mode(self) -> Literal["max", "min"]:
        """Which way the metric is better."""
        return "min" if self.metric.endswith("loss") else "max"

    def trial(self, name: str, params: Mapping[str, Any]) -> train_job.Train:
        """The training run of a trial."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(train_job.Train)}
        out = f"{self.out}/trials/{name}"
        return train_job.Train(**{**shared, "out": out, "config": _space.apply(self.config, params)})


def run(job: Tune) -> dict[str, Any]:
    """Check everything that can be checked before a worker starts, train the trials, and rank them."""
    job = _job.absolute(job, "table", "out", "space", "init")
    space, count = prepare(job)
    with _job.lock(job.out):
        _same_sweep(job, space)
        ledger = Ledger(job, space, count)
        if ledger.left:
            _ray.connect(dashboard=True)
            workers = _job.span("--workers", job.workers)
            _ray.require(workers[0] * job.concurrent, "training workers", gpus=float(job.use_gpu))
            _ray.require_shared(job.out)
            least, most = _ray.room(workers, job.concurrent)
            _train(dataclasses.replace(job, workers=f"{least}:{most}"), ledger)
        if ledger.left:
            raise ValueError(f"{len(ledger.left)} trials did not end; the same command again goes on with them")
        return _report(job, space, ledger)


def prepare(job: Tune) -> tuple[_space.Space, int]:
    """The space and the number of trials.

    Raises:
        UsageError: they, the table or a trial's config cannot work.
    """
    if job.val_split is None or job.val_split == "None":
        raise _job.UsageError("a sweep needs a validation split to choose by: give --val-split")
    if any("test" in term and "!" not in term for term in job.val_split.split(",")):
        log.warning("--val-split %s: the trial chosen on test clips looks better on them than it is", job.val_split)
    _job.require_least(job, concurrent=1, grace=1, reduction=2)
    with _job.usage(ValueError):
        space = dict(_space.SWEEPS[job.sweep].space if job.sweep else {})
        space |= _space.read(job.space) if job.space else {}
        space |= _space.parse([word for words in job.search for word in words])
        _space.check(space, job.config)
        if job.searcher == "optuna":
            _space.Optuna(space, job.mode, 0)
    if job.sweep and job.config.model.name not in _space.SWEEPS[job.sweep].models:
        raise _job.UsageError(
            f"--sweep {job.sweep} says nothing about a {job.config.model.name}; it is for "
            f"{', '.join(sorted(_space.SWEEPS[job.sweep].models))}"
        )
    whole = len(_space.grid(space)) if all(map(_space.is_grid, space.values())) else None
    count = whole or DRAWS if job.trials is None else job.trials
    if count < 1 or count != (whole or count):
        wanted = f"{whole}, as many as the grid has combinations" if whole else ">= 1"
        raise _job.UsageError(f"--trials must be {wanted}, got {count}")
    # Of lists, the combinations that trials draw are looked at (with Optuna they may be others). What is drawn from a
    # range is not: it seldom decides what fits together, and a trial that cannot work fails alone.
    kinds = {k: v for k, v in space.items() if _space.is_grid(v) or hasattr(v, "categories")}
    looked_at, look = set(), functools.cache(train_job.look)  # trials that want the same of the table look once
    for number in range(count):
        params = {k: v for k, v in _space.draw(space, number, job.config.seed).items() if k in kinds}
        with _job.usage(ValueError):
            own = job.trial("", params)
        if own.config not in looked_at:
            looked_at.add(own.config)
            train_job.prepare(own, look)
    return space, count


DECIDES = (*train_job.DECIDES, "metric", "scheduler", "grace", "reduction", "searcher")
"""Flags beside the config and the space that make a sweep another one; more trials, other workers or GPUs do not."""


def _same_sweep(job: Tune, space: _space.Space) -> None:
    """Write sweep.json, or see that the folder's is this one.

    Raises:
        UsageError: it is of another sweep, or the folder is a run's.
    """
    now = {name: getattr(job, name) for name in DECIDES} | {"config": dataclasses.asdict(job.config)}
    now["space"] = {key: _space.describe(domain) for key, domain in space.items()}
    options = {"skeleton": job.skeleton, "cache_gb": job.cache_gb, **index_options(job.config.clip)}
    seen = train_job.look(job.table, job.train_split, job.val_split, **options)
    now |= {"labels": seen.labels, "clips": [seen.train.clips, seen.val.clips if seen.val else 0]}
    begun = exists(f"{job.out}/trials/0000/trial.json")  # before that there is nothing another sweep could spoil
    if exists(f"{job.out}/config.json"):
        raise _job.UsageError(f"{job.out} holds a run of jobs.train; give another --out")
    train_job.same_as_before(f"{job.out}/sweep.json", now, begun, "another sweep", Tune)


class Ledger:
    """What is known of each trial, by name, as it lies in its trial.json: `params`, and how it `ended`."""

    def __init__(self, job: Tune, space: _space.Space, count: int) -> None:
        self.job, self.space = job, space
        self.params: dict[str, dict[str, Any]] = {}
        self.ended: dict[str, dict[str, Any]] = {}
        self.names = [f"{number:04d}" for number in range(count)]
        # Those beyond --trials, of a time when it was higher, are not trained but ranked: one may be the best.
        for number in itertools.count():
            name = f"{number:04d}"
            said = json.loads(read_whole(self.file(name, "trial.json")) or b"{}")
            if not said and number >= count:
                break
            if said:
                self.params[name] = said["params"]
            again = job.retry_failed and said.get("status") == "failed" and number < count
            if said.get("status") and not again:
                self.ended[name] = said
        self.optuna = None
        if job.searcher == "optuna":
            self.optuna = _space.Optuna(space, job.mode, _space.seed_of(job.config.seed, len(self.params)))
            for name in self.ended:
                self._tell(name)

    @property
    def left(self) -> list[str]:
        """Trials that are not over yet."""
        return [name for name in self.names if name not in self.ended]

    def file(self, name: str, file: str) -> str:
        """URI of a file of a trial."""
        return f"{self.job.out}/trials/{name}/{file}"

    def begin(self, name: str) -> dict[str, Any]:
        """Parameters of a trial that is about to start: those it had before, or new ones."""
        if name not in self.params:
            drawn = self.optuna.draw() if self.optuna else _space.draw(self.space, int(name), self.job.config.seed)
            self.params[name] = drawn
            _job.write_json(self.file(name, "trial.json"), {"params": drawn})
        return self.params[name]

    def end(self, name: str, status: str, error: str = "") -> None:
        """Write down that a trial is over, or failed."""
        self.ended[name] = {"params": self.params[name], "status": status, "error": error}
        _job.write_json(self.file(name, "trial.json"), self.ended[name])
        self._tell(name)

    def _tell(self, name: str) -> None:
        """Let Optuna know what a trial came to; of one that failed there is nothing to learn but that."""
        if self.optuna and self.ended[name]["status"] != "failed":
            value = self.trial(name).value(self.job.metric, self.job.mode)
            if value is not None:
                self.optuna.tell(self.params[name], value)

    def trial(self, name: str) -> Trial:
        """A trial that is over, with its epochs."""
        ended = self.ended[name]
        epochs = _space.apply(self.job.config, self.params[name]).epochs
        rows = _trainer.read_metrics(self.file(name, "metrics.csv"))
        whole = rows and rows[-1]["epoch"] >= epochs
        status = ended["status"] if ended["status"] == "failed" else "finished" if whole else "stopped"
        return Trial(name, self.params[name], status, rows, epochs, redacted(ended["error"]))

    def tested(self, name: str) -> dict[str, float]:
        """What the test at a trial's end came to, as asked for now; empty without one."""
        found: dict[str, float] = json.loads(read_whole(self.file(name, "final.json")) or b"{}")
        return found if self.job.final_clips and found.get("views") == self.job.final_clips else {}


def _train(job: Tune, ledger: Ledger) -> None:
    """Train all trials that are left, as many at once as the job says."""
    os.environ.update(
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",  # metrics.csv and tensorboard/ are there
        TUNE_DISABLE_SIGINT_HANDLER="1",  # an interrupt ends the job at once, as it does elsewhere
        TUNE_GLOBAL_CHECKPOINT_S="86400",  # nothing is restored from them
        RAY_AIR_NEW_OUTPUT="0",  # it prints tables of its own
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # of failed trials `_Book` tells
    with _terminal.progress("tune", len(ledger.left), "trials") as advance:
        advance(0, "")
        tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, job=job), {"memory": 1}),  # bytes; it waits
            tune_config=tune.TuneConfig(
                search_alg=_Left(ledger),
                scheduler=_scheduler(job, ledger),
                num_samples=len(ledger.left),
                max_concurrent_trials=job.concurrent,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=f"{job.out}/_ray", callbacks=[_Book(ledger, advance)], verbose=0
            ),
        ).fit()


def _trial(config: dict[str, Any], job: Tune) -> None:
    """One trial; what it would end with again is written down, as a training run's workers do."""
    own = job.trial(config["name"], config["params"])
    said = f"{own.out}/_state/error"
    remove(said)  # of a trial that is tried again
    try:
        _follow(own, job)
    except (ValueError, _job.UsageError) as error:
        write_whole(said, (str(error) or type(error).__name__).encode())
        raise


def _follow(own: train_job.Train, job: Tune) -> None:
    """A trial's training run, each epoch reported as its row appears in metrics.csv."""
    plan = train_job.prepare(own)
    machines = sum(node["Alive"] for node in ray.nodes())
    plan = dataclasses.replace(plan, best_by=job.metric, neighbours=-(-job.concurrent // machines) - 1)
    train_job.same_config(own, plan)
    before = len(_trainer.read_metrics(plan.file("metrics.csv")))
    failed: list[BaseException] = []

    def work() -> None:
        try:
            if not plan.finished:
                _trainer.fit(plan)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    told = 0.0
    rows: list[dict[str, float]] = []
    while True:
        over = not thread.is_alive()  # asked before the rows are read
        rows = _latest(plan.file("metrics.csv"), rows)
        # Those of an earlier start are told with the first new one: Tune may end this process at once, and what Ray
        # Train holds while its workers start is given back by nobody.
        for row in rows if over or len(rows) > before else ():
            # Of the last epoch is told when its checkpoint is written too: with that Tune may end this process.
            if told < row["epoch"] and job.metric in row and (over or row["epoch"] < plan.config.epochs):
                told = row["epoch"]
                tune.report(row)
        if over:
            break
        time.sleep(POLL)
    if failed:
        raise failed[0]


class _Left(Searcher):
    """Gives Tune the trials that are left, by name."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger.job.metric, ledger.job.mode)
        self.ledger, self.names = ledger, ledger.left

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if not self.names:
            return Searcher.FINISHED
        name = self.names.pop(0)
        return {"name": name, "params": self.ledger.begin(name)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the ledger hears of it."""


def _latest(uri: str, rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """The rows of a metrics.csv; those known already while the storage is away, of which what trains will tell."""
    with contextlib.suppress(Exception):
        return _trainer.read_metrics(uri)
    return rows


def _scheduler(job: Tune, ledger: Ledger) -> TrialScheduler:
    """Who stops trials; it knows what those before a restart came to."""
    if job.scheduler == "none":
        return FIFOScheduler()
    asha = ASHAScheduler(
        time_attr="epoch",
        metric=job.metric,
        mode=job.mode,
        max_t=10**6,  # a trial knows itself when it is over
        # Where the first rung lies before the first validation, it is filled by later ones, of unlike epochs.
        grace_period=max(job.grace, job.val_every),
        reduction_factor=job.reduction,
    )
    for name in ledger.ended:
        before = SimpleNamespace(trial_id=name)
        asha.on_trial_add(None, before)
        for row in ledger.trial(name).rows:
            asha.on_trial_result(None, before, row)
    return asha


class _Book(tune.Callback):
    """Writes down how trials end, and shows it."""

    def __init__(self, ledger: Ledger, advance: Callable[[float, str], None]) -> None:
        self.ledger, self.advance, self.done, self.best = ledger, advance, 0, ""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It was stopped, or trained to its end."""
        self._end(trial.config["name"], "over")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed; or something else did, such as a machine or the storage, and it has not ended."""
        name = trial.config["name"]
        if final := read_whole(self.ledger.file(name, "_state/error")):
            self._end(name, "failed", final.decode())
            return
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = Path(trial.error_file).read_text().strip().splitlines()
        why = lines[-1].strip() if lines else "its process died"
        log.warning("trial %s did not end: %s; the same command again goes on with it", name, why)

    def _end(self, name: str, status: str, error: str = "") -> None:
        self.ledger.end(name, status, error)
        if error:
            log.warning("trial %s failed: %s", name, error)
        job = self.ledger.job
        known = sweeps.ranked([self.ledger.trial(n) for n in self.ledger.ended], job.metric, job.mode)
        best = known[0].value(job.metric, job.mode)
        self.done += 1
        self.advance(self.done, f"best {job.metric} {best:.4g} ({known[0].name})" if best is not None else "")


def _report(job: Tune, space: _space.Space, ledger: Ledger) -> dict[str, Any]:
    """Rank the trials; write trials.csv, report.html and best/."""
    ranked = sweeps.ranked([ledger.trial(name) for name in sorted(ledger.ended)], job.metric, job.mode)
    keys = [*space]
    tested = {trial.name: ledger.tested(trial.name) for trial in ranked}
    final = [f"top1 of {job.final_clips} clips"] if job.final_clips else []
    table = Table(title="trials", title_justify="left")
    for title in ("rank", "trial", "status", job.metric, *final, "epochs", *keys, "error"):
        table.add_column(title)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    tests = ["final_top1", "final_mean_class"] if final else []
    writer.writerow(["rank", "trial", "status", job.metric, *tests, "best_epoch", "epochs", *keys, "error"])
    for rank, trial in enumerate(ranked, 1):
        value, values = trial.value(job.metric, job.mode), [sweeps.text(trial.params.get(key)) for key in keys]
        said = "" if value is None else f"{value:.4f}"
        best_epoch = trial.best_epoch(job.metric, job.mode)
        found = [tested[trial.name].get(name.removeprefix("final_")) for name in tests]
        row = [rank, trial.name, trial.status, value, *found, best_epoch, len(trial.rows), *values, trial.error]
        writer.writerow(row)
        shown = ["" if top1 is None else f"{top1:.4f}" for top1 in found[:1]]
        epochs = f"{len(trial.rows)}/{trial.epochs}"
        table.add_row(*(str(rank), trial.name, trial.status, said, *shown, epochs, *values, trial.error[:60]))
    _terminal.show(table)
    write_whole(f"{job.out}/trials.csv", text.getvalue().encode())
    logs = [key for key in keys if _space.is_log(space[key])]
    about = {"table": redacted(job.table), "validated with": job.val_split, "model": job.config.model.name}
    about |= {key: _space.describe(space[key]) for key in keys}
    html = sweeps.report_html(ranked, keys, job.metric, job.mode, about=about, logarithmic=logs)
    write_whole(f"{job.out}/report.html", html.encode())
    best = ranked[0]
    value = best.value(job.metric, job.mode)
    if value is None:
        raise ValueError(f"no trial got through an epoch; the first failed with: {best.error}")
    with _job.lock(f"{job.out}/best"):  # jobs.train may go on with the one before
        if read_whole(f"{job.out}/best/last.safetensors") != read_whole(ledger.file(best.name, "last.safetensors")):
            # Evaluations, curves, older epochs and who it is to MLflow and W&B are another model's. Its last checkpoint
            # stays until it is replaced: if this is interrupted, the next report does all of it again.
            clear(f"{job.out}/best", "lock", "last.safetensors")
        for name in ("best.safetensors", "last.safetensors", "config.json", "metrics.csv", "final.json"):
            content = read_whole(ledger.file(best.name, name))
            if content is not None:
                write_whole(f"{job.out}/best/{name}", content)
            else:  # what the best one before left is not this one's
                remove(f"{job.out}/best/{name}")
    counts = {kind: sum(trial.status == kind for trial in ranked) for kind in ("finished", "stopped", "failed")}
    return {
        "path": job.out,
        "trials": len(ranked),
        **counts,
        "epochs trained": sum(len(trial.rows) for trial in ranked),
        "best trial": best.name,
        **{f"best {key}": sweeps.text(best.params[key]) for key in keys},
        f"best {job.metric}": value,
        "best epoch": best.best_epoch(job.metric, job.mode),
        **({f"best, {job.final_clips} clips": tested[best.name]["top1"]} if tested[best.name] else {}),
        "ranked": [
            {"trial": t.name, "status": t.status, "params": t.params, "epochs": len(t.rows)}
            | {job.metric: t.value(job.metric, job.mode), "final": tested[t.name] or None, "error": t.error}
            for t in ranked
        ],
        "best run": f"{job.out}/best",
        "report": f"{job.out}/report.html",
    }


parse = functools.partial(_job.parse_preset, Tune)


if __name__ == "__main__":
    sys.exit(_job.main(parse, run))
