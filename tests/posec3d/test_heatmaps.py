"""Volumes against a slow float64 implementation of the published method, and the properties they must have."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from posec3d import heatmaps
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


PATHS = ("compiled", "torch", "torch, float64")


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    """What draws, and how near it must come to the slow method: the CPU's kernel, or torch, as where there is none."""
    if request.param == "torch":
        monkeypatch.setattr(heatmaps, "_kernel", lambda device: None)
    wide = request.param == "torch, float64"
    return (np.float64, 1e-12) if wide else (np.float32, 1e-6)


# Windows of one pixel and of the whole canvas; canvases narrower than the kernel's 16 lanes, and of odd sides.
SIGMAS = (0.05, 0.3, 0.6, 0.7, 2.0, 9.0)
SIZES = ((24, 30), (30, 24), (5, 3), (1, 1), (16, 16), (7, 17), (40, 33))


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize(("sigma", "size"), [*((s, SIZES[0]) for s in SIGMAS), *((0.6, size) for size in SIZES[1:])])
def test_joints_equal_the_slow_method(people, sigma, size, path):
    dtype, near = path
    xy, score = (array.astype(dtype) for array in awkward_clip(people))
    ours = joint_volumes(xy, score, size, sigma=sigma)
    assert ours.dtype == dtype
    np.testing.assert_allclose(ours, slow_joints(xy.astype(float), score.astype(float), size, sigma), atol=near, rtol=0)


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize(("sigma", "size"), [*((s, SIZES[0]) for s in SIGMAS), *((0.6, size) for size in SIZES[1:])])
def test_limbs_equal_the_slow_method(people, sigma, size, path):
    dtype, near = path
    xy, score = (array.astype(dtype) for array in awkward_clip(people, frames=5))
    ours = limb_volumes(xy, score, COCO17.limbs, size, sigma=sigma)
    assert ours.dtype == dtype
    slow = slow_limbs(xy.astype(float), score.astype(float), COCO17.limbs, size, sigma)
    np.testing.assert_allclose(ours, slow, atol=near, rtol=0)


def test_long_limbs_of_every_direction_equal_the_slow_method(path):
    dtype, near = path
    angle = np.linspace(0, 2 * np.pi, 49)[:, None]
    spokes = np.array([40.3, 29.8]) + np.array([70, 55]) * np.hstack([np.cos(angle), np.sin(angle)])  # 180 px wide
    xy = np.stack([np.broadcast_to([40.3, 29.8], spokes.shape), spokes], 1)[None].astype(dtype)
    score = np.ones(xy.shape[:3], dtype)
    ours = limb_volumes(xy, score, [(0, 1)], (60, 180))
    slow = slow_limbs(xy.astype(float), score, [(0, 1)], (60, 180))
    assert (slow > 0.5).sum() > 1000
    np.testing.assert_allclose(ours, slow, atol=near, rtol=0)


@pytest.mark.parametrize("far", [60.0, 1e4, 1e8, 1e12, np.inf, np.nan])
def test_points_far_outside_draw_what_of_them_lies_inside(far, path):
    dtype, near = path
    xy = np.array([[[[far, 7.0], [-far, 7.2], [5.0, 7.0]]]], dtype)
    score = np.ones((1, 1, 3), dtype)
    limbs = [(2, 0), (1, 2), (0, 1)]
    assert not joint_volumes(xy, score, (20, 20))[:2].any()
    ours = limb_volumes(xy, score, limbs, (20, 20))
    if far > 1e9 or np.isnan(far):  # such a point is none
        assert not ours.any()
    else:
        slow = slow_limbs(np.clip(xy.astype(float), -1e4, 1e4), score, limbs, (20, 20))
        np.testing.assert_allclose(ours[0], slow[0], atol=near, rtol=0)  # along the axis: no slope to round
        assert ours[1].max() == pytest.approx(1, abs=1e-3)


