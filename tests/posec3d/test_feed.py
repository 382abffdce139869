"""The feed: epochs that are complete, equal in every share, mixed, a function of their seed, and read only once."""

import dataclasses
import os

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from posec3d import feed, storage
from posec3d.clips import ClipConfig, testing_clips
from posec3d.feed import rebatch
from posec3d.frames import STAGE, Frames, to_row, write_frames
from posec3d.index import GROUP, Index, Share, Unit, index, testing_groups, training_groups
from posec3d.streams import testing_people
from posec3d.table import FAILURES, Clip, failures_uri, read_table, write_file, write_table

CONFIG = ClipConfig(length=8, size=56, test_size=64)


def clip(number: int, people: int = 1, **fields) -> Clip:
    rng = np.random.default_rng(number)
    keypoints = rng.uniform(0, 200, (people, 40, 17, 2)).astype(np.float32)
    given = {"label": number % 2, "label_name": "ab"[number % 2], "splits": ("train",)} | fields
    return Clip(f"c{number}", 40, 240, 320, keypoints, np.ones(keypoints.shape[:3], np.float32), **given)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("table"))
    clips = [clip(i) for i in range(5)]
    clips += [clip(5, people=2), clip(6, people=0), clip(7, label=None, label_name=None), clip(8, splits=("test",))]
    write_table(clips, uri, rows_per_file=2)
    return uri


@pytest.fixture(scope="module")
def sorted_table(tmp_path_factory):
    """A class a file: 90 clips of class 0, 60 of class 1, 10 of class 2."""
    uri = str(tmp_path_factory.mktemp("sorted"))
    for label, count in enumerate((90, 60, 10)):
        clips = [clip(100 * label + i, label=label, label_name=str(label)) for i in range(count)]
        write_table(clips, uri)
    return uri


def test_the_index_chooses_a_split_and_says_what_it_leaves_out(table):
    chosen = index(table, "train")
    assert (chosen.clips, chosen.persons, chosen.skipped) == (6, 2, 2)
    assert index(table, "train", need_label=False, need_people=False).clips == 8
    assert index(table, "!train").clips == 1
    assert index(table).persons == 2 and index(table, "test").persons == 1


def entries(groups):
    """Where each sample comes from."""
    return [
        (piece.file, piece.row_group, int(row), int(draw))
        for group in groups
        for piece in group.pieces
        for row, draw in zip(piece.rows, piece.draws, strict=True)
    ]


def test_where_rgb_is_wanted_clips_without_any_are_left_out(tmp_path):
    """Without pictures: no video, one that is gone, and one that could not be read before."""
    (tmp_path / "there.mp4").write_bytes(b"no video")
    videos = ["", "/nowhere.mp4", *[str(tmp_path / "there.mp4")] * 3]
    uri = str(tmp_path / "table")
    write_table([clip(i, video=video) for i, video in enumerate(videos)], uri)
    write_frames([to_row(f"c{i}", Frames(np.array([0]), (0, 0, 9, 9), [b""])) for i in (0, 4)], uri, "x")
    failure = {"clip_id": "c3", "video": "", "stage": STAGE, "error": "", "attempts": 1, "time": 0}
    write_file(pa.Table.from_pylist([failure], FAILURES), failures_uri(uri))
    chosen = index(uri, rgb=True)
    assert (chosen.clips, chosen.blind, chosen.skipped, index(uri).clips) == (2 + 1, 2, 0, 5)
    assert [unit.rows.tolist() for unit in chosen.units] == [[0, 2, 4]]
    (group,) = training_groups(chosen, seed=0, epoch=0)
    with pytest.raises(ValueError, match=r"clip c2 has no stored frames.*there\.mp4.*jobs\.extract --frames"):
        feed.training_samples(group_of(group, 2), chosen, ClipConfig(length=4, rgb_length=2), seed=0, epoch=0)


