"""Pose-SlowOnly: published sizes, and a forward pass worked out by other means."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from posec3d.models import create


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "wanted"),
    [
        ("pose-slowonly", 60, 2_024_860),
        ("pose-slowonly", 99, 2_044_867),
        ("pose-slowonly", 120, 2_055_640),
        ("pose-slowonly", 400, 2_199_280),
        ("pose-slowonly-light", 60, 523_756),
        ("pose-slowonly-light", 8, 510_392),
    ],
)
def test_parameter_counts_are_the_published_ones(name, classes, wanted):
    with torch.device("meta"):
        assert parameters(create(name, classes)) == wanted


@pytest.mark.parametrize(
    ("name", "shape", "gmacs"),
    [
        ("pose-slowonly", (48, 56, 56), 15.631),
        ("pose-slowonly", (48, 64, 64), 20.416),
        ("pose-slowonly", (32, 56, 56), 10.421),
        ("pose-slowonly-light", (48, 56, 56), 4.911),
    ],
)
def test_multiplications_are_the_published_ones(name, shape, gmacs):
    with torch.device("meta"):
        model, volume = create(name, 60), torch.empty(1, 17, *shape)
        with FlopCounterMode(display=False) as counter:
            model(volume)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=5e-4)


def test_feature_shapes_are_those_of_the_paper():
    model = create("pose-slowonly", 60).to("meta")
    shapes = {}
    for name in ("conv1", "pool", "layer1", "layer2", "layer3"):
        model.get_submodule(name).register_forward_hook(
            lambda _m, _i, o, n=name: shapes.update({n: tuple(o.shape[1:])})
        )
    assert model(torch.empty(1, 17, 48, 56, 56, device="meta")).shape == (1, 60)
    assert shapes == {
        "conv1": (32, 48, 56, 56),
        "pool": (32, 48, 56, 56),
        "layer1": (128, 48, 28, 28),
        "layer2": (256, 48, 14, 14),
        "layer3": (512, 24, 7, 7),
    }


def test_a_new_block_is_the_identity_and_a_new_head_is_small():
    model = create("pose-slowonly-light", 5)
    block = model.layer2[1].eval()
    x = torch.rand(1, 128, 4, 6, 6)
    torch.testing.assert_close(block(x), x)
    assert not model.fc_cls.bias.any()
    assert model.fc_cls.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_memory_layout_does_not_change_the_logits():
    torch.manual_seed(0)
    model = create("pose-slowonly-light", 5).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    volume = torch.rand(2, 17, 8, 16, 16)
    plain = model(volume)
    model.to(memory_format=torch.channels_last_3d)
    last = model(volume.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'slow'; known: pose-slowonly, pose-slowonly-light"):
        create("slow", 5)
