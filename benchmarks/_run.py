"""What a run of benchmarks.accuracy is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Run:
    """One result: a model that is trained and tested, or a test of models that other runs train."""

    name: str
    """Suite/run: its JSON file, and its folder below runs/accuracy."""
    row: str
    """The line of a table that it belongs to, with other seeds and folds."""
    data: str
    """One of `DATA`."""
    test: str
    """Split it is tested on, once, at the end."""
    train: str | None = None
    """Split it learns from; None trains nothing."""
    preset: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the preset, by dotted name."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Of jobs.train beside the config."""
    seed: int = 0
    fold: str = ""
    best_of: tuple[str, ...] = ()
    """Runs on held-out training clips: preset and fields are those of the best, but for `fields`."""
    models: tuple[str, ...] = ()
    """Runs whose models are tested here: several are fused, scores averaged."""
    init: tuple[str, ...] = ()
    """Runs whose weights it starts from, RGB and pose."""
    watch: str | None = None
    """Split it is validated on after each epoch, to see and not to choose by."""
    perturb: tuple[str, float] | None = None
    """What is done to the test clips first: `benchmarks._perturb`."""
    clips: tuple[int, ...] = (10, 1)
    """Test clips a row, for each test."""
    flip: bool = False
    """It is tested on each clip's mirror image too."""
    choice: bool = False
    """It is made to choose a recipe by, on clips that are not tested later: no line of a table."""
    gpu: bool = False
    """Full size, for a GPU."""
    minutes: float = 0
    """Expected, on 2 cores or on a GPU."""
    asks: str = ""
    """What it answers."""

    def declared(self) -> dict[str, Any]:
        """What decides its result, as it is kept beside it: a result of another recipe is none of this run."""
        of = {name: getattr(self, name) for name in ("data", "train", "test", "preset", "fields", "flags", "seed")}
        more = {
            name: getattr(self, name)
            for name in ("best_of", "models", "init", "watch", "perturb", "flip")
            if getattr(self, name)
        }
        return {**of, **more}
