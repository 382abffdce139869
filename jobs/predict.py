"""Job: trained run + videos -> named actions, `python -m jobs.predict RUN --videos URI --out DIR`."""

import sys
from dataclasses import dataclass
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from jobs import _job
from pipelines import extract, plan, predict
from posec3d import checkpoint as checkpoints


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Name the action in videos; write predictions.json and, of each video, an overlay and its heatmap volume."""

    run: tyro.conf.Positional[str]
    """Folder of jobs.train, or a .safetensors file."""
    videos: str
    """Folder, S3 prefix or single file."""
    out: str
    """Folder of the results."""
    clips: int = 10
    """Test clips sampled from each video, their scores averaged."""
    actors: int | None = None
    """Videos in work at the same time, one CPU each; default: one a CPU."""


def run(job: Predict) -> dict[str, Any]:
    """Predict every video found; one that fails is reported and the others go on."""
    job = _job.absolute(job, "run", "videos", "out")
    try:
        model = checkpoints.read(job.run)
        found = plan.find_videos(job.videos)
    except (FileNotFoundError, ValueError) as error:
        raise _job.UsageError(str(error)) from error
    _job.connect()
    rows: list[dict[str, Any]] = []
    with _job.progress("predict", len(found)) as advance:
        dataset = predict.videos(found, model, job.out, clips=job.clips, actors=job.actors or extract.default_actors())
        for row in dataset.iter_rows():
            rows.append(row)
            advance(len(rows), "videos")
    rows.sort(key=lambda row: row["video"])
    _job.write_json(f"{job.out.rstrip('/')}/predictions.json", rows)
    shown = Table("video", "people", "predicted", "next", title="predictions", title_justify="left")
    for row in rows:
        best = [f"{top['label']} {top['probability']:.0%}" for top in row["top"][:3]]
        first = row["error"] or (best[0] if row["people"] else "nobody seen")
        shown.add_row(row["video"].rsplit("/", 1)[-1], str(row["people"]), first, ", ".join(best[1:]))
    Console().print(shown)
    failed = sum(row["error"] is not None for row in rows)
    return {"path": job.out, "videos": len(rows), "failed": failed, "predictions": rows}


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Predict), run))
