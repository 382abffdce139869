"""What does extraction on Ray cost over a bare loop, what do batches bring, and how much disk do poses take?

`python -m benchmarks.extract [ROW ...]` measures, each beside its baseline, in turns, medians of the rounds:

- ray: clips a minute of the pipeline with one actor over a plain loop in one process that calls the same functions
  (`worker.extract_row`) on the same real clips (start-up apart on both sides), and the gain of two actors over one
  beside the gain of two such processes over one.
- place: decoding inside the actor that estimates, as the pipeline does, over CPU tasks that decode and send frames.
- batch: each pose network in batches of 8 over crop by crop; MMPose's, where installed, with random weights.
- bytes: bytes a keypoint of a table of real clips, beside a pickle of float16 arrays and stored heatmaps.
- scale: 1,000 short synthetic videos through the job: minutes, and memory of all processes beside that of 250.
- cuda (needs a GPU; in process, without Ray): crops/s of the pose networks in half precision, in batches over crop by
  crop, beside the card's measured matrix rate.

Each row is kept as benchmarks/results/extract/ROW.json, from which results/extract.md is made anew; so rows measured on
different machines stand side by side. `--quick` takes few clips and keeps nothing.
"""

import json
import multiprocessing
import os
import pickle
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import jobs  # noqa: F401 - sets what Ray reads when it is imported
from benchmarks import _rows

ROOT = Path(__file__).resolve().parent.parent
FPS = 5.0
"""Rate at which the real clips are taken: they hold 30 frames a second, which would only make the loops longer."""


def real_clips(count: int) -> list[Any]:
    """Clips of UT-Interaction, two people each, 720x480, in a fixed order that mixes the classes."""
    from pipelines.plan import Video

    data = Path(os.environ.get("POSEC3D_DATA", ROOT.parent / "shared/data")) / "ut_interaction"
    if not data.is_dir():
        sys.exit(f"UT-Interaction not found at {data}; set POSEC3D_DATA to the folder that holds ut_interaction/")
    return [Video(path.stem, str(path)) for path in sorted(data.glob("set1/*.avi"))[:count]]


def networks(pose: str = "movenet-thunder") -> tuple[Any, Any]:
    """Detector and pose network, fetched."""
    from posec3d import estimators

    return estimators.network(estimators.DETECTORS[0]), estimators.network(pose)


def pose_networks() -> dict[str, Any]:
    """All pose networks at hand; MMPose's, where it is installed, with random weights, which take as long."""
    import importlib.util

    from posec3d import estimators, movenet, openmmlab
    from posec3d.weights import Network

    found = {name: estimators.network(name) for name in movenet.POSE}
    if importlib.util.find_spec("mmpose"):
        import safetensors.torch

        for name in ("hrnet-w32", "rtmpose-m", "rtmpose-t"):
            weights = {key: tensor.contiguous() for key, tensor in openmmlab.architecture(name).state_dict().items()}
            found[name] = Network(name, "random", {"model.safetensors": safetensors.torch.save(weights)})
    return found


def bare(clips: list[Any], tools: tuple[Any, Any]) -> float:
    """Seconds of the plain loop, networks loaded before."""
    from pipelines import worker

    os.environ["OMP_NUM_THREADS"] = "1"
    detector, estimator, _ = worker.load(*tools)
    start = time.monotonic()
    for clip in clips:
        row = worker.extract_row(asdict(clip), detector, estimator, worker.Options(fps=FPS))
        assert row["error"] is None, row["error"]  # noqa: S101 - a benchmark of failures means nothing
    return time.monotonic() - start


