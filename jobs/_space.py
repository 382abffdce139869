"""Search spaces of `jobs.tune`: words, a Python file or a ready sweep -> a domain a config field -> configs of trials.

A space maps a field, such as "optim.lr", or several that change together, joined by "+", to a domain of `ray.tune`, or
to a grid as `ray.tune.grid_search` makes it.
"""

import dataclasses
import difflib
import itertools
import json
import math
import re
import runpy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from pydantic import TypeAdapter, ValidationError
from ray import tune
from ray.tune.search.sample import Categorical, Float, Integer, LogUniform, Uniform

from posec3d.config import TrainConfig, flat
from posec3d.models import GRAPH, MODELS, RGB, RGBPOSE

Space = Mapping[str, Any]
SweepName = Literal[
    "sampling", "frames", "crop", "sigma", "resolution", "width", "joints-limbs", "rgb-losses", "lateral"
]
SEEDS = 1_000_003  # a prime: no two trials of two sweeps draw alike


@dataclass(frozen=True)
class Sweep:
    """A grid over what the paper varies, and the models it says something about."""

    space: Space
    models: Sequence[str] = tuple(set(MODELS) - set(GRAPH) - set(RGB))


POSE = ("pose-slowonly", "pose-slowonly-light")

SWEEPS: dict[str, Sweep] = {
    "sampling": Sweep({"clip.stride": tune.grid_search([None, 2, 3, 4])}),
    "frames": Sweep({"clip.length": tune.grid_search([16, 32, 48, 64])}),
    "crop": Sweep({"clip.padding": tune.grid_search([None, 0.25])}),
    "sigma": Sweep({"heatmap.sigma": tune.grid_search([0.4, 0.6, 0.8, 1.0, 1.5])}),
    "resolution": Sweep({"clip.size+clip.test_size": tune.grid_search([[28, 32], [40, 46], [56, 64], [72, 82]])}),
    "width": Sweep({"model.name": tune.grid_search(["pose-slowonly-light", "pose-slowonly"])}, POSE),
    "joints-limbs": Sweep({"heatmap.kind": tune.grid_search(["joint", "limb"])}),
    "rgb-losses": Sweep(
        {
            "optim.joint_loss+optim.heads": tune.grid_search(
                [[True, [1.0, 1.0]], [False, [1.0, 1.0]], [False, [1.0, 0.5]], [False, [0.5, 1.0]]]
            )
        },
        RGBPOSE,
    ),
    "lateral": Sweep({"model.lateral": tune.grid_search(["none", "rgb-to-pose", "pose-to-rgb", "both"])}, RGBPOSE),
}
assert tuple(SWEEPS) == get_args(SweepName)  # noqa: S101 - the help lists the one, the job has the other


def parse(words: Sequence[str]) -> Space:
    """Read words such as optim.lr=loguniform:1e-4,1e-1 and heatmap.sigma=choice:0.6,1.0.

    Raises:
        ValueError: a word of another form, or a field twice.
    """
    space: dict[str, Any] = {}
    for word in words:
        found = re.fullmatch(r"([\w.+]+)=(\w+):(.+)", word)
        if not found:
            raise ValueError(f"--search {word}: wanted FIELD=KIND:VALUES, such as optim.lr=loguniform:1e-4,1e-1")
        name, kind, text = found.groups()
        if name in space:
            raise ValueError(f"--search {word}: {name} is given twice")
        values = [_value(part) for part in _split(text)]
        if kind in ("grid", "choice"):
            space[name] = tune.grid_search(values) if kind == "grid" else tune.choice(values)
            continue
        if kind not in ("uniform", "loguniform", "int", "logint"):
            raise ValueError(f"--search {word}: {kind} is none of grid, choice, uniform, loguniform, int, logint")
        whole = kind.endswith("int")
        if len(values) != 2 or not all(type(v) is int or (type(v) is float and not whole) for v in values):
            raise ValueError(f"--search {word}: {kind} wants two {'whole ' if whole else ''}numbers, LOWEST,HIGHEST")
        low, high = values
        if not low < high or (kind.startswith("log") and low <= 0):
            raise ValueError(f"--search {word}: the lowest must be under the highest{', and > 0' * ('log' in kind)}")
        if whole:
            space[name] = (tune.randint if kind == "int" else tune.lograndint)(low, high + 1)
        else:
            space[name] = (tune.uniform if kind == "uniform" else tune.loguniform)(low, high)
    return space


def _split(text: str) -> list[str]:
    """Parts of a list, by those commas that are in no bracket."""
    parts, depth = [""], 0
    for c in text:
        depth += (c == "[") - (c == "]")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def _value(text: str) -> Any:
    """A number, a list of them, None, True, False, else a word."""
    plain = {"None": None, "True": True, "False": False}
    if text in plain:
        return plain[text]
    try:
        return json.loads(text)
    except ValueError:
        return text


def read(path: str) -> Space:
    """The dictionary SPACE of a Python file.

    Raises:
        ValueError: it has none.
    """
    try:
        space = runpy.run_path(path).get("SPACE")
    except Exception as error:  # whatever the file does
        raise ValueError(f"--space {path}: {type(error).__name__}: {error}") from error
    if not isinstance(space, dict):
        raise ValueError(f'--space {path}: wanted a dictionary SPACE = {{"optim.lr": tune.loguniform(1e-4, 1e-1)}}')
    return space


