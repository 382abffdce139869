"""Slow: extraction on three nodes of one machine: workers that die, nodes that go, GPUs that are only counted."""

import dataclasses
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import ActorDiedError

from pipelines import extract, frames, predict
from pipelines.plan import Video, plan
from pipelines.worker import Options
from posec3d import actors
from posec3d import checkpoint as checkpoints
from posec3d import table as tables
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS
from posec3d.timeline import How
from posec3d.video import write_video

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]

POISON = """
# Videos that end the process that reads them, as a bug in a decoder does.
import io
import os

import fsspec
from fsspec.implementations.local import LocalFileSystem


class Poison(LocalFileSystem):
    protocol = "poison"

    def _open(self, path, mode="rb", **options):
        return Dying(path)


class Dying(io.FileIO):
    def read(self, size=-1):
        if size > 1:  # FFmpeg's, not the look whether the file is empty
            os.abort()
        return super().read(size)


fsspec.register_implementation("poison", Poison)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for i in range(24):
        clip = actors.make_clip(actors.ACTIONS[i % 3], actor=i, num_frames=16)
        write_video(root / f"{i:02d}.mp4", clip.frames, clip.fps)
    return root


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head without CPUs and two nodes of two CPUs and one logical GPU each; all processes know poison://."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()  # that of modules before this one
    path = tmp_path_factory.mktemp("path")
    (path / "sitecustomize.py").write_text(POISON)
    small = {"include_dashboard": False, "object_store_memory": 120 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, **small})
    for _ in range(2):
        made.add_node(num_cpus=2, num_gpus=1, object_store_memory=120 * 2**20)
    environment = {"env_vars": {"PYTHONPATH": f"{ROOT}:{path}"}}
    ray.init(address=made.address, log_to_driver=False, runtime_env=environment)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield made
    ray.shutdown()
    made.shutdown()


def run(videos, table, movenet, *, how=None, actors=(2, 2), on_progress=lambda progress: None, **options):
    return extract.extract(
        plan(videos, str(table)).missing,
        str(table),
        *movenet,
        how or Options(),
        actors=actors,
        on_progress=on_progress,
        **options,
    )


def found(videos):
    return [Video(path.stem, str(path)) for path in sorted(videos.glob("*.mp4"))]


def rows(table):
    return Counter(clip.clip_id for clip in tables.read_table(str(table)))


def workers():
    """Processes of this test's extraction actors."""
    for process in Path("/proc").iterdir():
        try:
            if b"ExtractPoses" in (process / "cmdline").read_bytes():
                if os.environ["RAY_AUTH_TOKEN"].encode() in (process / "environ").read_bytes():
                    yield int(process.name)
        except (OSError, ValueError):
            continue


def test_a_killed_actor_loses_and_doubles_nothing(cluster, videos, movenet, tmp_path):
    killed = []

    def kill_one(progress):
        if progress.clips == 5 and not killed:
            killed.append(next(workers()))
            os.kill(killed[0], signal.SIGKILL)

    done = run(found(videos), tmp_path, movenet, on_progress=kill_one)
    assert killed
    assert rows(tmp_path) == {v.clip_id: 1 for v in found(videos)}
    assert (done.clips, done.failed) == (24, 0)


def test_a_lost_node_loses_and_doubles_nothing(cluster, videos, movenet, tmp_path):
    third = cluster.add_node(num_cpus=2, num_gpus=0, object_store_memory=120 * 2**20)
    gone = []

    def remove_it(progress):
        if not gone and any(third.node_id[:12] in name for name in progress.spans):
            gone.append(third)
            cluster.remove_node(third)

    # Twice each: on a busy machine a new node's actors begin late.
    twice = [dataclasses.replace(v, clip_id=f"{v.clip_id}-{i}") for i in range(2) for v in found(videos)]
    done = run(twice, tmp_path, movenet, actors=(4, 4), on_progress=remove_it)
    assert gone, "the node had no work"
    assert rows(tmp_path) == {v.clip_id: 1 for v in twice}
    assert (done.clips, done.failed) == (48, 0)


@pytest.mark.parametrize(("streams", "segment_seconds"), [(1, None), (2, None), (1, 5.0)])
def test_a_video_that_aborts_its_process_fails_alone(cluster, videos, movenet, tmp_path, streams, segment_seconds):
    poison = [Video(f"poison{i}", f"poison://{videos}/{i:02d}.mp4") for i in (1, 2)]
    good = found(videos)[: 8 * streams]
    how = Options(segment_seconds=segment_seconds)
    done = run([*poison, *good], tmp_path, movenet, how=how, actors=(1, 1), streams=streams)
    assert rows(tmp_path) == {v.clip_id: 1 for v in good}
    assert (done.clips, done.failed) == (len(good), 2)
    failures = tables.read_failures(str(tmp_path))
    assert sorted(failures) == ["poison1", "poison2"]
    for failure in failures.values():
        assert (failure["stage"], failure["attempts"]) == ("decode" if segment_seconds else "worker", 3)
        assert "worker process died 3 times" in failure["error"]
    todo = plan([*poison, *good], str(tmp_path))
    assert (todo.missing, todo.given_up) == ((), 2)


