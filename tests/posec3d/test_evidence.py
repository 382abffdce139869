"""Where a model saw an action: the activation adds up to the logit, the joints are what moves it."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from posec3d import actors
from posec3d import checkpoint as checkpoints
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS, HeatmapConfig, ModelConfig
from posec3d.evidence import evidence, explains, resized
from posec3d.recognizer import Recognizer
from posec3d.table import Clip

LABELS = ("bow", "kick", "wave")


def recognizer(**changes):
    clip = dataclasses.replace(PRESETS["demo"][1].clip, length=8, test_size=16)
    config = dataclasses.replace(PRESETS["demo"][1], **{"clip": clip, **changes})
    torch.manual_seed(0)
    model = checkpoints.build_model(config, "coco17", 3)
    torch.nn.init.normal_(model.fc_cls.weight)
    return Recognizer(checkpoints.Checkpoint(config, LABELS, "coco17", model.state_dict()))


@pytest.fixture(scope="module")
def clip():
    truth = actors.make_clip("wave", actor=1, num_frames=12)
    return Clip("c", 12, 240, 320, truth.keypoints, np.ones(truth.keypoints.shape[:3], np.float32))


def logits(model, volume):
    with torch.no_grad():
        return model.model(torch.as_tensor(volume)[None])[0].double()


def test_the_mean_activation_and_the_bias_are_the_logit(clip):
    model = recognizer()
    for label in LABELS:
        found = evidence(model, clip, label)
        number = LABELS.index(label)
        bias = model.model.fc_cls.bias[number].item()
        assert found.activation.mean() + bias == pytest.approx(float(logits(model, found.volume)[number]), abs=1e-4)
    assert found.volume.shape == (17, 8, 16, 16) and found.joints.shape == (17, 8)
    assert found.activation.shape[0] == 4  # the last stage halves T
    assert (np.diff(found.frames) > 0).all() and found.frames.max() < 12


def test_a_joints_share_is_how_the_logit_moves_when_its_heat_in_a_frame_grows(clip):
    model = recognizer()
    found = evidence(model, clip)
    assert found.label == LABELS[int(logits(model, found.volume).argmax())]
    strongest = np.unravel_index(np.abs(found.joints).argmax(), found.joints.shape)
    assert all(weight.grad is None for weight in model.model.parameters())
    for joint, t in (strongest, (9, 3)):
        step, ends = 1e-2, []
        for share in (1 - step, 1 + step):
            changed = found.volume.copy()
            changed[joint, t] *= share
            ends.append(float(logits(model, changed)[LABELS.index(found.label)]))
        assert (ends[1] - ends[0]) / (2 * step) == pytest.approx(found.joints[joint, t], rel=0.1, abs=2e-3)


def test_limbs_are_named_by_their_ends_and_a_picture_is_made(clip, tmp_path):
    found = evidence(recognizer(heatmap=HeatmapConfig(kind="limb")), clip)
    assert "left_elbow - left_wrist" in found.channels or "left_wrist - left_elbow" in found.channels
    assert len(found.channels) == len(found.joints)
    found.picture(tmp_path / "why.png")
    assert min(Image.open(tmp_path / "why.png").size) > 400


def test_an_activation_is_enlarged_without_a_shift():
    """A peak in the middle of three stays in the middle of nine."""
    big = resized(np.array([0, 1, 0], np.float32).reshape(3, 1, 1), (9, 1, 1))
    assert big.shape == (9, 1, 1) and big.argmax() == 4 and big[4] == 1
    np.testing.assert_allclose(big.ravel(), big.ravel()[::-1], atol=1e-6)


def test_what_has_no_evidence_is_refused(clip):
    graph = recognizer(
        model=ModelConfig(name="stgcn++", dropout=0), clip=ClipConfig(length=8, space="frame", persons=2)
    )
    assert not explains(graph)
    with pytest.raises(ValueError, match=r"only a Pose-SlowOnly .* this is a stgcn\+\+"):
        evidence(graph, clip)
    with pytest.raises(ValueError, match="unknown label 'fly'; the model knows bow, kick, wave"):
        evidence(recognizer(), clip, "fly")
    with pytest.raises(ValueError, match="nobody is in clip"):
        evidence(recognizer(), dataclasses.replace(clip, keypoints=clip.keypoints[:0], scores=clip.scores[:0]))
