"""Metrics of a run, in all three trackers as they are installed."""

import importlib.util
import os
import subprocess
import sys

import pytest

from jobs import _ray

RUN = """
import sys, mlflow
from jobs._trackers import track
from posec3d.config import PRESETS
out = sys.argv[1]
for epoch in (1, 2):  # the second goes on where the first stopped
    with track(("tensorboard", "mlflow", "wandb"), out, PRESETS["demo"][1]) as say:
        say({"epoch": float(epoch), "train_loss": 1 / epoch, "lr": 0.1})
(run,) = mlflow.search_runs(output_format="list")
history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train/loss")
print("MLFLOW", [metric.value for metric in history], run.data.params["optim.lr"])
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None or importlib.util.find_spec("wandb") is None,
    reason="MLflow or Weights & Biases is not installed; `make trackers` does it",
)
def test_a_resumed_run_goes_on_in_the_same_place_of_every_tracker(tmp_path):
    env = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(_ray.ROOT)}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "MLFLOW [1.0, 0.5] 0.003" in done.stdout
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len({run.name.rsplit("-", 1)[1] for run in runs}) == 1
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