def test_float32_limbs_by_torch_and_by_the_kernel_are_the_same(monkeypatch):
    clips = [awkward_clip(3, frames=20, seed=seed) for seed in range(4)]
    xy, score = (torch.tensor(np.stack(parts), dtype=torch.float32) for parts in zip(*clips, strict=True))
    ours = joint_volumes(xy, score, (24, 30)), limb_volumes(xy, score, COCO17.limbs, (24, 30))
    monkeypatch.setattr(heatmaps, "_kernel", lambda device: None)
    torch.testing.assert_close(joint_volumes(xy, score, (24, 30)), ours[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(limb_volumes(xy, score, COCO17.limbs, (24, 30)), ours[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "near"),
    [(np.float16, 2**-12), (np.float32, 1e-6), (np.float64, 1e-6), (np.uint8, 0.501)],
)
@pytest.mark.parametrize("size", [(24, 30), (9, 11)])
def test_out_decides_the_precision(dtype, near, size):
    xy, score = (array.astype(np.float32) for array in awkward_clip(2))
    slow = slow_joints(xy.astype(float), score.astype(float), size)
    out = np.full(slow.shape, 7, dtype)
    assert joint_volumes(xy, score, size, out=out) is out
    slow = slow * 255 if dtype == np.uint8 else slow
    np.testing.assert_allclose(out.astype(float), slow, atol=near, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.uint8])
@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_out_decides_the_memory_format(dtype, kind, path):
    clips = [awkward_clip(2, seed=seed) for seed in range(3)]
    xy, score = (torch.tensor(np.stack(parts), dtype=torch.float32) for parts in zip(*clips, strict=True))

    def draw(out=None):
        if kind == "joint":
            return joint_volumes(xy, score, (24, 30), out=out)
        return limb_volumes(xy, score, COCO17.limbs, (24, 30), out=out)

    out = torch.full((3, 17, 5, 24, 30), 7, dtype=dtype).contiguous(memory_format=torch.channels_last_3d)
    assert draw(out) is out
    wanted = draw()
    wanted = (wanted * 255).round() if dtype == torch.uint8 else wanted
    torch.testing.assert_close(out, wanted.to(dtype), atol=0, rtol=0)


def test_out_may_be_a_part_of_something_larger():
    xy, score = (array.astype(np.float32) for array in awkward_clip(2))
    whole = np.full((2, 3, 17, 5, 24, 40), 7, np.float32)  # axes that no view can merge
    clips, scores = np.stack([[xy] * 2] * 2), np.stack([[score] * 2] * 2)
    joint_volumes(clips, scores, (24, 30), out=whole[:2, :2, ..., 3:33])
    np.testing.assert_array_equal(whole[1, 0, ..., 3:33], joint_volumes(xy, score, (24, 30)))
    assert (whole[..., :3] == 7).all() and (whole[..., 33:] == 7).all() and (whole[:, 2] == 7).all()


@pytest.mark.parametrize("threads", [2, 3, 100])
def test_threads_share_the_work(threads):
    clips = [awkward_clip(2, seed=seed) for seed in range(3)]
    xy, score = (np.stack(parts).astype(np.float32) for parts in zip(*clips, strict=True))
    for out in (None, np.empty((3, 17, 5, 24, 30), np.float16)):
        ours = limb_volumes(xy, score, COCO17.limbs, (24, 30), out=out, threads=threads)
        np.testing.assert_array_equal(ours, limb_volumes(xy, score, COCO17.limbs, (24, 30)).astype(ours.dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_that_may_not_be_written_are_taken(dtype):
    xy, score = (array.astype(dtype) for array in awkward_clip(2))
    wanted = joint_volumes(xy, score, (24, 30))
    xy.flags.writeable = score.flags.writeable = False  # as Ray's are
    np.testing.assert_array_equal(joint_volumes(xy, score, (24, 30)), wanted)
    out = np.empty(wanted.shape, np.float32)
    np.testing.assert_allclose(joint_volumes(xy, score, (24, 30), out=out), wanted, atol=1e-6)


@pytest.mark.parametrize("shape", [(0, 2, 5), (2, 0, 5), (2, 3, 0)], ids=["no clips", "no people", "no frames"])
def test_nothing_draws_nothing(shape, path):
    clips, people, frames = shape
    xy, score = np.zeros((clips, people, frames, 17, 2), path[0]), np.ones((clips, people, frames, 17), path[0])
    volume = joint_volumes(xy, score, (24, 30))
    assert volume.shape == (clips, 17, frames, 24, 30) and not volume.any()


@pytest.mark.parametrize("least", [1e-4, 1e-3, 0.3])
def test_a_score_equal_to_the_least_is_drawn(least, path):
    xy, score = np.full((1, 1, 1, 2), 3.0, path[0]), np.full((1, 1, 1), least, path[0])
    assert joint_volumes(xy, score, (7, 7), min_score=least)[0, 0, 3, 3] == path[0](least)


def test_threads_draw_in_inference_mode_too():
    xy, score = (torch.tensor(array, dtype=torch.float32) for array in awkward_clip(2))
    with torch.inference_mode():
        out = torch.empty(1, 17, 5, 24, 30).contiguous(memory_format=torch.channels_last_3d)
        joint_volumes(xy[None], score[None], (24, 30), out=out, threads=3)
    torch.testing.assert_close(out[0].clone(), joint_volumes(xy, score, (24, 30)))


def test_bfloat16_coordinates_are_taken():
    xy, score = (torch.tensor(array, dtype=torch.bfloat16) for array in awkward_clip(1))
    ours = joint_volumes(xy, score, (24, 30))
    torch.testing.assert_close(ours, joint_volumes(xy.float(), score.float(), (24, 30)))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((17, 5, 8, 9), np.float32), r"out has shape \(17, 5, 8, 9\), wanted \(17, 5, 8, 8\)"),
        (np.zeros((17, 5, 8, 8), np.int32), "out has dtype int32, wanted float32"),
        (torch.zeros(17, 5, 8, 8), "out is a tensor on cpu, xy is a NumPy array"),
        (np.zeros((17, 5, 8, 8))[:, ::-1], "out has strides .*, wanted none below 0"),
    ],
)
def test_an_out_that_does_not_fit_is_named(out, message):
    xy, score = awkward_clip(1)
    with pytest.raises(ValueError, match=message):
        joint_volumes(xy, score, (8, 8), out=out)


