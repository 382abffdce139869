"""RGBPose-SlowFast: what the lateral connections carry, starting from two models, losses and late fusion."""

import pytest
import torch
from torch import nn

from posec3d.models import create
from posec3d.models.rgbpose import fuse, loss, merged

LIGHT = "rgbpose-slowfast-light"


def clips(n=2, frames=2, size=32, *, ratio=4):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 3, frames, size, size, generator=generator),
        torch.rand(n, 17, ratio * frames, size // 4, size // 4, generator=generator) ** 6,
    )


def randomised(model, seed=0):
    """No weight is zero or one, no BatchNorm the identity; features stay of the same size."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.dim() == 1:
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model


def says(model, *batch):
    with torch.no_grad():
        return torch.stack(model(batch))


@pytest.mark.parametrize("lateral", ["none", "rgb-to-pose", "pose-to-rgb", "both"])
def test_a_pathway_sees_the_other_through_its_connections_alone(lateral):
    model = randomised(create(LIGHT, 5, lateral=lateral)).eval()
    frames, volume = clips()
    plain, dark, still = says(model, frames, volume), says(model, 0 * frames, volume), says(model, frames, 0 * volume)
    assert torch.equal(dark[1], plain[1]) == (lateral not in ("rgb-to-pose", "both"))
    assert torch.equal(still[0], plain[0]) == (lateral not in ("pose-to-rgb", "both"))
    assert not torch.equal(dark[0], plain[0]) and not torch.equal(still[1], plain[1])


def test_a_direction_left_out_has_no_weights():
    names = {lateral: set(create(LIGHT, 5, lateral=lateral).state_dict())
             for lateral in ("none", "rgb-to-pose", "pose-to-rgb", "both")}  # fmt: skip
    assert {name.split(".")[0] for name in names["rgb-to-pose"] - names["none"]} == {"rgb_to_pose"}
    assert {name.split(".")[0] for name in names["pose-to-rgb"] - names["none"]} == {"pose_to_rgb"}
    assert names["both"] == names["rgb-to-pose"] | names["pose-to-rgb"]


def trained_by(head, **options):
    """Which pathways a head's loss trains."""
    model = randomised(create(LIGHT, 5, **options))
    model(clips())[head].square().sum().backward()
    return {
        path
        for path in ("rgb", "pose")
        if any(p.grad is not None and p.grad.any() for p in model.get_submodule(f"{path}_path").parameters())
    }


def test_a_detached_pathway_trains_itself_alone():
    assert trained_by(0) == trained_by(1) == {"rgb", "pose"}
    assert trained_by(0, rgb_detach=True) == {"rgb"} and trained_by(1, rgb_detach=True) == {"rgb", "pose"}
    assert trained_by(1, pose_detach=True) == {"pose"} and trained_by(0, pose_detach=True) == {"rgb", "pose"}


@pytest.mark.parametrize(
    ("option", "lateral", "head"), [("rgb_drop_path", "pose-to-rgb", 0), ("pose_drop_path", "rgb-to-pose", 1)]
)
def test_a_dropped_path_is_as_if_its_connections_gave_zeros(option, lateral, head):
    """At both places at once, unscaled when not dropped; BatchNorm does as in evaluation, so that no more differs."""
    model, batch = randomised(create(LIGHT, 5, dropout=0.0, lateral=lateral, **{option: 0.5})).eval(), clips()
    kept = says(model, *batch)
    model.training = True  # of this module alone
    torch.manual_seed(0)
    seen = [says(model, *batch) for _ in range(40)]
    assert all(torch.equal(logits[1 - head], kept[1 - head]) for logits in seen)
    dropped = [logits[head] for logits in seen if not torch.equal(logits[head], kept[head])]
    assert 10 <= len(dropped) <= 30  # of 40, by halves
    model.eval()
    for connection in (*model.pose_to_rgb, *model.rgb_to_pose):
        connection.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))
    silent = says(model, *batch)[head]
    assert all(torch.equal(logits, silent) for logits in dropped)


