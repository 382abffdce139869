"""Volumes against a slow float64 implementation of the published method, and the properties they must have."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posec3d.heatmaps import joint_volumes, limb_volumes
from posec3d.skeletons import COCO17


def window(low, high, sigma, side):
    return range(max(int(low - 3 * sigma), 0), min(int(high + 3 * sigma) + 1, side))


def slow_joint(plane, x, y, score, sigma):
    h, w = plane.shape
    for row in window(y, y, sigma, h):
        for column in window(x, x, sigma, w):
            value = score * np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
            plane[row, column] = max(plane[row, column], value)


def slow_joints(xy, score, size, sigma=0.6, min_score=1e-3):
    people, frames, joints = score.shape
    volume = np.zeros((joints, frames, *size))
    for m, t, v in np.ndindex(people, frames, joints):
        if score[m, t, v] >= min_score and np.isfinite(xy[m, t, v]).all():
            slow_joint(volume[v, t], *map(float, xy[m, t, v]), float(score[m, t, v]), sigma)
    return volume


def slow_limbs(xy, score, limbs, size, sigma=0.6, min_score=1e-3):
    people, frames, _ = score.shape
    volume = np.zeros((len(limbs), frames, *size))
    for m, t, (i, (a, b)) in ((m, t, limb) for m in range(people) for t in range(frames) for limb in enumerate(limbs)):
        start, end, peak = xy[m, t, a], xy[m, t, b], min(score[m, t, a], score[m, t, b])
        if peak < min_score or not np.isfinite([start, end]).all():
            continue
        length2 = ((end - start) ** 2).sum()
        if length2 < 1:
            slow_joint(volume[i, t], *map(float, start), float(score[m, t, a]), sigma)
            continue
        for row in window(min(start[1], end[1]), max(start[1], end[1]), sigma, size[0]):
            for column in window(min(start[0], end[0]), max(start[0], end[0]), sigma, size[1]):
                point = np.array([column, row])
                along = np.clip(((point - start) @ (end - start)) / length2, 0, 1)
                distance2 = ((point - start - along * (end - start)) ** 2).sum()
                value = peak * np.exp(-distance2 / (2 * sigma**2))
                volume[i, t, row, column] = max(volume[i, t, row, column], value)
    return volume


def awkward_clip(people, frames=5, joints=17, seed=0):
    """Points inside, on the border, outside, NaN, infinite; zero and tiny scores; (0, 0) with a score."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-8, 38, (people, frames, joints, 2))
    score = rng.random((people, frames, joints)) * (rng.random((people, frames, joints)) > 0.2)
    if people:
        xy[0, 0, 0], xy[0, 0, 1, 0], xy[0, 1, 2] = np.nan, np.inf, 0
        xy[0, 2] = np.rint(xy[0, 2])
        score[0, 1, 2], score[0, 3, :3] = 1, (1e-3, 0.99e-3, 1e-4)
        xy[0, 4, 5] = xy[0, 4, 7] + 0.3  # a limb shorter than a pixel
        score[0, 4, 5], score[0, 4, 7] = 0.9, 0.2
    return xy, score


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize("sigma", [0.6, 0.7, 2.0])
def test_joints_equal_the_slow_method(people, sigma):
    xy, score = awkward_clip(people)
    ours = joint_volumes(xy, score, (24, 30), sigma=sigma)
    np.testing.assert_allclose(ours, slow_joints(xy, score, (24, 30), sigma), atol=1e-12)


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize("sigma", [0.6, 2.0])
def test_limbs_equal_the_slow_method(people, sigma):
    xy, score = awkward_clip(people)
    ours = limb_volumes(xy, score, COCO17.limbs, (24, 30), sigma=sigma)
    np.testing.assert_allclose(ours, slow_limbs(xy, score, COCO17.limbs, (24, 30), sigma), atol=1e-12)


def test_float32_stays_within_1e_6():
    xy, score = awkward_clip(2)
    ours = joint_volumes(xy.astype(np.float32), score.astype(np.float32), (24, 30))
    assert ours.dtype == np.float32
    # A window's edge may fall on either side of a pixel in float32; the Gaussian there is exp(-9/2) at most.
    difference = np.abs(ours - slow_joints(xy.astype(np.float32), score.astype(np.float32), (24, 30)))
    assert np.quantile(difference, 0.9999) < 1e-6


