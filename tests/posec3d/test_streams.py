"""What graph networks see: values by hand, what they must not depend on, 3D that forgets where a body stood."""

import dataclasses

import numpy as np
import pytest

from posec3d import streams
from posec3d.clips import ClipConfig
from posec3d.skeletons import COCO17, SKELETONS, skeleton
from posec3d.table import Clip

NTU = skeleton("ntu25")
CONFIG = ClipConfig(length=8, space="frame", flip=0)


def clip(people=1, frames=20, body=COCO17, seed=0, **fields):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 200, (people, frames, len(body.joints), 2)).astype(np.float32)
    score = rng.uniform(0.1, 1, xy.shape[:-1]).astype(np.float32)
    return Clip("c", frames, 100, 200, xy, score, skeleton=body.name, **fields)


def test_the_frame_goes_from_minus_one_to_one_by_hand():
    xy = np.array([[200.0, 100], [0, 0], [50, 50], [150, 25], [np.nan, 3]])
    score = np.array([1.0, 0.5, 0.01, 0.02, 0.9])
    people = streams.relative_to_box(xy, score, (0, 0, 200, 100))
    # The third's score is too low for it to have a place, and the last has none.
    wanted = [[1, 1, 1], [-1, -1, 0.5], [0, 0, 0.01], [0.5, -0.5, 0.02], [0, 0, 0]]
    np.testing.assert_allclose(people, wanted, atol=1e-7)


def test_where_the_subject_stands_in_the_frame_and_how_large_it_is_may_mean_nothing():
    """By hand: joints span 40..100 and 10..50: the square's centre is (70, 30), half of its side 30 * 1.25."""
    config = ClipConfig(length=4, space="subject", flip=0)
    xy = np.zeros((1, 1, 17, 2), np.float32)
    xy[..., 0, :], xy[..., 1:, :] = (40, 10), (100, 50)
    one = Clip("c", 1, 300, 400, xy, np.ones((1, 1, 17), np.float32))
    half = 75 / 2  # its edges are whole pixels: 32.5 and -7.5 become 32 and -7, 107.5 and 67.5 become 107 and 67
    wanted = np.array([[40 - 32, 10 + 7], [100 - 32, 50 + 7]]) / [half, 74 / 2] - 1
    seen = streams.testing_people(one, config, 1)
    np.testing.assert_allclose(seen[0, 0, 0, :2], [[*point, 1] for point in wanted], atol=1e-6)
    there = dataclasses.replace(one, keypoints=4 * xy + np.float32([90, 60]))
    np.testing.assert_allclose(streams.testing_people(there, config, 1), seen, atol=0.03)  # but for whole pixels
    frame = dataclasses.replace(config, space="frame")
    assert abs(streams.testing_people(there, frame, 1) - streams.testing_people(one, frame, 1)).max() > 0.5


def plain(points, body, name):
    """Each stream of a whole video, joint by joint and frame by frame."""
    result = np.zeros_like(points)
    for m, t, v in np.ndindex(points.shape[:3]):
        now, parent = points[m, t, v], points[m, t, body.parents[v]]
        if name == "joint":
            result[m, t, v] = now
        elif name == "bone":
            result[m, t, v] = [now[0] - parent[0], now[1] - parent[1], (now[2] + parent[2]) / 2]
    if name.endswith("motion"):
        of = plain(points, body, name.removesuffix("-motion"))
        for t in range(points.shape[1] - 1):
            result[:, t, :, :2] = of[:, t + 1, :, :2] - of[:, t, :, :2]
            result[:, t, :, 2] = (of[:, t + 1, :, 2] + of[:, t, :, 2]) / 2
    return result


@pytest.mark.parametrize("name", ["joint", "bone", "joint-motion", "bone-motion"])
def test_streams_are_taken_from_the_video_before_frames_are_sampled(name):
    points = np.random.default_rng(0).normal(size=(2, 9, 17, 3)).astype(np.float32)
    frames = np.array([0, 3, 4, 8, 0])
    found = streams.stream(points, name, COCO17, frames, scored=True)
    np.testing.assert_allclose(found, plain(points, COCO17, name)[:, frames], atol=1e-6)


def test_bones_of_3d_have_no_score_to_average():
    points = np.random.default_rng(0).normal(size=(1, 2, 25, 3))
    found = streams.stream(points, "bone", NTU, np.array([1]), scored=False)
    np.testing.assert_allclose(found[0, 0, 3], points[0, 1, 3] - points[0, 1, 2])


