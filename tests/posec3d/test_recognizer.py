"""A recognizer on clips and videos, with a model of random weights: what it says is consistent, if not wise."""

import dataclasses

import numpy as np
import pytest
import torch

from posec3d import Clip, actors, load, streams
from posec3d import checkpoint as checkpoints
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS, ModelConfig
from posec3d.heatmaps import joint_volumes
from posec3d.recognizer import Fusion, Recognizer
from posec3d.skeletons import COCO17, convert, skeleton
from posec3d.video import open_video, write_video

CONFIG = dataclasses.replace(
    PRESETS["demo"][1], clip=dataclasses.replace(PRESETS["demo"][1].clip, length=4, test_size=16)
)
LABELS = ("bow", "kick", "wave")


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("run") / "best.safetensors")
    torch.manual_seed(0)
    model = checkpoints.build_model(CONFIG, "coco17", 3)
    torch.nn.init.normal_(model.fc_cls.weight)
    checkpoints.save(checkpoints.Checkpoint(CONFIG, LABELS, "coco17", model.state_dict()), path)
    return load(path)


def clip(people=1):
    truth = actors.make_clip("wave", actor=1, num_frames=8)
    keypoints = np.repeat(truth.keypoints, people, 0)
    return Clip("c", 8, 240, 320, keypoints, np.ones(keypoints.shape[:3], np.float32))


def test_probabilities_are_ranked_and_add_up(recognizer):
    result = recognizer.predict(clip())
    assert result.scores.sum() == pytest.approx(1, abs=1e-5)
    top = result.top(2)
    assert len(top) == 2
    assert top[0][1] >= top[1][1]
    assert top[0] == (LABELS[result.scores.argmax()], result.scores.max())


def test_a_list_gives_a_list(recognizer):
    results = recognizer.predict([clip(), clip(2)])
    np.testing.assert_allclose(results[0].scores, results[1].scores, rtol=1e-5)  # the same person twice


def test_clips_looked_at_together_are_named_as_alone(recognizer):
    clips = [clip(), clip(0), clip(3)]
    alone = [recognizer.predict(one, clips=2, flipped=True).scores for one in clips]
    np.testing.assert_allclose(recognizer.probabilities(clips, clips=2, flipped=True), alone, atol=1e-6)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    """A checkpoint of the same classes, and one of others."""
    folder = tmp_path_factory.mktemp("second")
    torch.manual_seed(1)
    model = checkpoints.build_model(CONFIG, "coco17", 3)
    torch.nn.init.normal_(model.fc_cls.weight)
    for name, labels in (("same", LABELS), ("other", ("bow", "wave", "kick"))):
        checkpoint = checkpoints.Checkpoint(CONFIG, labels, "coco17", model.state_dict())
        checkpoints.save(checkpoint, str(folder / f"{name}.safetensors"))
    return folder


def test_several_runs_are_fused_by_the_weighted_mean_of_their_probabilities(recognizer, second, tmp_path):
    same = load(second / "same.safetensors")
    checkpoints.save(
        checkpoints.Checkpoint(CONFIG, LABELS, "coco17", recognizer.model.state_dict()),
        str(tmp_path / "best.safetensors"),
    )
    a, b = recognizer.predict(clip()).scores, same.predict(clip()).scores
    assert not np.allclose(a, b, atol=1e-3)
    both = load([tmp_path, second / "same.safetensors"]).predict(clip())
    np.testing.assert_allclose(both.scores, (a + b) / 2, atol=1e-6)
    weighed = load([tmp_path, second / "same.safetensors"], weights=[3, 1])
    np.testing.assert_allclose(weighed.predict(clip()).scores, 0.75 * a + 0.25 * b, atol=1e-6)
    assert not any(hasattr(weighed, name) for name in ("model", "config", "scores", "samples"))  # of which one?
    (action,) = weighed.timeline(clip()).actions
    np.testing.assert_allclose(action.scores, 0.75 * a + 0.25 * b, atol=1e-6)


def test_runs_that_cannot_be_fused_are_refused(recognizer, second):
    same, other = (load(second / f"{name}.safetensors") for name in ("same", "other"))
    with pytest.raises(ValueError, match=r"run 3 knows other classes than the first one.*3 \(bow, wave, kick"):
        Fusion([recognizer, same, other])
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="wanted a weight >= 0 for each of 2 runs"):
            Fusion([recognizer, same], weights)


