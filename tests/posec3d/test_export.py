"""Exported files against the package itself: drawing, streams, every network, and clips that are as none should be."""

import dataclasses
import functools
import io
import json

import cv2
import numpy as np
import pytest
import torch
from test_heatmaps import awkward_clip, slow_joints, slow_limbs

from posec3d import checkpoint as checkpoints
from posec3d import export, export_torch, load
from posec3d.clips import RGB_SCALE, ClipConfig, testing_clips
from posec3d.config import HeatmapConfig, ModelConfig, TrainConfig
from posec3d.frames import Frames, rgb_clips
from posec3d.heatmaps import joint_volumes, limb_volumes
from posec3d.recognizer import Recognizer
from posec3d.skeletons import COCO17, skeleton
from posec3d.table import Clip

LIGHT = ("pose-slowonly-light", {})
LIMBS = ("pose-slowonly-light", {"kind": "limb"})
FEW = ("pose-slowonly-light", {"persons": 2})
STGCN = ("stgcn++", {"persons": 2})
MSG3D = ("msg3d", {"persons": 2})
WHOLE = ("pose-slowonly-light", {"padding": None})
RGB = ("rgb-slowonly-light", {"rgb_length": 2})
RGBPOSE = ("rgbpose-slowfast-light", {"rgb_length": 2})
MOTION = ("stgcn++", {"persons": 1, "stream": "bone-motion"})
NETWORKS = [
    LIGHT, LIMBS, FEW, STGCN, MOTION, RGB, RGBPOSE,
    *(pytest.param(name, settings, marks=pytest.mark.slow) for name, settings in (
        WHOLE, ("rgb-slowonly-light", {"rgb_length": 2, "padding": None}),
        ("rgbpose-slowfast-light", {"rgb_length": 2, "padding": None}),
        ("pose-slowonly", {}), ("pose-slowonly-346", {}), ("c3d-light", {}), ("x3d-shallow", {}), MSG3D,
        ("rgb-slowonly", {"rgb_length": 2}), ("rgbpose-slowfast", {"rgb_length": 2}))),
]  # fmt: skip


@functools.cache
def checkpoint(name, kind="joint", body="coco17", **clip):
    """A network whose answer depends on all it is given: random statistics, and classes that part random people."""
    torch.manual_seed(0)
    space = "frame" if name in ("stgcn++", "msg3d") else "volume"
    config = TrainConfig(
        model=ModelConfig(name=name, fusion=(1.0, 3.0)),
        clip=ClipConfig(**{"length": 6, "test_size": 20, "space": space, **clip}),
        heatmap=HeatmapConfig(kind=kind, sigma=0.7),
    )
    model = checkpoints.build_model(config, body, 5)
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            for values in (layer.running_mean, layer.bias.data):
                values.normal_(0, 0.2)
            for values in (layer.running_var, layer.weight.data):
                values.uniform_(0.5, 1.5)
    heads = [head for head, _ in model.named_children() if head.startswith("fc_")]
    for head in heads:
        torch.nn.init.normal_(model.get_submodule(head).weight)
    saved = checkpoints.Checkpoint(config, ("bow", "kick", "punch", "point", "wave"), body, model.state_dict())
    recognizer, rng = Recognizer(saved), np.random.default_rng(1)
    logits = {head: [] for head in heads}
    for head in heads:
        layer = recognizer.model.get_submodule(head)
        layer.register_forward_hook(lambda layer, given, out, of=logits[head]: of.append(out))
    clips = [export.random_clip(saved, 2, rng) for _ in range(12)]
    predicted(recognizer, clips, export.random_frames(saved, len(clips), rng))
    for head in heads:
        spread, mean = torch.std_mean(torch.cat(logits[head]), 0)
        # At most 4 to 1: of a greater mean, less a greater bias, is left what float32 rounds, in torch as in the file.
        spread = torch.maximum(spread, mean.abs() / 4)
        saved.weights[f"{head}.weight"] /= spread[:, None]
        saved.weights[f"{head}.bias"].copy_(-mean / spread)
    return saved


