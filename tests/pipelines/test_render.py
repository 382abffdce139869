"""Samples and volumes of a table through Ray Data: complete, exact, and a function of the seed."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines import render
from posec3d import actors, feed
from posec3d.clips import ClipConfig, testing_clips
from posec3d.config import HeatmapConfig
from posec3d.heatmaps import joint_volumes, limb_volumes
from posec3d.index import Share, index, training_groups
from posec3d.skeletons import COCO17
from posec3d.stored import HEATMAPS, Heatmaps, heatmaps_row, heatmaps_uri, pack, stored_volumes
from posec3d.table import Clip, read_table, write_file, write_table

pytestmark = pytest.mark.ray
CONFIG = ClipConfig(length=4, size=16, test_size=20)
STORED = dataclasses.replace(CONFIG, maps="stored")


def actor_clip(number: int, people: int = 1, **fields) -> Clip:
    truth = actors.make_clip(actors.ACTIONS[number % 7], actor=number, num_frames=6)
    keypoints = np.concatenate([truth.keypoints + 20 * m for m in range(people)]) if people else np.zeros((0, 6, 17, 2))
    given = {"label": number % 2, "label_name": "ab"[number % 2], "splits": ("train",)} | fields
    return Clip(f"c{number}", 6, 240, 320, keypoints, np.ones(keypoints.shape[:3]), **given)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("table"))
    clips = [actor_clip(i) for i in range(5)]
    clips += [actor_clip(5, people=2), actor_clip(6, people=0), actor_clip(7, label=None, label_name=None)]
    clips += [actor_clip(8, splits=("test",))]
    write_table(clips, uri, rows_per_file=2)
    return uri


def drawn(table, ray_local, **options):
    batches = render.training_batches(index(table, "train"), CONFIG, 4, repeat=2, **{"seed": 1, "epoch": 0, **options})
    return [(name, xy.tobytes()) for batch in batches for name, xy in zip(batch["clip_id"], batch["xy"], strict=True)]


def test_an_epoch_holds_every_clip_as_often_as_told_and_is_a_function_of_its_seed(table, ray_local):
    one = drawn(table, ray_local)
    assert sorted(name for name, _ in one) == sorted([f"c{i}" for i in range(6)] * 2)
    assert len(set(one)) == 12  # the two draws of a clip differ
    assert drawn(table, ray_local) == one
    assert set(drawn(table, ray_local, epoch=1)).isdisjoint(one)


def test_ray_and_one_process_make_the_same_batches(ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr("posec3d.index.PIECE", 8)
    monkeypatch.setattr("posec3d.index.GROUP", 32)
    clips = [actor_clip(i % 7, people=1 + i % 2, label=i // 40, label_name=str(i // 40)) for i in range(160)]
    clips = [dataclasses.replace(clip, clip_id=f"c{i}") for i, clip in enumerate(clips)]
    write_table(clips, str(tmp_path), rows_per_file=40)
    chosen = index(str(tmp_path), "train")
    plan = {"seed": 3, "epoch": 1, "repeat": 8, "balanced": True, "share": Share(1, 2)}
    assert len(training_groups(chosen, **plan)) > 10
    monkeypatch.setattr(render, "WAVE", 4)
    by_ray = list(render.training_batches(chosen, CONFIG, 32, **plan))
    here = list(feed.training_batches(chosen, CONFIG, 32, **plan))
    assert len(by_ray) == len(here) == 160 * 8 // 2 // 32
    for ours, theirs in zip(by_ray, here, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_volumes_drawn_by_the_workers_are_those_drawn_from_their_coordinates(table, ray_local, kind):
    plan, heatmap = {"seed": 1, "epoch": 0}, HeatmapConfig(kind=kind)
    chosen = index(table, "train")
    (plain,) = feed.training_batches(chosen, CONFIG, 6, **plan)
    of = {name: i for i, name in enumerate(plain["clip_id"].tolist())}
    (made,) = render.training_batches(chosen, CONFIG, 6, heatmap=heatmap, **plan)
    assert sorted(made["clip_id"].tolist()) == sorted(of)
    assert "xy" not in made and made["volume"].dtype == np.uint8
    for name, volume in zip(made["clip_id"].tolist(), made["volume"], strict=True):
        xy, score = plain["xy"][of[name]], plain["score"][of[name]]
        wanted = joint_volumes(xy, score, (16, 16))
        if kind == "limb":
            wanted = limb_volumes(xy, score, COCO17.limbs, (16, 16))
        np.testing.assert_allclose(volume / 255, wanted, atol=0.501 / 255)


def test_test_samples_are_those_of_the_clip_itself(table, ray_local):
    chosen = index(table, "train")
    rows = {r["clip_id"]: r for r in render.testing_samples(chosen, CONFIG, num_clips=3).take_all()}
    clip = next(c for c in read_table(table) if c.clip_id == "c5")
    xy, score, _ = testing_clips(clip.keypoints, clip.scores, (240, 320), CONFIG, 3)
    np.testing.assert_array_equal(rows["c5"]["xy"], xy)
    np.testing.assert_array_equal(rows["c5"]["score"], score)
    assert rows["c0"]["xy"].shape == xy.shape  # padded to the table's two people
    assert not rows["c0"]["score"][:, 1].any()


def test_volumes_are_what_the_renderer_draws(table, ray_local):
    rows = {r["clip_id"]: r for r in render.volumes(table, CONFIG, HeatmapConfig(sigma=1.0), num_clips=2).take_all()}
    assert len(rows) == 9
    assert rows["c7"]["label"] == -1
    assert not rows["c6"]["volume"].any()
    clip = next(c for c in read_table(table) if c.clip_id == "c5")
    xy, score, _ = testing_clips(clip.keypoints, clip.scores, (240, 320), CONFIG, 2)
    np.testing.assert_allclose(rows["c5"]["volume"], joint_volumes(xy, score, (20, 20), sigma=1.0), atol=1e-7)


def stored_maps(clip: Clip) -> Heatmaps:
    rng = np.random.default_rng(len(clip.clip_id) + clip.num_persons)
    regions = np.tile(np.array([100, 60, 90, 90], np.float32), (clip.num_persons, clip.num_frames, 1))
    return Heatmaps(regions, [[pack(rng.random((17, 8, 8))) for _ in track] for track in regions], (8, 8))


@pytest.fixture(scope="module")
def table_with_maps(tmp_path_factory):
    """Six clips in two files, one of them without people; their maps lie in other files, in another order."""
    uri = str(tmp_path_factory.mktemp("stored"))
    clips = [actor_clip(i, people=i % 3) for i in range(6)]
    write_table(clips, uri, rows_per_file=3)
    for few in (clips[4:], clips[3::-1]):
        rows = [
            {"clip_id": c.clip_id, "num_persons": c.num_persons, "num_frames": 6} | heatmaps_row(stored_maps(c))
            for c in few
        ]
        write_file(pa.Table.from_pylist(rows, HEATMAPS), heatmaps_uri(uri))
    return uri


@pytest.mark.parametrize("flipped", [False, True])
def test_volumes_of_stored_maps_are_each_clips_own(table_with_maps, ray_local, flipped):
    made = render.volumes(table_with_maps, STORED, num_clips=2, flipped=flipped).take_all()
    rows = {r["clip_id"]: r for r in made}
    clips = list(read_table(table_with_maps))
    assert len(made) == len(clips) == len(rows) == 6
    for clip in clips:
        wanted = stored_volumes(clip, stored_maps(clip), CONFIG, 2) / np.float32(255)
        if flipped:
            wanted = wanted[:, list(COCO17.mirror), ..., ::-1]
        np.testing.assert_array_equal(rows[clip.clip_id]["volume"], wanted)
        assert rows[clip.clip_id]["label"] == clip.label and wanted.any() == (clip.num_persons > 0)


def test_clips_without_stored_maps_are_named_with_the_remedy(table, table_with_maps, ray_local, tmp_path):
    with pytest.raises(ValueError, match=r"has no stored heatmaps, .* extract it anew with --store heatmaps"):
        render.volumes(table, STORED)
    with pytest.raises(ValueError, match="stored maps are of joints"):
        render.volumes(table_with_maps, STORED, HeatmapConfig(kind="limb"))
    some = str(tmp_path / "some")
    shutil.copytree(table_with_maps, some)
    max(Path(heatmaps_uri(some)).iterdir(), key=lambda file: file.stat().st_size).unlink()
    with pytest.raises(ValueError, match=r"have no heatmaps in .*: c\d.*; make them with jobs.extract"):
        render.volumes(some, STORED).take_all()


def test_training_on_stored_maps_gets_the_same_batches_with_and_without_ray(table_with_maps, ray_local):
    chosen = index(table_with_maps, maps=True)
    options = {"seed": 3, "epoch": 1, "repeat": 2}
    here = list(feed.training_batches(chosen, STORED, 4, **options))
    there = list(render.training_batches(chosen, STORED, 4, **options))
    assert len(here) == len(there) == 2
    for one, other in zip(here, there, strict=True):
        assert one["volume"].shape == (4, 17, 4, STORED.size, STORED.size) and one["volume"].any()
        assert "xy" not in one
        for name in ("clip_id", "label", "volume"):
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("world", [1, 4])
def test_batches_of_a_test_are_every_clip_once_in_the_order_of_the_table(table, ray_local, world):
    chosen = index(table, "train", need_people=False)
    shares = [list(render.testing_batches(chosen, CONFIG, 2, share=Share(rank, world))) for rank in range(world)]
    names = [name for share in shares for batch in share for name in batch["clip_id"].tolist()]
    assert names == [r["clip_id"] for r in render.testing_samples(chosen, CONFIG).take_all()]
    assert sorted(names) == [f"c{i}" for i in range(7)]
    assert {batch["xy"].shape[1:] for share in shares for batch in share} == {(1, 2, 4, 17, 2)}


def test_a_share_without_clips_gives_no_batches(table, ray_local):
    assert list(render.testing_batches(index(table, "test"), CONFIG, 2, share=Share(0, 4))) == []