def turned(points, axis, degrees):
    """By the matrix exponential, not by Rodrigues' formula."""
    from scipy.spatial.transform import Rotation

    return points @ Rotation.from_rotvec(np.radians(degrees) * np.array(axis)).as_matrix().T


def standing(body, seed=1):
    """Anything, but that in the first frame shoulders are level above the hips."""
    xyz = np.random.default_rng(seed).normal(size=(1, 6, len(body.joints), 3))
    place = {"left_shoulder": (-0.2, 0.1, 1.4), "right_shoulder": (0.2, -0.1, 1.4), "left_hip": (-0.1, 0, 0.8),
             "right_hip": (0.1, 0, 0.8), "hip_centre": (0, 0, 0.8), "mid_hip": (0, 0, 0.8)}  # fmt: skip
    place |= dict.fromkeys(("torso", "spine", "belly"), (0, 0, 1.1))
    for joint, point in place.items():
        if joint in body.joints:
            xyz[0, 0, body.joints.index(joint)] = point
    return xyz


def test_the_first_frame_is_upright_with_shoulders_along_x():
    people = streams.relative_to_body(standing(NTU) + np.array([3, -2, 1]), NTU)
    hips, spine, left, right = people[0, 0, [0, 1, 4, 8]]
    np.testing.assert_allclose(spine, 0, atol=1e-6)
    np.testing.assert_allclose(hips, [0, 0, -0.3], atol=1e-6)
    np.testing.assert_allclose(right, [0.05**0.5, 0, 0.3], atol=1e-6)
    np.testing.assert_allclose(left, [-(0.05**0.5), 0, 0.3], atol=1e-6)


def test_shoulders_that_are_not_level_come_last_as_published():
    """The spine is turned first, then the shoulders, which takes the spine along."""
    xyz = standing(NTU)
    xyz[0, 0, 8, 2] = 1.3
    hips, _, left, right = streams.relative_to_body(xyz, NTU)[0, 0, [0, 1, 4, 8]]
    assert right[0] > left[0] and abs(right - left)[1:] == pytest.approx([0, 0], abs=1e-6)
    assert np.linalg.norm(hips) == pytest.approx(0.3) and np.linalg.norm(hips[:2]) > 0.01


def test_the_person_seen_longest_is_the_first_and_frames_without_them_are_left_out():
    xyz = np.random.default_rng(3).normal(size=(2, 5, 25, 3))
    xyz[0, :3] = 0
    xyz[1, 4] = 0
    people = streams.relative_to_body(xyz, NTU)
    assert people.shape == (2, 4, 25, 3)
    assert (people[0] != 0).any((1, 2)).all()  # the second one of the table
    assert (people[1, :3] == 0).all() and (people[1, 3] != 0).any()


def test_absent_joints_stay_absent_and_an_empty_clip_stays_empty():
    xyz = np.random.default_rng(4).normal(size=(1, 3, 25, 3))
    xyz[0, 1, 10] = 0
    xyz[0, 2, 7] = np.nan
    people = streams.relative_to_body(xyz, NTU)
    assert (people[0, 1, 10] == 0).all() and (people[0, 2, 7] == 0).all()
    assert streams.relative_to_body(np.zeros((0, 7, 25, 3)), NTU).shape == (0, 7, 25, 3)
    assert (streams.relative_to_body(np.zeros((1, 7, 25, 3)), NTU) == 0).all()


@pytest.mark.parametrize("name", SKELETONS)
def test_where_a_body_stood_and_how_it_was_turned_is_forgotten(name):
    body = skeleton(name)
    xyz = standing(body)
    moved = turned(xyz, [0.36, 0.48, 0.8], 70) - 5
    np.testing.assert_allclose(streams.relative_to_body(moved, body), streams.relative_to_body(xyz, body), atol=1e-5)


@pytest.mark.parametrize("name", ["joint", "bone", "joint-motion", "bone-motion"])
def test_a_mirrored_clip_has_mirrored_streams(name):
    config = dataclasses.replace(CONFIG, stream=name)
    one = clip(2)
    mirror = list(COCO17.mirror)
    xy = one.keypoints[:, :, mirror].copy()
    xy[..., 0] = 200 - xy[..., 0]
    other = dataclasses.replace(one, keypoints=xy, scores=one.scores[:, :, mirror])
    found = streams.testing_people(other, config, 2)
    np.testing.assert_allclose(found, streams.flipped(streams.testing_people(one, config, 2), COCO17), atol=1e-6)


