"""Report: trials of a sweep -> their ranking, and one self-contained HTML file of tables and inline SVG.

As in `posec3d.report` the file asks the network for nothing and holds no script, and jinja2 escapes every value.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posec3d.draw import one_line
from posec3d.report import template

Mode = Literal["max", "min"]
SHADES = 5  # of lines, from the best fifth of the trials to the worst
WIDTH, AXIS = 1050, 130  # pixels of a wide picture, and the least an axis of it has; a narrow page scrolls
HEIGHT, TOP = 260, 34  # of an axis, and above it
PLOT, CURVES = (300, 190), (WIDTH, 300)
APART = 14  # pixels between two ticks
LEFT, RIGHT, BOTTOM = 52, 30, 26
NAME_LENGTH, VALUE_LENGTH = 22, 16  # characters in a picture; the table has all


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep."""

    name: str
    params: Mapping[str, Any]
    """Value of each searched field."""
    status: str
    """finished, stopped or failed."""
    rows: Sequence[Mapping[str, float]]
    """One mapping an epoch, as in metrics.csv."""
    epochs: int
    """Epochs it would have been trained for."""
    error: str = ""

    def best(self, metric: str, mode: Mode) -> Mapping[str, float] | None:
        """The epoch with the best metric, the first of several; None without one."""
        rows = [row for row in self.rows if math.isfinite(row.get(metric, math.nan))]
        return (max if mode == "max" else min)(rows, key=lambda row: row[metric], default=None)

    def value(self, metric: str, mode: Mode) -> float | None:
        """The best epoch's metric."""
        row = self.best(metric, mode)
        return None if row is None else row[metric]

    def best_epoch(self, metric: str, mode: Mode) -> int | None:
        """The best epoch."""
        row = self.best(metric, mode)
        return None if row is None else int(row["epoch"])


def ranked(trials: Sequence[Trial], metric: str, mode: Mode) -> list[Trial]:
    """Best first; of equal ones that with the lower validation loss; those that failed last."""

    def key(trial: Trial) -> tuple[Any, ...]:
        row = trial.best(metric, mode)
        if row is None:
            return (True, True, 0.0, 0.0, trial.name)
        value = -row[metric] if mode == "max" else row[metric]
        return (trial.status == "failed", False, value, row.get("val_loss", 0.0), trial.name)

    return sorted(trials, key=key)


def text(value: Any) -> str:
    """A searched value for people: numbers with four digits, lists as JSON."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value) if isinstance(value, list | tuple | dict) else str(value)


class Axis:
    """Places values along a line of pixels: numbers by size, or by order of magnitude, all else by name."""

    def __init__(self, values: Sequence[Any], start: float, end: float, *, logarithmic: bool = False) -> None:
        self.start, self.end, self.log = start, end, logarithmic
        self.numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if self.numeric:
            self.low, self.high = min(values, default=0), max(values, default=1)
            middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
            marks = sorted(set(values)) if len(set(values)) <= 6 else [self.low, middle, self.high]
        else:
            marks = sorted({text(v): v for v in values}.values(), key=_order)
            self.names = [text(v) for v in marks]
        placed = [(self.place(v), one_line(text(v), VALUE_LENGTH)) for v in marks]
        self.ticks = _apart(placed) if self.numeric else placed

    def place(self, value: Any) -> float:
        """Pixel of a value."""
        if not self.numeric:
            share = (self.names.index(text(value)) + 0.5) / len(self.names)
        elif self.low == self.high:
            share = 0.5
        else:
            low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
            share = (at - low) / (high - low)
        return round(self.start + share * (self.end - self.start), 1)


def _apart(ticks: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The first and last tick, and of those between the ones that touch no other."""
    kept = [*ticks[:1], *ticks[1:][-1:]]
    for tick in ticks[1:-1]:
        if all(abs(tick[0] - other[0]) >= APART for other in kept):
            kept.append(tick)
    return sorted(kept, key=ticks.index)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then all else by name."""
    number = isinstance(value, int | float)
    return not number, value if number else 0, text(value)


def report_html(
    trials: Sequence[Trial],
    keys: Sequence[str],
    metric: str,
    mode: Mode,
    *,
    about: Mapping[str, str],
    logarithmic: Sequence[str] = (),
) -> str:
    """The report as one HTML document.

    Args:
        trials: as `ranked` returns them.
        keys: of the searched fields.
        metric: column of metrics.csv that decides.
        mode: whether more of it is better.
        about: what is said about the sweep, by name.
        logarithmic: those of `keys` that are drawn by orders of magnitude; others are if their values span two.
    """
    shown = [trial for trial in trials if trial.value(metric, mode) is not None]
    values = {trial.name: trial.value(metric, mode) for trial in shown}
    shades = {trial.name: SHADES * i // max(len(shown), 1) for i, trial in enumerate(shown)}
    columns: dict[str, list[Any]] = {key: [trial.params[key] for trial in shown] for key in keys}
    logs = {key for key, column in columns.items() if key in logarithmic or _wide(column)}
    share = min(max(AXIS, WIDTH // (len(keys) + 1)), 2 * AXIS)
    axes: list[dict[str, Any]] = []
    plots: list[dict[str, Any]] = []
    measured = list(values.values())
    for i, (key, column) in enumerate([*columns.items(), (metric, measured)]):
        axis = Axis(column, TOP + HEIGHT, TOP, logarithmic=key in logs)
        axes.append({"x": share * (i + 0.5), "name": one_line(key, NAME_LENGTH), "full": key, "ticks": axis.ticks})
        axes[-1]["ys"] = [axis.place(v) for v in column]
        if key != metric:
            across = Axis(column, LEFT + 8, PLOT[0] - RIGHT, logarithmic=key in logs)
            up = Axis(measured, PLOT[1] - BOTTOM - 6, 12)
            dots = [(across.place(v), up.place(m)) for v, m in zip(column, measured, strict=True)]
            plots.append({"name": key, "across": across.ticks, "up": _ends(up), "dots": dots})
    lines = [" ".join(f"{axis['x']},{axis['ys'][i]}" for axis in axes) for i in range(len(shown))]
    every = [row for trial in shown for row in trial.rows if math.isfinite(row.get(metric, math.nan))]
    across = Axis([row["epoch"] for row in every], LEFT + 8, CURVES[0] - RIGHT)
    up = Axis([row[metric] for row in every], CURVES[1] - BOTTOM - 6, 12)
    curves = [
        [(across.place(row["epoch"]), up.place(row[metric])) for row in trial.rows if metric in row] for trial in shown
    ]
    return template("sweep.html.j2", value=text, short=lambda name: one_line(name, 300)).render(
        trials=trials,
        shown=shown,
        keys=keys,
        metric=metric,
        about=about,
        values=values,
        shades=shades,
        best={trial.name: trial.best_epoch(metric, mode) for trial in shown},
        axes=axes,
        lines=lines,
        plots=plots,
        curves=curves,
        curve_ticks={"across": across.ticks, "up": _ends(up)},
        size={"axis": share, "height": HEIGHT, "top": TOP, "plot": PLOT, "curves": CURVES, "left": LEFT},
    )


def _wide(values: Sequence[Any]) -> bool:
    """Whether values are positive numbers of very different size."""
    numbers = [v for v in values if isinstance(v, int | float) and v > 0]
    return 0 < len(numbers) == len(values) and max(numbers) >= 100 * min(numbers)


def _ends(axis: Axis) -> list[tuple[float, str]]:
    """The first and last tick: names between would touch."""
    return axis.ticks if len(axis.ticks) < 3 else [axis.ticks[0], axis.ticks[-1]]