def test_all_weights_have_gradients_when_a_path_is_dropped():
    """Or distributed training would wait for them."""
    model = randomised(create(LIGHT, 5, rgb_drop_path=1.0, pose_drop_path=1.0))
    sum(logits.sum() for logits in model(clips())).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_connections_begin_as_published():
    model = create("rgbpose-slowfast", 5)
    for connection in model.pose_to_rgb:  # He's normal distribution by what goes out
        c = connection.out_channels
        assert connection.weight.std().item() == pytest.approx((2 / (7 * c)) ** 0.5, rel=0.02)
    for connection in model.rgb_to_pose:  # torch's own: uniform
        bound = (7 * connection.conv.out_channels) ** -0.5
        assert connection.conv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
        assert connection.bn.weight.eq(1).all() and not connection.bn.bias.any()
    for block in (*model.rgb_path.layer4, *model.pose_path.layer3):
        assert not block.conv3.bn.weight.any()
    assert model.fc_rgb.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not model.fc_rgb.bias.any() and not model.fc_pose.bias.any()


@pytest.mark.parametrize("size", [32, 40, 36])
@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 8])
def test_other_sizes_and_ratios_of_frames_work_too(ratio, size):
    model = create(LIGHT, 5, frame_ratio=ratio).eval()
    assert says(model, *clips(1, 3, size, ratio=ratio)).shape == (2, 1, 5)


