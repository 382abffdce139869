"""Training loop, metrics and checkpoints on a set so small that the outcome is certain."""

import copy
import dataclasses
import itertools
import json
import threading

import numpy as np
import pytest
import safetensors.torch
import torch

from posec3d import checkpoint as checkpoints
from posec3d import training
from posec3d.checkpoint import Checkpoint
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS, HeatmapConfig, ModelConfig, OptimConfig, TrainConfig
from posec3d.skeletons import COCO17

TINY = TrainConfig(
    model=ModelConfig(name="pose-slowonly-light", dropout=0.0),
    clip=ClipConfig(length=4, size=12, test_size=12),
    heatmap=HeatmapConfig(sigma=1.0),
    optim=OptimConfig(name="adamw", lr=2e-3, weight_decay=0.0),
    epochs=4,
    batch=8,
)


def batches(epoch=0, steps=12):
    """Two classes: hands up, hands down."""
    rng = np.random.default_rng(epoch)
    for _ in range(steps):
        label = rng.integers(0, 2, 8)
        xy = rng.uniform(4, 8, (8, 1, 4, 17, 2)).astype(np.float32)
        xy[..., 9:11, 1] = np.where(label, 2, 10)[:, None, None, None]
        yield {"xy": xy, "score": np.ones(xy.shape[:-1], np.float32), "label": label}


def start(config=TINY, seed=0):
    torch.manual_seed(seed)
    model = checkpoints.build_model(config, "coco17", 2)
    return model, training.make_optimizer(model, config.optim)


def fit(model, optimizer, config=TINY, **options):
    return training.fit(model, optimizer, config, COCO17, batches, lambda: batches(99, 3), steps=12, **options)


def test_it_learns_and_says_so():
    rows = list(fit(*start()))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["val_top1"] == 1
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert 0 <= rows[-1]["stall"] <= 1


@pytest.mark.slow
def test_it_learns_in_bfloat16_as_well():
    """Of six frames, of which the last stage keeps three."""
    config = dataclasses.replace(TINY, clip=dataclasses.replace(TINY.clip, length=6, size=16, test_size=16))

    def longer(epoch=0, steps=12):
        return ({**b, **{k: np.pad(b[k], [(0, 0), (0, 0), (0, 2)] + [(0, 0)] * (b[k].ndim - 3), "edge")
                         for k in ("xy", "score")}} for b in batches(epoch, steps))  # fmt: skip

    def both(dtype):
        validate = lambda: longer(99, 3)  # noqa: E731
        return list(training.fit(*start(config), config, COCO17, longer, validate, steps=12, dtype=dtype))

    rows, whole = both(torch.bfloat16), both(torch.float32)
    assert rows[-1]["val_top1"] == 1
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert rows[0]["train_loss"] == pytest.approx(whole[0]["train_loss"], abs=0.05)
    assert rows[0]["train_loss"] != whole[0]["train_loss"]  # else nothing was computed in it


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_resuming_from_a_checkpoint_gives_the_uninterrupted_losses(tmp_path, name):
    config = dataclasses.replace(TINY, optim=dataclasses.replace(TINY.optim, name=name))
    whole = list(fit(*start(config), config))
    model, optimizer = start(config)
    list(itertools.islice(fit(model, optimizer, config), 2))
    state = Checkpoint(
        config, ("up", "down"), "coco17", model.state_dict(), checkpoints.pack_optimizer(optimizer), epoch=2
    )
    checkpoints.save(state, str(tmp_path / "last.safetensors"))

    back = checkpoints.load(str(tmp_path / "last.safetensors"))
    model, optimizer = start(config, seed=5)
    model.load_state_dict(back.weights)
    checkpoints.unpack_optimizer(optimizer, back.optimizer)
    rest = list(fit(model, optimizer, config, first_epoch=back.epoch))
    for resumed, row in zip(rest, whole[2:], strict=True):
        assert resumed["train_loss"] == pytest.approx(row["train_loss"], abs=1e-6)
        assert resumed["val_loss"] == pytest.approx(row["val_loss"], abs=1e-6)


