"""The GPU's kernels against the CPU's: on a GPU where there is one, else in Triton's interpreter, by `make triton`."""

import importlib.util

import numpy as np
import pytest
import torch
from test_heatmaps import awkward_clip

from posec3d.heatmaps import joint_volumes, limb_volumes
from posec3d.skeletons import COCO17

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning"),  # the interpreter's, of NaN in NumPy
]
JOINTS = [(joint, joint) for joint in range(17)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def draw():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: make triton")
    from posec3d import heatmaps_cuda

    return heatmaps_cuda.draw


def batch(people, frames=5):
    clips = [awkward_clip(people, frames, seed=seed) for seed in range(2)]
    return tuple(torch.tensor(np.stack(parts), dtype=torch.float32) for parts in zip(*clips, strict=True))


def on_device(draw, xy, score, limbs, size, sigma=0.6, dtype=torch.float32, memory_format=torch.contiguous_format):
    out = torch.full((len(xy), len(limbs), xy.shape[2], *size), 7, dtype=dtype, device=DEVICE)
    out = out.contiguous(memory_format=memory_format)
    draw(xy.to(DEVICE), score.to(DEVICE), limbs, sigma, 1e-3, out)
    return out.cpu()


@pytest.mark.parametrize("people", [0, 1, 3])
@pytest.mark.parametrize(("sigma", "size"), [(0.3, (24, 30)), (0.6, (24, 30)), (2.0, (17, 5)), (9.0, (1, 33))])
def test_both_devices_draw_the_same(draw, people, sigma, size):
    xy, score = batch(people)
    joints = on_device(draw, xy, score, JOINTS, size, sigma)
    torch.testing.assert_close(joints, joint_volumes(xy, score, size, sigma=sigma), atol=1e-5, rtol=0)
    limbs = on_device(draw, xy, score, COCO17.limbs, size, sigma)
    torch.testing.assert_close(limbs, limb_volumes(xy, score, COCO17.limbs, size, sigma=sigma), atol=1e-5, rtol=0)


@pytest.mark.parametrize("far", [100.0, 1e5, 1e8, 1e12])
def test_limbs_that_begin_far_outside_are_the_same(draw, far):
    xy = torch.tensor([[[[[far, 7.3], [-far, 7.2], [5.0, 7.0], [0.4 * far, far]]]]])
    score, limbs = torch.ones(1, 1, 1, 4), [(2, 0), (1, 2), (2, 3), (0, 1)]
    ours = on_device(draw, xy, score, limbs, (20, 20))
    assert ours.any() == (far < 1e9)
    torch.testing.assert_close(ours, limb_volumes(xy, score, limbs, (20, 20)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_any_precision_and_memory_format(draw, dtype, memory_format):
    xy, score = batch(2)
    ours = on_device(draw, xy, score, COCO17.limbs, (24, 30), dtype=dtype, memory_format=memory_format)
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=memory_format)
    wanted = limb_volumes(xy, score, COCO17.limbs, (24, 30))
    bfloat16 = 2**-9 if DEVICE == "cuda" else 2**-8  # the interpreter truncates, no GPU does
    near = {torch.uint8: 0.501, torch.bfloat16: bfloat16, torch.float16: 2**-12}.get(dtype, 1e-5)
    wanted = wanted * 255 if dtype == torch.uint8 else wanted
    torch.testing.assert_close(ours.float(), wanted, atol=near + 1e-5, rtol=0)


def test_a_part_of_a_larger_tensor_is_drawn_and_nothing_else(draw):
    xy, score = batch(1)
    whole = torch.full((2, 17, 5, 24, 40), 7.0, device=DEVICE)
    draw(xy.to(DEVICE), score.to(DEVICE), JOINTS, 0.6, 1e-3, whole[..., 3:33])
    torch.testing.assert_close(whole[..., 3:33].cpu(), joint_volumes(xy, score, (24, 30)), atol=1e-5, rtol=0)
    assert (whole[..., :3] == 7).all() and (whole[..., 33:] == 7).all()


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU: torch sees no CUDA device")
@pytest.mark.parametrize("kind", ["joint", "limb"])
def test_volumes_of_tensors_on_a_gpu_are_drawn_there(kind):
    xy, score = (array.to(DEVICE) for array in batch(3))
    volume = joint_volumes(xy, score, (24, 30)) if kind == "joint" else limb_volumes(xy, score, COCO17.limbs, (24, 30))
    assert volume.device.type == DEVICE
    wanted = joint_volumes(xy.cpu(), score.cpu(), (24, 30))
    wanted = limb_volumes(xy.cpu(), score.cpu(), COCO17.limbs, (24, 30)) if kind == "limb" else wanted
    torch.testing.assert_close(volume.cpu(), wanted, atol=1e-5, rtol=0)
