"""How many clips an hour does a cluster extract, how many machines do ten million want, and what limits first?

`python -m benchmarks.scale [ROW ...]`: two rows are measured here, two are a simulation of extraction as a network of
queues (S3 -> decode -> networks -> driver) with rates measured here and by benchmarks/extract.py:

- driver: what the one driver of a job spends on a clip: the pipeline on clips whose poses are given, so that next to
  nothing is left for the actors.
- rest: what an actor spends on a frame beside its networks: decoding, resizing, cutting crops, tracking; with networks
  that answer at once.
- check: the simulation beside the small cases that were measured, and its error.
- plan: machines of cluster.yaml on ten million clips. **The rates of the GPU are assumed, not measured**: the networks'
  multiplications at 5 % of an A10G's published 70 TFLOP/s, a guess for networks of thin convolutions. Measure yours
  with `python -m benchmarks.extract cuda` and give it: --crops-per-s. Prices are list prices of us-east-1 as
  remembered; look yours up.

Rows are kept as in benchmarks/extract.py. `--quick` is under a minute and keeps nothing; nor do flags of the plan.
"""

import argparse
import heapq
import json
import math
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import jobs  # noqa: F401 - sets what Ray reads when it is imported
from benchmarks import _rows
from benchmarks.extract import networks, real_clips

GMACS = {"movenet-thunder": 1.247, "movenet-multipose": 0.698}
"""Of a crop of 256 x 256 and a frame of 256 x 192: counted from the convolutions of the networks."""
ASSUMED_FLOPS = 0.05 * 70e12
CHUNK = 16
"""Frames an actor decodes at a time."""


@dataclass(frozen=True)
class Case:
    """What is asked of the plan; its fields are flags."""

    clips: int = 10_000_000
    frames: int = 300
    """Of a clip that are estimated: ten seconds at 30 a second."""
    decoded: int = 0
    """Of a clip that are decoded, where --fps leaves some out; 0: the same."""
    people: float = 2
    mb: float = 1.25
    """Size of a video: ten seconds at 1 Mbit/s."""
    crops_per_s: float = ASSUMED_FLOPS / (2e9 * GMACS["movenet-thunder"])
    """Of a GPU."""
    detections_per_s: float = ASSUMED_FLOPS / (2e9 * GMACS["movenet-multipose"])
    """Of a GPU."""
    s3_latency_s: float = 0.1
    """To the first byte of a request; AWS says 0.1 to 0.2 for small objects."""
    s3_requests_per_s: float = 5500
    """A prefix serves, as AWS says."""
    node_gbit_s: float = 5
    """Network of a machine that is there all the time."""
    hours: float = 24
    """In which all is to be done."""
    price_gpu: float = 1.624
    """Dollars an hour of g5.4xlarge, on demand."""
    price_cpu: float = 0.68
    """Of c6i.4xlarge."""
    price_head: float = 0.192
    """Of m6i.xlarge."""
    spot: float = 0.5
    """Share of the price that a spot machine costs; it changes by the hour."""


CASE = Case()


@dataclass
class Station:
    """Servers with one queue."""

    servers: int = 1
    busy: float = 0.0
    taken: int = 0
    queue: deque[tuple[float, "Process | None"]] = field(default_factory=deque)


Step = tuple[Station | None, float, bool]
"""A station (None: just wait), seconds there, whether the process waits until it is done."""
Process = Iterator[Step]


def simulate(processes: Sequence[Process]) -> float:
    """Run processes through their stations; returns when the last work ended."""
    number, now = count(), 0.0
    events: list[tuple[float, int, Station | None, Process | None]] = [
        (0.0, next(number), None, process) for process in processes
    ]

    def begin(station: Station, seconds: float, process: Process | None) -> None:
        station.taken += 1
        station.busy += seconds
        heapq.heappush(events, (now + seconds, next(number), station, process))

    while events:
        now, _, left, process = heapq.heappop(events)
        if left is not None:
            left.taken -= 1
            if left.queue:
                begin(left, *left.queue.popleft())
        for station, seconds, waits in process or ():
            if station is None:
                heapq.heappush(events, (now + seconds, next(number), None, process))
                break
            if station.taken < station.servers:
                begin(station, seconds, process if waits else None)
            else:
                station.queue.append((seconds, process if waits else None))
            if waits:
                break
    return now


