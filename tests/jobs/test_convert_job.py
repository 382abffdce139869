"""jobs.convert: from a .pth of others and a list of names to a checkpoint that names actions and starts a training."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from jobs import _job, convert, train
from posec3d import actors, load
from posec3d import checkpoint as checkpoints
from posec3d.models import create
from posec3d.models.convert import PYSKL_DEFAULT_LIMBS, to_reference
from posec3d.skeletons import COCO17
from posec3d.table import Clip, write_table

LABELS = ("bow", "jumping_jack", "wave")


def clip(**columns):
    truth = actors.make_clip("wave", actor=1, num_frames=8)
    return Clip("c", 8, 240, 320, truth.keypoints, np.ones(truth.keypoints.shape[:3]), **columns)


@pytest.fixture
def files(tmp_path):
    """A checkpoint of PYSKL with metadata, and the names of its classes."""
    torch.manual_seed(0)
    model = create("pose-slowonly-light", 3)
    torch.nn.init.normal_(model.fc_cls.weight)
    torch.save({"state_dict": to_reference(model), "meta": {"seed": np.int64(1)}}, tmp_path / "joint.pth")
    (tmp_path / "names.txt").write_text("\ufeffbow\njumping_jack\nwave\n\n")  # Windows begins files so
    return tmp_path


def flags(folder, *more):
    given = {"checkpoint": "joint.pth", "labels": "names.txt", "out": "model.safetensors"}
    files = [word for flag, name in given.items() for word in (f"--{flag}", str(folder / name))]
    return convert.parse(["demo", *files, *more])


def test_a_converted_checkpoint_names_actions(files):
    summary = _job.execute(convert.run, flags(files, "--clip.length", "4"))
    assert (summary["classes"], summary["tensors mapped"], summary["tensors dropped"]) == (3, 260, 0)
    assert len(json.loads((files / "model/summary.json").read_text())["mapped"]) == 260
    recognizer = load(files / "model.safetensors")
    assert recognizer.labels == LABELS and recognizer.config.clip.length == 4
    result = recognizer.predict(clip(), clips=2)
    assert result.scores.sum() == pytest.approx(1, abs=1e-5)
    weights = to_reference(checkpoints.load(str(files / "model.safetensors")).model())
    wanted = torch.load(files / "joint.pth", weights_only=False)["state_dict"]
    assert all(tensor.equal(weights[name]) for name, tensor in wanted.items())


def test_training_starts_from_a_converted_checkpoint(files):
    convert.run(flags(files))
    table, init = str(files / "table"), str(files / "model.safetensors")
    rows = (clip(label=i, label_name=name, splits=("train",)) for i, name in enumerate(LABELS))
    write_table((dataclasses.replace(row, clip_id=str(i)) for i, row in enumerate(rows)), table)
    job = train.Train(table=table, out="/unused", init=(init,), val_split=None, config=flags(files).config)
    started = train.prepare(dataclasses.replace(job, config=dataclasses.replace(job.config, batch=3))).init
    assert set(started) == set(checkpoints.load(init).weights)


def test_limbs_drawn_in_the_default_order_are_put_in_the_skeletons(files):
    convert.run(flags(files, "--heatmap.kind", "limb"))
    (files / "model.safetensors").rename(files / "as_it_is.safetensors")
    summary = convert.run(flags(files, "--heatmap.kind", "limb", "--limb-order", "pyskl-default"))
    assert "order of limbs" in summary["note"]
    before, after = (
        checkpoints.load(str(files / name)).weights["conv1.conv.weight"]
        for name in ("as_it_is.safetensors", "model.safetensors")
    )
    for limb in ((0, 5), (11, 12), (14, 16)):
        channel = after[:, COCO17.limbs.index(limb)]
        assert channel.equal(before[:, PYSKL_DEFAULT_LIMBS.index(limb)])


@pytest.mark.parametrize(
    ("more", "names", "message"),
    [
        (
            ["--model.name", "pose-slowonly"],
            None,
            r"does not fit --model.name pose-slowonly .*'pose-slowonly-light', 3",
        ),
        ([], "bow\nwave\n", r"the 2 names in .*names\.txt: (.|\n)*they tell 3 classes apart, the model 2"),
        ([], "bow\n\nwave\n", "names.txt has an empty line; wanted one name a line"),
        ([], "bow\nwave\nwave\n", "names.txt has 'wave' twice"),
        (["--checkpoint", "/nowhere/x.pth"], None, "no file at /nowhere/x.pth"),
        (["--labels", "/nowhere/names.txt"], None, "no file at /nowhere/names.txt"),
        (["--out", "model.pth"], None, "--out must end in .safetensors"),
        (["--limb-order", "pyskl-default"], None, "needs --heatmap.kind limb"),
        (["--skeleton", "coco71"], None, "unknown skeleton 'coco71'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(files, more, names, message):
    if names is not None:
        (files / "names.txt").write_text(names)
    with pytest.raises(_job.UsageError, match=rf"(?s){message}"):
        convert.run(flags(files, *more))
    assert sorted(path.name for path in files.iterdir()) == ["joint.pth", "names.txt"]


def test_an_existing_checkpoint_stays(files):
    convert.run(flags(files))
    before = (files / "model.safetensors").read_bytes()
    with pytest.raises(_job.UsageError, match=r"model\.safetensors exists; remove it, or give another --out"):
        convert.run(flags(files))
    assert (files / "model.safetensors").read_bytes() == before


def test_a_damaged_file_fails_the_job(files):
    (files / "joint.pth").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="not a PyTorch checkpoint that can be read"):
        convert.run(flags(files))


@pytest.mark.parametrize(
    ("preset", "kind"),
    [("ntu60-stgcn++", "stgcn++"), ("ntu60-msg3d", "msg3d"), ("rgbpose", "rgbpose-slowfast"), ("rgb", "rgb-slowonly")],
)
def test_graph_and_rgb_networks_are_converted_by_their_presets(tmp_path, preset, kind):
    model = create(kind, 3)
    torch.save({"state_dict": to_reference(model)}, tmp_path / "theirs.pth")
    (tmp_path / "names.txt").write_text("bow\njumping_jack\nwave\n")
    files = {"checkpoint": "theirs.pth", "labels": "names.txt", "out": "ours.safetensors"}
    words = [word for flag, name in files.items() for word in (f"--{flag}", str(tmp_path / name))]
    convert.run(convert.parse([preset, *words]))
    ours = checkpoints.load(str(tmp_path / "ours.safetensors"))
    assert all(torch.equal(tensor, ours.weights[name]) for name, tensor in model.state_dict().items())
    if preset.startswith("ntu60"):
        assert load(tmp_path / "ours.safetensors").predict(clip(), clips=1).scores.shape == (3,)
