"""Slow: the CPU's kernel is compiled once a machine, and says so."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_the_kernel_is_compiled_once_and_found_by_the_next_process(tmp_path):
    shutil.copytree(ROOT / "posec3d", tmp_path / "posec3d", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from posec3d.heatmaps_cpu import draw\n"
        "print(sum(draw.stats.cache_hits.values()), draw.__module__)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    # Of two signatures.
    assert [run.stdout.split() for run in runs] == [["0", "posec3d.heatmaps_cpu"], ["2", "posec3d.heatmaps_cpu"]]
    assert "compiled the heatmap kernel" in runs[0].stderr
    assert "compiled" not in runs[1].stderr
