"""What the repository promises as a whole: README's targets, imports on a bare machine."""

import re
import subprocess
import sys
from pathlib import Path

from jobs import extract
from jobs._job import parse

ROOT = Path(__file__).resolve().parent.parent


def test_the_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^    make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)) <= targets


def test_the_torch_core_runs_without_ray_parquet_and_video_libraries():
    absent = (
        "ray pyarrow onnxruntime av cv2 matplotlib numba scipy fsspec pydantic safetensors jinja2 PIL tyro rich".split()
    )
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "import torch\n"
        "from posec3d import clips, config, feed, heatmaps, models, training, skeletons\n"
        "m = models.create('pose-slowonly-light', 3)\n"
        "x = torch.rand(2, 1, 4, 17, 2) * 16\n"
        "v = training.draw(x, torch.ones(2, 1, 4, 17), 16, config.HeatmapConfig(), skeletons.COCO17)\n"
        "print(m(v).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "torch.Size([2, 3])", done.stderr


def test_the_imports_of_the_package_are_lazy():
    code = (
        "import sys, posec3d; print([m for m in ('torch', 'pyarrow', 'av', 'cv2', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def test_extract_has_every_flag_of_its_interface():
    words = "--videos v --table t --labels l --pose movenet-thunder --detector movenet-multipose --actors 2"
    job = parse(extract.Extract, [*words.split(), "--gpus-per-actor", "0.5", "--max-failed", "0.1"])
    assert (job.actors, job.gpus_per_actor, job.max_failed) == ("2", 0.5, 0.1)
