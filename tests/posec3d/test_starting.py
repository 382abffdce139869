"""Going on from a checkpoint with other classes or another skeleton: what is carried over, and what starts anew."""

import dataclasses

import pytest
import torch

from posec3d import checkpoint as checkpoints
from posec3d.checkpoint import Checkpoint, build_model
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS, HeatmapConfig, ModelConfig, TrainConfig
from posec3d.skeletons import COCO17, skeleton
from posec3d.starting import adapted, merged

JOINT = PRESETS["demo"][1]
LIMB = dataclasses.replace(JOINT, heatmap=HeatmapConfig(kind="limb"))
RGB, RGBPOSE = PRESETS["rgb-light"][1], PRESETS["rgbpose-light"][1]
GRAPH = TrainConfig(model=ModelConfig(name="msg3d"), clip=ClipConfig(space="frame", persons=2))


def made(config, body="coco17", labels=("a", "b")):
    weights = build_model(config, body, len(labels)).state_dict()
    return Checkpoint(config, labels, body, {k: torch.randn_like(v) if v.is_floating_point() else v
                                             for k, v in weights.items()})  # fmt: skip


def anew(given, config, body, labels):
    """Names of the tensors that are not the given ones."""
    weights = adapted(given, config, body, labels)
    build_model(config, body, len(labels)).load_state_dict(weights)  # complete, and of the right shapes
    return {k for k, v in weights.items() if v.shape != given.weights[k].shape or not torch.equal(v, given.weights[k])}


@pytest.mark.parametrize("config", [JOINT, LIMB, GRAPH, RGB, RGBPOSE])
def test_with_the_same_classes_and_joints_all_is_carried_over(config):
    assert anew(made(config), config, "coco17", ("a", "b")) == set()


@pytest.mark.parametrize("config", [JOINT, LIMB, GRAPH])
@pytest.mark.parametrize("labels", [("a", "b", "c"), ("b", "a")])
def test_with_other_classes_only_the_classifier_starts_anew(config, labels):
    assert anew(made(config), config, "coco17", labels) == {"fc_cls.weight", "fc_cls.bias"}


def test_a_joints_channel_goes_to_its_counterpart():
    given, penn = made(JOINT), skeleton("penn13")
    assert anew(given, JOINT, "penn13", ("a", "b")) == {"conv1.conv.weight"}
    old, new = given.weights["conv1.conv.weight"], adapted(given, JOINT, "penn13", ("a", "b"))["conv1.conv.weight"]
    for channel, joint in enumerate(penn.joints):
        torch.testing.assert_close(new[:, channel], old[:, COCO17.joints.index(joint.replace("head", "nose"))])


def test_a_joint_the_old_skeleton_lacks_starts_anew_and_one_between_others_as_their_mean():
    given = made(JOINT)
    old, new = given.weights["conv1.conv.weight"], adapted(given, JOINT, "openpose25", ("a", "b"))["conv1.conv.weight"]
    torch.testing.assert_close(new[:, 1], (old[:, 5] + old[:, 6]) / 2)  # neck, shoulders
    assert not any(torch.allclose(new[:, 19], old[:, i]) for i in range(17))  # a toe


def test_a_limbs_channel_goes_to_its_counterpart():
    given, penn = made(LIMB), skeleton("penn13")
    old, new = given.weights["conv1.conv.weight"], adapted(given, LIMB, "penn13", ("a", "b"))["conv1.conv.weight"]
    names = [{penn.joints[a], penn.joints[b]} for a, b in penn.limbs]
    theirs = [{COCO17.joints[a].replace("nose", "head"), COCO17.joints[b].replace("nose", "head")}
              for a, b in COCO17.limbs]  # fmt: skip
    assert all(name in theirs for name in names)
    for channel, name in enumerate(names):
        torch.testing.assert_close(new[:, channel], old[:, theirs.index(name)])


def test_from_joints_to_limbs_the_first_convolution_starts_anew():
    given = made(JOINT)
    assert anew(given, LIMB, "coco17", ("a", "b")) == {"conv1.conv.weight"}