@dataclass(frozen=True)
class Clip:
    """What a clip costs, in seconds of the stations."""

    chunks: int
    fetch: float
    requests: int
    cpu: float
    """Of a chunk: all but the networks, and those too where there is no GPU."""
    gpu: float
    """Of a chunk."""
    driver: float


@dataclass
class Machine:
    """Stations of a node."""

    cores: Station
    gpu: Station = field(default_factory=Station)
    network: Station = field(default_factory=Station)


def stream(clips: Iterator[Clip], node: Machine, driver: Station, s3: Station, case: Case) -> Process:
    """One video at a time, as a thread of an actor works on it."""
    for clip in clips:
        for _ in range(clip.requests):
            yield s3, 1 / case.s3_requests_per_s, True
            yield None, case.s3_latency_s, True
        if clip.fetch:
            yield node.network, clip.fetch, True
        for _ in range(clip.chunks):
            yield node.cores, clip.cpu, True
            if clip.gpu:
                yield node.gpu, clip.gpu, True
        yield driver, clip.driver, False


def varied(clip: Clip, number: int) -> Iterator[Clip]:
    """So many clips of about this length, always the same ones."""
    rng, spread = np.random.default_rng(0), 0.2
    for factor in rng.lognormal(-(spread**2) / 2, spread, number):
        yield Clip(
            max(1, round(clip.chunks * factor)), clip.fetch * factor, clip.requests, clip.cpu, clip.gpu, clip.driver
        )


def result(name: str, row: str) -> dict[str, Any]:
    """What a row measured, of benchmarks/results."""
    path = _rows.RESULTS / name / f"{row}.json"
    if not path.exists():
        sys.exit(f"{path} is missing; measure it with `python -m benchmarks.{name} {row}`")
    return dict(json.loads(path.read_text())["result"])


