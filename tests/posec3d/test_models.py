"""The 3D-CNNs: published sizes and shapes, how they begin, and that they learn."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from posec3d.models import create


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def gmacs_of(model, x):
    """Billions of multiplications; published to three places."""
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("name", "classes", "wanted"),
    [
        ("pose-slowonly", 60, 2_024_860),
        ("pose-slowonly", 99, 2_044_867),
        ("pose-slowonly", 120, 2_055_640),
        ("pose-slowonly", 400, 2_199_280),
        ("pose-slowonly-light", 60, 523_756),
        ("pose-slowonly-light", 8, 510_392),
        ("pose-slowonly-346", 60, 3_034_140),
        ("pose-slowonly-346", 99, 3_054_147),
        ("pose-slowonly-346", 120, 3_064_920),
        ("pose-slowonly-346", 400, 3_208_560),
        ("pose-pathway", 60, 2_024_860),
        ("rgb-slowonly", 60, 31_757_436),
        ("rgbpose-slowfast", 60, 36_147_928),
        ("c3d-light", 60, 3_404_892),
        ("x3d-shallow", 60, 254_508),
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
        ("pose-slowonly-346", (48, 56, 56), 14.494),
        ("pose-slowonly-346", (48, 64, 64), 18.931),
        ("pose-pathway", (48, 56, 56), 16.999),
        ("pose-pathway", (32, 56, 56), 11.333),
        ("c3d-light", (48, 56, 56), 16.777),
        ("c3d-light", (48, 48, 48), 12.326),
        ("x3d-shallow", (48, 56, 56), 0.569),
        ("x3d-shallow", (48, 64, 64), 0.709),
    ],
)
def test_multiplications_are_the_published_ones(name, shape, gmacs):
    with torch.device("meta"):
        assert gmacs_of(create(name, 60), torch.empty(1, 17, *shape)) == pytest.approx(gmacs, abs=5.1e-4)


@pytest.mark.parametrize(
    ("frames", "volume", "gmacs"),
    [
        ((8, 224, 224), None, 41.740),
        ((8, 224, 224), (32, 56, 56), 58.005),
        ((8, 256, 256), (32, 64, 64), 75.762),
    ],
)
def test_multiplications_of_rgb_are_the_published_ones(frames, volume, gmacs):
    with torch.device("meta"):
        if volume is None:
            found = gmacs_of(create("rgb-slowonly", 60), torch.empty(1, 3, *frames))
        else:
            batch = torch.empty(1, 3, *frames), torch.empty(1, 17, *volume)
            found = gmacs_of(create("rgbpose-slowfast", 60), batch)
    assert found == pytest.approx(gmacs, abs=5.1e-4)


def test_the_light_ones_are_for_two_cores():
    """As docs/models.md and `create` say."""
    with torch.device("meta"):
        frames, volume = torch.empty(1, 3, 8, 112, 112), torch.empty(1, 17, 32, 28, 28)
        for name, x, size, gmacs in (
            ("rgb-slowonly-light", frames, 1_155_724, 0.436),
            ("pose-pathway-light", volume, 523_756, 0.910),
            ("rgbpose-slowfast-light", (frames, volume), 2_011_048, 1.526),
        ):
            model = create(name, 60)
            assert parameters(model) == size and gmacs_of(model, x) == pytest.approx(gmacs, abs=5.1e-4)


def output_shapes(model, parts):
    """Filled as the model runs: name of a part -> shape of its output, without N."""
    shapes = {}
    for part in parts:
        model.get_submodule(part).register_forward_hook(
            lambda _m, _i, o, n=part: shapes.update({n: tuple(o.shape[1:])})
        )
    return shapes


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        (
            "pose-slowonly",
            {
                "conv1": (32, 48, 56, 56),
                "pool": (32, 48, 56, 56),
                "layer1": (128, 48, 28, 28),
                "layer2": (256, 48, 14, 14),
                "layer3": (512, 24, 7, 7),
            },
        ),
        ("c3d-light", {"conv1a": (32, 48, 56, 56), "conv3b": (128, 48, 14, 14), "conv4b": (256, 48, 7, 7)}),
        (
            "x3d-shallow",
            {
                "conv1_t": (24, 48, 28, 28),
                "layer1": (24, 48, 14, 14),
                "layer2": (48, 48, 7, 7),
                "layer3": (96, 48, 4, 4),
                "conv5": (216, 48, 4, 4),
            },
        ),
    ],
)
def test_feature_shapes_are_those_of_the_paper(name, wanted):
    model = create(name, 60).to("meta")
    shapes = output_shapes(model, wanted)
    assert model(torch.empty(1, 17, 48, 56, 56, device="meta")).shape == (1, 60)
    assert shapes == wanted


def test_rgb_feature_shapes_are_those_of_the_published_network():
    model = create("rgbpose-slowfast", 60).to("meta")
    wanted = {
        "rgb_path.pool": (64, 8, 56, 56),
        "rgb_path.layer1": (256, 8, 56, 56),
        "rgb_path.layer2": (512, 8, 28, 28),
        "rgb_path.layer3": (1024, 8, 14, 14),
        "rgb_path.layer4": (2048, 8, 7, 7),
        "pose_path.layer1": (128, 32, 28, 28),
        "pose_path.layer2": (256, 32, 14, 14),
        "pose_path.layer3": (512, 32, 7, 7),
        "pose_to_rgb.0": (128, 8, 28, 28),
        "pose_to_rgb.1": (256, 8, 14, 14),
        "rgb_to_pose.0": (32, 32, 28, 28),
        "rgb_to_pose.1": (64, 32, 14, 14),
    }
    shapes = output_shapes(model, wanted)
    model((torch.empty(1, 3, 8, 224, 224, device="meta"), torch.empty(1, 17, 32, 56, 56, device="meta")))
    assert shapes == wanted


@pytest.mark.parametrize(
    "name", ["pose-slowonly", "pose-slowonly-346", "pose-slowonly-light", "c3d-light", "x3d-shallow"]
)
def test_sixteen_clips_are_learnt_by_heart(name):
    torch.manual_seed(0)
    model = create(name, 4, base_width=8, dropout=0.0)
    volume, label = torch.rand(16, 17, 4, 16, 16) ** 8, torch.arange(16) % 4
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(volume), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(volume).argmax(1) == label).all()


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
    with pytest.raises(
        ValueError, match="unknown model 'slow'; known: pose-slowonly, pose-slowonly-346, pose-slowonly-light, c3d"
    ):
        create("slow", 5)