def test_a_timeline_of_the_whole_clip_is_its_prediction(recognizer):
    line = recognizer.timeline(clip(2))
    (action,) = line.actions
    np.testing.assert_allclose(action.scores, recognizer.predict(clip(2)).scores, atol=1e-6)
    assert (action.start_frame, action.end_frame, action.person, line.people) == (0, 8, None, 2)
    people = recognizer.timeline(clip(2), per_person=True).actions
    assert [a.person for a in people] == [0, 1]
    np.testing.assert_allclose(people[0].scores, recognizer.predict(clip(1)).scores, atol=1e-6)


def test_people_beyond_those_of_the_config_are_not_looked_at(recognizer):
    truth, other = actors.make_clip("wave", actor=1, num_frames=8), actors.make_clip("kick", actor=2, num_frames=8)
    both = np.concatenate([truth.keypoints, other.keypoints])
    two = Clip("c", 8, 240, 320, both, np.ones(both.shape[:3], np.float32))
    few = dataclasses.replace(recognizer.config, clip=dataclasses.replace(recognizer.config.clip, persons=1))
    alone = Recognizer(checkpoints.Checkpoint(few, LABELS, "coco17", recognizer.model.state_dict()))
    seen = alone.predict(two, clips=1).volume
    assert 0 < np.count_nonzero(seen) < np.count_nonzero(recognizer.predict(two, clips=1).volume)


def test_clips_without_people_are_answered(recognizer):
    assert recognizer.predict(clip(0)).scores.shape == (3,)


def test_the_views_are_averaged(recognizer):
    one, two = (recognizer.predict(clip(), clips=n).scores for n in (1, 2))
    assert not np.allclose(one, two)


def test_the_volume_is_what_the_network_saw(recognizer):
    result = recognizer.predict(clip(), clips=1)
    assert result.volume.shape == (17, 4, 16, 16)
    assert result.volume.max() <= 1
    assert (result.volume.reshape(17, 4, -1).max(-1) > 0.4).all()
    assert joint_volumes(np.zeros((1, 4, 17, 2)), np.zeros((1, 4, 17)), (16, 16)).shape == result.volume.shape


def test_results_hold_no_volume_until_it_is_looked_at(recognizer):
    """13 MB each of what 10 KB draw again."""
    results = recognizer.predict([clip()] * 3, clips=1)
    assert not any(isinstance(value, np.ndarray) and value.ndim > 1 for r in results for value in vars(r).values())
    np.testing.assert_array_equal(results[0].volume, recognizer.volume(clip(), clips=1))


def test_a_clip_of_another_skeleton_is_looked_at_with_the_models_joints(recognizer):
    sbu = skeleton("sbu15")
    keypoints, scores = convert(clip().keypoints, clip().scores, COCO17, sbu)
    other = Clip("c", 8, 240, 320, keypoints, scores, skeleton="sbu15")
    result = recognizer.predict(other)
    assert result.clip.skeleton == "sbu15" and result.volume.shape == (17, 4, 16, 16)
    assert (result.volume[1:5] == 0).all() and (result.volume[5:].reshape(12, -1).max(1) > 0.4).all()


@pytest.mark.parametrize("name", ["stgcn++", "msg3d"])
def test_a_graph_network_names_clips_too(name, tmp_path):
    graph = ClipConfig(length=16, space="frame", persons=2)
    config = dataclasses.replace(CONFIG, model=ModelConfig(name=name, dropout=0), clip=graph)
    model = checkpoints.build_model(config, "coco17", 3)
    torch.nn.init.normal_(model.fc_cls.weight)
    checkpoints.save(
        checkpoints.Checkpoint(config, LABELS, "coco17", model.state_dict()), str(tmp_path / "best.safetensors")
    )
    recognizer = load(tmp_path)
    result = recognizer.predict(clip(3), clips=2, flipped=True)
    people = streams.testing_people(clip(3), graph, 2, 2)
    with torch.inference_mode():
        views = [recognizer.model(torch.from_numpy(v)).softmax(1) for v in (people, streams.flipped(people, COCO17))]
    np.testing.assert_allclose(result.scores, torch.cat(views).mean(0).numpy(), atol=1e-6)
    assert result.volume is None
    with pytest.raises(ValueError, match="looks at no volume"):
        result.volume_gif(tmp_path / "x.gif")