def test_one_joint_by_hand(path):
    dtype, _ = path
    volume = joint_volumes(np.array([[[[2.0, 1.0]]]], dtype), np.array([[[0.5]]], dtype), (4, 5), sigma=1.0)
    assert volume.shape == (1, 1, 4, 5)
    assert volume[0, 0, 1, 2] == 0.5
    assert volume[0, 0, 2, 3] == pytest.approx(0.5 * np.exp(-1))


def test_a_point_at_the_origin_with_a_score_is_drawn(path):
    dtype, _ = path
    assert joint_volumes(np.zeros((1, 1, 1, 2), dtype), np.ones((1, 1, 1), dtype), (4, 4))[0, 0, 0, 0] == 1


def test_a_short_limb_is_its_start_joint_with_the_start_score(path):
    dtype, _ = path
    xy, score = np.array([[[[2.0, 2.0], [2.5, 2.0]]]], dtype), np.array([[[0.9, 0.2]]], dtype)
    limb = limb_volumes(xy, score, [(0, 1)], (5, 5))
    np.testing.assert_allclose(limb[0], joint_volumes(xy, score, (5, 5))[0])


def test_a_short_limb_with_a_missing_end_draws_nothing(path):
    dtype, _ = path
    xy, score = np.array([[[[2.0, 2.0], [2.5, 2.0]]]], dtype), np.array([[[0.9, 0.0]]], dtype)
    assert not limb_volumes(xy, score, [(0, 1)], (5, 5)).any()


def test_a_batch_equals_its_clips(path):
    dtype, _ = path
    clips = [tuple(array.astype(dtype) for array in awkward_clip(2, seed=seed)) for seed in range(3)]
    xy, score = (np.stack(parts) for parts in zip(*clips, strict=True))
    for draw in (joint_volumes, lambda *a: limb_volumes(a[0], a[1], COCO17.limbs, a[2])):
        batch = draw(xy, score, (24, 30))
        assert batch.shape == (3, 17, 5, 24, 30)
        for volume, clip in zip(batch, clips, strict=True):
            np.testing.assert_array_equal(volume, draw(*clip, (24, 30)))