def test_frames_and_volumes_that_do_not_match_are_refused():
    model, (frames, volume) = create(LIGHT, 5), clips()
    for wrong, got in ((volume[:, :, :7], r"\(7, 8, 8\)"), (volume[..., :5], r"\(8, 8, 5\)")):
        with pytest.raises(ValueError, match=r"\(2, 32, 32\) want a volume of \(8, 8, 8\): 4 times .* got " + got):
            model((frames, wrong))
    assert says(create(LIGHT, 5, lateral="none"), frames, volume[:, :, :5]).shape == (2, 2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lateral": "pose"}, "lateral must be none, rgb-to-pose, pose-to-rgb or both, got 'pose'"),
        ({"rgb_drop_path": 1.5}, r"rgb_drop_path must be in \[0, 1\], got 1.5"),
        ({"pose_drop_path": -0.1}, r"pose_drop_path must be in \[0, 1\], got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create(LIGHT, 5, **options)


@pytest.fixture(scope="module")
def halves():
    made = [create("rgb-slowonly-light", 5), create("pose-pathway-light", 5)]
    return [randomised(half, seed).double().eval() for seed, half in enumerate(made, 1)]


@pytest.mark.parametrize("lateral", ["none", "rgb-to-pose", "pose-to-rgb", "both"])
def test_a_merged_model_says_what_the_two_said_whatever_its_connections(halves, lateral):
    rgb, pose = halves
    model = randomised(create(LIGHT, 5, lateral=lateral), 3).double().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = merged(rgb.state_dict(), pose.state_dict(), model)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.equal(before[name]) for name, tensor in state.items() if "_to_" in name)
    model.load_state_dict(state)
    frames, volume = (x.double() for x in clips())
    with torch.no_grad():
        wanted = torch.stack([rgb(frames), pose(volume)])
    torch.testing.assert_close(says(model, frames, volume), wanted, rtol=1e-6, atol=1e-6)


def test_the_published_places_are_padded_with_zeros_and_no_others():
    rgb, pose, model = (create(name, 5) for name in ("rgb-slowonly", "pose-pathway", "rgbpose-slowfast"))
    state = merged(rgb.state_dict(), pose.state_dict(), model)
    widths = {
        "rgb_path.layer3.0": (512, 640),
        "rgb_path.layer4.0": (1024, 1280),
        "pose_path.layer2.0": (128, 160),
        "pose_path.layer3.0": (256, 320),
    }
    places = {
        f"{block}.{part}.conv.weight": width for block, width in widths.items() for part in ("conv1", "downsample")
    }
    alone = {f"{half}_path.{name}": tensor for half, one in (("rgb", rgb), ("pose", pose))
             for name, tensor in one.state_dict().items()}  # fmt: skip
    for name, tensor in alone.items():
        if name in places:
            old, new = places[name]
            assert tensor.shape[1] == old and state[name].shape[1] == new
            assert state[name][:, :old].equal(tensor) and not state[name][:, old:].any()
        elif "fc_cls" not in name:
            assert state[name].equal(tensor)
    assert state["fc_rgb.weight"].equal(rgb.fc_cls.weight) and state["fc_pose.bias"].equal(pose.fc_cls.bias)


def test_halves_that_do_not_fit_are_refused_by_name(halves):
    rgb, pose = (half.state_dict() for half in halves)
    more_classes = create("pose-pathway-light", 6).state_dict()
    more_joints = create("pose-pathway-light", 5, in_channels=25).state_dict()
    for pair, message in (
        ((pose, pose), r"the rgb weights .* layer4\.0\.conv1\.conv\.weight is missing; .*; and \d+ more"),
        ((rgb, rgb), r"the pose weights .* layer1\.2\.conv1\.conv\.weight is missing"),
        ((rgb, pose | {"extra": torch.ones(1)}), r"the pose weights .* pathway: extra is left over$"),
        ((rgb, more_classes), r"fc_cls\.weight: got \(6, 256\), wanted \(5, 256\); fc_cls\.bias: got \(6,\)"),
        ((rgb, more_joints), r"conv1\.conv\.weight: got \(16, 25, 1, 7, 7\), wanted \(16, 17, 1, 7, 7\)$"),
    ):
        with pytest.raises(ValueError, match=message):
            merged(*pair, create(LIGHT, 5))


def test_late_fusion_is_the_weighted_mean_of_probabilities():
    logits = (torch.tensor([[0.0, 0.0]]), torch.tensor([[torch.log(torch.tensor(3.0)), 0.0]]))
    torch.testing.assert_close(fuse(logits), torch.tensor([[0.625, 0.375]]))  # of (1/2, 1/2) and (3/4, 1/4)
    torch.testing.assert_close(fuse(logits, (2, 1)), torch.tensor([[7 / 12, 5 / 12]]))
    torch.testing.assert_close(fuse(logits, (0, 1)), torch.tensor([[0.75, 0.25]]))


def test_each_head_has_a_loss_of_its_own_or_both_have_one():
    logits = (torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
    label = torch.tensor([0])
    own = [nn.functional.cross_entropy(head, label).item() for head in logits]
    assert loss(logits, label).item() == pytest.approx(own[0] + own[1])
    assert loss(logits, label, weights=(0.5, 2)).item() == pytest.approx(0.5 * own[0] + 2 * own[1])
    joint = nn.functional.cross_entropy(torch.tensor([[1.0, 0.0]]), label).item()  # of the mean of the logits
    assert loss(logits, label, joint=True).item() == pytest.approx(joint)
    smooth = [nn.functional.cross_entropy(head, label, label_smoothing=0.1).item() for head in logits]
    assert loss(logits, label, label_smoothing=0.1).item() == pytest.approx(sum(smooth))


def test_eight_clips_of_two_streams_are_learnt_by_heart():
    torch.manual_seed(0)
    model, label = create(LIGHT, 4, dropout=0.0), torch.arange(8) % 4
    batch = clips(8, 2, 32)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss(model(batch), label).backward()
        optimizer.step()
    rgb, pose = model.eval()(batch)
    assert (rgb.argmax(1) == label).all() and (pose.argmax(1) == label).all()


def test_memory_layout_does_not_change_the_logits():
    model, (frames, volume) = randomised(create(LIGHT, 5)).eval(), clips()
    plain = says(model, frames, volume)
    model.to(memory_format=torch.channels_last_3d)
    last = says(model, *(x.contiguous(memory_format=torch.channels_last_3d) for x in (frames, volume)))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
