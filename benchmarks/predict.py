"""How long does prediction take, and what is won over doing it plainly?

`python -m benchmarks.predict [ROW ...]` measures, on synthetic videos and with random weights of 60 classes, which take
as long as trained ones:

- latency: seconds from a video of 3 s (48 frames of 320x240, one person) to its names, stage by stage, one CPU thread:
  poses, and recognition by the small and by the published network, of one view and of ten.
- windows: a timeline of a longer video, poses estimated once, beside the plain way: each window taken as a video of its
  own. Windows of 2 s, one every 0.5 s.
- table: clips a second of the pipeline over a keypoint table, with one actor and with two, beside a plain loop in one
  process that names clip after clip; start-up apart on both sides.
- live: a stream of 30 frames a second, played in real time: frames a second looked at and the age of what is said,
  beside a loop that looks at every frame in turn.

Each row is kept as benchmarks/results/predict/ROW.json, from which results/predict.md is made anew.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import jobs  # noqa: F401 - sets what Ray reads when it is imported
from benchmarks import _rows

FPS = 16.0


def checkpoint(preset: str) -> Any:
    """Random weights of 60 classes."""
    import torch

    from posec3d import checkpoint as checkpoints
    from posec3d.config import PRESETS

    torch.manual_seed(0)
    config = PRESETS[preset][1]
    model = checkpoints.build_model(config, "coco17", 60)
    return checkpoints.Checkpoint(config, tuple(f"class {i:02d}" for i in range(60)), "coco17", model.state_dict())


def video(folder: str, seconds: float, fps: float = FPS) -> str:
    """Somebody who does one thing after the other, 3 s each."""
    from posec3d import actors
    from posec3d.video import write_video

    frames: list[Any] = []
    while len(frames) < seconds * fps:
        action = actors.ACTIONS[len(frames) % len(actors.ACTIONS)]
        frames += list(actors.make_clip(action, actor=3, take=len(frames), num_frames=48).frames)
    path = f"{folder}/video.mp4"
    write_video(path, frames[: round(seconds * fps)], fps)
    return path


def recognizer(preset: str) -> Any:
    """With its pose networks loaded."""
    import torch

    from posec3d.recognizer import Recognizer

    torch.set_num_threads(1)
    made = Recognizer(checkpoint(preset))
    made.networks  # noqa: B018 - loads them
    return made


def latency(quick: bool) -> dict[str, Any]:
    """From a video of 3 s to its names: seconds of each stage, one CPU thread, medians."""
    from posec3d.pose import extract_poses

    rounds = 1 if quick else 5
    small, published = recognizer("demo"), recognizer("ntu60-joint")
    with tempfile.TemporaryDirectory() as folder:
        path = video(folder, 3)
        extract_poses(path, *small.networks)  # warms up
        runs = [extract_poses(path, *small.networks) for _ in range(rounds)]
    stages = {name: statistics.median(run.seconds[name] for run in runs) for name in runs[0].seconds}
    clip = runs[0].clip
    looks: dict[str, Callable[[], object]] = {
        f"{name}, {views} view{'s' if views > 1 else ''}": partial(model.probabilities, [clip], clips=views)
        for name, model in (("pose-slowonly-light", small), ("pose-slowonly", published))
        for views in ((1,) if quick else (1, 10))
    }
    spent = _rows.in_turns(looks, 4 if quick else 40, rounds=3)
    poses = sum(stages.values())
    return {
        "seconds": {**stages, **{name: ms / 1e3 for name, ms in spent.items()}},
        "frames/s, poses": clip.num_frames / poses,
        "recognition over poses": {name: ms / 1e3 / poses for name, ms in spent.items()},
    }


def windows(quick: bool) -> dict[str, Any]:
    """Windows over poses that are estimated once, beside each window taken as a video of its own."""
    from posec3d.pose import extract_poses
    from posec3d.video import Segment

    seconds, rounds = (5.0, 1) if quick else (12.0, 3)
    model = recognizer("demo")
    spent: dict[str, list[float]] = {"once": [], "anew": []}
    with tempfile.TemporaryDirectory() as folder:
        path = video(folder, seconds)
        looks = 0
        for _ in range(rounds):
            start = time.monotonic()
            looks = len(model.timeline(path, window=2, stride=0.5).looks)
            spent["once"].append(time.monotonic() - start)
            start = time.monotonic()
            for number in range(looks):
                piece = Segment(0.5 * number, 0.5 * number + 2, round(0.5 * number * FPS), round(2 * FPS))
                model.predict(extract_poses(path, *model.networks, piece=piece).clip, clips=1)
            spent["anew"].append(time.monotonic() - start)
    middle = {name: statistics.median(values) for name, values in spent.items()}
    return {
        "seconds of video": seconds,
        "windows": looks,
        "seconds": middle,
        "anew over once": middle["anew"] / middle["once"],
        "seconds of video a second": seconds / middle["once"],
    }


def table(quick: bool) -> dict[str, Any]:
    """Clips a second of a keypoint table: the pipeline, beside a plain loop in one process."""
    from jobs import _ray
    from pipelines import predict
    from posec3d import actors, read_table, write_table
    from posec3d import checkpoint as checkpoints
    from posec3d.table import Clip
    from posec3d.timeline import How

    count, rounds = (60, 1) if quick else (400, 3)
    model = recognizer("demo")
    data = checkpoints.dumps(checkpoint("demo"))
    truths = [actors.make_clip(action, actor=1, num_frames=48, size=(48, 64)) for action in actors.ACTIONS]
    _ray.connect()
    rates: dict[str, list[float]] = {"plain loop": [], "1 actor": [], "2 actors": []}
    with tempfile.TemporaryDirectory() as folder:
        poses = f"{folder}/table"
        ones = np.ones(truths[0].keypoints.shape[:3], np.float32)
        write_table(
            (Clip(f"c{i}", 48, 240, 320, truths[i % 7].keypoints * 5, ones, fps=FPS) for i in range(count)), poses
        )
        for number in range(rounds):
            start = time.monotonic()
            for clip in read_table(poses):
                model.probabilities([clip], clips=1)
            rates["plain loop"].append(count / (time.monotonic() - start))
            for actors_ in (1, 2):
                out = f"{folder}/out{number}{actors_}"
                todo = predict.plan(poses, out, whole=False)
                seen: list[tuple[float, int]] = []

                def note(progress: predict.Progress, seen: list[tuple[float, int]] = seen) -> None:
                    seen.append((time.monotonic(), progress.videos))

                predict.predict(
                    todo, [data], [1.0], How(), out, clips=1, flipped=False, pictures=0, pictures_folder=out,
                    actors=actors_, on_progress=note,
                )  # fmt: skip
                (first, before), (last, after) = seen[0], seen[-1]  # without the actors' start
                rates["1 actor" if actors_ == 1 else "2 actors"].append((after - before) / max(last - first, 1e-9))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "clips": count,
        "clips/s": middle,
        "1 actor over plain loop": middle["1 actor"] / middle["plain loop"],
        "2 actors over 1": middle["2 actors"] / middle["1 actor"],
    }


def live(quick: bool) -> dict[str, Any]:
    """A stream of 30 frames a second: the newest frame alone, beside every frame in turn."""
    from posec3d.live import watch
    from posec3d.pose import estimate
    from posec3d.video import open_video

    seconds = 4.0 if quick else 15.0
    model = recognizer("demo")
    with tempfile.TemporaryDirectory() as folder:
        path = video(folder, seconds, 30)
        moments = list(watch(model, path, window=2, every=0.5))
        detector, estimator = model.networks
        start = time.monotonic()
        with open_video(path) as frames:
            for _, frame in frames:
                estimate(estimator, frame[None], detector.detect(frame[None]))
        behind = max(0.0, time.monotonic() - start - seconds)
    later = moments[len(moments) // 2 :]
    return {
        "seconds of stream": seconds,
        "frames/s looked at": statistics.median(m.fps for m in later),
        "seconds from a frame's arrival to what is said of it, median": statistics.median(m.latency_s for m in later),
        "the same, longest": max(m.latency_s for m in later),
        "seconds behind after the stream, every frame in turn": behind,
    }


ROWS: dict[str, _rows.Row] = {"latency": latency, "windows": windows, "table": table, "live": live}


if __name__ == "__main__":
    _rows.main("predict", "Prediction", __doc__, ROWS, list(ROWS))