def check(space: Space, config: TrainConfig) -> None:
    """See that every field is one of the config, and every value, or the ends of its range, one it can have.

    Raises:
        ValueError: no.
    """
    if not space:
        raise ValueError("nothing to search: give --search, --space or --sweep")
    known = list(flat(dataclasses.asdict(config)))
    seen: set[str] = set()
    for key, domain in space.items():
        for name in key.split("+"):
            if name not in known:
                last = [field for field in known if field.split(".")[-1] == name.split(".")[-1]]
                near = last + difflib.get_close_matches(name, known, 4, 0.5)
                raise ValueError(f"no config field {name!r}; near it: {', '.join(dict.fromkeys(near)) or 'none'}")
            if name in seen:
                raise ValueError(f"{name} is searched twice")
            seen.add(name)
        for value in _probes(key, domain):
            apply(config, {key: value})


def _probes(key: str, domain: Any) -> list[Any]:
    """Values of a domain to try: all of a list, else both ends and, if it is continuous, one between whole numbers."""
    values = domain["grid_search"] if is_grid(domain) else getattr(domain, "categories", None)
    if values is not None:
        if not values:
            raise ValueError(f"{key}: an empty list of values")
        return list(values)
    if not isinstance(domain, Float | Integer) or not isinstance(domain.get_sampler(), Uniform | LogUniform):
        raise ValueError(f"{key}: wanted a grid, choice, (log)uniform or (log)randint, got {domain!r}")
    if isinstance(domain, Integer):
        return [domain.lower, domain.upper - 1]
    return [domain.lower, domain.lower + (domain.upper - domain.lower) / math.pi, domain.upper]


def apply(config: TrainConfig, params: Mapping[str, Any]) -> TrainConfig:
    """A config with these fields changed, and checked as if it had been read.

    Raises:
        ValueError: a value of the wrong type or range.
    """
    tree = dataclasses.asdict(config)
    for key, value in params.items():
        names = key.split("+")
        values = value if len(names) > 1 else [value]
        if not isinstance(values, list | tuple) or len(values) != len(names):
            raise ValueError(f"{key}: wanted [{', '.join(names)}], got {value!r}")
        for name, one in zip(names, values, strict=True):
            *path, last = name.split(".")
            node = tree
            for part in path:
                node = node[part]
            node[last] = one
    try:
        return TypeAdapter(TrainConfig).validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        given = ", ".join(f"{k} = {v!r}" for k, v in params.items())
        raise ValueError(f"{given}: {first['msg'].removeprefix('Value error, ')}") from error


def is_grid(domain: Any) -> bool:
    """Whether all values are wanted, not draws."""
    return isinstance(domain, dict) and "grid_search" in domain


def grid(space: Space) -> list[dict[str, Any]]:
    """All combinations of the grids; one empty one if there are none."""
    grids = {key: domain["grid_search"] for key, domain in space.items() if is_grid(domain)}
    return [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]


def draw(space: Space, number: int, seed: int) -> dict[str, Any]:
    """Parameters of a trial: the grids' combinations in turn, and of everything else a draw of (seed, number)."""
    rng = np.random.RandomState(seed_of(seed, number))
    chosen = grid(space)
    drawn = chosen[number % len(chosen)]
    return {key: _plain(drawn[key] if key in drawn else space[key].sample(random_state=rng)) for key in space}


def seed_of(seed: int, number: int) -> int:
    """The seed of a trial's draw, as NumPy takes it."""
    return (seed * SEEDS + number) % 2**32


def _plain(value: Any) -> Any:
    """A value as it comes back from JSON: numbers are Python's, tuples are lists."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def describe(domain: Any) -> str:
    """A domain as a line that tells it from others."""
    if is_grid(domain):
        return f"grid: {json.dumps(_plain(domain['grid_search']))}"
    if isinstance(domain, Categorical):
        return f"choice: {json.dumps(_plain(domain.categories))}"
    high = domain.upper - 1 if isinstance(domain, Integer) else domain.upper
    return f"{'log ' * is_log(domain)}{type(domain).__name__.lower()}: {domain.lower} to {high}"


def is_log(domain: Any) -> bool:
    """Whether a domain is drawn from by orders of magnitude."""
    return isinstance(domain, Float | Integer) and isinstance(domain.get_sampler(), LogUniform)


class Optuna:
    """Draws by Optuna's tree-structured Parzen estimator, which learns from the trials that are over."""

    def __init__(self, space: Space, mode: Literal["max", "min"], seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ValueError("--searcher optuna needs the package optuna: pip install 'optuna>=4'") from error
        if any(is_grid(domain) for domain in space.values()):
            raise ValueError("--searcher optuna draws by itself: take choice in place of grid, or --searcher random")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.values = {k: _plain(domain.categories) for k, domain in space.items() if isinstance(domain, Categorical)}
        self.study = optuna.create_study(
            direction="maximize" if mode == "max" else "minimize", sampler=optuna.samplers.TPESampler(seed=seed)
        )
        # Of a list its places are drawn: values may be lists, which Optuna takes for none.
        self.distributions: dict[str, Any] = {}
        for key, domain in space.items():
            if isinstance(domain, Categorical):
                places = range(len(self.values[key]))
                self.distributions[key] = optuna.distributions.CategoricalDistribution(places)
            elif isinstance(domain, Integer):
                self.distributions[key] = optuna.distributions.IntDistribution(
                    domain.lower, domain.upper - 1, log=is_log(domain)
                )
            else:
                self.distributions[key] = optuna.distributions.FloatDistribution(
                    domain.lower, domain.upper, log=is_log(domain)
                )
        self._create = optuna.trial.create_trial

    def draw(self) -> dict[str, Any]:
        """Parameters of the next trial."""
        drawn = self.study.ask(self.distributions).params
        return {key: self.values[key][value] if key in self.values else value for key, value in drawn.items()}

    def tell(self, params: Mapping[str, Any], value: float) -> None:
        """Learn what a trial came to."""
        drawn = {key: self.values[key].index(one) if key in self.values else one for key, one in params.items()}
        self.study.add_trial(self._create(params=drawn, distributions=self.distributions, value=value))
