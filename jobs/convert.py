"""Job: a checkpoint of PYSKL or MMAction2 -> one of ours, `python -m jobs.convert PRESET --checkpoint FILE.pth ...`."""

import functools
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from jobs import _job
from posec3d import checkpoint as checkpoints
from posec3d.config import TrainConfig
from posec3d.models.convert import PYSKL_DEFAULT_LIMBS, load_reference
from posec3d.pth import read_tensors
from posec3d.storage import exists, read_whole


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Make a checkpoint of this project out of one of PYSKL or MMAction2.

    Nothing in the file is run, and every tensor in it must have its place in the model. A checkpoint does not say how
    its clips were sampled and drawn: that is the preset's, and --heatmap.kind and --limb-order must be told.
    """

    checkpoint: str
    """File (.pth), a path or any fsspec URI."""
    labels: str
    """Text file of the class names, one a line, in the order of the checkpoint's classes."""
    out: str
    """Checkpoint to write (.safetensors), a path or any fsspec URI; an existing one stays."""
    skeleton: str = "coco17"
    """Whose joints or limbs the model takes."""
    limb_order: Literal["skeleton", "pyskl-default"] = "skeleton"
    """Of a limb checkpoint: the skeleton's, as the limb configs of PYSKL and MMAction2 have it, or that in which they
    draw when a config names none: PYSKL's "joint" configs of NTU RGB+D 120."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def run(job: Convert) -> dict[str, Any]:
    """Read, check, convert and write.

    Raises:
        UsageError: a file is not there, `out` is, or the checkpoint is of another model than the one asked for.
        ValueError: the file is damaged, or asks for code to be run.
    """
    job = _job.absolute(job, "out")
    if not job.out.endswith(".safetensors"):
        raise _job.UsageError(f"--out must end in .safetensors, got {job.out}")
    if exists(job.out):
        raise _job.UsageError(f"{job.out} exists; remove it, or give another --out")
    if job.limb_order != "skeleton" and job.config.heatmap.kind != "limb":
        raise _job.UsageError(f"--limb-order {job.limb_order} needs --heatmap.kind limb")
    labels = _job.label_names(job.labels)
    try:
        tensors = read_tensors(_read(job.checkpoint))
    except ValueError as error:
        raise ValueError(f"{job.checkpoint}: {error}; give a .pth file of PYSKL or MMAction2") from error
    try:
        model = checkpoints.build_model(job.config, job.skeleton, len(labels))
        report = load_reference(
            tensors,
            model,
            limbs=PYSKL_DEFAULT_LIMBS if job.limb_order == "pyskl-default" else None,
            skeleton=job.skeleton,
        )
    except ValueError as error:
        asked = f"--model.name {job.config.model.name} and the {len(labels)} names in {job.labels}"
        raise _job.UsageError(f"{job.checkpoint} does not fit {asked}: {error}") from error
    checkpoints.save(checkpoints.Checkpoint(job.config, labels, job.skeleton, model.state_dict()), job.out)
    return {
        "path": job.out.removesuffix(".safetensors"),
        "checkpoint": job.out,
        "model": job.config.model.name,
        "classes": len(labels),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tensors mapped": len(report.mapped),
        "tensors dropped": len(report.dropped),
        **({"note": "; ".join(report.notes)} if report.notes else {}),
        "mapped": [list(pair) for pair in report.mapped],
        "dropped": [list(pair) for pair in report.dropped],
    }


def _read(uri: str) -> bytes:
    data = read_whole(uri)
    if data is None:
        raise _job.UsageError(f"no file at {uri}")
    return data


parse = functools.partial(_job.parse_preset, Convert)


if __name__ == "__main__":
    sys.exit(_job.main(parse, run))
