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

from posec3d.movenet import network
from posec3d.movenet_torch import BoxNet, PoseNet, _Conv
from posec3d.weights import movenet_folder

ROOT = Path(__file__).resolve().parents[2]


def blobs(*shape, seed):
    """Smooth random pictures, (B, H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (shape[0], 8, 8, 3), np.uint8)
    return np.stack([cv2.resize(image, shape[2:0:-1], interpolation=cv2.INTER_CUBIC) for image in coarse])


def run(network, images):
    return onnxruntime.InferenceSession(network.files["model.onnx"]).run(None, {"images": images})


@pytest.fixture(scope="module")
def pose(movenet):
    return PoseNet(movenet[1].files["graph.json"], movenet[1].files["weights.bin"])


@pytest.fixture(scope="module")
def boxes(movenet):
    return BoxNet(movenet[0].files["graph.json"], movenet[0].files["weights.bin"])


@pytest.mark.parametrize(("name", "side"), [("movenet-thunder", 256), ("movenet-lightning", 192)])
@torch.inference_mode()
def test_onnx_pose_is_torch_pose_to_a_tenth_of_a_pixel(movenet, name, side):
    ours, crops = network(name), blobs(3, side, side, seed=0)
    torch_pose = PoseNet(ours.files["graph.json"], ours.files["weights.bin"])
    people, heatmaps = torch_pose(torch.from_numpy(crops))
    exported, exported_maps = run(ours, crops)
    assert people.shape == (3, 17, 3) and heatmaps.shape == (3, 17, side // 4, side // 4)
    np.testing.assert_allclose(exported[..., :2], people[..., :2], atol=0.1)
    np.testing.assert_allclose(exported[..., 2], people[..., 2], atol=1e-4)
    np.testing.assert_allclose(exported_maps, heatmaps, atol=1e-4)


@pytest.mark.parametrize("size", [(256, 256), (160, 256), (256, 96)])
@torch.inference_mode()
def test_onnx_boxes_are_torch_boxes_at_any_multiple_of_32(movenet, boxes, size):
    images = blobs(2, *size, seed=1)
    ours, exported = boxes(torch.from_numpy(images)).numpy(), run(movenet[0], images)[0]
    assert ours.shape == (2, 20, 5)
    np.testing.assert_allclose(exported[:, :3], ours[:, :3], atol=0.1)  # further down scores are equal


@torch.inference_mode()
def test_crops_of_a_batch_do_not_see_each_other(movenet):
    crops = blobs(3, 256, 256, seed=2)
    alone = np.concatenate([run(movenet[1], crops[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(run(movenet[1], crops)[0], alone, atol=0.1)


@torch.inference_mode()
def test_float_and_uint8_pictures_give_the_same(pose):
    crops = torch.from_numpy(blobs(1, 256, 256, seed=3))
    torch.testing.assert_close(pose(crops)[0], pose(crops.float())[0])


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


def test_networks_are_exported_once(movenet):
    before = {path: path.stat().st_mtime_ns for path in movenet_folder().glob("*.onnx")}
    assert network("movenet-thunder") == movenet[1]
    assert {path: path.stat().st_mtime_ns for path in movenet_folder().glob("*.onnx")} == before


def test_workers_that_run_the_networks_on_the_cpu_do_not_load_torch():
    code = "import sys, posec3d.estimators; print({'torch', 'ray', 'transformers', 'mmpose'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
