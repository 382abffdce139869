"""What every job does around its work: parse, print one table, write summary.json, exit code."""

import contextlib
import dataclasses
import difflib
import inspect
import json
import logging
import os
import re
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import fsspec
import tyro
from filelock import FileLock, Timeout
from fsspec.implementations.local import LocalFileSystem
from rich.table import Table

from jobs import _errors, _terminal
from posec3d import table as tables
from posec3d.frames import frames_uri
from posec3d.redaction import redacted
from posec3d.storage import Leased, lease, read_whole, write_whole

if TYPE_CHECKING:
    from posec3d.checkpoint import Checkpoint
    from posec3d.index import Index

T = TypeVar("T")
log = logging.getLogger("posec3d")

DONE, FAILED, USAGE, WORSE = 0, 1, 2, 3

SHOWN = 20
"""Failures named in the log; all of them are in `_failures/` and in summary.json."""


class UsageError(Exception):
    """The command cannot mean anything useful: exit code 2, before any work."""


class ProblemsFound(Exception):
    """The work is done, and found what is not as it should be: exit code 1, after the report."""

    code = FAILED

    def __init__(self, message: str, summary: dict[str, Any]) -> None:
        super().__init__(message)
        self.summary = summary


class WorseThanAllowed(ProblemsFound):
    """The work is done, but more clips failed, or the data is worse, than allowed: exit code 3, after the report."""

    code = WORSE


@contextlib.contextmanager
def usage(*errors: type[Exception]) -> Iterator[None]:
    """Tell of these errors as wrong usage."""
    try:
        yield
    except errors as error:
        raise UsageError(str(error)) from error


def parse(job: type[T], args: list[str] | None = None) -> T:
    """Flags from a dataclass: its fields are the flags, its docstrings the help; `args` None takes sys.argv."""
    named = (tyro.conf.PositionalMetavarFromFieldName,)
    return tyro.cli(job, prog=f"python -m jobs.{_module(job)}", description=_about(job), args=args, config=named)


