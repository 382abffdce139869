"""Job: a trained run -> one file, coordinates in and scores out, `python -m jobs.export RUN --out model.onnx`."""

import sys
from dataclasses import dataclass
from typing import Any

import tyro

from jobs import _job
from posec3d import checkpoint as checkpoints
from posec3d import export
from posec3d.export_torch import NotExportable
from posec3d.storage import exists, write_whole

FORMATS = {".onnx": (export.onnx, export.open_onnx), ".pt2": (export.program, export.open_program)}
LIMIT = 1e-4
"""Probabilities of a file that is kept are as near to the model's."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a model for use without this package: the renderer is inside, labels and instructions are its metadata.

    The file is run on random people, 1, 2 and 5 of them, in batches of 1 and 3, with random pictures where it takes
    some, and kept only if it says what the model says. docs/export.md has examples that use it.
    """

    run: tyro.conf.Positional[str]
    """Folder of jobs.train, or a .safetensors file."""
    out: str
    """File to write, .onnx or .pt2 (torch.export), a path or any fsspec URI; an existing one stays."""


def run(job: Export) -> dict[str, Any]:
    """Export, check and write.

    Raises:
        UsageError: no such run, a model that cannot be exported, or an `out` of another kind, or that exists.
        ValueError: the file does not say what the model says.
    """
    job = _job.absolute(job, "run", "out")
    suffix = next((suffix for suffix in FORMATS if job.out.endswith(suffix)), None)
    if suffix is None:
        raise _job.UsageError(f"--out must end in {' or '.join(FORMATS)}, got {job.out}")
    if exists(job.out):
        raise _job.UsageError(f"{job.out} exists; remove it, or give another --out")
    with _job.usage(FileNotFoundError):
        checkpoint = checkpoints.load(job.run)
    make, open_file = FORMATS[suffix]
    try:
        data = make(checkpoint)
    except NotExportable as error:
        raise _job.UsageError(f"{job.run}: {error}") from error
    apart = export.difference(open_file(data), checkpoint)
    if not apart <= LIMIT:
        raise ValueError(f"{job.out} would differ from {job.run} by {apart:.1e} in a probability: nothing was written")
    write_whole(job.out, data)
    clip = checkpoint.config.clip
    return {
        "path": job.out.removesuffix(suffix),
        "file": job.out,
        "model": checkpoint.config.model.name,
        "classes": len(checkpoint.labels),
        "skeleton": checkpoint.skeleton,
        "frames": clip.length,
        "megabytes": len(data) / 1e6,
        "max difference": f"{apart:.1e}",
        "metadata": export.metadata(checkpoint),
    }


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Export), run))