def group_of(group, row):
    """The sample of one row alone."""
    return dataclasses.replace(group, pieces=tuple(piece[piece.rows == row] for piece in group.pieces))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_the_shares_of_an_epoch_are_equal_and_disjoint(sorted_table, world):
    chosen = index(sorted_table)
    shares = [
        entries(training_groups(chosen, seed=0, epoch=0, repeat=3, share=Share(rank, world))) for rank in range(world)
    ]
    assert {len(share) for share in shares} == {160 * 3 // world}
    everything = [entry for share in shares for entry in share]
    assert len(set(everything)) == len(everything)
    assert set(everything) <= set(entries(training_groups(chosen, seed=0, epoch=0, repeat=3)))


@pytest.mark.parametrize(("world", "batch"), [(1, 16), (3, 16), (5, 16), (7, 8)])
def test_every_worker_has_its_part_of_every_step_of_an_epoch(sorted_table, world, batch):
    plan = {"seed": 0, "epoch": 0, "repeat": 3, "batch": batch}
    shares = [entries(training_groups(index(sorted_table), share=Share(rank, world), **plan)) for rank in range(world)]
    steps = 160 * 3 // batch
    assert [len(share) % steps for share in shares] == [0] * world
    assert sum(len(share) // steps for share in shares) == batch
    everything = [entry for share in shares for entry in share]
    assert len(set(everything)) == len(everything) == steps * batch


@pytest.mark.parametrize(("persons", "largest"), [(1, GROUP), (10, GROUP), (40, GROUP // 4)])
def test_groups_of_crowded_tables_are_smaller(sorted_table, persons, largest):
    chosen = dataclasses.replace(index(sorted_table), persons=persons)
    assert len(training_groups(chosen, seed=0, epoch=0, repeat=40, persons=2)) == 160 * 40 // GROUP + 1
    groups = training_groups(chosen, seed=0, epoch=0, repeat=40)
    assert largest - 16 <= max(sum(len(piece.rows) for piece in group.pieces) for group in groups) <= largest + 16


def test_an_epoch_draws_every_clip_as_often_as_told_each_time_anew(sorted_table):
    drawn = entries(training_groups(index(sorted_table), seed=0, epoch=0, repeat=3))
    assert len(drawn) == len(set(drawn)) == 160 * 3
    assert {draw for *_, draw in drawn} == {0, 1, 2}


def test_balanced_epochs_draw_every_class_equally_often(sorted_table):
    chosen = index(sorted_table)
    labels = np.concatenate([unit.labels for unit in chosen.units])
    assert np.bincount(labels).tolist() == [90, 60, 10]
    seen = []
    for epoch in range(2):
        batches = feed.training_batches(chosen, CONFIG, 20, seed=0, epoch=epoch, repeat=3, balanced=True)
        names = np.concatenate([batch["clip_id"] for batch in batches])
        count = {name: int(number) for name, number in zip(*np.unique(names, return_counts=True), strict=True)}
        assert len(names) == 160 * 3
        for label, (clips, least, most) in enumerate([(90, 1, 2), (60, 2, 3), (10, 16, 16)]):
            often = [count[f"c{100 * label + i}"] for i in range(clips)]
            assert sum(often) == 160 and min(often) == least and max(often) == most
        seen.append(count)
    assert seen[0] != seen[1]  # another of the 90 is drawn twice


def batches(table, **options):
    return list(feed.training_batches(index(table), CONFIG, 32, **{"seed": 1, "epoch": 0, "repeat": 4, **options}))


def content(batches):
    return [(name, xy.tobytes()) for batch in batches for name, xy in zip(batch["clip_id"], batch["xy"], strict=True)]


def test_an_epoch_is_a_function_of_its_seed(sorted_table, many_groups):
    one = content(batches(sorted_table))
    assert len(set(one)) == len(one) == 160 * 4
    assert content(batches(sorted_table)) == one
    assert set(content(batches(sorted_table, epoch=1))).isdisjoint(one)
    assert set(content(batches(sorted_table, seed=2))).isdisjoint(one)


def test_a_sample_is_the_same_in_whatever_share_it_falls(sorted_table):
    shares = [content(batches(sorted_table, share=Share(rank, 2))) for rank in range(2)]
    assert {*shares[0], *shares[1]} == set(content(batches(sorted_table)))


@pytest.fixture
def many_groups(monkeypatch):
    """An epoch of the small tables is one group; let it be some twenty."""
    monkeypatch.setattr("posec3d.index.PIECE", 8)
    monkeypatch.setattr("posec3d.index.GROUP", 32)


def test_every_batch_of_a_small_sorted_table_holds_every_class(tmp_path):
    for label in range(4):  # a class a file
        clips = [clip(100 * label + i, label=label, label_name=str(label)) for i in range(40)]
        write_table(clips, str(tmp_path))
    made = feed.training_batches(index(str(tmp_path), "train"), CONFIG, 32, seed=0, epoch=0, repeat=2)
    assert min(len(set(batch["label"].tolist())) for batch in made) == 4


def test_the_classes_of_a_table_sorted_by_them_come_almost_as_mixed_as_by_chance():
    # 60 classes of 640 clips, in row groups of 64: planning alone, no table is read.
    units = [
        Unit(f"{label}", "", group, np.arange(64), np.full(64, label), np.full((64, 2), -1))
        for label in range(60)
        for group in range(10)
    ]
    groups = training_groups(Index(units, 1, "coco17", 0), seed=0, epoch=0, repeat=2)
    rng = np.random.default_rng(0)
    seen = []
    for group in groups[:-1]:
        labels = rng.permutation(np.concatenate([np.full(len(p.rows), int(p.file)) for p in group.pieces]))
        seen += [len(set(labels[i : i + 64])) for i in range(0, len(labels) - 63, 64)]
    by_chance = 60 * (1 - (59 / 60) ** 64)  # 39.5
    assert np.mean(seen) > 0.75 * by_chance


def test_a_group_is_no_larger_than_told_however_small_the_row_groups_are():
    nowhere = np.full((2, 2), -1)
    units = [Unit(f"{i}", "", 0, np.arange(2), np.zeros(2, int), nowhere) for i in range(5000)]
    sizes = [
        sum(len(p.rows) for p in group.pieces)
        for group in training_groups(Index(units, 1, "coco17", 0), seed=0, epoch=0)
    ]
    assert set(sizes[:-1]) == {GROUP} and sum(sizes) == 10_000


def test_processes_make_the_same_batches(sorted_table, many_groups):
    assert len(training_groups(index(sorted_table), seed=1, epoch=0, repeat=4)) > 10
    assert content(batches(sorted_table, processes=2)) == content(batches(sorted_table))


def test_a_split_without_clips_is_named(table):
    with pytest.raises(ValueError, match="no clip to train on"):
        training_groups(index(table, "nowhere"), seed=0, epoch=0, balanced=True)


@pytest.mark.parametrize("world", [1, 3, 20])
def test_a_test_is_every_clip_once_in_shares_as_equal_as_can_be(table, world):
    chosen = index(table, need_label=False, need_people=False)
    shares = [entries(testing_groups(chosen, Share(rank, world))) for rank in range(world)]
    assert [entry for share in shares for entry in share] == entries(testing_groups(chosen))
    assert len(entries(testing_groups(chosen))) == chosen.clips == 9
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_test_samples_are_those_of_the_clip_itself(table):
    chosen = index(table, "train")
    samples = [feed.testing_samples(group, chosen, CONFIG, num_clips=3) for group in testing_groups(chosen)]
    rows = {
        name: (xy, score) for s in samples for name, xy, score in zip(s["clip_id"], s["xy"], s["score"], strict=True)
    }
    one = next(c for c in read_table(table) if c.clip_id == "c5")
    xy, score, _ = testing_clips(one.keypoints, one.scores, (240, 320), CONFIG, 3)
    np.testing.assert_array_equal(rows["c5"][0], xy)
    np.testing.assert_array_equal(rows["c5"][1], score)
    assert rows["c0"][0].shape == xy.shape  # padded to the table's two people
    assert not rows["c0"][1][:, 1].any()


def test_graph_networks_get_people_in_place_of_coordinates_to_draw(table):
    chosen = index(table, "train")
    config = ClipConfig(length=8, space="frame", stream="bone", persons=3)
    (batch,) = feed.training_batches(chosen, config, 6, seed=0, epoch=0)
    assert batch["people"].shape == (6, 3, 8, 17, 3) and "xy" not in batch
    samples = [feed.testing_samples(group, chosen, config, num_clips=2) for group in testing_groups(chosen)]
    found = {i: people for s in samples for i, people in zip(s["clip_id"], s["people"], strict=True)}
    one = next(clip for clip in read_table(table) if clip.clip_id == "c5")
    np.testing.assert_allclose(found["c5"], testing_people(one, config, 3, 2))
    again = next(feed.training_batches(chosen, config, 6, seed=0, epoch=0, processes=1))
    np.testing.assert_array_equal(again["people"], batch["people"])


def test_clips_come_with_the_joints_that_are_asked_for(tmp_path):
    bones = np.random.default_rng(0).uniform(0, 200, (1, 40, 20, 2)).astype(np.float32)
    kinect = Clip("k", 40, 240, 320, bones, np.ones((1, 40, 20)), skeleton="utd20", label=0, label_name="a")
    write_table([clip(0, splits=()), kinect], str(tmp_path))
    with pytest.raises(ValueError, match="mixes skeletons coco17, utd20; give the skeleton to take them all as"):
        index(str(tmp_path))
    with pytest.raises(ValueError, match="unknown skeleton 'penn14'"):
        index(str(tmp_path), skeleton="penn14")
    chosen = index(str(tmp_path), skeleton="penn13")
    (group,) = testing_groups(chosen)
    samples = feed.testing_samples(group, chosen, CONFIG)
    assert samples["xy"].shape == (2, 1, 1, 8, 13, 2)
    of = dict(zip(samples["clip_id"], samples["xy"], strict=True))
    stored = {c.clip_id: c for c in read_table(str(tmp_path))}
    xy, _, _ = testing_clips(stored["k"].keypoints, stored["k"].scores, (240, 320), CONFIG)
    # The crop is around penn13's joints, which are fewer: the same up to a shift and a scale.
    a, b = of["k"][0, 0, :, [0, 3]], xy[0, 0, :, [0, 5]]
    scale = (a[1] - a[0]) / (b[1] - b[0])
    np.testing.assert_allclose(scale, np.broadcast_to(scale[0], scale.shape), rtol=1e-3)


def test_3d_coordinates_are_read_only_when_asked_for(tmp_path):
    xyz = np.random.default_rng(0).normal(size=(1, 40, 17, 3)).astype(np.float32)
    write_table([clip(0, splits=(), keypoints_3d=xyz)], str(tmp_path))
    body = ClipConfig(length=8, space="body", persons=1)
    (flat,), (deep,) = (testing_groups(index(str(tmp_path), three_d=three_d)) for three_d in (False, True))
    with pytest.raises(ValueError, match="has no keypoints_3d"):
        feed.testing_samples(flat, index(str(tmp_path)), body)
    people = feed.testing_samples(deep, index(str(tmp_path), three_d=True), body)["people"]
    assert people.shape == (1, 1, 1, 8, 17, 3) and np.isfinite(people).all() and people.any()


def test_rebatching_keeps_every_sample_in_its_place():
    blocks = [{"label": np.arange(a, b), "xy": np.arange(a, b)[:, None] * 1.5} for a, b in ((0, 5), (5, 6), (6, 19))]
    made = list(rebatch(blocks, 4, drop_last=False))
    assert [len(batch["label"]) for batch in made] == [4, 4, 4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([batch["xy"][:, 0] for batch in made]), np.arange(19) * 1.5)
    assert len(list(rebatch(blocks, 4, drop_last=True))) == 4
    assert list(rebatch([], 4, drop_last=False)) == []


def test_a_remote_table_within_the_budget_is_fetched_once(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path))
    uri = f"{s3}/table"
    write_table([clip(i) for i in range(70)], uri, rows_per_file=30)
    chosen, straight = index(uri, cache_gb=1), index(uri)
    assert chosen.cache == 10**9 and straight.cache == 0
    assert index(uri, cache_gb=1e-6).cache == 0  # larger than the budget
    plan = {"seed": 0, "repeat": 2}
    first = list(feed.training_batches(chosen, CONFIG, 32, epoch=0, **plan))
    fs, path = fsspec.url_to_fs(uri)
    fs.rm(path, recursive=True)
    second = list(feed.training_batches(chosen, CONFIG, 32, epoch=1, **plan))
    assert len(first) == len(second) == 4
    with pytest.raises(FileNotFoundError):
        list(feed.training_batches(straight, CONFIG, 32, epoch=1, **plan))


def test_copies_that_were_used_least_recently_make_room(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path))
    for name in "abc":
        with fsspec.open(f"memory://copies/{name}", "wb") as file:
            file.write(name.encode() * 40)

    def content(name):
        with storage.open_copy(f"memory://copies/{name}", "1", 100) as file:
            return file.read()

    folder = tmp_path / "tables"
    for number, name in enumerate("aba"):
        assert content(name) == name.encode() * 40
        for path in (p for p in folder.iterdir() if p.name != ".lock"):  # a clock of whole seconds would do
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 10))
        assert len([p for p in folder.iterdir() if not p.suffix and p.name != ".lock"]) == min(number + 1, 2)
    content("c")
    fsspec.url_to_fs("memory://copies")[0].rm("/copies", recursive=True)
    assert content("a") == b"a" * 40 and content("c") == b"c" * 40
    with pytest.raises(FileNotFoundError, match="memory://copies/b"):
        content("b")


def test_a_file_that_was_replaced_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path))
    for content in (b"old", b"newer"):
        with fsspec.open("memory://copies/x", "wb") as file:
            file.write(content)
        version = storage.content_version("memory://copies/x")
        for _ in range(2):
            with storage.open_copy("memory://copies/x", version, 100) as file:
                assert file.read() == content


def test_a_disk_that_takes_no_copies_costs_only_time(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path / "file"))
    with fsspec.open("memory://copies/x", "wb") as file:
        file.write(b"content")
    with storage.open_copy("memory://copies/x", "1", 100) as file:
        assert file.read() == b"content"
    assert "is fetched again" in caplog.text


def test_a_group_reads_each_row_group_it_needs_once(sorted_table):
    chosen = index(sorted_table)
    unit = max(chosen.units, key=lambda unit: len(unit.rows))
    (group,) = training_groups(dataclasses.replace(chosen, units=[unit]), seed=0, epoch=0, repeat=5)
    opened = []
    read = feed.read
    samples = feed.training_samples(
        group, chosen, CONFIG, seed=0, epoch=0, read=lambda piece, index: opened.append(piece) or read(piece, index)
    )
    assert len(samples["label"]) == 64 * 5
    assert len(opened) == 1