def parse_preset(job: type[T], args: list[str] | None = None) -> T:
    """The same after the name of a preset, which gives the defaults of the field `config`."""
    from posec3d.config import PRESETS  # torch, which most jobs do without

    fields: Sequence[Any] = dataclasses.fields(job)  # type: ignore[arg-type]
    nothing = dataclasses.MISSING
    wanted = {f.name: tyro.MISSING for f in fields if f.default is nothing and f.default_factory is nothing}
    presets = {name: (line, job(**wanted | {"config": config})) for name, (line, config) in PRESETS.items()}
    prog, about = f"python -m jobs.{_module(job)}", _about(job)
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] not in ([], ["--help"], ["-h"], *([name] for name in presets)):
        got = "the first word is a flag" if words[0].startswith("-") else f"there is no preset {words[0]!r}"
        near = difflib.get_close_matches(words[0], presets, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        _terminal.ERR.print(f"error: {got}; {meant}{prog} PRESET ..., one of {', '.join(presets)}", style="red",
                            markup=False, highlight=False)  # fmt: skip
        sys.exit(USAGE)
    # tyro shows a preset's text in the list of presets too, where a line must do.
    presets = {name: (f"{line}\n\n{about}" if name in words[:1] else line, it) for name, (line, it) in presets.items()}
    about += f"\n\nIts flags, with the values that a preset gives them: {prog} PRESET --help"
    return tyro.extras.overridable_config_cli(presets, prog=prog, description=about, args=args)


def _about(job: type) -> str:
    return f"{inspect.cleandoc(job.__doc__ or '')}\n\n{_terminal.HELP}"


def _module(job: type) -> str:
    """The module of a job's class, and what its report is called: ImportPoses -> import_poses."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", job.__name__).lower()


def main(parse: Callable[[], T], run: Callable[[T], dict[str, Any]]) -> int:
    """Heed the flags that every job has, parse the command line, do the work on Ray and report.

    Args:
        parse: reads the flags; wrong ones end the process with exit code 2.
        run: does the work and returns the summary. Its "path" entry says where summary.json goes.

    Returns:
        The exit code: 0 done, 1 failed, 2 wrong usage, 3 more clips failed, or the data is worse, than allowed.
    """
    words = sys.argv[1:]
    sys.argv[1:] = _terminal.take(words)
    _terminal.start_log()
    try:
        with _terminal.heard():
            job = parse()
    except SystemExit as end:
        if end.code and _terminal.as_json:
            _terminal.say(_json({"error": "wrong usage; stderr says where", "exit_code": end.code}))
        raise
    _terminal.listen()
    try:
        # What others may print is not the document.
        with contextlib.redirect_stdout(sys.stderr) if _terminal.as_json else contextlib.nullcontext():
            summary = execute(run, job)
    except (Exception, KeyboardInterrupt) as error:
        return _fail(error, job, words)
    if _terminal.as_json:
        _terminal.say(_json(summary))
    return DONE


def execute(run: Callable[[T], dict[str, Any]], job: T) -> dict[str, Any]:
    """Do a job's work on the Ray that is there, report its summary and return it, with the seconds it took."""
    start = time.monotonic()
    title = _module(type(job))
    try:
        summary = run(job)
    except ProblemsFound as error:
        error.summary["seconds"] = round(time.monotonic() - start, 1)
        report(title, error.summary)
        raise
    summary = {**summary, "seconds": round(time.monotonic() - start, 1)}
    report(title, summary)
    return summary


def _fail(error: BaseException, job: Any, words: Sequence[str]) -> int:
    """Say in one paragraph what went wrong and what to do; returns the exit code."""
    again = True
    if isinstance(error, KeyboardInterrupt):
        said = "interrupted"
    elif isinstance(error, UsageError | ProblemsFound):
        said, again = str(error), False
    else:
        said, again = _errors.explain(error)
    if again:
        said = f"{said}; {_rest(job, words)}"
    said = redacted(said)
    code = USAGE if isinstance(error, UsageError) else getattr(error, "code", FAILED)
    if _terminal.debug:
        _terminal.ERR.print(redacted("".join(traceback.format_exception(error))), markup=False, highlight=False)
    _terminal.ERR.print(f"error: {said}", style="red", markup=False, highlight=False)
    if _terminal.as_json:
        _terminal.say(_json({"error": said, "exit_code": code, **getattr(error, "summary", {})}))
    return code


def _rest(job: Any, words: Sequence[str]) -> str:
    """What a job that was ended before its end leaves, and how to go on."""
    if getattr(job, "resumes", False):
        left = "what was done is written, and the same command again does the rest"
    else:
        left = "this job keeps nothing of a run that did not end, and the same command again starts anew"
    return f"{left}: {shlex.join(['python', '-m', f'jobs.{_module(type(job))}', *words])}"


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
                try:
                    fs.makedirs(path, exist_ok=True)
                    held.enter_context(FileLock(f"{path}/lock", timeout=0))
                except (PermissionError, NotADirectoryError, FileExistsError, FileNotFoundError) as error:
                    raise UsageError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
            else:
                held.enter_context(lease(f"{folder}/lock"))
        except (Timeout, Leased) as error:
            who = f" ({error})" if isinstance(error, Leased) else ""
            raise UsageError(
                f"another run is writing to {folder}{who}; wait for it, end it, or give another folder"
            ) from error
        yield


def report(title: str, summary: dict[str, Any]) -> None:
    """Write a summary to summary.json in the folder summary["path"], and print its scalars as one table."""
    write_json(f"{summary['path']}/summary.json", summary)
    table = Table(title=title, show_header=False, title_justify="left")
    for key, value in summary.items():
        if not isinstance(value, dict | list):
            table.add_row(key, f"{value:.4g}" if isinstance(value, float) else redacted(str(value)))
    _terminal.show(table)


def require_least(job: Any, **least: int) -> None:
    """See that flags that are numbers are at least so much; None leaves the choice to the job.

    Raises:
        UsageError: one is less.
    """
    for name, lowest in least.items():
        value = getattr(job, name)
        if value is not None and value < lowest:
            raise UsageError(f"--{name.replace('_', '-')} must be >= {lowest}, got {value}")


def require_share(gpus_per_actor: float) -> None:
    """See that an actor's GPUs are one, none, or a share of one.

    Raises:
        UsageError: they are not.
    """
    if not 0 <= gpus_per_actor <= 1:
        raise UsageError(f"--gpus-per-actor must be from 0 to 1, got {gpus_per_actor}; an actor uses one GPU")


def failed(name: str, error: str) -> str:
    """A line for the log; many an error begins with the name of its video."""
    return f"{name} failed: {error.removeprefix(f'{name}: ')}"


def tell_failures(told: Sequence[str], where: str) -> None:
    """Log the first failures, a line each, and where the others are."""
    for line in told[:SHOWN]:
        log.warning("%s", line)
    if len(told) > SHOWN:
        log.warning("and %d more; all are in %s", len(told) - SHOWN, where)


def require_few_failures(
    limit: float | None, failed: int, total: int, what: str, where: str, summary: dict[str, Any]
) -> None:
    """See that not more failed than --max-failed allows.

    Args:
        limit: a fraction if it is below 1, else a count; None allows all.
        failed: how many did.
        total: how many there were.
        what: noun and verb of the message, "videos failed".
        where: URI of the failures.
        summary: of the job, which is done.

    Raises:
        WorseThanAllowed: more did.
    """
    if limit is not None and failed > (limit * total if limit < 1 else limit):
        raise WorseThanAllowed(f"{failed} of {total} {what}, --max-failed allows {limit:g}; see {where}", summary)


def require_weights(weights: Sequence[float] | None, runs: Sequence[str]) -> None:
    """See that fused runs have a weight each.

    Raises:
        UsageError: there is not one weight a run, a negative one, or all are 0.
    """
    if weights is not None and (len(weights) != len(runs) or not all(w >= 0 for w in weights) or not sum(weights)):
        raise UsageError(f"--weights wants a number >= 0 for each of {len(runs)} runs, one of them > 0, got {weights}")


def models(runs: Sequence[str]) -> tuple[list[bytes], list["Checkpoint"]]:
    """The runs' checkpoints, as files and read, of the same classes.

    Raises:
        UsageError: no run, no checkpoint, a damaged one, or other classes.
    """
    from posec3d import checkpoint as checkpoints  # torch, which most jobs do without

    if not runs:
        raise UsageError("give at least one run: the folder of a jobs.train run, or a .safetensors file")
    with usage(FileNotFoundError, ValueError):
        files = [checkpoints.read(uri) for uri in runs]
        found = [checkpoints.loads(data, uri) for data, uri in zip(files, runs, strict=True)]
    for uri, model in zip(runs, found, strict=True):
        if model.labels != found[0].labels:
            raise UsageError(f"{uri} knows other classes than {runs[0]}; they cannot be fused")
    return files, found


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
                    or "none: sort them into splits as docs/training.md shows, or give None for all clips"
                )
                raise UsageError(f"no split {name!r} in {table}; it has {known}")


