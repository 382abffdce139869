"""Slow: on nodes without MMPose the actors of an extraction install it for themselves, and run its networks."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

from posec3d import actors, openmmlab
from posec3d import table as tables
from posec3d.pose import WholeFrame, extract_poses
from posec3d.video import write_video

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
MMPOSE = re.findall(r"^([\w-]+)==", (ROOT / "mmpose.txt").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Python of a node where `make mmpose` was not run: our packages by links, less those of mmpose.txt."""
    folder = tmp_path_factory.mktemp("node")
    venv.create(folder, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    lacking = {file.parts[0] for name in MMPOSE for file in importlib.metadata.files(name) or ()}
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in {*lacking, "__pycache__"}:
            (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


def run(*words):
    """Run a program as a user does, not as these tests: with no Ray but its own."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=270)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint as OpenMMLab publishes them: random, but with clear and high maxima, as else nobody is there."""
    if importlib.util.find_spec("mmpose") is None:
        pytest.skip("the checkpoint is made by MMPose, which is not installed: make mmpose")
    torch.manual_seed(0)
    model = openmmlab.architecture("mobilenetv2")
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # what it sees now is what it will expect
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 256, 192), None)
        model.head.final_layer.weight *= 10
        model.head.final_layer.bias += 0.5
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save({"meta": {}, "state_dict": model.state_dict()}, path)
    return path


@pytest.fixture
def index(tmp_path):
    """A package index that pip reaches: the one thing of the outside that this needs."""
    download = f"-m pip download -q --no-deps --no-cache-dir --retries=0 addict -d {tmp_path}"
    done = run(sys.executable, *download.split())
    if done.returncode:
        pytest.skip(f"pip reaches no package index: {done.stderr.strip().splitlines()[-1]}")


def test_actors_on_a_node_without_mmpose_install_it_and_run_its_network(weights, node, index, tmp_path):
    clip = actors.make_clip("wave", actor=0, num_frames=6)
    write_video(tmp_path / "a.mp4", clip.frames, clip.fps)
    assert "No module named 'mmpose'" in run(node, "-c", "import mmpose").stderr
    table = tmp_path / "table"
    words = ("--pose", "mobilenetv2", "--pose-weights", weights, "--detector", "whole-frame", "--actors", 1)
    done = run(node, "-m", "jobs.extract", "--videos", tmp_path / "a.mp4", "--table", table, *words)
    assert done.returncode == 0, done.stderr
    (found,) = tables.read_table(str(table))
    estimator = openmmlab.MMPoseEstimator(openmmlab.network("mobilenetv2", str(weights)))
    here = extract_poses(str(tmp_path / "a.mp4"), WholeFrame(), estimator).clip
    assert found.pose_model == here.pose_model == estimator.name
    assert here.keypoints.shape == (1, 6, 17, 2) and here.keypoints[0].std(1).min() > 5  # pixels
    np.testing.assert_allclose(found.keypoints, here.keypoints, atol=0.126)  # quarter pixels
    np.testing.assert_allclose(found.scores, here.scores, atol=1 / 509)  # 8 bits