def test_torch_in_torch_out_with_the_same_values(path):
    xy, score = (array.astype(path[0]) for array in awkward_clip(2))
    ours = joint_volumes(torch.from_numpy(xy), torch.from_numpy(score), (24, 30))
    assert isinstance(ours, torch.Tensor)
    np.testing.assert_array_equal(ours.numpy(), joint_volumes(xy, score, (24, 30)))


def test_views_with_negative_strides_are_taken(path):
    xy, score = (array.astype(path[0]) for array in awkward_clip(2))
    turned = joint_volumes(xy[:, ::-1], score[:, ::-1], (24, 30))
    np.testing.assert_array_equal(turned, joint_volumes(xy, score, (24, 30))[:, ::-1])


def test_out_is_overwritten_and_returned(path):
    xy, score = (array.astype(path[0]) for array in awkward_clip(1))
    out = np.full((17, 5, 24, 30), 7.0, path[0])
    assert joint_volumes(xy, score, (24, 30), out=out) is out
    np.testing.assert_array_equal(out, joint_volumes(xy, score, (24, 30)))


def test_shapes_that_disagree_are_named():
    with pytest.raises(ValueError, match=r"\(1, 5, 17, 2\) and \(1, 4, 17\)"):
        joint_volumes(np.zeros((1, 5, 17, 2)), np.zeros((1, 4, 17)), (8, 8))
    with pytest.raises(ValueError, match="V=5"):
        limb_volumes(np.zeros((1, 5, 5, 2)), np.zeros((1, 5, 5)), COCO17.limbs, (8, 8))
    with pytest.raises(ValueError, match="sigma must be positive"):
        joint_volumes(np.zeros((1, 5, 17, 2)), np.zeros((1, 5, 17)), (8, 8), sigma=0)


# ---- Properties, of float32 clips and so of the compiled kernel.


def float32_clip(*args):
    return tuple(array.astype(np.float32) for array in awkward_clip(*args))


clips = st.builds(float32_clip, st.integers(1, 3), st.integers(5, 6), st.just(17), st.integers(0, 10_000))
kinds = st.sampled_from([joint_volumes, lambda xy, score, size: limb_volumes(xy, score, COCO17.limbs, size)])


@settings(max_examples=20, deadline=None)
@given(clips, kinds, st.randoms())
def test_the_order_of_people_does_not_matter(clip, draw, random):
    xy, score = clip
    order = list(range(len(xy)))
    random.shuffle(order)
    np.testing.assert_array_equal(draw(xy, score, (24, 30)), draw(xy[order], score[order], (24, 30)))


@settings(max_examples=20, deadline=None)
@given(clips, kinds)
def test_another_person_never_lowers_a_pixel(clip, draw):
    xy, score = clip
    assert (draw(xy, score, (24, 30)) >= draw(xy[:1], score[:1], (24, 30))).all()


@settings(max_examples=20, deadline=None)
@given(clips, kinds, st.integers(0, 9), st.integers(0, 9))
def test_whole_pixels_of_translation_translate(clip, draw, right, down):
    xy, score = clip
    # Windows that neither canvas cuts, no int() that rounds up, and sums that float32 holds exactly.
    xy = np.rint(np.nan_to_num(xy, posinf=20) * 256) / np.float32(256) + 10
    moved = draw(xy + np.array([right, down], np.float32), score, (70, 70))
    still = draw(xy, score, (70, 70))
    np.testing.assert_allclose(moved[..., down:, right:], still[..., : 70 - down, : 70 - right], atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=3), kinds)
def test_a_batch_equals_its_singles(seeds, draw):
    singles = [float32_clip(2, 5, 17, seed) for seed in seeds]
    xy, score = (np.stack(parts) for parts in zip(*singles, strict=True))
    for volume, (points, peak) in zip(draw(xy, score, (24, 30)), singles, strict=True):
        np.testing.assert_array_equal(volume, draw(points, peak, (24, 30)))


def test_without_a_compiler_torch_draws_and_says_so(caplog):
    def draw(*_):
        raise RuntimeError("Failed to find C compiler.")

    assert not heatmaps._draws(SimpleNamespace(draw=draw), "cpu")
    assert "Triton does not compile here (Failed to find C compiler.): torch draws" in caplog.text
    assert heatmaps._draws(SimpleNamespace(draw=lambda *_: None), "cpu")
