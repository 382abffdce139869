"""Reference checkpoints in and out: all or nothing, and what does not fit says why. Logits: tests/parity."""

import io
import os
import re
import sys
import types

import fsspec
import numpy as np
import pytest
import torch
from torch import nn

from posec3d.heatmaps import limb_volumes
from posec3d.models import create
from posec3d.models.convert import PYSKL_DEFAULT_LIMBS, load_reference, to_reference
from posec3d.skeletons import COCO17

STEM = "backbone.conv1.conv.weight"


def randomised(name, classes=5, **overrides):
    """A model of which no two tensors are alike."""
    model = create(name, classes, **overrides).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor + 0.1 * torch.rand(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def light():
    return to_reference(randomised("pose-slowonly-light"))


def saved(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def assert_refused(weights, message, name="pose-slowonly-light", classes=5, **overrides):
    """The message matches, and the model is as it was."""
    model = create(name, classes, **overrides)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_reference(weights, model)
    assert all(tensor.equal(before[key]) for key, tensor in model.state_dict().items())


def test_the_report_lists_what_became_of_every_tensor(light):
    report = load_reference(light, create("pose-slowonly-light", 5))
    assert [name for name, _ in report.mapped] == list(light)
    assert report.dropped == () and report.notes == ()
    lines = str(report).splitlines()
    assert lines[0] == "260 tensors mapped, 0 dropped"
    assert re.fullmatch(r"backbone\.conv1\.conv\.weight +-> conv1\.conv\.weight", lines[1])
    assert len(lines) == 261


def test_what_follows_from_the_skeleton_is_checked_and_dropped_by_name():
    model = create("msg3d", 5)
    weights = to_reference(model)
    report = load_reference(weights, model)
    assert len(report.mapped) == 819
    assert [name for name, _ in report.dropped] == ["backbone.A"]
    assert "backbone.A" in str(report)
    for name in ("backbone.A", "backbone.sgcn2.0.A", "backbone.gcn3d3.gcn3d.1.gcn3d.1.A"):
        other = weights[name].clone()
        other[..., 3, 5] += 0.5
        assert_refused(weights | {name: other}, f"{re.escape(name)} is another graph .* of another skeleton", "msg3d")


def test_a_missing_tensor_is_named(light):
    rest = {name: tensor for name, tensor in light.items() if name != "backbone.layer2.1.conv3.bn.running_var"}
    assert_refused(rest, r"1 missing: backbone\.layer2\.1\.conv3\.bn\.running_var\n")


def test_a_tensor_too_many_is_named(light):
    assert_refused(light | {"backbone.layer4.0.weight": torch.ones(1)}, r"1 left over: backbone\.layer4\.0\.weight\n")


def test_a_tensor_of_another_shape_is_named_with_both(light):
    assert_refused(
        light | {STEM: torch.ones(16, 17, 1, 5, 5)},
        r"1 of another shape: backbone\.conv1\.conv\.weight: got \(16, 17, 1, 5, 5\), wanted \(16, 17, 1, 7, 7\)\n",
    )


@pytest.mark.parametrize(
    ("theirs", "name", "call"),
    [
        ("pose-slowonly-346", "pose-slowonly", "'pose-slowonly-346', 5, in_channels=17"),
        ("pose-slowonly", "pose-slowonly-light", "'pose-slowonly', 5, in_channels=17"),
        ("x3d-shallow", "c3d-light", "'x3d-shallow', 5, in_channels=17"),
        ("msg3d", "stgcn++", "'msg3d', 5"),
        ("rgb-slowonly-light", "pose-slowonly", "'rgb-slowonly-light', 5, in_channels=3"),
        ("rgbpose-slowfast-light", "rgbpose-slowfast", "'rgbpose-slowfast-light', 5, in_channels=17"),
        ("rgbpose-slowfast-light", "pose-slowonly", "'rgbpose-slowfast-light', 5, in_channels=17"),
        ("pose-slowonly", "rgbpose-slowfast-light", "'pose-slowonly', 5, in_channels=17"),
    ],
)
def test_weights_of_another_model_say_which(theirs, name, call):
    assert_refused(to_reference(create(theirs, 5)), re.escape(f"they fit posec3d.models.create({call})"), name)


def test_another_number_of_classes_is_said(light):
    message = r"they tell 5 classes apart, the model 60; they fit .*'pose-slowonly-light', 5, in_channels=17\)"
    assert_refused(light, message, classes=60)


def test_two_heads_tell_the_number_of_classes_too():
    weights = to_reference(create("rgbpose-slowfast-light", 5))
    message = r"they tell 5 classes apart, the model 60; they fit .*'rgbpose-slowfast-light', 5, in_channels=17\)"
    assert_refused(weights, message, "rgbpose-slowfast-light", classes=60)


def test_a_direction_of_lateral_connections_is_left_over_or_missing():
    one = create("rgbpose-slowfast-light", 5, lateral="rgb-to-pose")
    both = to_reference(create("rgbpose-slowfast-light", 5))
    load_reference(to_reference(one), create("rgbpose-slowfast-light", 5, lateral="rgb-to-pose"))
    assert_refused(both, r"2 left over: backbone\.rgb_path\.layer2_lateral\.conv\.weight; .*layer3_lateral",
                   "rgbpose-slowfast-light", lateral="rgb-to-pose")  # fmt: skip
    assert_refused(to_reference(one), r"2 missing: backbone\.rgb_path\.layer2_lateral", "rgbpose-slowfast-light")


def test_another_number_of_joints_is_said(light):
    assert_refused(light, r"they fit .*'pose-slowonly-light', 5, in_channels=17\)", in_channels=25)


def test_weights_of_no_model_here_say_so(light):
    message = "no model of posec3d.models.MODELS fits with its usual arguments"
    assert_refused(to_reference(create("msg3d", 5, persons=1)), message, "msg3d")
    assert_refused(
        {"weight": torch.ones(1)}, "without cls_head.fc_cls.weight or cls_head.fc_rgb.weight there are no class scores"
    )


def test_a_model_without_published_weights_is_refused(light):
    with pytest.raises(ValueError, match=r"no published weights fit a Linear; .* of SlowOnly, C3D, "):
        load_reference(light, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="no published weights fit a Linear"):
        to_reference(nn.Linear(1, 1))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_do_not_matter(light, prefix):
    model = create("pose-slowonly-light", 5)
    report = load_reference({prefix + name: tensor for name, tensor in light.items()}, model)
    assert report.mapped[0] == (prefix + STEM, "conv1.conv.weight")
    assert to_reference(model)[STEM].equal(light[STEM])


def test_mmaction2_has_another_name_for_the_head_of_graph_networks():
    model, other = randomised("stgcn++"), create("stgcn++", 5)
    weights = to_reference(model, system="mmaction2")
    assert {name for name in weights if name.startswith("cls_head")} == {"cls_head.fc.weight", "cls_head.fc.bias"}
    load_reference(weights, other)
    assert other.fc_cls.weight.equal(model.fc_cls.weight)
    both = weights | {"cls_head.fc_cls.weight": weights["cls_head.fc.weight"]}
    assert_refused(both, "cls_head.fc_cls.weight and cls_head.fc.weight are two tensors for one place", "stgcn++")
    light = create("pose-slowonly-light", 5)
    assert to_reference(light, system="mmaction2").keys() == to_reference(light).keys()


def test_what_is_given_back_is_a_copy():
    model = create("x3d-shallow", 5)
    to_reference(model)["cls_head.fc_cls.weight"].fill_(1)
    assert not (model.fc_cls.weight == 1).any()


def test_a_file_is_found_by_its_path_or_uri(light, tmp_path):
    data = saved({"state_dict": light})
    (tmp_path / "light.pth").write_bytes(data)
    with fsspec.open("memory://checkpoints/light.pth", "wb") as file:
        file.write(data)
    for source in (tmp_path / "light.pth", str(tmp_path / "light.pth"), "memory://checkpoints/light.pth"):
        model = create("pose-slowonly-light", 5)
        load_reference(source, model)
        assert to_reference(model)[STEM].equal(light[STEM])
    for source in (tmp_path / "none.pth", "memory://checkpoints/none.pth"):
        with pytest.raises(FileNotFoundError, match=r"none\.pth"):
            load_reference(source, create("pose-slowonly-light", 5))


def test_what_a_training_left_beside_the_weights_is_ignored(light, tmp_path, monkeypatch):
    class HistoryBuffer:
        pass

    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    buffer = HistoryBuffer()
    buffer.values = np.arange(3.0)
    with monkeypatch.context() as patch:
        for parent in ("mmengine", "mmengine.logging"):  # pickle imports them, and not everybody has them
            patch.setitem(sys.modules, parent, sys.modules.get(parent, types.ModuleType(parent)))
        patch.setitem(sys.modules, module.__name__, module)
        data = saved({"state_dict": light, "meta": {"epoch": 24, "seed": np.int64(0)}, "message_hub": buffer})
    (tmp_path / "light.pth").write_bytes(data)
    load_reference(tmp_path / "light.pth", create("pose-slowonly-light", 5))


def test_a_file_that_would_run_something_is_refused_and_runs_nothing(light, tmp_path):
    class Touch:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    (tmp_path / "light.pth").write_bytes(saved({"state_dict": light, "meta": Touch()}))
    assert_refused(tmp_path / "light.pth", r"asks for posix.system, .* nothing in it was run")
    assert_refused({"state_dict": light}, "'state_dict' is a dict, wanted a tensor: give the state_dict alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["light.pth"]


def draw(limbs):
    """Volumes (N, L, T, H, W) of people with limbs of all lengths, some shorter than a pixel."""
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(2, 1, 4, 17, 2, generator=generator) * 20
    xy[1, ..., 5:12, :] = 8.2 + 0.2 * torch.rand(7, 2, generator=generator)
    score = 0.2 + 0.8 * torch.rand(2, 1, 4, 17, generator=generator)
    return limb_volumes(xy, score, limbs, (20, 20))


def test_the_orders_of_limbs_are_those_of_the_published_configs():
    assert set(PYSKL_DEFAULT_LIMBS) == set(COCO17.limbs)  # directions too: short limbs are drawn alike
    assert PYSKL_DEFAULT_LIMBS[0] == (0, 1) and COCO17.limbs[0] == (0, 5)


@pytest.mark.parametrize("name", ["pose-slowonly-light", "c3d-light", "x3d-shallow"])
def test_a_model_of_limbs_in_another_order_says_the_same_of_the_skeletons_limbs(name):
    weights = to_reference(randomised(name))
    as_it_is, reordered = create(name, 5).eval(), create(name, 5).eval()
    load_reference(weights, as_it_is)
    report = load_reference(weights, reordered, limbs=PYSKL_DEFAULT_LIMBS)
    assert "order of limbs" in report.notes[0] and report.notes[0] in str(report)
    wanted = as_it_is(draw(PYSKL_DEFAULT_LIMBS))
    torch.testing.assert_close(reordered(draw(COCO17.limbs)), wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())
    assert not torch.allclose(as_it_is(draw(COCO17.limbs)), wanted, rtol=1e-3)  # or the order would not matter
    back = to_reference(reordered, limbs=PYSKL_DEFAULT_LIMBS)
    assert all(tensor.equal(back[key]) for key, tensor in weights.items())


def test_the_limbs_of_the_pose_pathway_are_put_in_order_too():
    model, stem = randomised("rgbpose-slowfast-light"), "backbone.pose_path.conv1.conv.weight"
    weights, reordered = to_reference(model), create("rgbpose-slowfast-light", 5)
    report = load_reference(weights, reordered, limbs=PYSKL_DEFAULT_LIMBS)
    assert "pose_path.conv1.conv.weight" in report.notes[0]
    back = to_reference(reordered)
    assert [name for name, tensor in weights.items() if not tensor.equal(back[name])] == [stem]
    place = PYSKL_DEFAULT_LIMBS.index((0, 5))  # the skeleton's first
    assert back[stem][:, 0].equal(weights[stem][:, place])


@pytest.mark.parametrize(
    ("name", "overrides", "limbs", "message"),
    [
        ("stgcn++", {}, PYSKL_DEFAULT_LIMBS, "limbs are given, but a STGCN takes coordinates"),
        ("pose-slowonly-light", {}, PYSKL_DEFAULT_LIMBS[1:], "not the same limbs in another order"),
        ("pose-slowonly-light", {}, ((3, 4), *PYSKL_DEFAULT_LIMBS[1:]), "not the same limbs in another order"),
        ("pose-slowonly-light", {"in_channels": 5}, PYSKL_DEFAULT_LIMBS, "17 limbs are given, but .* 5 channels"),
    ],
)
def test_limbs_that_are_not_the_skeletons_are_refused(name, overrides, limbs, message):
    weights, model = to_reference(create(name, 5, **overrides)), create(name, 5, **overrides)
    with pytest.raises(ValueError, match=message):
        load_reference(weights, model, limbs=limbs)
    with pytest.raises(ValueError, match=message):
        to_reference(model, limbs=limbs)