def test_one_joint_by_hand():
    volume = joint_volumes(np.array([[[[2.0, 1.0]]]]), np.array([[[0.5]]]), (4, 5), sigma=1.0)
    assert volume.shape == (1, 1, 4, 5)
    assert volume[0, 0, 1, 2] == 0.5
    assert volume[0, 0, 2, 3] == pytest.approx(0.5 * np.exp(-1))


def test_a_point_at_the_origin_with_a_score_is_drawn():
    assert joint_volumes(np.zeros((1, 1, 1, 2)), np.ones((1, 1, 1)), (4, 4))[0, 0, 0, 0] == 1


def test_a_short_limb_is_its_start_joint_with_the_start_score():
    xy, score = np.array([[[[2.0, 2.0], [2.5, 2.0]]]]), np.array([[[0.9, 0.2]]])
    limb = limb_volumes(xy, score, [(0, 1)], (5, 5))
    np.testing.assert_allclose(limb[0], joint_volumes(xy, score, (5, 5))[0])


def test_a_short_limb_with_a_missing_end_draws_nothing():
    xy, score = np.array([[[[2.0, 2.0], [2.5, 2.0]]]]), np.array([[[0.9, 0.0]]])
    assert not limb_volumes(xy, score, [(0, 1)], (5, 5)).any()


def test_a_batch_equals_its_clips():
    clips = [awkward_clip(2, seed=seed) for seed in range(3)]
    xy, score = (np.stack(parts) for parts in zip(*clips, strict=True))
    for draw in (joint_volumes, lambda *a: limb_volumes(a[0], a[1], COCO17.limbs, a[2])):
        batch = draw(xy, score, (24, 30))
        assert batch.shape == (3, 17, 5, 24, 30)
        for volume, clip in zip(batch, clips, strict=True):
            np.testing.assert_array_equal(volume, draw(*clip, (24, 30)))


def test_torch_in_torch_out_with_the_same_values():
    xy, score = awkward_clip(2)
    ours = joint_volumes(torch.from_numpy(xy), torch.from_numpy(score), (24, 30))
    assert isinstance(ours, torch.Tensor)
    np.testing.assert_array_equal(ours.numpy(), joint_volumes(xy, score, (24, 30)))


def test_views_with_negative_strides_are_taken():
    xy, score = awkward_clip(2)
    turned = joint_volumes(xy[:, ::-1], score[:, ::-1], (24, 30))
    np.testing.assert_array_equal(turned, joint_volumes(xy, score, (24, 30))[:, ::-1])


def test_out_is_overwritten_and_returned():
    xy, score = awkward_clip(1)
    out = np.full((17, 5, 24, 30), 7.0)
    assert joint_volumes(xy, score, (24, 30), out=out) is out
    np.testing.assert_array_equal(out, joint_volumes(xy, score, (24, 30)))


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"\(1, 5, 17, 2\) and \(1, 4, 17\)"):
        joint_volumes(np.zeros((1, 5, 17, 2)), np.zeros((1, 4, 17)), (8, 8))
    with pytest.raises(ValueError, match="V=5"):
        limb_volumes(np.zeros((1, 5, 5, 2)), np.zeros((1, 5, 5)), COCO17.limbs, (8, 8))
    with pytest.raises(ValueError, match="sigma must be positive"):
        joint_volumes(np.zeros((1, 5, 17, 2)), np.zeros((1, 5, 17)), (8, 8), sigma=0)


clips = st.builds(awkward_clip, st.integers(1, 3), st.integers(5, 6), st.just(17), st.integers(0, 99))


@settings(max_examples=15, deadline=None)
@given(clips, st.randoms())
def test_the_order_of_people_does_not_matter(clip, random):
    xy, score = clip
    order = list(range(len(xy)))
    random.shuffle(order)
    np.testing.assert_array_equal(joint_volumes(xy, score, (24, 30)), joint_volumes(xy[order], score[order], (24, 30)))


@settings(max_examples=15, deadline=None)
@given(clips)
def test_another_person_never_lowers_a_pixel(clip):
    xy, score = clip
    one = limb_volumes(xy[:1], score[:1], COCO17.limbs, (24, 30))
    assert (limb_volumes(xy, score, COCO17.limbs, (24, 30)) >= one).all()