@functools.cache
def opened(name, **settings):
    return export.open_onnx(export.onnx(checkpoint(name, **settings)), threads=1)


def batch(clips, config, frames=()):
    return export.batch(clips, config.clip, frames)


def predicted(recognizer, clips, frames=None):
    frames = frames or [None] * len(clips)
    samples = [recognizer.samples(clip, of, clips=1) for clip, of in zip(clips, frames, strict=True)]
    return np.concatenate([recognizer.scores(sample) for sample in samples])


def people(count=2, frames=14, *, height=480, width=640, seed=0, body="coco17"):
    rng = np.random.default_rng(seed)
    joints = len(skeleton(body).joints)
    points = rng.uniform((100, 60), (400, 380), (count, frames, joints, 2)).astype(np.float32)
    scores = rng.uniform(0.2, 1, (count, frames, joints)).astype(np.float32)
    return Clip("c", frames, height, width, points, scores, skeleton=body)


def changed(clip, **arrays):
    return dataclasses.replace(clip, **arrays)


@pytest.mark.parametrize("size", [24, 33])
@pytest.mark.parametrize("sigma", [0.3, 0.6, 2.0])
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_drawn_equals_the_slow_method(size, sigma, count):
    xy, score = awkward_clip(count)
    xy, score = xy.astype(np.float32), score.astype(np.float32)
    lost = ~np.isfinite(xy).all(-1)
    given = [torch.from_numpy(np.where(lost[..., None], 0, xy))[None], torch.from_numpy(np.where(lost, 0, score))[None]]
    joints = [(joint, joint) for joint in range(17)]
    for pairs, slow in (
        (joints, slow_joints(xy.astype(float), score, (size, size), sigma)),
        (COCO17.limbs, slow_limbs(xy.astype(float), score, COCO17.limbs, (size, size), sigma)),
    ):
        ours = export_torch.Volume(pairs, size, sigma)(*given)
        assert ours.dtype == torch.float32
        np.testing.assert_allclose(ours[0].numpy(), slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["joint", "limb"])
@pytest.mark.parametrize("seed", range(4))
def test_the_volume_inside_is_that_of_the_package(kind, seed):
    saved = checkpoint("pose-slowonly-light", kind=kind, length=12, test_size=64)
    clip = people(3, 30, seed=seed)
    clip.scores[:, :, seed] = 0
    clip.keypoints[0, :, 3], clip.keypoints[1, :, 4] = np.nan, 0  # lost though scored; in the corner, far from all
    xy, score, _ = testing_clips(clip.keypoints, clip.scores, (480, 640), saved.config.clip)
    draw = joint_volumes if kind == "joint" else functools.partial(limb_volumes, limbs=COCO17.limbs)
    wanted = draw(xy.astype(float), score.astype(float), size=(64, 64), sigma=0.7)
    module = export_torch.module(saved)
    ours = module.draw(*map(torch.from_numpy, batch([clip], saved.config)))
    assert (wanted.reshape(17, -1).max(-1) > 0.1).sum() >= 13
    np.testing.assert_allclose(ours.numpy(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "settings"), NETWORKS)
def test_onnx_says_what_the_recognizer_says_of_1_2_and_5_people_in_batches_of_1_and_3(name, settings):
    assert export.difference(opened(name, **settings), checkpoint(name, **settings)) < 1e-4


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (481, 640)])
def test_without_a_crop_the_module_says_what_the_recognizer_says(size):
    saved = checkpoint(WHOLE[0], **WHOLE[1])
    clips = [people(2, height=size[0], width=size[1], seed=seed) for seed in range(2)]
    clips[1].scores[:] = 0
    given = [torch.from_numpy(array) for array in batch(clips, saved.config)]
    with torch.inference_mode():
        ours, cropped = (export_torch.module(of)(*given) for of in (saved, checkpoint(LIGHT[0])))
    np.testing.assert_allclose(ours, predicted(Recognizer(saved), clips), atol=1e-5)
    assert (ours - cropped).abs().max() > 0.01


