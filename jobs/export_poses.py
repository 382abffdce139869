"""Job: keypoint table -> pickle of PYSKL and MMAction2, `python -m jobs.export_poses TABLE --out FILE.pkl`."""

import posixpath
import sys
from dataclasses import dataclass
from typing import Any, Literal

import fsspec
import tyro

from jobs import _job
from posec3d import table as tables
from posec3d.annotations.export import export_pyskl
from posec3d.storage import write_whole


@dataclass(frozen=True, kw_only=True)
class ExportPoses:
    """Write a keypoint table as one pickle with splits, which PYSKL and MMAction2 load."""

    table: tyro.conf.Positional[str]
    """Keypoint table: a folder or any fsspec URI."""
    out: str
    """File to write, *.pkl, here or at any URI; replaced if it is there. The labels' names and summary.json go beside
    it."""
    split: str | None = None
    """Only these clips: a name, !name for its complement, or several joined by ','."""
    coordinates: Literal["2d", "3d"] = "2d"
    """3d: keypoints in metres, without scores, as PYSKL's files of NTU RGB+D in 3D."""
    dtype: Literal["float32", "float16"] = "float32"
    """Of the numbers. float16, as in PYSKL's own files, rounds to whole pixels beyond 1024."""


def run(job: ExportPoses) -> dict[str, Any]:
    """Write the pickle.

    Raises:
        UsageError: no table, no such split, or a name that is not *.pkl.
    """
    job = _job.absolute(job, "table", "out")
    if not job.out.endswith((".pkl", ".pickle")):
        raise _job.UsageError(f"--out {job.out}: wanted a file *.pkl; PYSKL reads no other")
    with _job.usage(FileNotFoundError):
        found = tables.summary(job.table)
    _job.require_splits(job.table, found, job.split)
    count = export_pyskl(job.table, job.out, split=job.split, coordinates=job.coordinates, dtype=job.dtype)
    labels = f"{posixpath.splitext(job.out)[0]}.labels.txt"
    names = [found["labels"].get(number, f"label {number}") for number in range(max(found["labels"], default=-1) + 1)]
    write_whole(labels, "".join(f"{name}\n" for name in names).encode())
    fs, path = fsspec.url_to_fs(job.out)
    return {
        "path": posixpath.dirname(job.out),
        "table": job.table,
        "out": job.out,
        "labels": labels,
        "clips": count,
        "skeleton": ", ".join(sorted(found["skeletons"])),
        "MB": fs.size(path) / 1e6,
    }


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(ExportPoses), run))
