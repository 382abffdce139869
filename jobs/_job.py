"""What every job does around its work: parse, connect to Ray, print one table, write summary.json, exit code."""

import atexit
import contextlib
import dataclasses
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import ray.data
import tyro
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from posec3d import table as tables
from posec3d.storage import Leased, lease, write_whole
from posec3d.weights import WeightsError

ROOT = Path(__file__).resolve().parent.parent
T = TypeVar("T")
log = logging.getLogger("posec3d")

DONE, FAILED, USAGE, TOO_MANY_FAILURES = 0, 1, 2, 3


class UsageError(Exception):
    """The command cannot mean anything useful: exit code 2, before any work."""


class TooManyFailures(Exception):
    """The work is done, but more clips failed than was allowed: exit code 3, after the usual report."""

    def __init__(self, message: str, summary: dict[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


def connect() -> None:
    """Connect to the cluster this runs in (RAY_ADDRESS, set inside a submitted job), else start a private local Ray.

    Jobs call it once everything that can be checked without Ray has been. A local Ray never attaches to, or is found
    by, another cluster of the machine: own temporary directory, own token, no dashboard. It ends with this process.
    """
    if ray.is_initialized():
        return
    # Workers import posec3d, pipelines and jobs from this checkout; a submitted job brings it as its working directory.
    if os.environ.get("RAY_ADDRESS"):
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        environment: dict[str, Any] = {} if submitted else {"working_dir": str(ROOT)}
        with _quiet():
            ray.init(log_to_driver=False, logging_level=logging.WARNING, runtime_env=environment)
    else:
        cores = os.cpu_count() or 1
        folder = tempfile.mkdtemp(prefix="posec3d-ray-")
        atexit.register(_end, folder)
        with _quiet():
            ray.init(
                address="local",
                # Training workers and the tasks that feed them each hold a CPU; one worker a core must leave some.
                num_cpus=cores + 2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                object_store_memory=min(2**30, 2**28 * cores),
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
                _temp_dir=folder,
            )
    _end_by_sigterm()  # again: Ray has put its own handler there, which aborts the process
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Ray's core prints while it starts off the terminal, unless the start fails."""
    with tempfile.TemporaryFile() as kept:
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _end(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _end_by_sigterm() -> None:
    """A cancelled job is told so by SIGTERM: it ends as by Ctrl-C, with what is done written."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def parse(job: type[T], args: list[str] | None = None) -> T:
    """Flags from a dataclass: its fields are the flags, its docstrings the help; `args` None takes sys.argv."""
    return tyro.cli(job, prog=f"python -m jobs.{_module(job)}", args=args)


def _module(job: type) -> str:
    """The module of a job's class, and what its report is called: ImportPoses -> import_poses."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", job.__name__).lower()


def main(parse: Callable[[], T], run: Callable[[T], dict[str, Any]]) -> int:
    """Parse the command line, do the work on Ray and report.

    Args:
        parse: reads the flags; wrong ones end the process with exit code 2.
        run: does the work and returns the summary. Its "path" entry says where summary.json goes.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 more clips failed than allowed.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    for name in ("botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they say where they found credentials
    job = parse()
    _end_by_sigterm()
    try:
        execute(run, job)
    except UsageError as error:
        return _fail(error, USAGE)
    except TooManyFailures as error:
        return _fail(error, TOO_MANY_FAILURES)
    except (OSError, ValueError, WeightsError) as error:
        return _fail(error, FAILED)
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiohttp"):
            raise
        return _fail(
            f"S3: {error}. What was done is kept; when S3 answers again, the same command does the rest", FAILED
        )
    except KeyboardInterrupt:
        return _fail("interrupted; what was done is written, and the same command again does the rest", FAILED)
    return DONE


def execute(run: Callable[[T], dict[str, Any]], job: T) -> dict[str, Any]:
    """Do a job's work on the Ray that is there, report its summary and return it, with the seconds it took."""
    start = time.monotonic()
    title = _module(type(job))
    try:
        summary = run(job)
    except TooManyFailures as error:
        report(title, {**error.summary, "seconds": round(time.monotonic() - start, 1)})
        raise
    summary = {**summary, "seconds": round(time.monotonic() - start, 1)}
    report(title, summary)
    return summary


def _fail(error: BaseException | str, code: int) -> int:
    Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
    return code


@contextlib.contextmanager
def lock(folder: str) -> Iterator[None]:
    """Hold the only right to write to a folder; a local lock dies with its process, one on an object store later.

    Raises:
        UsageError: another process holds it.
    """
    fs, path = fsspec.url_to_fs(folder)
    with contextlib.ExitStack() as held:
        try:
            if isinstance(fs, LocalFileSystem):
                fs.makedirs(path, exist_ok=True)
                held.enter_context(FileLock(f"{path}/lock", timeout=0))
            else:
                held.enter_context(lease(f"{folder}/lock"))
        except (Timeout, Leased) as error:
            who = f" ({error})" if isinstance(error, Leased) else ""
            raise UsageError(
                f"another run is writing to {folder}{who}; wait for it, end it, or give another folder"
            ) from error
        yield


@contextlib.contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[float, str], None]]:
    """Show `advance(done, note)`: a live line with rate and time left on a terminal, else a plain line every 30 s."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
        return
    log.info("%s: 0/%d", title, total)
    start = said = time.monotonic()
    seen: list[tuple[float, float]] = []  # (time, done); the first one is when start-up was over
    last = 0.0

    def advance(done: float, note: str) -> None:
        nonlocal said, last
        now = time.monotonic()
        if done == last or not (now - said >= 30 or done == total):
            return
        seen.append((now, done))
        rate = (done - seen[0][1]) / max(now - seen[0][0], 1e-9)
        left = f", about {(total - done) / rate:.0f} s to go" if 0 < rate and done < total else ""
        log.info("%s: %g/%d, %s, %.0f s%s", title, done, total, note, now - start, left)
        said, last = now, done

    yield advance


def report(title: str, summary: dict[str, Any]) -> None:
    """Print the summary's scalars as one table and write all of it to summary.json in the folder summary["path"]."""
    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in summary.items():
        if not isinstance(value, dict | list):
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console(file=sys.stdout).print(table)
    write_json(f"{summary['path']}/summary.json", summary)


def require(workers: int, what: str, *, cpus: int = 1, gpus: float = 0) -> None:
    """See that Ray can run `workers` of so many CPUs and GPUs each, and the tasks that feed them.

    A cluster may grow: there it is said, and waited for.

    Raises:
        UsageError: this machine's own Ray would wait for ever.
    """
    needs = {"CPU": workers * cpus + 1, "GPU": workers * gpus}
    have = ray.cluster_resources()
    for kind, needed in needs.items():
        if needed > have.get(kind, 0):
            message = (
                f"{workers} {what} and the tasks that feed them need {needed:g} {kind}s, Ray has {have.get(kind, 0):g}"
            )
            if "RAY_ADDRESS" not in os.environ:
                raise UsageError(message)
            log.warning("%s: waiting for the cluster to grow", message)


def require_splits(table: str, found: dict[str, Any], *expressions: str | None) -> None:
    """See that a table has every split that the expressions name; `found` is its `tables.summary`.

    Raises:
        UsageError: it lacks one.
    """
    for expression in expressions:
        for name in tables.split_names(expression):
            if name not in found["splits"]:
                known = (
                    ", ".join(f"{k} ({v})" for k, v in sorted(found["splits"].items()))
                    or "none: give None for all clips"
                )
                raise UsageError(f"no split {name!r} in {table}; it has {known}")


def absolute(job: T, *names: str) -> T:
    """The job with these paths made absolute: workers have other current folders. URIs stay as they are."""
    changed = {name: getattr(job, name) for name in names}
    changed = {k: v if v is None or "://" in v else os.path.abspath(v) for k, v in changed.items()}
    return dataclasses.replace(job, **changed)  # type: ignore[type-var]


def write_json(uri: str, value: Any) -> None:
    """Write `value` as JSON to any fsspec URI."""
    write_whole(uri, json.dumps(value, indent=1, default=str).encode())