@pytest.mark.parametrize(("name", "settings"), [LIMBS, STGCN, RGB, RGBPOSE])
def test_onnx_says_what_the_module_says_in_torch(name, settings):
    saved = checkpoint(name, **settings)
    frames = export.random_frames(saved, 3, np.random.default_rng(0))
    given = batch([people(seed=seed) for seed in range(3)], saved.config, frames)
    with torch.inference_mode():
        wanted = export_torch.module(saved)(*map(torch.from_numpy, given)).numpy()
    ours = opened(name, **settings)(*given)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)
    assert np.ptp(ours, axis=0).max() > 100 * 1e-4  # what it is given matters far more than the bar


def test_a_saved_run_and_its_file_agree(tmp_path):
    saved = checkpoint(*LIGHT[:1])
    checkpoints.save(saved, str(tmp_path / "best.safetensors"))
    clip = people()
    ours = opened(LIGHT[0])(*batch([clip], saved.config))
    np.testing.assert_allclose(ours[0], load(tmp_path).predict(clip, clips=1).scores, atol=1e-4)


@pytest.mark.parametrize("stream", ["joint", "bone", "joint-motion", "bone-motion"])
@pytest.mark.parametrize(("name", "persons"), [("stgcn++", 1), ("stgcn++", 3), ("msg3d", 2)])
@pytest.mark.parametrize("frames", [4, 6, 20])
def test_streams_inside_are_those_of_the_package(name, persons, stream, frames):
    saved = checkpoint(name, persons=persons, stream=stream)
    clip = people(2, frames)  # the shorter ones are looked at to their last frame, which has no next one
    clip.scores[0, :, 5], clip.keypoints[1, 0, 3] = 0.005, np.nan
    with torch.inference_mode():
        ours = export_torch.module(saved)(*map(torch.from_numpy, batch([clip], saved.config))).numpy()
    np.testing.assert_allclose(ours, predicted(Recognizer(saved), [clip]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"), [LIGHT, LIMBS, STGCN, MOTION, pytest.param(*RGBPOSE, marks=pytest.mark.slow)]
)
def test_awkward_clips_are_answered_as_by_the_recognizer(name, settings):
    saved, plain = checkpoint(name, **settings), people()
    far, degenerate, corner, lost, few = (plain.keypoints.copy() for _ in range(5))
    far[:, :, :6] += 5000
    degenerate[:, :, 7:] = degenerate[:, :, 7:8]
    corner[:, :, ::3] = 0
    lost[:, ::2, 2:5], lost[0, 1, 0, 1], lost[1, 3] = np.nan, np.inf, -np.inf
    few[:] = 300 + few / 50  # 6 pixels wide: not cropped
    unequal = plain.scores.copy()
    unequal[:, :, 8::2] = 0.3
    unseen, faint, one_person = plain.scores.copy(), plain.scores / 2000, plain.scores.copy()
    unseen[:, :, :6] = 0
    one_person[1] = 0
    clips = [
        changed(plain, scores=np.zeros_like(plain.scores)),
        changed(plain, keypoints=far, scores=unseen),
        changed(plain, keypoints=far),
        changed(plain, keypoints=degenerate, scores=unequal),
        changed(plain, keypoints=corner),
        changed(plain, keypoints=lost),
        changed(plain, keypoints=np.full_like(lost, np.nan)),
        changed(plain, keypoints=few),
        changed(plain, scores=faint),
        changed(plain, scores=one_person),
        changed(plain, keypoints=plain.keypoints - 700),  # left of and above the frame
    ]
    frames = export.random_frames(saved, len(clips), np.random.default_rng(0))
    ours = opened(name, **settings)(*batch(clips, saved.config, frames))
    np.testing.assert_allclose(ours, predicted(Recognizer(saved), clips, frames), atol=1e-4)
    each = zip(clips, frames, strict=True)
    alone = [opened(name, **settings)(*batch([clip], saved.config, [of]))[0] for clip, of in each]
    np.testing.assert_allclose(ours, alone, atol=1e-6)  # clips of a batch know nothing of each other


@pytest.mark.parametrize("width", [320, 640, 1000])
@pytest.mark.parametrize("region", [(0, 0, 640, 480), (131, 77, 250, 301), (250, 20, 60, 400)])
def test_pictures_are_warped_as_by_the_package(region, width):
    config, rng = ClipConfig(test_size=20, rgb_length=3), np.random.default_rng(0)
    nobody, whole = people(), people()
    nobody.scores[:] = 0
    whole.keypoints[:] = 300 + whole.keypoints / 50  # 6 pixels wide: not cropped
    for clip in (people(), nobody, whole, changed(people(), keypoints=people().keypoints - 150)):
        rgb = rng.integers(0, 256, (3, 240, width, 3), np.uint8)
        frames = Frames(np.arange(3), region, [cv2.imencode(".png", image[..., ::-1])[1].tobytes() for image in rgb])
        place = RGB_SCALE * testing_clips(clip.keypoints, clip.scores, (480, 640), config)[2]
        wanted = rgb_clips(clip, frames, place, 80, 3)[0]
        points, scores, size, *pictures = map(torch.from_numpy, export.batch([clip], config, [frames]))
        box = export_torch.clip_box(points, scores, size, config.padding)
        apart = np.abs(export_torch.warped(*pictures, *box, 80)[0].numpy() - wanted)
        # Sums in another order: seldom, by a grey level. (OpenCV 4 rounds places to 1/32 pixel.)
        assert apart.max() <= 1 and (apart > 0).mean() < 0.002 and np.ptp(wanted) > 200


def test_nobody_is_a_person_without_a_score():
    saved = checkpoint(*LIGHT[:1])
    nobody = people(0)
    given = np.full((1, 1, 6, 17, 2), np.nan, np.float32), np.zeros((1, 1, 6, 17), np.float32), [[480, 640]]
    ours = opened(LIGHT[0])(*given[:2], np.array(given[2], np.float32))
    np.testing.assert_allclose(ours, predicted(Recognizer(saved), [nobody]), atol=1e-4)


def test_people_without_a_score_change_nothing():
    given = points, scores, size = batch([people(2)], checkpoint(*LIGHT[:1]).config)
    padded = np.pad(points, [(0, 0), (0, 3), (0, 0), (0, 0), (0, 0)]), np.pad(scores, [(0, 0), (0, 3), (0, 0), (0, 0)])
    for name, settings in (LIGHT, STGCN):
        run = opened(name, **settings)
        np.testing.assert_allclose(run(*padded, size), run(*given), atol=1e-6)


def test_another_number_of_frames_is_refused():
    points, scores, size = batch([people()], checkpoint(*LIGHT[:1]).config)
    with pytest.raises(Exception, match="Got: 5 Expected: 6"):
        opened(LIGHT[0])(points[:, :, :5], scores[:, :, :5], size)


def test_another_number_of_pictures_is_refused():
    saved = checkpoint(*RGB[:1], **RGB[1])
    *given, rgb, region = batch([people()], saved.config, export.random_frames(saved, 1, np.random.default_rng(0)))
    with pytest.raises(Exception, match="Got: 1 Expected: 2"):
        opened(RGB[0], **RGB[1])(*given, rgb[:, :1], region)


def test_another_skeleton_and_stride_are_exported_too():
    saved = checkpoint("x3d-shallow", kind="limb", body="sbu15", stride=2)
    run = export.open_onnx(export.onnx(saved), threads=1)
    clips = [people(2, frames, body="sbu15") for frames in (30, 7)]
    np.testing.assert_allclose(run(*batch(clips, saved.config)), predicted(Recognizer(saved), clips), atol=1e-4)
    assert export.difference(run, saved) < 1e-4


def test_two_heads_that_learnt_by_one_loss_are_fused_as_they_learnt():
    name, settings = RGBPOSE
    apart = checkpoint(name, **settings)
    optim = dataclasses.replace(apart.config.optim, joint_loss=True)
    saved = dataclasses.replace(apart, config=dataclasses.replace(apart.config, optim=optim))
    module = export_torch.module(saved)

    def run(*arrays):
        with torch.inference_mode():
            return module(*map(torch.from_numpy, arrays)).numpy()

    assert export.difference(run, saved) < 1e-4
    assert export.difference(run, apart) > 1e-2


def test_the_file_says_what_it_is_and_wants():
    import onnx

    file = onnx.load_from_string(export.onnx(checkpoint(MOTION[0], **MOTION[1])))
    onnx.checker.check_model(file)
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert json.loads(about["labels"]) == ["bow", "kick", "punch", "point", "wave"]
    assert (about["skeleton"], about["clip_length"], about["stream"]) == ("coco17", "6", "bone-motion")
    assert json.loads(about["joints"]) == list(COCO17.joints)
    assert json.loads(about["config"])["clip"]["stream"] == "bone-motion"
    assert "(N, M, 12, 17, 2)" in about["inputs"] and "frame of the video after each" in about["sampling"]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*file.graph.input, *file.graph.output)
    }
    assert shapes == {
        "keypoints": ["N", "M", 12, 17, 2],
        "scores": ["N", "M", 12, 17],
        "frame_size": ["N", 2],
        "probabilities": ["N", 5],
    }


