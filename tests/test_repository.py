"""What the repository promises as a whole: README's commands, cluster.yaml, imports on a bare machine."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import compact, convert, demo, evaluate, export, export_poses, extract, import_poses, predict, stats, train
from jobs._job import parse

ROOT = Path(__file__).resolve().parent.parent
JOBS = {
    "extract": lambda args: parse(extract.Extract, args),
    "import_poses": lambda args: parse(import_poses.ImportPoses, args),
    "export_poses": lambda args: parse(export_poses.ExportPoses, args),
    "compact": lambda args: parse(compact.Compact, args),
    "convert": convert.parse,
    "stats": lambda args: parse(stats.Stats, args),
    "train": train.parse,
    "evaluate": lambda args: parse(evaluate.Evaluate, args),
    "export": lambda args: parse(export.Export, args),
    "predict": lambda args: parse(predict.Predict, args),
    "demo": lambda args: parse(demo.Demo, args),
}


def documented_commands():
    """Lines `python -m jobs.x ...` of the Markdown files, continuation lines joined."""
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        text = path.read_text().replace("\\\n", " ")
        for match in re.finditer(
            r"^ *(?:ray job submit .*?-- )?(?:\.venv/bin/)?python -m jobs\.(\w+)(.*)$", text, re.M
        ):
            yield pytest.param(
                match[1], match[2].split("#")[0].strip(), id=f"{path.name}: {match[1]} {match[2].strip()}"
            )


@pytest.mark.parametrize(("job", "flags"), list(documented_commands()))
def test_documented_commands_have_the_flags_they_name(job, flags):
    assert JOBS[job](shlex.split(flags.replace("...", "x"))) is not None


def test_every_job_is_documented_and_has_help(capsys):
    documented = "".join(path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    for name, parse_flags in JOBS.items():
        assert f"jobs.{name}" in documented or name == "demo"
        with pytest.raises(SystemExit) as end:
            parse_flags(["--help"])
        assert end.value.code == 0
        assert f"python -m jobs.{name}" in capsys.readouterr().out


def test_the_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"^    make ([a-z-]+)", (ROOT / "README.md").read_text(), re.M)) <= targets


def test_cluster_yaml_is_accepted_by_ray(tmp_path, monkeypatch):
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    for node in config["available_node_types"].values():  # Ray does not look into node_config
        assert set(node["node_config"]) <= {"InstanceType", "InstanceMarketOptions", "BlockDeviceMappings"}
        assert re.fullmatch(r"[a-z]\w+\.\w+", node["node_config"]["InstanceType"])


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
    job = JOBS["extract"]([*words.split(), "--gpus-per-actor", "0.5", "--max-failed", "0.1"])
    assert (job.actors, job.gpus_per_actor, job.max_failed) == ("2", 0.5, 0.1)