def test_rgb_knows_no_joints_and_the_pose_pathway_does():
    stem = "pose_path.conv1.conv.weight"
    assert anew(made(RGB), RGB, "penn13", ("a", "b")) == set()
    assert anew(made(RGBPOSE), RGBPOSE, "penn13", ("a", "b")) == {stem}
    limbs = dataclasses.replace(RGBPOSE, heatmap=LIMB.heatmap)
    assert anew(made(RGBPOSE), limbs, "coco17", ("a", "b")) == {stem}
    heads = {"fc_rgb.weight", "fc_rgb.bias", "fc_pose.weight", "fc_pose.bias"}
    assert anew(made(RGBPOSE), RGBPOSE, "coco17", ("a", "b", "c")) == heads


def test_graphs_start_anew_and_what_is_learned_of_features_does_not():
    changed = anew(made(GRAPH), GRAPH, "penn13", ("a", "b"))
    assert changed and all(k.startswith("data_bn.") or k.endswith((".A", ".PA")) for k in changed)
    model = build_model(GRAPH, "penn13", 2)
    wanted = {k for k in model.state_dict() if k.endswith((".A", ".PA"))}
    assert wanted <= changed


def test_more_people_need_another_first_normalisation_only():
    more = dataclasses.replace(GRAPH, clip=dataclasses.replace(GRAPH.clip, persons=5))
    assert {k.split(".")[0] for k in anew(made(GRAPH), more, "coco17", ("a", "b"))} == {"data_bn"}


def test_other_lateral_connections_are_refused():
    none = dataclasses.replace(RGBPOSE, model=dataclasses.replace(RGBPOSE.model, lateral="none"))
    with pytest.raises(ValueError, match=r"weights are of model\.lateral both, this run has none"):
        adapted(made(RGBPOSE), none, "coco17", ("a", "b"))


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="weights are those of a pose-slowonly-light, this run is a msg3d"):
        adapted(made(JOINT), GRAPH, "coco17", ("a", "b"))


def test_a_config_of_a_later_release_is_told_with_the_file_and_the_remedy(tmp_path):
    config = dataclasses.replace(GRAPH, clip=dataclasses.replace(GRAPH.clip, space="spiral"))
    data = checkpoints.dumps(Checkpoint(config, ("a", "b"), "coco17", {"weight": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"^x\.safetensors: .*\(clip\.space: Input should be .*\); update posec3d"):
        checkpoints.loads(data, "x.safetensors")


@pytest.mark.parametrize("light", ["", "-light"])
def test_merging_runs_that_looked_at_other_clips_is_said(light, caplog):
    """The presets fit each other; another sigma, size or length of one of them does not."""
    rgb, pose, both = (PRESETS[f"{name}{light}"][1] for name in ("rgb", "pose-pathway", "rgbpose"))

    def warnings(rgb, pose):
        caplog.clear()
        with torch.device("meta"):
            halves = [
                Checkpoint(config, ("a", "b"), "coco17", build_model(config, "coco17", 2).state_dict())
                for config in (rgb, pose)
            ]
            merged(halves, both, "coco17", ("a", "b"))
        return [record.getMessage().split("trained with ")[1] for record in caplog.records]

    assert warnings(rgb, pose) == []
    wide = dataclasses.replace(pose, heatmap=HeatmapConfig(sigma=2.0))
    assert warnings(rgb, wide) == [f"heatmap.sigma 2.0, this run has {both.heatmap.sigma}"]
    # The test size does not matter, nor does the number of poses of an RGB network.
    other = dataclasses.replace(rgb.clip, size=14, padding=None, length=9, test_size=99)
    long = dataclasses.replace(pose.clip, length=64)
    assert warnings(dataclasses.replace(rgb, clip=other), dataclasses.replace(pose, clip=long)) == [
        f"clip.size 14, this run has {both.clip.size}",
        "clip.padding None, this run has 0.25",
        f"clip.length 64, this run has {both.clip.length}",
    ]
