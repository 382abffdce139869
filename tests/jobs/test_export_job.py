"""jobs.export: from a run to a file that names actions where this package and torch are not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import _job, export
from posec3d import checkpoint as checkpoints
from posec3d import load
from posec3d.clips import ClipConfig
from posec3d.config import ModelConfig, TrainConfig
from posec3d.table import Clip

ROOT = Path(__file__).resolve().parent.parent.parent
LABELS = ("bow", "kick", "wave")


def save(folder, name="pose-slowonly-light", **clip):
    torch.manual_seed(0)
    config = TrainConfig(model=ModelConfig(name=name), clip=ClipConfig(length=6, test_size=20, **clip))
    model = checkpoints.build_model(config, "coco17", 3)
    torch.nn.init.normal_(model.fc_cls.weight)
    checkpoints.save(checkpoints.Checkpoint(config, LABELS, "coco17", model.state_dict()), f"{folder}/best.safetensors")


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "run")
    return tmp_path


def flags(folder, out):
    return _job.parse(export.Export, [str(folder / "run"), "--out", str(folder / out)])


def test_a_run_becomes_a_file_and_a_summary(folder, capsys):
    summary = _job.execute(export.run, flags(folder, "model.onnx"))
    assert summary["file"] == str(folder / "model.onnx")
    assert summary["megabytes"] == pytest.approx((folder / "model.onnx").stat().st_size / 1e6)
    assert float(summary["max difference"]) < 1e-5
    written = json.loads((folder / "model/summary.json").read_text())
    assert json.loads(written["metadata"]["labels"]) == list(LABELS)
    assert "max difference" in capsys.readouterr().out


def test_the_suffix_says_which_kind_of_file(folder):
    export.run(flags(folder, "model.pt2"))
    program = torch.export.load(folder / "model.pt2").module()
    given = torch.rand(2, 1, 6, 17, 2) * 100, torch.ones(2, 1, 6, 17), torch.tensor([[100.0, 100.0]] * 2)
    assert program(*given).sum(1).tolist() == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize("frames", [4, 13, 90])
def test_the_example_of_the_docs_names_actions_without_this_package_and_torch(folder, frames):
    export.run(flags(folder, "model.onnx"))
    (example,) = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "docs/export.md").read_text(), re.S)
    assert len(example.splitlines()) <= 20
    (folder / "name_action.py").write_text(example)
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(50, 300, (2, frames, 17, 2)).astype(np.float32)
    scores = rng.random((2, frames, 17), np.float32)
    np.savez(folder / "poses.npz", keypoints=keypoints, scores=scores, height=480, width=640)
    absent = "import sys; sys.modules.update(posec3d=None, torch=None, onnx=None); import runpy; del sys.argv[0]; "
    done = subprocess.run(
        [sys.executable, "-c", f"{absent}runpy.run_path(sys.argv[0])", "name_action.py", "model.onnx", "poses.npz"],
        capture_output=True, text=True, cwd=folder, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    clip = Clip("c", frames, 480, 640, keypoints, scores)
    wanted = load(folder / "run").predict(clip, clips=1).top(3)
    said = [re.fullmatch(r" *([\d.]+)%  (\w+)", line).groups() for line in done.stdout.splitlines()]
    assert [name for _, name in said] == [name for name, _ in wanted]
    assert [float(percent) / 100 for percent, _ in said] == pytest.approx([p for _, p in wanted], abs=2e-4)


def test_a_file_that_says_something_else_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(export, "LIMIT", -1.0)
    with pytest.raises(ValueError, match=r"would differ from .*run by .* in a probability: nothing was written"):
        export.run(flags(folder, "model.onnx"))
    assert [path.name for path in folder.iterdir()] == ["run"]


def test_an_existing_file_stays(folder):
    (folder / "model.onnx").write_text("mine")
    with pytest.raises(_job.UsageError, match=r"model\.onnx exists; remove it, or give another --out"):
        export.run(flags(folder, "model.onnx"))
    assert (folder / "model.onnx").read_text() == "mine"


def test_what_cannot_be_is_refused(folder):
    with pytest.raises(_job.UsageError, match=r"must end in \.onnx or \.pt2, got .*model\.pth"):
        export.run(flags(folder, "model.pth"))
    save(folder / "run", "stgcn++", space="body")
    with pytest.raises(_job.UsageError, match=r"run: a stgcn\+\+ of clip\.space body cannot be exported"):
        export.run(flags(folder, "model.onnx"))
    (folder / "run/best.safetensors").unlink()
    with pytest.raises(_job.UsageError, match="no checkpoint at"):
        export.run(flags(folder, "model.onnx"))


def test_an_object_store_takes_the_file(folder, s3):
    export.run(_job.parse(export.Export, [str(folder / "run"), "--out", f"{s3}/models/model.onnx"]))
    assert checkpoints.exists(f"{s3}/models/model.onnx")
