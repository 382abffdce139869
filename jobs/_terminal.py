"""What a job's user sees: the flags that every job has, its log, one live line a stage, tables, and what Ctrl-C does.

All of it is of the process, as its terminal is: a job that executes other jobs gives the flags once.
"""

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from posec3d.redaction import redacted

FLAGS = ("--quiet", "--json", "--debug")
HELP = (
    "Every job also takes --quiet (only warnings and errors are said), --json (stdout is the content of summary.json "
    "and nothing else), --debug (tracebacks, and what Ray says) and --version."
)
EVERY_S = 30.0
"""Between plain lines of progress."""

quiet = as_json = debug = False
scratch: list[str] = []
"""Folders that go with the process."""
log = logging.getLogger("posec3d")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Whoever read is gone, as after `| head -1`: the work goes on, unheard."""
        self.quiet = True
        deafen(self.file.fileno())


OUT, ERR = _Console(emoji=False), _Console(stderr=True, soft_wrap=True, emoji=False)  # a path with :x: in it stays


def deafen(descriptor: int) -> None:
    """What is still to be written there goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def take(words: Sequence[str]) -> list[str]:
    """Heed the flags that every job has, wherever they stand on its command line; returns the other words."""
    global quiet, as_json, debug
    quiet, as_json, debug = (flag in words for flag in FLAGS)
    return [word for word in words if word not in FLAGS]


class _Log(logging.Handler):
    """The log on stderr, above the live line."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            ERR.print(redacted(self.format(record)), markup=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


def start_log() -> None:
    """Show the log, as the flags say."""
    handler = _Log()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler])
    for name in ("botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they say where they found credentials


def show(table: Table) -> None:
    """Print a table on stdout, unless that is for JSON, or nothing is to be said."""
    if not quiet and not as_json:
        OUT.print(table, markup=False)


def say(text: str) -> None:
    """Print text on stdout as it is, but for secrets."""
    OUT.print(redacted(text), markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """What others print on stdout ends without a word when nobody reads it any more, as with `--help | head`.

    Raises:
        SystemExit: that happened.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        deafen(sys.stdout.fileno())
        sys.exit()


class _Stage:
    """How far a stage is, as one line."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.note, self.start = "", time.monotonic()
        self.seen: list[tuple[float, float]] = []  # (time, done) of the first two reports, and of the last

    def advance(self, done: float, note: str) -> None:
        if not self.seen or done > self.done:
            self.seen = [*self.seen[:2], (time.monotonic(), done)]
        self.note = note

    @property
    def done(self) -> float:
        return self.seen[-1][1] if self.seen else 0

    def rate(self) -> float:
        """Of one second, 0 while it is not known.

        It counts from the second report on: the first one may tell what was there before, and start-up is over then.
        """
        if len(self.seen) < 3:
            return 0
        _, (began, first), (then, done) = self.seen
        return (done - first) / (then - began) if then > began else 0

    def __str__(self) -> str:
        now, rate = time.monotonic(), self.rate()
        percent = self.unit == "%"
        said = [f"{self.done:.0f} %" if percent else f"{int(self.done)}/{self.total} {self.unit}"]
        if rate and not percent:
            said.append(_a_second(rate))
        said.append(clock(now - self.start))
        if rate and self.done < self.total:
            left = (self.total - self.done) / rate - (now - self.seen[-1][0])
            said.append(f"{clock(max(left, 0))} left")
        return ", ".join(said + [self.note] * bool(self.note))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        line = Table.grid(padding=(0, 1), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(width=min(20, options.max_width // 5))
        line.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        line.add_row(self.title, ProgressBar(self.total, self.done), str(self))
        yield line


def _a_second(rate: float) -> str:
    """12/s, 3.4/min."""
    unit, seconds = next(((u, s) for u, s in (("s", 1), ("min", 60)) if rate * s >= 1), ("h", 3600))
    return f"{rate * seconds:.{0 if rate * seconds >= 10 else 1}f}/{unit}"


def clock(seconds: float) -> str:
    """0:07, 1:02:03."""
    minutes, s = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}" if minutes >= 60 else f"{minutes}:{s:02}"


@contextlib.contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[[float, str], None]]:
    """Show `advance(done, note)`: on a terminal one live line, else a plain line now and then, with --quiet nothing.

    Args:
        title: of the stage.
        total: what `done` comes to.
        unit: what is counted; of "%" there is no rate.
    """
    stage = _Stage(title, total, unit)
    if quiet:
        yield stage.advance
        return
    if sys.stderr.isatty() and not ERR.is_dumb_terminal:
        with Live(stage, console=ERR, refresh_per_second=4):
            yield stage.advance
        return
    log.info("%s: %s", title, str(stage))
    said = time.monotonic()

    def advance(done: float, note: str) -> None:
        nonlocal said
        before, now = stage.done, time.monotonic()
        stage.advance(done, note)
        if done != before and (now - said >= EVERY_S or done == total):
            log.info("%s: %s", title, str(stage))
            said = now

    yield advance


def listen() -> None:
    """From now on Ctrl-C, and SIGTERM, by which a job is cancelled, end the work in order, by KeyboardInterrupt.

    Ctrl-C once more ends the process at once. A job that was started with Ctrl-C ignored, as by `nohup` or by a script
    in its background, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, _end_at_once)
    raise KeyboardInterrupt


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """Ray's processes end when this one is gone."""
    for folder in scratch:
        shutil.rmtree(folder, ignore_errors=True)
    shown = "\x1b[?25h" if sys.stderr.isatty() else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{shown}\nended at once\n".encode())
    os._exit(1)