def test_in_float16_the_scale_of_the_loss_is_resumed_too(tmp_path):
    """It falls where gradients overflow: who began with the first one again would leave out steps."""
    config = dataclasses.replace(TINY, epochs=2)

    def linear(seed=0):  # convolutions in float16 take a CPU seconds
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(17 * 4 * 12 * 12, 2))
        return model, training.make_optimizer(model, config.optim)

    def scaler(scale=2.0**22):  # with which the first gradients overflow
        made = training.loss_scaler(torch.float16)
        made.load_state_dict({**made.state_dict(), "scale": scale})
        return made

    def fit_16(model, optimizer, scaler, **options):
        options |= {"dtype": torch.float16, "scaler": scaler}
        return training.fit(model, optimizer, config, COCO17, batches, None, steps=12, **options)

    _, whole = fit_16(*linear(), scaler())
    (model, optimizer), used = linear(), scaler()
    next(fit_16(model, optimizer, used))
    assert used.get_scale() < 2**22
    state = Checkpoint(config, ("up", "down"), "coco17", model.state_dict(), checkpoints.pack_optimizer(optimizer),
                       epoch=1, scaler=used.state_dict())  # fmt: skip
    checkpoints.save(state, str(tmp_path / "last.safetensors"))
    back = checkpoints.load(str(tmp_path / "last.safetensors"))
    losses = []
    for kept in (back.scaler, scaler().state_dict()):
        model, optimizer = linear(seed=5)
        model.load_state_dict(back.weights)
        checkpoints.unpack_optimizer(optimizer, back.optimizer)
        resumed = scaler(1.0)
        resumed.load_state_dict(kept)
        (row,) = fit_16(model, optimizer, resumed, first_epoch=1)
        losses.append(row["train_loss"])
    assert losses[0] == pytest.approx(whole["train_loss"], abs=1e-6)
    assert abs(losses[1] - whole["train_loss"]) > 1e-4


def test_a_feed_that_ends_early_is_an_error():
    with pytest.raises(RuntimeError, match="ended after 12 of 13 steps"):
        next(training.fit(*start(), TINY, COCO17, batches, None, steps=13))


def test_no_batch_too_many_is_taken_from_the_feed():
    taken = []
    feed = (taken.append(1) or batch for batch in batches())
    next(training.fit(*start(), TINY, COCO17, lambda epoch: feed, None, steps=3))
    assert len(taken) == 3


def test_gradients_that_are_none_are_told_from_others():
    """Of torch 2.13 on CPUs, in bfloat16, of two frames; one whose gradients are right there learns."""
    try:
        rows = list(fit(*start(), dtype=torch.bfloat16))
    except RuntimeError as error:
        assert "bfloat16 convolutions are wrong for clips of 4 frames of 12 pixels; take --precision float32" in str(
            error
        )
    else:
        assert rows[-1]["val_top1"] == 1


def test_a_loss_that_is_not_finite_names_the_remedy():
    config = dataclasses.replace(TINY, optim=OptimConfig(lr=1e30, clip_norm=1e30))
    with pytest.raises(RuntimeError, match=r"lower optim\.lr"):
        list(fit(*start(config), config))


def test_drops_of_the_learning_rate_by_hand():
    config = OptimConfig(lr=1.0, drops=(0.6, 0.8))
    rates = [training.learning_rate(config, step, 10) for step in range(10)]
    assert rates == pytest.approx([1] * 6 + [0.1] * 2 + [0.01] * 2)


def test_class_weights_by_hand():
    labels = np.repeat([0, 1, 3], [6, 3, 1])
    np.testing.assert_allclose(training.weigh_classes(labels, 4, 0), 1)
    weights = training.weigh_classes(labels, 4, 1)
    np.testing.assert_allclose(weights, [10 / 18, 10 / 9, 1, 10 / 3])
    np.testing.assert_allclose(weights[[0, 1, 3]] * [6, 3, 1], 10 / 3)  # every class counts the same
    half = training.weigh_classes(labels, 4, 0.5)
    np.testing.assert_allclose(half[0] / half[3], 6**-0.5)
    assert half[labels].mean() == pytest.approx(1)