def test_a_video_that_aborts_its_process_in_prediction_fails_alone(cluster, videos, tmp_path):
    """A network that sees RGB reads the videos; the other clips are in one block with the one that ends the actor."""
    clip = ClipConfig(length=8, rgb_length=2, test_size=16)
    config = dataclasses.replace(PRESETS["rgb-light"][1], clip=clip)
    model = checkpoints.Checkpoint(
        config, ("a", "b"), "coco17", checkpoints.build_model(config, "coco17", 2).state_dict()
    )
    good = [f"{videos}/{i:02d}.mp4" for i in range(4)]
    paths = [*good[:2], f"poison://{videos}/05.mp4", *good[2:]]
    points, scores = np.full((1, 16, 17, 2), 50, np.float32), np.ones((1, 16, 17), np.float32)
    table, out = str(tmp_path / "table"), str(tmp_path / "out")
    tables.write_table((tables.Clip(p[-6:-4], 16, 240, 320, points, scores, fps=16, video=p) for p in paths), table)
    todo = predict.plan(table, out, whole=False)
    done = predict.predict(
        todo, [checkpoints.dumps(model)], [1.0], How(), out, clips=1, flipped=False, pictures=0, pictures_folder=out,
        actors=1,
    )  # fmt: skip
    assert (done.videos, done.failed) == (5, 1)
    assert sorted(row["clip_id"] for row in predict.read(out)) == ["00", "01", "02", "03"]
    (failure,) = tables.read_failures(out).values()
    assert (failure["clip_id"], failure["stage"], failure["attempts"]) == ("05", "worker", 3)
    assert failure["video"] == paths[2] and predict.plan(table, out, whole=False).missing == ()


def test_a_video_that_aborts_its_process_has_no_frames_and_the_others_have(cluster, videos, tmp_path):
    points, scores = np.full((1, 16, 17, 2), 50, np.float32), np.ones((1, 16, 17), np.float32)
    paths = [f"{videos}/00.mp4", f"poison://{videos}/01.mp4", f"{videos}/02.mp4"]
    clips = [tables.Clip(p[-6:-4], 16, 240, 320, points, scores, fps=16, video=p) for p in paths]
    tables.write_table(clips, str(tmp_path))
    done = frames.store(str(tmp_path), frames.missing(str(tmp_path)), most=2, crop="whole")
    assert (done.clips, done.failed) == (2, 1)
    (failure,) = tables.read_failures(str(tmp_path)).values()
    assert (failure["clip_id"], failure["stage"]) == ("01", "frames")
    assert "worker process died 3 times" in failure["error"]


def test_actors_whose_gpu_does_not_decode_end_the_job_and_say_so(cluster, videos, movenet, tmp_path, without_nvdec):
    with pytest.raises(ActorDiedError, match="NVDEC does not decode here"):
        run(found(videos)[:4], tmp_path, movenet, how=Options(decoder="nvdec"), gpus_per_actor=1)
    assert not tables.data_files(str(tmp_path)) and not tables.read_failures(str(tmp_path))


def test_each_actor_has_its_own_gpu(cluster, videos, movenet, tmp_path):
    done = run(found(videos)[:12], tmp_path, movenet, gpus_per_actor=1)
    assert rows(tmp_path).total() == 12
    assert len(done.spans) == 2
    assert len({worker.split(" on ")[1] for worker in done.spans}) == 2  # a node each, and GPU 0 of it
    assert all(worker.endswith("GPU 0") for worker in done.spans)


def test_a_gpu_is_shared_by_two_actors(cluster, videos, movenet, tmp_path):
    done = run(found(videos)[:12], tmp_path, movenet, actors=(4, 4), gpus_per_actor=0.5)
    assert rows(tmp_path).total() == 12
    nodes = Counter(worker.split(" on ")[1] for worker in done.spans)
    assert set(nodes.values()) <= {1, 2} and all(name.endswith("GPU 0") for name in nodes)


def test_actors_grow_with_the_work(cluster, videos, movenet, tmp_path):
    done = run(found(videos), tmp_path, movenet, actors=(1, 3))
    assert rows(tmp_path).total() == 24
    assert len(done.spans) > 1
