"""Suites of benchmarks.accuracy: all runs by name."""

from benchmarks import _experiments, _sets
from benchmarks._run import Run

SUITES: dict[str, list[Run]] = {
    "utd-mhad": _sets.utd_mhad(),
    "recipe": _sets.recipe(),
    "sbu": _sets.sbu(),
    "penn-action": _sets.penn_action(),
    "jhmdb14": _sets.jhmdb14(),
    "ut-ideas": _sets.ut_ideas(),
    "ut-interaction": _sets.ut_interaction(),
    "robustness": _experiments.robustness(),
    "occlusion": _experiments.occlusion(),
    "variants": _experiments.variants(),
    "persons": _experiments.persons(),
    "estimators": _experiments.estimators(),
    "heatmaps": _experiments.heatmaps(),
    "dimensions": _experiments.dimensions(),
    "rgb": _experiments.rgb(),
    "losses": _experiments.losses(),
}
RUNS = {run.name: run for runs in SUITES.values() for run in runs}