def test_the_loss_weighs_classes():
    """With all weight on one class, the other is never learned."""
    rows = list(fit(*start(), class_weights=np.array([0.0, 1.0])))
    assert rows[-1]["val_mean_class"] == 0.5


def test_mixup_mixes_inputs_and_labels_alike():
    """A network that only counts: its loss is the mixed cross-entropy of the mixed input, worked out in float64."""

    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
            self.seen = []

        def forward(self, people):
            self.seen.append(people.detach().clone())
            return people.sum((1, 2, 3, 4))[:, None] * self.w

    config = dataclasses.replace(TINY, optim=OptimConfig(lr=1e-9, mixup=0.5), epochs=1)
    people = torch.randn(8, 1, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    label = np.arange(8) % 2
    model = Sum()
    torch.manual_seed(3)
    (row,) = training.fit(
        model, training.make_optimizer(model, config.optim), config, COCO17,
        lambda epoch: [{"people": people, "label": label}], None, steps=1,
    )  # fmt: skip
    torch.manual_seed(3)
    order = torch.randperm(8)
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    mixed = share * people.double() + (1 - share) * people[order].double()
    torch.testing.assert_close(model.seen[0].double(), mixed, atol=1e-6, rtol=1e-5)
    total = mixed.sum((1, 2, 3, 4)).numpy()
    chance = 1 / (1 + np.exp(-2 * total * np.where([label == 0, label[order] == 0], 1, -1)))
    loss = -(share * np.log(chance[0]) + (1 - share) * np.log(chance[1])).mean()
    assert row["train_loss"] == pytest.approx(loss, rel=1e-5)


def test_learning_rate_by_hand():
    config = OptimConfig(lr=1.0, warmup=0.2)
    rates = [training.learning_rate(config, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[9] == pytest.approx(0.5 * (1 + np.cos(np.pi * 7 / 8)))


def test_a_checkpoint_holds_all_it_takes(tmp_path):
    model, _ = start()
    checkpoints.save(Checkpoint(TINY, ("up", "dówn"), "coco17", model.state_dict()), str(tmp_path / "best.safetensors"))
    back = checkpoints.load(str(tmp_path))
    assert (back.config, back.labels, back.skeleton) == (TINY, ("up", "dówn"), "coco17")
    for name, tensor in back.model().state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name])
    assert not list(tmp_path.glob("*.tmp"))


def metadata(path):
    """What a checkpoint says of itself, read as other programs read JSON: without Infinity and NaN."""
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["posec3d"], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_a_checkpoint_before_any_validation_is_valid_json(tmp_path):
    """With --val-every nothing is known of the first epochs; older files say -Infinity there."""
    path = str(tmp_path / "last.safetensors")
    state = Checkpoint(TINY, ("up", "down"), "coco17", {"x": torch.zeros(1)})
    checkpoints.save(state, path)
    assert metadata(path)["best"] is None and checkpoints.load(path).best == -np.inf
    checkpoints.save(dataclasses.replace(state, best=-0.5, best_by="val_loss"), path)
    assert metadata(path)["best"] == checkpoints.load(path).best == -0.5
    assert checkpoints.load(path).best_by == "val_loss"
    old = {**metadata(path), "best": -np.inf}
    old.pop("scaler")
    safetensors.torch.save_file({"model.x": torch.zeros(1)}, path, {"posec3d": json.dumps(old)})
    assert checkpoints.load(path).best == -np.inf and checkpoints.load(path).scaler == {}


def test_a_config_without_a_crop_and_one_from_before_come_back(tmp_path):
    path = str(tmp_path / "best.safetensors")
    config = dataclasses.replace(TINY, clip=dataclasses.replace(TINY.clip, padding=None))
    checkpoints.save(Checkpoint(config, ("up", "down"), "coco17", {"x": torch.zeros(1)}), path)
    meta = metadata(path)
    assert meta["config"]["clip"]["padding"] is None and checkpoints.load(path).config == config
    meta["config"]["clip"]["padding"] = 0.5
    safetensors.torch.save_file({"model.x": torch.zeros(1)}, path, {"posec3d": json.dumps(meta)})
    assert checkpoints.load(path).config.clip.padding == 0.5
    meta["config"]["clip"]["padding"] = -1
    safetensors.torch.save_file({"model.x": torch.zeros(1)}, path, {"posec3d": json.dumps(meta)})
    with pytest.raises(ValueError, match=r"clip\.padding must be >= 0, or None"):
        checkpoints.load(path)


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"PK\x03\x04 not tensors")
    with pytest.raises(ValueError, match="not a posec3d checkpoint"):
        checkpoints.load(str(tmp_path / "a.safetensors"))
    for number, meta in enumerate((None, {"posec3d": '{"version": 1}'}, {"posec3d": "[]"})):
        safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / f"{number}.safetensors", meta)
        with pytest.raises(ValueError, match="not a posec3d checkpoint"):
            checkpoints.load(str(tmp_path / f"{number}.safetensors"))