def driver_row(quick: bool) -> dict[str, Any]:
    """Row `driver`: seconds of the driver's CPU a clip, two people, poses given; and the pipeline's rate with that."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from jobs import _ray
    from pipelines import extract
    from pipelines.plan import Video
    from pipelines.worker import Options
    from posec3d import table as tables
    from posec3d.given import SCHEMA, Given
    from posec3d.video import write_video

    _ray.connect()
    rng, measured = np.random.default_rng(0), {}
    for frames in (100,) if quick else (100, 300):
        with tempfile.TemporaryDirectory() as folder:
            videos = [Video(f"{i:05d}", f"{folder}/{i:05d}.avi") for i in range(80 if quick else 300)]
            original = Path(folder) / "original.mp4"
            write_video(original, np.zeros((frames, 120, 160, 3), np.uint8), 30.0)
            with pq.ParquetWriter(f"{folder}/poses.parquet", SCHEMA) as writer:
                for video in videos:
                    os.symlink(original, video.video)
                    points = rng.uniform(100, 200, (2 * frames, 17, 3)).round(2)
                    points[..., 2] = 0.9
                    columns: dict[str, Any] = {name: [None] * 2 * frames for name in SCHEMA.names}
                    columns |= {
                        "video": [video.clip_id] * 2 * frames,
                        "keypoints": points.reshape(2 * frames, -1).tolist(),
                    }
                    columns |= {
                        "frame": [i // 2 for i in range(2 * frames)],
                        "person": [i % 2 for i in range(2 * frames)],
                    }
                    writer.write_table(pa.table(columns, SCHEMA))
            poses = Given(f"{folder}/poses.parquet")
            began = time.process_time()
            done = extract.extract(videos, f"{folder}/table", poses, poses, Options(), actors=(2, 2))
            spent = time.process_time() - began
            spans = done.spans.values()
            seconds = max(end for _, end in spans) - min(start for start, _ in spans)
            measured[f"{frames} frames"] = {
                "clips": done.clips,
                "ms of the driver's CPU a clip": 1e3 * spent / done.clips,
                "clips/s": done.clips / seconds,
                "actors busy": done.busy(1),
                "KB of table a clip": tables.size(f"{folder}/table") / done.clips / 1e3,
            }
    return measured


def rest_row(quick: bool) -> dict[str, Any]:
    """Row `rest`: ms of CPU a frame of 720x480 with two people, of all that is not a network; every frame estimated."""
    from pipelines import worker

    boxes, people, _ = worker.load(*networks())
    loaded: Any = boxes
    answers = np.zeros((1, 6, 5), np.float32)
    answers[0, :2] = (60, 40, 110, 140, 0.9), (140, 40, 190, 140, 0.8)
    loaded._run = lambda images, outputs: [np.repeat(answers, len(images), axis=0)]
    points = np.random.default_rng(0).uniform(40, 200, (1, 17, 3)).astype(np.float32)
    points[..., 2] = 0.9
    loaded = people
    loaded.estimate = lambda crops: np.repeat(points, len(crops), axis=0)
    frames, spent, crops = 0, 0.0, 0
    stages = dict.fromkeys(worker.STAGES, 0.0)
    for clip in real_clips(3 if quick else 20):
        began = time.process_time()
        row = worker.extract_row(asdict(clip), boxes, people, worker.Options())
        spent += time.process_time() - began
        frames, crops = frames + row["num_frames"], crops + row["crops"]
        for stage in stages:
            stages[stage] += row[f"{stage}_s"]
    return {
        "frames": frames,
        "crops a frame": crops / frames,
        "ms a frame": 1e3 * spent / frames,
        "of that by the clock": {stage: 1e3 * value / frames for stage, value in stages.items()},
    }


def check(quick: bool) -> dict[str, Any]:
    """Row `check`: the simulation beside what was measured on two cores."""
    found, place, short = (result("extract", row) for row in ("ray", "place", "scale"))
    driver = result("scale", "driver")["100 frames"]["ms of the driver's CPU a clip"] / 1e3
    case = Case(s3_latency_s=0)
    checked: dict[str, Any] = {}

    def run(clip: Clip, number: int, actors: int) -> float:
        cores, clips = Station(2), varied(clip, number)
        machine = Machine(cores)
        return simulate([stream(clips, machine, cores, Station(), case) for _ in range(actors)])

    def beside(name: str, simulated: float, measured: float) -> None:
        checked[name] = {"simulated": simulated, "measured": measured, "error": simulated / measured - 1}

    # Real clips: 121 frames decoded, every sixth of them estimated. Row `place` has what both take, and nothing else of
    # what row `ray` measured goes in.
    used = 121.3 / 6
    seconds = (
        121.3 * place["ms a frame, decoded here"] + used * place["ms a frame, detector and pose of two people"]
    ) / 1e3
    clip = Clip(20, 0, 0, seconds / 20, 0, driver)
    for actors in (1, 2):
        beside(f"clips/min, {actors} actors", 60 * 60 / run(clip, 60, actors), found["clips/min"][f"ray {actors}"])
    rates = checked["clips/min, 2 actors"], checked["clips/min, 1 actors"]
    beside("gain of two actors", *(rates[0][kind] / rates[1][kind] for kind in ("simulated", "measured")))
    # Short videos: what one takes, and the start, from the run of 250; tried on the run of 1,000.
    few, many = short["250"], short["1000"]
    start = 60 * few["minutes"] - few["clips"] / few["clips/s"]
    clip = Clip(8, 0, 0, 2 * few["actors busy"] / few["clips/s"] / 8, 0, driver)
    beside("minutes, 250 short videos (fitted)", (start + run(clip, 250, 2)) / 60, few["minutes"])
    beside("minutes, 1,000 short videos", (start + run(clip, 1000, 2)) / 60, many["minutes"])
    return checked


def plan(quick: bool) -> dict[str, Any]:
    """Row `plan`: ten million clips on the machines of cluster.yaml. GPU rates and prices are assumed, not measured."""
    case = CASE
    place, rest, driver = result("extract", "place"), result("scale", "rest"), result("scale", "driver")
    few, many = (driver[f"{frames} frames"]["ms of the driver's CPU a clip"] / 1e3 for frames in (100, 300))
    per_clip = max(few + (many - few) * (case.frames - 100) / 200, 1e-3)
    chunks = max(1, round(case.frames / CHUNK))
    decoded = (case.decoded or case.frames) - case.frames
    extra = decoded * place["ms a frame, decoded here"] / 1e3 / chunks
    people = CHUNK * case.people
    kinds = {
        "cpu": (
            15,
            CHUNK * place["ms a frame, detector and pose of two people"] * (1 + case.people / 2) / 2e3
            + CHUNK * place["ms a frame, decoded here"] / 1e3,
            0.0,
            case.price_cpu * case.spot,
        ),
        "gpu, assumed": (
            15,
            CHUNK * rest["ms a frame"] / 1e3,
            CHUNK / case.detections_per_s + people / case.crops_per_s,
            case.price_gpu * case.spot,
        ),
    }
    planned: dict[str, Any] = {
        "asked": {k: v for k, v in asdict(case).items()},
        "driver: clips/hour at most": 3600 / per_clip,
    }
    for name, (streams, cpu, gpu, price) in kinds.items():
        clip = Clip(
            chunks,
            case.mb * 8e6 / (case.node_gbit_s * 1e9),
            1 + math.ceil(case.mb / 4),  # its size, then blocks of 4 MiB
            cpu + extra,
            gpu,
            per_clip,
        )
        rates, use = {}, {}
        for nodes in (1, 16):
            machines, one, s3 = [Machine(Station(16)) for _ in range(nodes)], Station(), Station()
            number = nodes * streams * 20
            clips = varied(clip, number)
            seconds = simulate([stream(clips, m, one, s3, case) for m in machines for _ in range(streams)])
            rates[nodes] = 3600 * number / seconds
            use[nodes] = {
                "S3's requests": s3.busy / seconds,
                "network": machines[0].network.busy / seconds,
                "decoding and other work of CPUs": machines[0].cores.busy / seconds / streams,
                "GPU": machines[0].gpu.busy / seconds,
                "driver": one.busy / seconds,
            }
        rate = rates[1]
        wanted = math.ceil(case.clips / case.hours / rate)
        drivers = math.ceil(case.clips / case.hours / (3600 / per_clip))
        machine_hours = case.clips / rate
        cost = machine_hours * price + case.hours * drivers * case.price_head
        planned[name] = {
            "clips/hour of a machine": rate,
            "busy, one machine": use[1],
            "limits first": max(use[1], key=lambda one: use[1][one]),
            "clips/hour of 16 machines": rates[16],
            "busy, 16 machines": use[16],
            "limits 16 machines first": max(use[16], key=lambda one: use[16][one]),
            "machines that one driver keeps busy": 3600 / per_clip / rate,
            f"machines for {case.clips:,} clips in {case.hours:g} hours": wanted,
            "tables (drivers) for that": drivers,
            "machine-hours": machine_hours,
            "dollars, machines and heads": cost,
        }
    kilobytes = driver["300 frames"]["KB of table a clip"] * case.frames / 300
    rate = max(planned[name]["clips/hour of 16 machines"] for name in kinds)
    bytes_sent = case.frames * case.people * 17 * 3 * 4
    planned["object store and head, 16 machines: MB/s at most"] = rate / 3600 * bytes_sent / 1e6
    planned["GB of table"] = case.clips * kilobytes / 1e6
    planned["dollars, S3 requests"] = case.clips * (1 + math.ceil(case.mb / 4)) * 0.0004 / 1e3
    planned["dollars a month, S3 storage of the table"] = planned["GB of table"] * 0.023
    return planned


ROWS: dict[str, _rows.Row] = {"driver": driver_row, "rest": rest_row, "check": check, "plan": plan}


if __name__ == "__main__":
    flags = argparse.ArgumentParser(add_help=False)
    for name, value in asdict(CASE).items():
        flags.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    asked, others = flags.parse_known_args()
    CASE = Case(**vars(asked))
    sys.argv[1:] = [*others, "--quick"] if Case() != CASE else others
    _rows.main("scale", "Scaling", __doc__ + "\n" + flags.format_usage(), ROWS, list(ROWS))