def test_people_are_cut_and_padded():
    few, many = streams.testing_people(clip(3), CONFIG, 2), streams.testing_people(clip(3), CONFIG, 5, num_clips=4)
    assert few.shape == (1, 2, 8, 17, 3) and many.shape == (4, 5, 8, 17, 3)
    np.testing.assert_array_equal(many[0, :2], streams.testing_people(clip(3), CONFIG, 2, num_clips=4)[0])
    assert (many[:, 3:] == 0).all()
    assert (streams.testing_people(clip(0), CONFIG, 1) == 0).all()


def rng(seed=0):
    return np.random.default_rng(seed)


def test_without_augmentation_training_sees_frames_of_the_video():
    one = clip()
    people = streams.training_people(one, CONFIG, 1, rng())
    every = streams.relative_to_box(one.keypoints, one.scores, (0, 0, 200, 100))
    for frame in people[0]:
        assert (np.abs(every[0] - frame).max((1, 2)) < 1e-6).any()


def test_augmentations_do_what_they_say():
    one = clip(frames=8)
    still = streams.training_people(one, CONFIG, 1, rng())
    radii = np.linalg.norm(still[..., :2], axis=-1)
    by = {name: streams.training_people(one, dataclasses.replace(CONFIG, **{name: value}), 1, rng())
          for name, value in {"rotate": 30, "scale": 0.2, "flip": 1, "noise": 0.1, "offset": 0.1}.items()}  # fmt: skip
    assert not np.allclose(by["rotate"], still)
    np.testing.assert_allclose(np.linalg.norm(by["rotate"][..., :2], axis=-1), radii, rtol=1e-4)
    ratio = by["scale"][..., :2] / still[..., :2]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0, 0, 0], ratio.shape), rtol=1e-3)
    assert (abs(ratio - 1) < 0.2001).all()
    np.testing.assert_allclose(by["flip"], streams.flipped(still, COCO17))
    assert 0.08 < (by["noise"] - still)[..., :2].std() < 0.12
    offsets = (by["offset"] - still)[..., :2]
    np.testing.assert_allclose(offsets, np.broadcast_to(offsets[:, :1], offsets.shape), atol=1e-6)
    assert 0.06 < offsets[:, 0].std() < 0.14
    for people in (by["rotate"], by["scale"], by["noise"], by["offset"]):
        np.testing.assert_array_equal(people[..., 2], still[..., 2])


def test_a_dropped_joint_has_no_place_and_no_score():
    people = streams.training_people(clip(frames=100), dataclasses.replace(CONFIG, length=100, drop=0.25), 1, rng())
    gone = people[..., 2] == 0
    assert 0.2 < gone.mean() < 0.3
    assert (people[gone] == 0).all()


def test_3d_clips_are_metres_in_the_bodys_own_directions():
    xyz = np.random.default_rng(6).normal(size=(1, 20, 25, 3)).astype(np.float32)
    one = clip(body=NTU, keypoints_3d=xyz)
    config = dataclasses.replace(CONFIG, space="body")
    people = streams.testing_people(one, config, 2, num_clips=3)
    assert people.shape == (3, 2, 8, 25, 3) and people.dtype == np.float32
    length = np.linalg.norm(people[0, 0, 0, 5] - people[0, 0, 0, 4])
    assert np.isclose(np.linalg.norm(xyz[0, :, 5] - xyz[0, :, 4], axis=-1), length, atol=1e-5).any()
    assert not np.allclose(streams.training_people(one, dataclasses.replace(config, rotate=30), 1, rng()), people[0])


def test_a_3d_model_says_what_a_2d_clip_lacks():
    with pytest.raises(ValueError, match=r"clip c has no keypoints_3d, which clip\.space body needs; take frame"):
        streams.testing_people(clip(), dataclasses.replace(CONFIG, space="body"), 1)


def test_a_stream_of_a_volume_is_refused():
    with pytest.raises(ValueError, match=r"clip\.stream bone is for graph networks"):
        ClipConfig(stream="bone")