def test_the_file_says_which_pictures_it_wants():
    import onnx

    file = onnx.load_from_string(export.onnx(checkpoint(RGB[0], **RGB[1])))
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert about["rgb_length"] == "2" and "rgb uint8 (N, 2, H, W, 3)" in about["inputs"]
    assert "take 2 pictures the same way" in about["sampling"]
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in file.graph.input
    }
    assert (shapes["rgb"], shapes["rgb_region"]) == (["N", 2, "H", "W", 3], ["N", 4])


def test_a_model_of_3d_people_is_refused():
    config = checkpoint(STGCN[0], **STGCN[1]).config
    body = dataclasses.replace(config, clip=dataclasses.replace(config.clip, space="body"))
    saved = dataclasses.replace(checkpoint(STGCN[0], **STGCN[1]), config=body)
    for make in (export.onnx, export.program):
        with pytest.raises(export_torch.NotExportable, match=r"clip\.space body cannot be exported: .* train it with"):
            make(saved)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "settings"), [LIGHT, LIMBS, FEW, WHOLE, STGCN, MSG3D, RGB, RGBPOSE])
def test_a_program_of_torch_says_what_the_recognizer_says(name, settings):
    saved = checkpoint(name, **settings)
    data = export.program(saved)
    assert export.difference(export.open_program(data), saved) < 1e-4
    files = {export.METADATA: ""}
    torch.export.load(io.BytesIO(data), extra_files=files)
    assert json.loads(files[export.METADATA]) == export.metadata(saved)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "length", "rgb_length"),
    [("pose-slowonly", 48, 0), ("c3d-light", 48, 0), ("stgcn++", 100, 0), ("rgbpose-slowfast", 32, 8)],
)
def test_onnx_of_the_published_size_says_what_the_recognizer_says(name, length, rgb_length):
    size = 56 if rgb_length else 64
    saved = checkpoint(name, length=length, test_size=size, persons=2, rgb_length=rgb_length)
    count = (2,) if rgb_length else (1, 2, 5)  # of 58 GMACs a clip; small clips are of 1, 2 and 5 above
    assert export.difference(export.open_onnx(export.onnx(saved)), saved, people=count) < 1e-4