def test_a_checkpoint_with_an_unknown_field_or_version_is_refused(tmp_path):
    model, _ = start()
    path = tmp_path / "best.safetensors"
    checkpoints.save(Checkpoint(TINY, ("up", "down"), "coco17", model.state_dict()), str(path))
    with safetensors.safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["posec3d"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}
    for change, message in (({"version": 9}, "version 9"), ({"config": {**meta["config"], "lrr": 1}}, "lrr")):
        safetensors.torch.save_file(tensors, path, {"posec3d": json.dumps({**meta, **change})})
        with pytest.raises(ValueError, match=message):
            checkpoints.load(str(path))


def test_nothing_there_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder of a jobs\.train run"):
        checkpoints.load(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{}, *(pytest.param(change, marks=pytest.mark.slow) for change in ({"joint_loss": True}, {"mixup": 0.2}))],
    ids=str,
)
def test_two_pathways_learn_by_two_losses_or_one(change):
    clip = ClipConfig(length=4, rgb_length=1, size=8, test_size=8)
    config = dataclasses.replace(
        TINY,
        model=ModelConfig(name="rgbpose-slowfast-light", dropout=0),
        clip=clip,
        optim=dataclasses.replace(TINY.optim, **change),
        epochs=3,
    )

    def both(epoch=0, steps=12):
        """Picture and pose both tell the label."""
        rng = np.random.default_rng(epoch)
        for batch in batches(epoch, steps):
            rgb = rng.integers(0, 255, (8, 1, 32, 32, 3)).astype(np.uint8)
            rgb[:, :, 8:24, 8:24] = 255 * batch["label"][:, None, None, None, None]
            yield {**batch, "xy": batch["xy"] * 8 / 12, "rgb": rgb}

    rows = list(training.fit(*start(config), config, COCO17, both, lambda: both(99, 3), steps=12))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["val_top1"] == 1


