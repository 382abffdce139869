"""The networks: one definition, the same numbers in torch and in onnxruntime."""

import base64
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from posec3d.movenet import MoveNetBoxes, MoveNetPose, _Conv, onnx_models
from posec3d.weights import movenet_files, movenet_folder

ROOT = Path(__file__).resolve().parents[2]


def blobs(*shape, seed):
    """Smooth random pictures, (B, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (shape[0], 8, 8, 3), np.uint8)
    return np.stack([cv2.resize(image, shape[2:0:-1], interpolation=cv2.INTER_CUBIC) for image in coarse])


def run(model, images):
    return onnxruntime.InferenceSession(model).run(None, {"images": images})[0]


@pytest.fixture(scope="module")
def pose(movenet):
    return MoveNetPose(movenet_files()["movenet-thunder.json"])


@pytest.fixture(scope="module")
def boxes(movenet):
    return MoveNetBoxes(movenet_files()["movenet-multipose.json"])


@torch.inference_mode()
def test_onnx_pose_is_torch_pose_to_a_tenth_of_a_pixel(movenet, pose):
    crops = blobs(3, 256, 256, seed=0)
    ours, exported = pose(torch.from_numpy(crops)).numpy(), run(movenet.pose, crops)
    assert ours.shape == (3, 17, 3)
    np.testing.assert_allclose(exported[..., :2], ours[..., :2], atol=0.1)
    np.testing.assert_allclose(exported[..., 2], ours[..., 2], atol=1e-4)


@pytest.mark.parametrize("size", [(256, 256), (160, 256), (256, 96)])
@torch.inference_mode()
def test_onnx_boxes_are_torch_boxes_at_any_multiple_of_32(movenet, boxes, size):
    images = blobs(2, *size, seed=1)
    ours, exported = boxes(torch.from_numpy(images)).numpy(), run(movenet.detector, images)
    assert ours.shape == (2, 20, 5)
    np.testing.assert_allclose(exported[:, :3], ours[:, :3], atol=0.1)  # further down scores are equal


@torch.inference_mode()
def test_crops_of_a_batch_do_not_see_each_other(movenet):
    crops = blobs(3, 256, 256, seed=2)
    alone = np.concatenate([run(movenet.pose, crops[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(run(movenet.pose, crops), alone, atol=0.1)


@torch.inference_mode()
def test_float_and_uint8_pictures_give_the_same(pose):
    crops = torch.from_numpy(blobs(1, 256, 256, seed=3))
    torch.testing.assert_close(pose(crops), pose(crops.float()))


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (5, 1), (3, 2), (5, 2), (1, 2)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_convolution_pads_as_tensorflow_does(kernel_size, stride, depthwise):
    rng = np.random.default_rng(kernel_size)
    image, bias = rng.normal(size=(3, 8, 8)), rng.normal(size=3)
    kernel = rng.normal(size=(kernel_size, kernel_size, 3, 1 if depthwise else 3))
    node = {
        "op": "FusedDepthwiseConv2dNative" if depthwise else "_FusedConv2D",
        "attr": {
            "padding": {"s": base64.b64encode(b"SAME").decode()},
            "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
            "fused_ops": {"list": {"s": [base64.b64encode(s).decode() for s in (b"BiasAdd", b"Relu6")]}},
        },
    }
    layer = _Conv(node, kernel.astype(np.float32), bias.astype(np.float32))
    got = layer(torch.from_numpy(image[None]).float()).numpy()[0]

    # TensorFlow's definition, slowly: ceil(8 / stride) outputs; of the padding the smaller half comes first.
    size = -(-8 // stride)
    before = max((size - 1) * stride + kernel_size - 8, 0) // 2
    padded = np.zeros((3, 20, 20))
    padded[:, before : before + 8, before : before + 8] = image
    wanted = np.zeros((3, size, size))
    for i in range(size):
        for j in range(size):
            y, x = i * stride, j * stride
            window = padded[:, y : y + kernel_size, x : x + kernel_size]
            sums = "cyx,yxc->c" if depthwise else "cyx,yxco->o"
            wanted[:, i, j] = np.einsum(sums, window, kernel[..., 0] if depthwise else kernel) + bias
    np.testing.assert_allclose(got, wanted.clip(0, 6), atol=1e-5)


def test_exported_networks_are_read_from_the_cache_without_npm(movenet, monkeypatch, tmp_path):
    for exported in movenet_folder().glob("*.onnx"):
        (tmp_path / "movenet").mkdir(exist_ok=True)
        (tmp_path / "movenet" / exported.name).symlink_to(exported)
    monkeypatch.setenv("POSEC3D_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    assert onnx_models() == movenet


def test_workers_that_run_the_networks_do_not_load_torch():
    code = "import sys, posec3d.pose; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