@pytest.mark.parametrize("name", ["rgb-slowonly-light", "rgbpose-slowfast-light"])
def test_a_network_that_sees_rgb_takes_it_from_the_video(name, tmp_path):
    config = dataclasses.replace(
        CONFIG,
        model=ModelConfig(name=name),
        clip=ClipConfig(length=8, rgb_length=2, test_size=16),
    )
    model = checkpoints.build_model(config, "coco17", 3)
    checkpoints.save(
        checkpoints.Checkpoint(config, LABELS, "coco17", model.state_dict()), str(tmp_path / "best.safetensors")
    )
    truth = actors.make_clip("wave", actor=1, num_frames=8)
    write_video(tmp_path / "wave.mp4", truth.frames, truth.fps)
    one = dataclasses.replace(clip(), video=str(tmp_path / "wave.mp4"))
    recognizer = load(tmp_path)
    result = recognizer.predict(one, clips=2, flipped=True)
    assert result.scores.sum() == pytest.approx(1, abs=1e-5)
    # No picture is shown of what the network did not see.
    assert result.volume is None if name.startswith("rgb-") else result.volume.shape == (17, 8, 16, 16)
    with pytest.raises(ValueError, match="has no video to take frames from"):
        recognizer.predict(clip())


def test_a_mirrored_view_mirrors_picture_and_joints_alike(recognizer):
    """A bright pixel at each joint's place is at its place in the mirrored picture, too."""
    side = CONFIG.clip.test_size
    xy = np.random.default_rng(0).integers(0, side, (1, 1, 1, 17, 2)).astype(np.float32)
    rgb = np.zeros((1, 1, 4 * side, 4 * side, 3), np.uint8)
    x, y = (4 * xy).astype(int).reshape(17, 2).T
    rgb[0, 0, y, x] = 255
    view = recognizer._mirrored({"xy": xy, "score": np.ones(xy.shape[:-1]), "rgb": rgb})
    x, y = (4 * view["xy"]).astype(int).reshape(17, 2).T
    assert (view["rgb"][0, 0, y, x] == 255).all()
    assert (view["rgb"] > 0).sum() == (rgb > 0).sum()


def test_an_overlay_needs_a_video(recognizer, tmp_path):
    with pytest.raises(ValueError, match="has no video"):
        recognizer.predict(clip()).overlay(tmp_path / "x.mp4")


def test_an_overlay_of_a_segment_shows_its_frames(recognizer, tmp_path):
    frames = [np.full((64, 64, 3), 20 * t, np.uint8) for t in range(10)]
    write_video(tmp_path / "grey.mp4", frames, 10)
    segment = Clip(
        "c", 3, 64, 64, np.zeros((0, 3, 17, 2)), np.zeros((0, 3, 17)), video=str(tmp_path / "grey.mp4"), start_frame=6
    )
    recognizer.predict(segment).overlay(tmp_path / "overlay.mp4")
    with open_video(str(tmp_path / "overlay.mp4")) as video:
        grey = [int(frame[5, 5, 0]) for _, frame in video]
    np.testing.assert_allclose(grey, [120, 140, 160], atol=6)


def test_a_video_is_named_and_drawn(recognizer, movenet, tmp_path):
    truth = actors.make_clip("kick", actor=2, num_frames=6)
    write_video(tmp_path / "kick.mp4", truth.frames, truth.fps)
    result = recognizer.predict(tmp_path / "kick.mp4")
    result.overlay(tmp_path / "overlay.mp4")
    result.volume_gif(tmp_path / "volume.gif")
    with open_video(str(tmp_path / "overlay.mp4")) as video:
        drawn = [frame for _, frame in video]
    assert len(drawn) == 6
    line = recognizer.timeline(tmp_path / "kick.mp4", window=0.25)
    assert len(line.looks) == 3 and line.people == 1  # 6 frames at 16 a second, windows of 4, one a frame
    # The skeleton is drawn on the person: pixels near the joints changed most.
    change = np.abs(drawn[0].astype(int) - truth.frames[0]).sum(-1)
    x, y = truth.keypoints[0, 0, 5:].round().astype(int).T
    assert change[y, x].mean() > 5 * np.median(change)