def test_losses_and_fusion_of_two_heads_by_hand():
    """A model of two constant heads: weights (3, 1) of the losses, (1, 3) of the probabilities."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))

        def forward(self, inputs):
            rgb, volume = inputs
            assert rgb.shape == (8, 3, 1, 32, 32) and volume.shape == (8, 17, 4, 8, 8)
            return self.w[0].repeat(len(rgb), 1), self.w[1].repeat(len(rgb), 1)

    config = dataclasses.replace(
        TINY,
        model=ModelConfig(name="rgbpose-slowfast-light", fusion=(1, 3)),
        clip=ClipConfig(length=4, rgb_length=1, size=8, test_size=8),
        optim=OptimConfig(lr=1e-9, heads=(3, 1)),
        epochs=1,
    )
    batch = next(batches()) | {"label": np.zeros(8, int), "rgb": np.zeros((8, 1, 32, 32, 3), np.uint8)}
    model = Two()
    (row,) = training.fit(
        model, training.make_optimizer(model, config.optim), config, COCO17, lambda e: [batch], None, steps=1
    )
    rgb, pose = 1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(1.0))
    assert row["train_loss"] == pytest.approx(-3 * np.log(rgb) - np.log(pose), rel=1e-6)
    said = training.predict(model, batch, config, COCO17)
    np.testing.assert_allclose(said[:, 0], (rgb + 3 * pose) / 4, rtol=1e-6)

    # One loss for both: they are tested by what it looked at, the mean of their logits, (6 + 0) / 4 and (0 + 1) / 4.
    one = dataclasses.replace(config, optim=dataclasses.replace(config.optim, joint_loss=True))
    said = training.predict(model, batch, one, COCO17)
    np.testing.assert_allclose(said[:, 0], 1 / (1 + np.exp(1 / 4 - 6 / 4)), rtol=1e-6)


def test_fusion_weights_of_two_heads_mean_nothing_to_one():
    config = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, fusion=(0, 1)))
    model, _ = start(config)
    assert np.isfinite(training.predict(model, next(batches()), config, COCO17)).all()
    with pytest.raises(ValueError, match=r"optim\.heads must be two weights >= 0, one of them positive"):
        OptimConfig(heads=(0, 0))


def test_frames_are_normalised_as_published_and_keep_their_layout():
    rgb = np.zeros((2, 3, 4, 5, 3), np.uint8)
    rgb[..., 0] = 255
    frames = training.normalised(rgb)
    assert frames.shape == (2, 3, 3, 4, 5) and frames.is_contiguous(memory_format=torch.channels_last_3d)
    np.testing.assert_allclose(frames[0, :, 0, 0, 0], [(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stgcn++", "msg3d"])
def test_a_graph_network_trains_by_the_same_loop(name):
    clip = ClipConfig(length=8, space="frame", persons=1, flip=0)
    config = dataclasses.replace(TINY, model=ModelConfig(name=name, dropout=0), clip=clip)

    def people(epoch=0, steps=12):
        for batch in batches(epoch, steps):
            both = np.concatenate([batch["xy"] / 6 - 1, batch["score"][..., None]], -1)
            yield {"people": np.tile(both, (1, 1, 2, 1, 1)), "label": batch["label"]}

    rows = list(training.fit(*start(config), config, COCO17, people, lambda: people(99, 3), steps=12))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    assert rows[-1]["val_top1"] == 1


@pytest.mark.parametrize(
    ("name", "clip", "message"),
    [
        ("stgcn++", ClipConfig(), r"stgcn\+\+ wants clip\.space frame, subject or body, got volume"),
        (
            "rgbpose-slowfast-light",
            ClipConfig(length=36, rgb_length=8),
            r"rgbpose-slowfast-light wants a clip\.length that is a multiple of clip\.rgb_length 8, got 36",
        ),
        ("pose-slowonly", ClipConfig(space="frame"), r"pose-slowonly wants clip\.space volume, got frame"),
        ("msg3d", ClipConfig(space="frame"), r"set clip\.persons"),
        ("stgcn++", ClipConfig(space="frame"), r"set clip\.persons"),
    ],
)
def test_a_model_and_clips_that_do_not_fit_are_refused(name, clip, message):
    config = dataclasses.replace(TINY, model=ModelConfig(name=name), clip=clip)
    with pytest.raises(ValueError, match=message):
        checkpoints.build_model(config, "coco17", 2)


def test_every_preset_builds_its_model():
    for name, (line, config) in PRESETS.items():
        assert line, name
        with torch.device("meta"):
            checkpoints.build_model(config, "coco17", 10)


def test_batches_are_made_ahead_in_their_order_and_no_further_than_told():
    made, go = [], threading.Event()

    def feed():
        for number in range(10):
            made.append(number)
            yield {"label": np.full(2, number), "clip_id": np.array(["a", "b"])}
            go.set()

    ready = training.prefetch(feed())
    first = next(ready)
    assert go.wait(5)
    assert isinstance(first["label"], torch.Tensor) and first["clip_id"].tolist() == ["a", "b"]
    rest = []
    for batch in ready:
        rest.append(int(batch["label"][0]))
        assert len(made) <= len(rest) + 1 + training.AHEAD + 1  # those taken, the queue, and one in hand
    assert rest == list(range(1, 10))


@pytest.mark.parametrize("error", [OSError("the disk went away"), SystemExit("the disk went away")])
def test_an_error_of_the_feed_is_raised_where_its_batches_are_used(error):
    def feed():
        yield {"label": np.zeros(2)}
        raise error

    ready = training.prefetch(feed())
    next(ready)
    with pytest.raises(type(error), match="the disk went away"):
        next(ready)


def test_a_feed_nobody_uses_any_more_is_let_go():
    threads = threading.active_count()
    ready = training.prefetch({"label": np.zeros(2)} for _ in itertools.count())
    next(ready)
    assert threading.active_count() == threads + 1
    ready.close()
    assert threading.active_count() == threads


def test_volumes_drawn_elsewhere_train_as_those_drawn_here():
    def drawn(epoch=0, steps=12):
        for batch in batches(epoch, steps):
            xy, score = (torch.from_numpy(batch[name]) for name in ("xy", "score"))
            volume = training.draw(xy, score, 12, TINY.heatmap, COCO17, dtype=torch.uint8)
            yield {"volume": volume.numpy(), "label": batch["label"]}

    here = list(itertools.islice(fit(*start()), 2))
    there = list(itertools.islice(training.fit(*start(), TINY, COCO17, drawn, lambda: drawn(99, 3), steps=12), 2))
    for a, b in zip(here, there, strict=True):  # 8 bits a pixel are not 32
        assert b["train_loss"] == pytest.approx(a["train_loss"], abs=0.02)
        assert b["val_top1"] == pytest.approx(a["val_top1"], abs=0.1)


def linear(config, steps=5, **options):
    """Train a plain linear model on people; its weights before every step, as they are seen, and the rows."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
    torch.nn.init.constant_(model[1].weight, 0.1)
    torch.nn.init.zeros_(model[1].bias)
    people = torch.randn(8 * steps, 1, 1, 2, 3, generator=torch.Generator().manual_seed(2))
    feed = [{"people": people[i::steps], "label": np.arange(8) % 2} for i in range(steps)]
    averaged = copy.deepcopy(model) if config.optim.ema else None
    seen = []
    model.register_forward_pre_hook(lambda layer, given: seen.append(layer[1].weight.detach().clone()))
    rows = list(
        training.fit(
            model, training.make_optimizer(model, config.optim), config, COCO17, lambda epoch: feed,
            lambda: feed[:1], steps=steps, averaged=averaged, **options,
        )
    )  # fmt: skip
    return model, averaged, seen, rows


