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
from posec3d.storage import exists
from posec3d.table import Clip
from posec3d.video import write_video

ROOT = Path(__file__).resolve().parent.parent.parent
LABELS = ("bow", "kick", "wave")


def save(folder, name="pose-slowonly-light", **clip):
    torch.manual_seed(0)
    config = TrainConfig(model=ModelConfig(name=name), clip=ClipConfig(length=6, test_size=20, **clip))
    model = checkpoints.build_model(config, "coco17", 3)
    for head, layer in model.named_children():
        if head.startswith("fc_"):
            torch.nn.init.normal_(layer.weight)
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
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(50, 300, (2, frames, 17, 2)).astype(np.float32)
    scores = rng.random((2, frames, 17), np.float32)
    np.savez(folder / "poses.npz", keypoints=keypoints, scores=scores, height=480, width=640)
    said = example(0, folder, "model.onnx", "poses.npz")
    agree(said, load(folder / "run").predict(Clip("c", frames, 480, 640, keypoints, scores), clips=1))


@pytest.mark.slow
@pytest.mark.parametrize("frames", [4, 13])
@pytest.mark.parametrize("name", ["rgb-slowonly-light", "rgbpose-slowfast-light"])
def test_the_example_for_networks_that_see_rgb_takes_a_video_too(folder, name, frames):
    save(folder / "run", name, rgb_length=2)
    export.run(flags(folder, "model.onnx"))
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(20, 70, (2, frames, 17, 2)).astype(np.float32)  # a crop no larger than what is seen of it
    scores = rng.random((2, frames, 17), np.float32)
    np.savez(folder / "poses.npz", keypoints=keypoints, scores=scores)
    colours = rng.integers(0, 256, (frames, 6, 8, 3), np.uint8)
    write_video(folder / "video.mp4", colours.repeat(16, 1).repeat(16, 2), 25)
    said = example(1, folder, "model.onnx", "poses.npz", "video.mp4")
    clip = Clip("c", frames, 96, 128, keypoints, scores, video=str(folder / "video.mp4"))
    agree(said, load(folder / "run").predict(clip, clips=1))


def example(number, folder, *arguments):
    """What an example of the docs prints where neither this package nor torch are."""
    code = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "docs/export.md").read_text(), re.S)[number]
    assert len(code.splitlines()) <= (20, 35)[number]
    (folder / "name_action.py").write_text(code)
    absent = "import sys; sys.modules.update(posec3d=None, torch=None, onnx=None); import runpy; del sys.argv[0]; "
    done = subprocess.run(
        [sys.executable, "-c", f"{absent}runpy.run_path(sys.argv[0])", "name_action.py", *arguments],
        capture_output=True, text=True, cwd=folder, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [re.fullmatch(r" *([\d.]+)%  (\w+)", line).groups() for line in done.stdout.splitlines()]


def agree(said, result):
    wanted = result.top(3)
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
    save(folder / "run", "stgcn++", space="body", persons=2)
    with pytest.raises(_job.UsageError, match=r"run: a stgcn\+\+ of clip\.space body cannot be exported"):
        export.run(flags(folder, "model.onnx"))
    (folder / "run/best.safetensors").unlink()
    with pytest.raises(_job.UsageError, match="no checkpoint at"):
        export.run(flags(folder, "model.onnx"))


def test_an_object_store_takes_the_file(folder, s3):
    export.run(_job.parse(export.Export, [str(folder / "run"), "--out", f"{s3}/models/model.onnx"]))
    assert exists(f"{s3}/models/model.onnx")