def bare_many(processes: int, clips: list[Any], tools: tuple[Any, Any]) -> float:
    """Seconds until so many processes, each with its share, are done."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        shares = [(clips[i::processes], tools) for i in range(processes)]
        return max(pool.starmap(bare, shares, chunksize=1))


def pipeline(actors: int, clips: list[Any], tools: tuple[Any, Any]) -> tuple[float, float]:
    """Seconds from the first call of an actor to the end of the last one, and how busy they were."""
    from pipelines import extract
    from pipelines.worker import Options

    with tempfile.TemporaryDirectory() as folder:
        done = extract.extract(clips, folder, *tools, Options(fps=FPS), actors=(actors, actors))
    spans = done.spans.values()
    return max(end for _, end in spans) - min(start for start, _ in spans), done.busy(1)


def ray_over_bare(quick: bool) -> dict[str, Any]:
    """Row `ray`."""
    from jobs import _ray

    clips, rounds = real_clips(8 if quick else 60), 1 if quick else 2
    tools = networks()
    _ray.connect()
    seconds: dict[str, list[float]] = {"bare 1": [], "ray 1": [], "bare 2": [], "ray 2": []}
    busy = []
    for _ in range(rounds):
        for n in (1, 2):
            seconds[f"bare {n}"].append(bare_many(n, clips, tools))
            spent, share = pipeline(n, clips, tools)
            seconds[f"ray {n}"].append(spent)
            busy.append(share)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "clips": len(clips),
        "clips/min": {name: 60 * len(clips) / value for name, value in middle.items()},
        "seconds": seconds,
        "ray over bare, one actor": middle["bare 1"] / middle["ray 1"],
        "gain of two actors": middle["ray 1"] / middle["ray 2"],
        "gain of two bare processes": middle["bare 1"] / middle["bare 2"],
        "gain over gain": middle["ray 1"] / middle["ray 2"] / (middle["bare 1"] / middle["bare 2"]),
        "actors busy": statistics.median(busy),
    }


def place_of_decoding(quick: bool) -> dict[str, Any]:
    """Row `place`: a frame decoded where it is used, or decoded in a task and sent, beside what the networks take."""
    import ray

    from jobs import _ray
    from pipelines import worker
    from posec3d import pose
    from posec3d.video import open_video

    def decode(uri: str) -> Iterator[np.ndarray]:
        with open_video(uri) as video:
            shape = (video.info.height, video.info.width, 3)
            yield from pose._batches((frame for _, frame in video), shape)

    def count(batches: Iterator[np.ndarray]) -> int:
        return sum(int(batch.sum(dtype=np.int64) >= 0) * len(batch) for batch in batches)  # each pixel is read

    _ray.connect()

    @ray.remote(num_returns="streaming")
    def task(uri: str) -> Iterator[np.ndarray]:
        for batch in decode(uri):
            yield batch.copy()

    here, sent, frames = [], [], 0
    clips = real_clips(2 if quick else 20)
    for clip in [clips[0], *clips]:  # the first one starts the workers
        start = time.perf_counter()
        frames = count(decode(clip.video))
        here.append((time.perf_counter() - start) / frames)
        start = time.perf_counter()
        count(ray.get(reference) for reference in task.remote(clip.video))
        sent.append((time.perf_counter() - start) / frames)
    row = worker.extract_row(asdict(clips[0]), *worker.load(*networks())[:2], worker.Options(fps=FPS))
    return {
        "clips": len(clips),
        "ms a frame, decoded here": 1e3 * statistics.median(here[1:]),
        "ms a frame, decoded in a task and sent": 1e3 * statistics.median(sent[1:]),
        "ms a frame, detector and pose of two people": 1e3 * (row["detect_s"] + row["pose_s"]) / row["num_frames"],
        "MB a frame in the object store": 720 * 480 * 3 / 1e6,
    }


def batches_over_single(quick: bool) -> dict[str, Any]:
    """Row `batch`, on the CPU with one thread: ms a crop, one by one and eight together."""
    import torch

    from posec3d import estimators

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {}
    for name, network in pose_networks().items():
        estimator: Any = estimators.estimator(network)
        crops = rng.integers(0, 255, (8, estimator.crop.height, estimator.crop.width, 3), np.uint8)
        times: dict[int, list[float]] = {1: [], 8: []}
        for _ in range(1 if quick else 9):
            for size in times:
                estimator.batch = size
                start = time.perf_counter()
                estimator.estimate(crops)
                times[size].append(1e3 * (time.perf_counter() - start) / 8)
        one, eight = (statistics.median(t) for t in times.values())
        result[name] = {
            "ms a crop, one by one": one,
            "ms a crop, 8 together": eight,
            "batched over single": one / eight,
        }
    return result


def bytes_a_keypoint(quick: bool) -> dict[str, Any]:
    """Row `bytes`: a table of real clips, all their frames, beside other ways to store the same poses."""
    import pyarrow.parquet as pq

    from pipelines import extract, worker
    from posec3d import table as tables
    from posec3d.stored import heatmaps_uri

    found_by, posed_by, _ = worker.load(*networks("movenet-lightning"))
    with tempfile.TemporaryDirectory() as folder:
        options = worker.Options(keep_heatmaps=True)
        rows = [
            worker.extract_row(asdict(clip), found_by, posed_by, options) | {"began": 0.0, "ended": 0.0}
            for clip in real_clips(2 if quick else 16)
        ]
        extract.write(worker.to_arrow(rows), folder, "clips")
        found = list(tables.read_table(folder))
        points = sum(clip.scores.size for clip in found)
        pickled = [
            {"keypoint": c.keypoints.astype(np.float16), "keypoint_score": c.scores.astype(np.float16)} for c in found
        ]
        (path,) = tables.data_files(folder)
        columns = pq.ParquetFile(path.removeprefix("file://")).metadata
        sizes = dict.fromkeys(("keypoints", "scores"), 0)
        for group in range(columns.num_row_groups):
            for column in range(columns.num_columns):
                chunk = columns.row_group(group).column(column)
                if chunk.path_in_schema.split(".")[0] in sizes:
                    sizes[chunk.path_in_schema.split(".")[0]] += chunk.total_compressed_size
        return {
            "clips": len(found),
            "keypoints": points,
            "table, keypoints and scores": sum(sizes.values()) / points,
            "table, everything": tables.size(folder) / points,
            "pickle of float16": len(pickle.dumps(pickled)) / points,
            "stored heatmaps": tables.size(heatmaps_uri(folder)) / points,
        }


def scale(quick: bool) -> dict[str, Any]:
    """Row `scale`: the job on many short synthetic videos; minutes and memory."""
    from posec3d import actors
    from posec3d.video import write_video

    result: dict[str, Any] = {}
    counts = (6, 12) if quick else (250, 1000)
    with tempfile.TemporaryDirectory() as folder:
        originals = Path(folder) / "originals"
        originals.mkdir()
        for i in range(20):
            clip = actors.make_clip(actors.ACTIONS[i % 7], actor=i, num_frames=8, size=(120, 160))
            write_video(originals / f"{i:02d}.mp4", clip.frames, clip.fps)
        for count in counts:
            videos = Path(folder) / f"videos{count}"
            videos.mkdir()
            for i in range(count):
                shutil.copy(originals / f"{i % 20:02d}.mp4", videos / f"{i:04d}.mp4")
            words = ("--videos", str(videos), "--table", f"{folder}/table{count}", "--pose", "movenet-lightning")
            start = time.monotonic()
            peak, _ = _rows.run_and_watch(["-m", "jobs.extract", *words])
            summary = json.loads(Path(f"{folder}/table{count}/_extract/summary.json").read_text())
            result[str(count)] = {
                "minutes": (time.monotonic() - start) / 60,
                "clips": summary["extracted"],
                "clips/s": summary["clips/s"],
                "actors busy": summary["actors busy"],
                "peak MB of all processes": peak,
            }
    few, many = (result[str(count)]["peak MB of all processes"] for count in counts)
    return {**result, "memory, many over few": many / few}


def on_cuda(quick: bool) -> dict[str, Any]:
    """Row `cuda`: crops/s in half precision, in batches over crop by crop."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("row cuda needs a CUDA GPU; torch sees none")
    from posec3d import estimators

    side = 8192
    a = torch.randn(side, side, device="cuda", dtype=torch.float16)

    def seconds(run: Callable[[], object], times: int) -> float:
        run()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(times):
            run()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / times

    ceiling = 2 * side**3 / seconds(lambda: a @ a, 20)
    result: dict[str, Any] = {"card": torch.cuda.get_device_name(), "matrix TFLOP/s, float16": ceiling / 1e12}
    rng = np.random.default_rng(0)
    for name, network in pose_networks().items():
        estimator: Any = estimators.estimator(network, "cuda")
        crops = rng.integers(0, 255, (1024, estimator.crop.height, estimator.crop.width, 3), np.uint8)
        batched = len(crops) / seconds(lambda e=estimator, c=crops: e.estimate(c), 2 if quick else 10)  # type: ignore[misc]
        estimator.batch = 1
        single = 32 / seconds(lambda e=estimator, c=crops: e.estimate(c[:32]), 1 if quick else 3)  # type: ignore[misc]
        result[name] = {
            "crops/s, batched": batched,
            "crops/s, one by one": single,
            "batched over single": batched / single,
        }
    return result


ROWS: dict[str, _rows.Row] = {
    "ray": ray_over_bare,
    "place": place_of_decoding,
    "batch": batches_over_single,
    "bytes": bytes_a_keypoint,
    "scale": scale,
    "cuda": on_cuda,
}


if __name__ == "__main__":
    _rows.main("extract", "Extraction", __doc__, ROWS, [row for row in ROWS if row not in ("cuda", "scale")])
