"""Sampling, cropping and augmentation against published values and values worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posec3d.clips import (
    ClipConfig,
    clip_box,
    flip,
    pad_persons,
    random_resized_crop,
    sample_frames,
    stride_sample,
    subject_crop,
    testing_clips,
    training_clips,
    uniform_sample,
)
from posec3d.heatmaps import joint_volumes, limb_volumes
from posec3d.skeletons import COCO17


def numbers(text):
    return [int(part) for part in text.split()]


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        (9, "0 1 2 3 4 5 6 7 8 0 1 2 3 4 5 6"),
        (31, "1 3 5 7 9 11 13 15 17 18 20 22 24 26 28 29"),
        (100, "3 7 13 24 30 31 42 44 52 60 63 68 79 83 88 97"),
    ],
)
def test_the_test_draw_is_the_published_one(frames, wanted):
    assert uniform_sample(frames, 16)[0].tolist() == numbers(wanted)


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        (9, "5 6 7 8 0 1 2 3 4 5 6 7 8 0 1 2"),
        (31, "1 3 5 7 9 11 13 15 17 19 21 23 24 26 28 29"),
        (100, "4 11 12 21 28 34 38 46 55 58 66 74 75 81 91 95"),
    ],
)
def test_the_training_draw_is_the_published_one_for_the_same_generator(frames, wanted):
    assert uniform_sample(frames, 16, rng=np.random.RandomState(0))[0].tolist() == numbers(wanted)


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 31, 32, 33, 500])
def test_long_videos_give_one_frame_of_each_equal_segment(frames):
    drawn = uniform_sample(frames, 16, num_clips=5, rng=np.random.default_rng(0))
    assert drawn.shape == (5, 16)
    assert drawn.min() >= 0
    assert drawn.max() < frames
    if frames >= 32:
        edges = np.arange(17) * frames // 16
        assert ((drawn >= edges[:-1]) & (drawn < edges[1:])).all()


def test_test_clips_of_a_short_video_start_evenly_spread():
    assert uniform_sample(9, 16, num_clips=3)[:, 0].tolist() == [0, 3, 6]
    assert uniform_sample(2, 4, num_clips=3).tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


def test_sampling_leaves_the_global_generator_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    uniform_sample(100, 16)
    assert np.random.get_state()[1].tolist() == before


def test_a_video_without_frames_is_refused():
    with pytest.raises(ValueError, match="num_frames"):
        uniform_sample(0, 16)


def corners(*points):
    xy = np.array(points, np.float32).reshape(1, 1, -1, 2)
    return xy, np.ones(xy.shape[:3], np.float32)


def test_subject_crop_by_hand():
    # Box 20..60 x 10..90: centre (40, 50), half sizes 20 and 40, padded to 25 and 50; h/w = 1 makes both 50.
    xy, score = corners((20, 10), (60, 90))
    cropped, size = subject_crop(xy, score, (120, 160))
    assert size == (100, 100)
    # Left edge 40 - 50 = -10, top edge 0.
    np.testing.assert_allclose(cropped[0, 0], [[30, 10], [70, 90]])


def test_subject_crop_keeps_the_aspect_if_told_so():
    xy, score = corners((20, 10), (60, 90))
    cropped, size = subject_crop(xy, score, (120, 160), aspect=None)
    assert size == (100, 50)
    np.testing.assert_allclose(cropped[0, 0], [[5, 10], [45, 90]])


def test_crop_edges_are_truncated_toward_zero():
    # Box 3..24 x 3..24: centre 13.5, half 10.5 * 1.25 = 13.125: edges 0.375 -> 0 and 26.625 -> 26.
    xy, score = corners((3, 3), (24, 24))
    assert subject_crop(xy, score, (50, 50))[1] == (26, 26)
    # Box 0..21: centre 10.5: edges -2.625 -> -2 and 23.625 -> 23.
    xy, score = corners((0, 0), (21, 21))
    cropped, size = subject_crop(xy, score, (50, 50))
    assert size == (25, 25)
    np.testing.assert_allclose(cropped[0, 0], [[2, 2], [23, 23]])


def test_a_small_box_or_no_point_is_left_alone():
    xy, score = corners((20, 10), (29, 90))
    assert subject_crop(xy, score, (120, 160)) == (xy, (120, 160))
    assert subject_crop(xy, np.zeros_like(score), (120, 160)) == (xy, (120, 160))


def test_points_without_a_score_neither_count_nor_move():
    xy, score = corners((20, 10), (60, 90), (0, 0))
    score[..., 2] = 0
    cropped, size = subject_crop(xy, score, (120, 160))
    assert size == (100, 100)
    np.testing.assert_array_equal(cropped[0, 0, 2], [0, 0])


def test_random_crops_lie_inside_and_keep_their_area():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x, y, w, h = random_resized_crop((64, 64), rng)
        assert 0 <= x <= 64 - w
        assert 0 <= y <= 64 - h
        assert 0.5 <= w * h / 64**2 <= 1
        assert 0.7 <= w / h <= 1.4


def people(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 40, (2, 3, 17, 2)), rng.random((2, 3, 17))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200))
def test_flip_twice_is_identity(seed, width):
    xy, score = people(seed)
    again = flip(*flip(xy, score, width, COCO17.mirror), width, COCO17.mirror)
    np.testing.assert_allclose(again[0], xy, atol=1e-12)
    np.testing.assert_array_equal(again[1], score)


def test_flipped_coordinates_draw_the_mirrored_volume():
    xy, score = people()
    xy += 5  # windows that truncation at the left edge would make lopsided
    flipped = flip(xy, score, 50, COCO17.mirror)
    joints = joint_volumes(xy, score, (50, 50))[list(COCO17.mirror), ..., ::-1]
    mirrored = [tuple(COCO17.mirror[joint] for joint in limb) for limb in COCO17.limbs]
    limbs = limb_volumes(xy, score, mirrored, (50, 50))[..., ::-1]
    # exp(-4.5) is what lies on a window's edge, on one side only: int() truncates, it does not round.
    np.testing.assert_allclose(joint_volumes(*flipped, (50, 50)), joints, atol=np.exp(-4.5))
    np.testing.assert_allclose(limb_volumes(*flipped, COCO17.limbs, (50, 50)), limbs, atol=np.exp(-4.5))


def video(seed=0, people=2, frames=30, size=(90, 120)):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(10, 80, (people, frames, 17, 2)).astype(np.float32)
    score = (rng.random((people, frames, 17)) * (rng.random((people, frames, 17)) > 0.2)).astype(np.float32)
    return SimpleNamespace(keypoints=xy, scores=score, height=size[0], width=size[1])


def made(videos, config, seeds, persons=2):
    rngs = [np.random.default_rng(seed) for seed in seeds]
    return training_clips(videos, config, COCO17.mirror, rngs, persons)[:2]


def one_by_one(clip, config, rng):
    """The published transforms, each a step of its own on the coordinates, in the order of their draws."""
    frames = uniform_sample(clip.keypoints.shape[1], config.length, rng=rng)[0]
    xy, score = clip.keypoints[:, frames].astype(float), clip.scores[:, frames]
    xy, (h, w) = subject_crop(xy, np.ones_like(score) * (score > 0), (clip.height, clip.width))
    xy = xy * np.array([config.test_size / w, config.test_size / h])
    x, y, w, h = random_resized_crop((config.test_size, config.test_size), rng, area=config.area)
    if config.rotate or config.scale:
        angle, zoom = np.radians(config.rotate * rng.uniform(-1, 1)), 1 + config.scale * rng.uniform(-1, 1)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = (config.test_size - 1) / 2
        xy = (xy - centre) @ turn.T + centre
    xy = (xy - np.array([x, y])) * np.array([config.size / w, config.size / h])
    if rng.random() < config.flip:
        xy, score = flip(xy, score, config.size, COCO17.mirror)
    return xy, score


@pytest.mark.parametrize("jitter", [{}, {"rotate": 20.0, "scale": 0.2}], ids=["as published", "turned and scaled"])
def test_the_affine_map_of_a_clip_does_what_the_published_steps_do(jitter):
    config = ClipConfig(length=8, size=28, test_size=32, **jitter)
    videos, seeds = [video(seed, frames=30 + seed) for seed in range(20)], range(100, 120)
    xy, score = made(videos, config, seeds)
    assert xy.shape == (20, 2, 8, 17, 2) and xy.dtype == score.dtype == np.float32
    for clip, seed, points, peaks in zip(videos, seeds, xy, score, strict=True):
        wanted, seen = one_by_one(clip, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(peaks, seen)
        np.testing.assert_allclose(points[seen > 0], wanted[seen > 0], atol=1e-4)


def test_a_small_subject_in_a_corner_of_a_large_frame_is_placed_as_exactly():
    config = ClipConfig(length=8, size=56, test_size=64)
    clip = video(frames=30, size=(4320, 7680))
    clip.keypoints[...] = clip.keypoints / 6 + np.array([7600, 4200])
    xy, _ = made([clip], config, [3])
    wanted, seen = one_by_one(clip, config, np.random.default_rng(3))
    np.testing.assert_allclose(xy[0][seen > 0], wanted[seen > 0], atol=1e-4)


def test_a_training_clip_depends_on_its_generator_alone():
    config = ClipConfig(
        length=8, size=16, test_size=20, rotate=10, scale=0.1, drop=0.2, noise=0.5, offset=0.5, share=0.5
    )
    videos = [video(seed) for seed in range(4)]
    xy, score = made(videos, config, [5, 6, 7, 8])
    alone, alone_score = made(videos[2:3], config, [7])
    np.testing.assert_array_equal(xy[2:3], alone)
    np.testing.assert_array_equal(score[2:3], alone_score)
    assert not np.array_equal(made(videos[2:3], config, [8])[0], alone)
    crowd, crowd_score = made(videos[2:3], config, [7], persons=9)  # as many as another clip of the table has
    np.testing.assert_array_equal(crowd[:, : alone.shape[1]], alone)
    np.testing.assert_array_equal(crowd_score[:, : alone.shape[1]], alone_score)


def test_turning_keeps_distances_and_stays_within_its_range():
    plain = ClipConfig(length=8, size=64, test_size=64, area=(1, 1), flip=0)
    angles, zooms = [], []
    for seed in range(60):
        clip = video(seed)
        clip.scores[:] = 1
        a, _ = made([clip], plain, [seed])
        b, _ = made(
            [clip], ClipConfig(length=8, size=64, test_size=64, area=(1, 1), flip=0, rotate=30, scale=0.2), [seed]
        )
        a, b = (part[0, 0, 0] - part[0, 0, 0].mean(0) for part in (a, b))
        turn = np.linalg.lstsq(a, b, rcond=None)[0].T
        zooms.append(np.sqrt(np.linalg.det(turn)))
        angles.append(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))
    assert 0.8 <= min(zooms) < 0.85 and 1.15 < max(zooms) <= 1.2
    assert -30 <= min(angles) < -24 and 24 < max(angles) <= 30


def test_lost_joints_and_noise_are_as_many_as_told():
    clip = video(frames=400)
    clip.scores[:] = 1
    plain = ClipConfig(length=200, size=64, test_size=64, flip=0)
    still, _ = made([clip], plain, [1])
    _, score = made([clip], ClipConfig(length=200, size=64, test_size=64, flip=0, drop=0.25), [1])
    assert abs((score == 0).mean() - 0.25) < 0.02
    moved, _ = made([clip], ClipConfig(length=200, size=64, test_size=64, flip=0, noise=1.5), [1])
    assert abs((moved - still).std() - 1.5) < 0.05
    assert abs((moved - still).mean()) < 0.05


def test_an_offset_of_joints_is_the_same_in_all_frames_of_a_clip():
    clips = [video(seed, frames=20, people=2) for seed in range(40)]
    for clip in clips:
        clip.scores[:] = 1
    plain = ClipConfig(length=8, size=64, test_size=64, flip=0)
    still, _ = made(clips, plain, range(40))
    moved, _ = made(clips, replace(plain, offset=1.5), range(40))
    offsets = (moved - still)[:, :, 0]
    np.testing.assert_allclose(moved - still, np.broadcast_to(offsets[:, :, None], still.shape), atol=1e-4)
    assert abs(offsets.std() - 1.5) < 0.05  # 40 clips x 2 people x 17 joints x 2 draws
    assert abs(offsets.mean()) < 0.1


@pytest.mark.parametrize("stride", [None, 1])
def test_a_stretch_of_a_video_is_as_long_as_told_and_lies_anywhere(stride):
    config = ClipConfig(length=10, stride=stride, share=0.5)
    drawn = np.array([sample_frames(100, config, rng=np.random.default_rng(seed))[0] for seed in range(400)])
    assert drawn.min() >= 0 and drawn.max() <= 99
    if stride is None:  # ten segments of it: nearly as long as the stretch, of which 100 are the whole
        lengths = np.ptp(drawn, 1)
        assert 38 <= lengths.min() < 48 and 92 < lengths.max() <= 99
        assert abs(lengths.mean() - 0.9 * 75) < 4
    assert drawn[:, 0].min() < 5 and drawn[:, 0].max() > 30
    np.testing.assert_array_equal(sample_frames(100, config), sample_frames(100, replace(config, share=1.0)))
    assert sample_frames(1, config, rng=np.random.default_rng(0)).tolist() == [[0] * 10]


@pytest.mark.parametrize("people", [0, 1, 5])
def test_any_number_of_people_becomes_the_number_asked_for(people):
    xy, score = made([video(people=people)], ClipConfig(length=8, size=16, test_size=20), [0])
    assert xy.shape == (1, 2, 8, 17, 2)
    assert (score[0].any((1, 2)) == [people > 0, people > 1]).all()


def test_fixed_strides_by_hand():
    # 5 frames 3 apart span 13 of 20: starts 0 .. 7, the middle one of these 8 places is 4.
    assert stride_sample(20, 5, 3).tolist() == [[4, 7, 10, 13, 16]]
    assert stride_sample(20, 5, 3, num_clips=2)[:, 0].tolist() == [2, 6]
    assert stride_sample(4, 5, 3).tolist() == [[0, 3, 2, 1, 0]]  # a short video begins again
    starts = {int(stride_sample(20, 5, 3, rng=np.random.default_rng(seed))[0, 0]) for seed in range(99)}
    assert starts == set(range(8))
    with pytest.raises(ValueError, match="stride"):
        stride_sample(20, 5, 0)


def test_a_config_with_a_stride_samples_by_it():
    assert sample_frames(20, ClipConfig(length=5, stride=3)).tolist() == stride_sample(20, 5, 3).tolist()
    assert sample_frames(20, ClipConfig(length=5)).tolist() == uniform_sample(20, 5).tolist()


def test_test_clips_share_one_crop():
    xy, score = people()
    views, scores, _ = testing_clips(xy.astype("f4"), score, (50, 50), ClipConfig(length=2, test_size=20), num_clips=4)
    assert views.shape == (4, 2, 2, 17, 2)
    assert scores.shape == (4, 2, 2, 17)
    chosen = uniform_sample(3, 2, num_clips=4)
    cropped, size = subject_crop(xy[:, chosen.ravel()].astype("f4"), score[:, chosen.ravel()], (50, 50))
    np.testing.assert_allclose(views[1], cropped[:, 2:4] * (20 / size[0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("frame", "box"),
    [((60, 100), (0, -20, 100, 100)), ((100, 60), (-20, 0, 100, 100)), ((61, 100), (0, -19, 100, 100))],
)
def test_without_a_crop_a_clip_is_the_square_around_the_frame(frame, box):
    xy, score = corners((30, 40), (70, 10))
    for seen in (score, np.zeros_like(score)):  # whoever is in it
        assert clip_box(xy, seen, frame, None) == box


def test_without_a_crop_joints_land_where_the_frame_has_them():
    # A frame of 100 x 60 pixels in a square of 100: 20 empty rows above it, then half the size.
    clip = video(people=1, frames=3, size=(60, 100))
    clip.scores[:] = 0
    clip.keypoints[0, :, 5:7], clip.scores[0, :, 5:7] = [(30, 40), (80, 0)], 1  # left and right shoulder
    whole = {"length": 3, "padding": None, "test_size": 50, "area": (1, 1)}
    for views in (1, 2):
        config = ClipConfig(**whole)
        xy, score, place = testing_clips(clip.keypoints, clip.scores, (60, 100), config, views)
        np.testing.assert_allclose(xy[:, 0, :, 5:7], np.broadcast_to([(15, 30), (40, 10)], (views, 3, 2, 2)))
        np.testing.assert_allclose(place, [[0.5, 0, 0], [0, 0.5, 10]])
    # In training, from 50 to 20 pixels.
    xy, score, place, _ = training_clips(
        [clip] * 2, ClipConfig(size=20, flip=0, **whole), COCO17.mirror, [np.random.default_rng(n) for n in (0, 1)], 1
    )
    np.testing.assert_allclose(xy[:, 0, :, 5:7], np.broadcast_to([(6, 12), (16, 4)], (2, 3, 2, 2)), rtol=1e-6)
    np.testing.assert_allclose(place, [[[0.2, 0, 0], [0, 0.2, 4]]] * 2)
    # Mirrored, 0 .. 19, and left is right.
    xy, score = made([clip], ClipConfig(size=20, flip=1, **whole), [0], persons=1)
    np.testing.assert_allclose(xy[0, 0, :, 5:7], np.broadcast_to([(3, 4), (13, 12)], (3, 2, 2)), rtol=1e-6)
    assert (score[0, 0] > 0).sum() == 6


def test_people_are_padded_with_nobody_and_cut_from_the_end():
    xy, score = people()
    more_xy, more_score = pad_persons(xy, score, 3)
    assert more_xy.shape == (3, 3, 17, 2)
    assert not more_score[2].any()
    fewer_xy, _ = pad_persons(xy, score, 1)
    np.testing.assert_array_equal(fewer_xy, xy[:1])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("length", 0),
        ("area", (0.9, 0.5)),
        ("flip", 2),
        ("rotate", 190),
        ("scale", 1),
        ("drop", 1),
        ("noise", -1),
        ("offset", -1),
        ("share", 0),
        ("stride", 0),
        ("padding", -0.1),
        ("padding", float("nan")),
        ("padding", float("inf")),
    ],
)
def test_a_clip_config_out_of_range_names_its_field(field, value):
    with pytest.raises(ValueError, match=f"clip.{field}"):
        ClipConfig(**{field: value})