PLAIN = dataclasses.replace(TINY, optim=OptimConfig(lr=0.3, label_smoothing=0.1), epochs=2)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_takes_the_same_steps(parts):
    whole, _, _, rows = linear(PLAIN)
    in_parts, _, seen, part_rows = linear(PLAIN, accumulate=parts)
    assert len(seen) > 2 * 5 * parts - 1
    torch.testing.assert_close(in_parts.state_dict(), whole.state_dict(), atol=1e-6, rtol=1e-6)
    assert [row["train_loss"] for row in part_rows] == pytest.approx([row["train_loss"] for row in rows], abs=1e-6)


def test_workers_of_unequal_batches_together_take_the_step_of_one():
    """Gradients are averaged over workers: of 5 and 3 clips, each weighted by its portion, that of all 8."""
    people = torch.randn(8, 1, 1, 2, 3, generator=torch.Generator().manual_seed(4))
    label = np.arange(8) % 2
    moved = []
    for part, portion in ((slice(None), 1.0), (slice(5), 5 * 2 / 8), (slice(5, 8), 3 * 2 / 8)):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
        torch.nn.init.constant_(model[1].weight, 0.1)
        torch.nn.init.zeros_(model[1].bias)
        config = dataclasses.replace(TINY, optim=OptimConfig(lr=0.3, momentum=0, weight_decay=0), epochs=1)
        batch = {"people": people[part], "label": label[part]}
        optimizer = training.make_optimizer(model, config.optim)
        list(training.fit(model, optimizer, config, COCO17, lambda _, b=batch: [b], None, steps=1, portion=portion))
        moved.append(model[1].weight.detach() - 0.1)
    torch.testing.assert_close((moved[1] + moved[2]) / 2, moved[0])


