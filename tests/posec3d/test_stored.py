"""Stored heatmaps: read back as they were kept, and drawn where the coordinates are drawn."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from posec3d import feed
from posec3d import table as tables
from posec3d.actors import make_clip
from posec3d.clips import ClipConfig, testing_clips
from posec3d.config import HeatmapConfig, TrainConfig
from posec3d.heatmaps import joint_volumes
from posec3d.index import index, index_options
from posec3d.pose import extract_poses
from posec3d.skeletons import COCO17
from posec3d.stored import (
    HEATMAPS,
    Heatmaps,
    draw_maps,
    heatmaps_row,
    heatmaps_uri,
    pack,
    read_heatmaps,
    stored_volumes,
    unpack,
)  # fmt: skip
from posec3d.table import Clip, write_file
from posec3d.video import write_video

CONFIG = ClipConfig(length=4, test_size=56)
SIZE = 64, 48  # of a map


def gaussians(keypoints, region, sigma=1.5):
    """Maps (V, h, w) of one person whose joints (V, 2) are in frame pixels; sigma in cells."""
    x, y = ((keypoints - region[:2]) / region[2:] * SIZE[::-1]).T
    far_x, far_y = np.arange(SIZE[1]) - x[:, None], np.arange(SIZE[0]) - y[:, None]
    return np.exp((far_x[:, None] ** 2 + far_y[..., None] ** 2) / (-2 * sigma**2))


def stored(keypoints, present=None):
    """A clip and its maps: Gaussians in regions 20 pixels around each person (M, T, V, 2)."""
    present = np.ones(keypoints.shape[:2], bool) if present is None else present
    low, high = keypoints.min(2) - 20, keypoints.max(2) + 20
    regions = np.concatenate([low, high - low], -1).astype(np.float32) * present[..., None]
    maps = [
        [pack(gaussians(points, region)) if here else b"" for points, region, here in zip(*track, strict=True)]
        for track in zip(keypoints, regions, present, strict=True)
    ]
    score = np.ones(keypoints.shape[:3], np.float32) * present[..., None]
    clip = Clip("c", keypoints.shape[1], 240, 320, (keypoints * present[..., None, None]).astype(np.float32), score)
    return clip, Heatmaps(regions, maps, SIZE)


def write(table, **clips):
    """One file of heatmaps."""
    rows = [
        {"clip_id": name, "num_persons": maps.regions.shape[0], "num_frames": maps.regions.shape[1]}
        | heatmaps_row(maps)
        for name, maps in clips.items()
    ]
    return write_file(pa.Table.from_pylist(rows, HEATMAPS), heatmaps_uri(str(table)))


def one_cell(value, people=2, frames=3):
    """Maps of people that differ only in what `value` they have everywhere."""
    maps = [[pack(np.full((17, 2, 2), value))] * frames for _ in range(people)]
    return Heatmaps(np.full((people, frames, 4), value, np.float32), maps, (2, 2))


def value(heatmaps):
    return float(unpack(heatmaps.maps[0][0], 17, heatmaps.size).mean())


@pytest.fixture(scope="module")
def people():
    """Joints (2, 6, 17, 2) of two actors, the second close behind the first."""
    wave, kick = (make_clip(action, actor=1, num_frames=6).keypoints[0] for action in ("wave", "kick"))
    return np.stack([wave, kick - kick[0, 0] + wave[0, 0] + [8, 4]]).astype(np.float64)


def test_maps_come_back_in_eight_bits_without_what_is_next_to_nothing():
    maps = np.random.default_rng(0).uniform(-0.02, 1.02, (17, *SIZE))
    back = unpack(pack(maps), 17, SIZE)
    small = maps < 2.5 / 255
    assert back.shape == maps.shape and back.dtype == np.float32
    assert small.any() and not back[small].any()
    np.testing.assert_allclose(back[~small], maps[~small].clip(0, 1), atol=0.5001 / 255)


def test_heatmaps_are_read_as_they_were_stored(tmp_path, people):
    _, two = stored(people)
    nobody = Heatmaps(np.zeros((0, 5, 4), np.float32), [], SIZE)
    write(tmp_path, two=two, nobody=nobody)
    found = dict(read_heatmaps(str(tmp_path)))
    np.testing.assert_array_equal(found["two"].regions, two.regions)
    assert (found["two"].maps, found["two"].size) == (two.maps, SIZE)
    assert found["nobody"].regions.shape == (0, 5, 4) and found["nobody"].maps == []


def test_of_a_clip_stored_twice_the_first_counts(tmp_path):
    written = {write(tmp_path, a=one_cell(level), b=one_cell(level)): level for level in (0.2, 0.6, 1.0)}
    found = list(read_heatmaps(str(tmp_path)))
    assert [name for name, _ in found] == ["a", "b"]
    assert [value(maps) for _, maps in found] == pytest.approx([written[min(written)]] * 2)


def test_only_the_wanted_clips_are_read_and_missing_ones_are_named(tmp_path):
    for name, level in (("a", 0.2), ("b", 0.6), ("c", 1.0)):
        write(tmp_path, **{name: one_cell(level), f"other-{name}": one_cell(0)})
    found = {name: value(maps) for name, maps in read_heatmaps(str(tmp_path), ["c", "a"])}
    assert found == pytest.approx({"a": 0.2, "c": 1.0})
    with pytest.raises(ValueError, match=r"2 of 3 clips have no heatmaps in .*: x, y; .*--store heatmaps"):
        list(read_heatmaps(str(tmp_path), ["y", "a", "x"]))


def test_the_file_beside_the_clips_is_the_only_one_opened_unless_one_is_missing_there(tmp_path, monkeypatch):
    files = {name: write(tmp_path, **{name: one_cell(level)}) for name, level in (("a", 0.2), ("b", 0.6), ("c", 1.0))}
    opened, plain = [], tables.open_file
    monkeypatch.setattr(tables, "open_file", lambda path: opened.append(Path(path).name) or plain(path))
    beside = Path(files["b"]).name
    assert [name for name, _ in read_heatmaps(str(tmp_path), ["b"], beside=beside)] == ["b"]
    assert opened == [beside]
    assert sorted(name for name, _ in read_heatmaps(str(tmp_path), ["a", "b"], beside=beside)) == ["a", "b"]
    assert sorted(name for name, _ in read_heatmaps(str(tmp_path), ["c"], beside="elsewhere.parquet")) == ["c"]


def levels(volume):
    return volume / np.float32(255)


def centres(volume):
    """Centres of mass (..., 2) x y of (..., H, W)."""
    mass = volume.sum((-2, -1))
    places = np.arange(volume.shape[-1])
    return np.stack([volume.sum(-2) @ places, volume.sum(-1) @ places], -1) / mass[..., None]


@pytest.mark.parametrize("num_clips", [1, 3])
def test_joints_are_drawn_where_the_coordinates_are(people, num_clips):
    clip, heatmaps = stored(people[:1])
    volume = levels(stored_volumes(clip, heatmaps, CONFIG, num_clips))
    xy, score, _ = testing_clips(clip.keypoints, clip.scores, (240, 320), CONFIG, num_clips)
    drawn = joint_volumes(xy, score, (56, 56), sigma=1.0)
    assert volume.shape == drawn.shape
    np.testing.assert_allclose(centres(volume), np.moveaxis(xy[:, 0], 1, 2), atol=0.1)
    np.testing.assert_allclose(centres(volume), centres(drawn), atol=0.2)
    assert volume.max() <= 1 and volume.max((-2, -1)).min() > 0.7


def test_two_people_are_merged_by_maximum_and_an_absent_one_draws_nothing(people):
    present = np.ones((2, 6), bool)
    present[1, 3:] = False
    clip, both = stored(people, present)
    nobody = [b""] * 6
    alone = [Heatmaps(both.regions, maps, SIZE) for maps in ([both.maps[0], nobody], [nobody, both.maps[1]])]
    volume, first, second = (
        levels(stored_volumes(clip, maps, ClipConfig(length=6, test_size=56))[0]) for maps in (both, *alone)
    )
    assert second[:, :3].max((-2, -1)).min() > 0.5 and not second[:, 3:].any()
    assert np.minimum(first, second).max() > 0.3
    np.testing.assert_array_equal(volume, np.maximum(first, second))


def bilinear(heatmap, i, j):
    """A map (h, w) at row i and column j, zero outside, in plain float64."""
    total = 0.0
    for row in range(heatmap.shape[0]):
        for column in range(heatmap.shape[1]):
            total += heatmap[row, column] * max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j))
    return total


def test_a_map_fills_its_region_and_no_more_even_where_that_leaves_the_crop():
    # Points 100..140 x 60..100: the crop is 50 x 50 pixels from (95, 55), so a pixel of the volume is 5 of the frame.
    points = np.linspace([100, 60], [140, 100], 17, dtype=np.float32)
    clip = Clip("c", 1, 240, 320, points[None, None], np.ones((1, 1, 17), np.float32))
    # Cells are 11 x 12 frame pixels; their first column is left of the crop, their last row below it.
    maps = np.random.default_rng(1).integers(100, 256, (17, 5, 4)) / 255
    heatmaps = Heatmaps(np.array([[[78, 71, 44, 60]]], np.float32), [[pack(maps)]], (5, 4))
    volume = levels(stored_volumes(clip, heatmaps, ClipConfig(length=1, test_size=10))[0, :, 0])
    wanted = [
        [[bilinear(m, (55 + 5 * y - 71) / 12, (95 + 5 * x - 78) / 11) for x in range(10)] for y in range(10)]
        for m in maps
    ]
    np.testing.assert_allclose(volume, wanted, atol=0.501 / 255)
    # A cell fades out over the cell that would be next: up to y = 59, right to x = 122.
    assert volume[:, 1:, :6].all() and not volume[:, 0].any() and not volume[:, :, 6:].any()


def test_without_a_crop_maps_lie_where_the_frame_has_them():
    # A frame of 320 x 240 in a square of 320, 40 empty rows above it: a pixel of the volume is 10 of the frame.
    clip = Clip("c", 1, 240, 320, np.full((1, 1, 17, 2), 100, np.float32), np.ones((1, 1, 17), np.float32))
    heatmaps = Heatmaps(np.array([[[90, 30, 40, 60]]], np.float32), [[pack(np.ones((17, 6, 4)))]], (6, 4))
    volume = levels(stored_volumes(clip, heatmaps, ClipConfig(length=1, test_size=32, padding=None))[0, :, 0])
    wanted = np.zeros((32, 32))
    wanted[7:13, 9:13] = 1  # rows (30 .. 80 + 40) / 10, columns 90 .. 120 / 10
    np.testing.assert_allclose(volume, np.broadcast_to(wanted, volume.shape), atol=1e-6)


def turned(degrees, size=56):
    """The affine map that turns a volume of a square frame of 320 around its centre, then shrinks it to `size`."""
    cos, sin, middle = np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), (size - 1) / 2
    step = size / 320
    return np.array(
        [
            [cos * step, -sin * step, middle - cos * middle + sin * middle],
            [sin * step, cos * step, middle - sin * middle - cos * middle],
        ]
    )


def test_a_map_can_be_turned_and_mirrored(people):
    clip, heatmaps = stored(people[:1])
    frames = np.array([0, 2, 2])
    straight, quarter = (draw_maps(clip, heatmaps, frames, turned(angle), 56) for angle in (0, 90))
    np.testing.assert_array_equal(straight[:, 1], straight[:, 2])
    # A quarter turn takes pixels to pixels: x to y, y to 55 - x.
    assert straight.any() and abs(np.rot90(straight, -1, (2, 3)).astype(int) - quarter).max() <= 1
    mirror = turned(0)
    mirror[0] = [0, 0, 55] - mirror[0]
    mirrored = draw_maps(clip, heatmaps, frames, mirror, 56)
    assert abs(straight[list(COCO17.mirror), ..., ::-1].astype(int) - mirrored).max() <= 1


@pytest.mark.parametrize("seed", range(3))
def test_a_training_clip_of_stored_maps_has_its_joints_where_that_of_coordinates_has_them(people, tmp_path, seed):
    config = ClipConfig(length=4, size=48, test_size=56, rotate=30, scale=0.2, flip=seed % 2, share=0.7)
    clip, heatmaps = stored(people[:1])
    clip = dataclasses.replace(clip, label=0, label_name="a")
    tables.write_table([clip], str(tmp_path))
    write(tmp_path, c=heatmaps)
    made = {}
    for maps in ("drawn", "stored"):
        of = dataclasses.replace(config, maps=maps)
        chosen = index(str(tmp_path), **index_options(of))
        (made[maps],) = feed.training_batches(chosen, of, 2, seed=seed, epoch=0, repeat=2)
    volume, xy = levels(made["stored"]["volume"]), made["drawn"]["xy"][:, 0].transpose(0, 2, 1, 3)  # (N, V, T, 2)
    inside = ((xy > 6) & (xy < 41)).all(-1)
    assert volume.shape == (2, 17, 4, 48, 48) and inside.mean() > 0.3
    np.testing.assert_allclose(centres(volume[inside]), xy[inside], atol=0.3)
    assert made["stored"]["clip_id"].tolist() == ["c", "c"]


def test_what_changes_coordinates_alone_does_not_go_with_stored_maps(people, tmp_path):
    for wrong in ({"noise": 1.0}, {"drop": 0.1}, {"offset": 1.0}, {"rgb_length": 4}, {"space": "frame"}):
        with pytest.raises(ValueError, match=r"clip\.maps stored"):
            ClipConfig(maps="stored", **wrong)
    with pytest.raises(ValueError, match=r"heatmap\.kind limb needs"):
        TrainConfig(clip=ClipConfig(maps="stored"), heatmap=HeatmapConfig(kind="limb"))
    with pytest.raises(ValueError, match=r"which only a table of .* has: test it with jobs.evaluate"):
        feed.testing_sample(stored(people)[0], ClipConfig(maps="stored"), None)
    clip, heatmaps = stored(people)
    tables.write_table([clip], str(tmp_path))
    write(tmp_path, c=heatmaps)
    with pytest.raises(ValueError, match="stored heatmaps have the joints of coco17, not those of openpose18"):
        index(str(tmp_path), need_label=False, skeleton="openpose18", maps=True)


def test_maps_of_other_people_than_the_clips_are_refused(people):
    clip, _ = stored(people)
    _, other = stored(people[:1])
    with pytest.raises(ValueError, match=r"clip c has \(people, frames\) = \(2, 6\), its heatmaps \(1, 6\)"):
        stored_volumes(clip, other, CONFIG)


def test_a_clip_without_people_is_an_empty_volume():
    clip = Clip("c", 6, 240, 320, np.zeros((0, 6, 17, 2), np.float32), np.zeros((0, 6, 17), np.float32))
    volume = stored_volumes(clip, Heatmaps(np.zeros((0, 6, 4), np.float32), [], SIZE), CONFIG, 2)
    assert volume.shape == (2, 17, 4, 56, 56) and not volume.any()


def test_movenets_own_maps_have_its_joints_where_its_coordinates_do(tools, tmp_path):
    actor = make_clip("wave", actor=1, num_frames=6, size=(240, 320), fps=4)
    write_video(tmp_path / "actor.mp4", actor.frames, actor.fps)
    done = extract_poses(str(tmp_path / "actor.mp4"), *tools, keep_heatmaps=True)
    volume = levels(stored_volumes(done.clip, done.heatmaps, CONFIG)[0])
    xy, score, _ = testing_clips(done.clip.keypoints, done.clip.scores, (240, 320), CONFIG)
    drawn = joint_volumes(xy, score, (56, 56))[0]
    sure = score[0, 0].T > 0.5  # (V, T)
    assert sure.mean() > 0.6
    peaks = [np.stack(np.unravel_index(v.reshape(17, 4, -1).argmax(-1), (56, 56)), -1) for v in (volume, drawn)]
    assert np.linalg.norm(peaks[0] - peaks[1], axis=-1)[sure].max() <= 2