def label_names(uri: str) -> tuple[str, ...]:
    """The names in a labels file, by number.

    Raises:
        UsageError: there is no such file, or it is not one name a line, each once.
    """
    try:
        data = read_whole(uri)
    except OSError as error:
        raise UsageError(f"{uri}: {error}") from error
    if data is None:
        raise UsageError(f"no file at {uri}")
    try:
        names = tuple(line.strip() for line in data.decode("utf-8-sig").rstrip().splitlines())
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or "" in names or twice:
        what = "no names" if not names else "an empty line" if "" in names else f"{twice[0]!r} twice"
        raise UsageError(f"{uri} has {what}; wanted one name a line, each once")
    return names


def span(flag: str, text: str) -> tuple[int, int]:
    """Read N or MIN:MAX as (N, N) or (MIN, MAX).

    Raises:
        UsageError: it is neither.
    """
    least, _, most = text.partition(":")
    if least.isdecimal() and (most.isdecimal() or not most) and 1 <= int(least) <= int(most or least):
        return int(least), int(most or least)
    raise UsageError(f"{flag} must be N or MIN:MAX with 1 <= MIN <= MAX, got {text}")


def require_sight(chosen: "Index", table: str, split: str | None) -> None:
    """Say how many clips were left out for want of RGB frames.

    Raises:
        UsageError: all were.
    """
    if not chosen.blind:
        return
    remedy = (
        f"neither pictures in {frames_uri(table)} nor a video that is there and can be read; "
        "jobs.extract --frames makes pictures where the videos are"
    )
    if not chosen.clips:
        raise UsageError(f"all {chosen.blind} clips of split {split!r} have {remedy}")
    log.warning("%d clips of split %r are left out: they have %s", chosen.blind, split, remedy)


def absolute(job: T, *names: str) -> T:
    """The job with these paths made absolute: workers have other current folders.

    Of URIs what does not count goes, a slash at the end: a folder has one name, by which it is locked and compared.

    Raises:
        UsageError: a URI that nothing opens.
    """

    def one(path: Any) -> Any:
        if isinstance(path, tuple):
            return tuple(one(part) for part in path)
        if path is None or "://" not in path:
            return path and os.path.abspath(path)
        try:
            for scheme in path.split("://")[0].split("::"):
                fsspec.get_filesystem_class(scheme)
        except (ImportError, ValueError) as error:
            raise UsageError(f"{path}: {error}; wanted a path, or a URI such as s3://bucket/folder") from error
        return re.sub("(?<=[^:/])/+$", "", path)

    return dataclasses.replace(job, **{name: one(getattr(job, name)) for name in names})  # type: ignore[type-var]


def write_json(uri: str, value: Any) -> None:
    """Write `value` as JSON to any fsspec URI."""
    write_whole(uri, _json(value).encode())


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str)