def test_averaged_weights_by_hand():
    config = dataclasses.replace(PLAIN, optim=dataclasses.replace(PLAIN.optim, ema=0.4))
    model, averaged, seen, rows = linear(config, val_every=2)
    after = [*seen[1:], model[1].weight.detach()]  # each step's: validation looks at the average, not at the model
    expected = seen[0].double()
    for step, weight in enumerate(after):
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.double()
    torch.testing.assert_close(averaged[1].weight.detach().double(), expected, atol=1e-6, rtol=1e-5)
    assert len(after) == 10
    assert "val_loss" in rows[1]
    assert "val_loss" not in rows[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_that_is_none_is_the_learning_rates(dtype):
    """In bfloat16 it must not be taken for gradients that a CPU got wrong."""
    config = dataclasses.replace(PLAIN, optim=dataclasses.replace(PLAIN.optim, lr=3e38))
    with pytest.raises(training.Diverged, match=r"epoch 1: the loss is (nan|inf); lower optim\.lr \(now 3e\+38\)"):
        linear(config, dtype=dtype)


def test_weights_that_the_last_step_of_an_epoch_ruins_are_not_kept():
    """No loss has seen them: it was finite, and a test would name class 0 for each clip."""
    config = dataclasses.replace(PLAIN, optim=dataclasses.replace(PLAIN.optim, lr=3e38, weight_decay=100), epochs=1)
    with pytest.raises(training.Diverged, match=r"epoch 1: not all weights are finite numbers; lower optim\.lr"):
        linear(config, steps=1)


def test_validation_is_in_float32_whatever_training_is():
    """In bfloat16 a logit has 8 bits."""
    model, _, _, rows = linear(PLAIN, dtype=torch.bfloat16)
    first = torch.randn(40, 1, 1, 2, 3, generator=torch.Generator().manual_seed(2))[::5]
    loss = torch.nn.functional.cross_entropy(model(first).double(), torch.arange(8) % 2)
    assert rows[-1]["val_loss"] == pytest.approx(loss.item(), abs=1e-6)


def test_metrics_of_epochs_without_validation_lie_beside_the_others(tmp_path):
    from jobs._trainer import append_metrics, read_metrics

    uri = str(tmp_path / "metrics.csv")
    rows = [{"epoch": 1.0, "lr": 2.0}, {"epoch": 2.0, "lr": 1.0, "val_top1": 0.5}, {"epoch": 3.0, "lr": 0.0}]
    for row in rows:
        append_metrics(uri, row)
    assert read_metrics(uri) == rows


@pytest.mark.parametrize("parts", [2, 8])
def test_class_weights_are_the_same_in_parts(parts):
    """Alone in its part a clip must count by its class, too."""
    whole, *_ = linear(PLAIN, class_weights=np.array([1.6, 0.4]))
    alike, *_ = linear(PLAIN)
    in_parts, *_ = linear(PLAIN, class_weights=np.array([1.6, 0.4]), accumulate=parts)
    torch.testing.assert_close(in_parts.state_dict(), whole.state_dict(), atol=1e-6, rtol=1e-6)
    assert (whole[1].weight - alike[1].weight).abs().max() > 1e-2
