"""What a training run's workers write down for each other, and trackers that fail."""

import dataclasses

import pytest

from jobs import _trackers, _trainer
from posec3d import checkpoint as checkpoints
from posec3d.config import PRESETS
from posec3d.index import Index


@pytest.fixture
def run(tmp_path):
    nothing = Index((), 1, "coco17", 0)
    return _trainer.Run(
        config=PRESETS["demo"][1],
        train=nothing,
        val=None,
        labels=("a",),
        skeleton="coco17",
        init=None,
        out=str(tmp_path),
        workers=(1, 4),
        use_gpu=False,
    )


def test_deaths_in_one_epoch_end_a_run_and_groups_of_another_size_are_none(run):
    for world in (2, 2, 2, 3, 3, 3, 3):
        _trainer._count_start(run, world)
    _trainer._say(run, "last", "out of memory")
    with pytest.raises(RuntimeError, match="workers died 4 times in one epoch; the last time: out of memory"):
        _trainer._count_start(run, 3)


def test_a_finished_epoch_forgives_deaths_and_only_the_newest_checkpoints_are_kept(run, tmp_path):
    kept = dataclasses.replace(run, keep=2)
    for epoch in range(1, 6):
        for _ in range(4):
            _trainer._count_start(kept, 2)
        _trainer._write(kept, b"x", {"epoch": float(epoch)}, epoch == 1)
    assert sorted(path.name for path in (tmp_path / "epochs").iterdir()) == ["0004.safetensors", "0005.safetensors"]
    assert len(_trainer.read_metrics(f"{tmp_path}/metrics.csv")) == 5


def test_a_run_tested_with_fewer_views_than_asked_for_now_is_not_finished(run, tmp_path):
    config, val = dataclasses.replace(run.config, epochs=1), Index((), 1, "coco17", 0)
    weights = checkpoints.build_model(config, "coco17", 1).state_dict()
    checkpoints.save(checkpoints.Checkpoint(config, ("a",), "coco17", weights, epoch=1), f"{tmp_path}/last.safetensors")
    ten, twenty, none = (dataclasses.replace(run, config=config, val=val, final_clips=n) for n in (10, 20, 0))
    assert [plan.finished for plan in (ten, twenty, none)] == [False, False, True]
    (tmp_path / "final.json").write_text('{"views": 10, "top1": 0.5}')
    assert [plan.finished for plan in (ten, twenty, none)] == [True, False, True]


def test_shares_of_a_batch_are_all_of_it(run):
    for world in (1, 3, 5, 16):
        shares = [run.batch(rank, world) for rank in range(world)]
        assert sum(shares) == run.config.batch
        assert max(shares) - min(shares) <= 1


def test_an_error_of_writing_ends_the_training_that_goes_on_meanwhile(run, tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(OSError), _trainer._Writer() as writer:
        writer.write(run, b"x", {"epoch": 1.0}, False)


@pytest.mark.parametrize("fails", ["at the start", "at an epoch", "at the end"])
def test_a_tracker_that_cannot_be_reached_is_a_warning(monkeypatch, caplog, fails, tmp_path):
    import contextlib

    given = []

    @contextlib.contextmanager
    def broken(out, config):
        if fails == "at the start":
            raise ConnectionError("no server at the start")

        def take(metrics, epoch):
            if fails == "at an epoch":
                raise ConnectionError("no server at an epoch")
            given.append(epoch)

        yield take
        if fails == "at the end":
            raise ConnectionError("no server at the end")

    monkeypatch.setitem(_trackers._TRACKERS, "mlflow", broken)
    with _trackers.track(("mlflow", "tensorboard"), str(tmp_path), PRESETS["demo"][1]) as say:
        say({"epoch": 1.0, "lr": 0.1})
    assert f"mlflow: no server {fails}" in caplog.text
    assert given == ([1] if fails == "at the end" else [])
    assert list((tmp_path / "tensorboard").iterdir())


def test_an_error_of_training_is_not_a_trackers(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        _trackers.track(("tensorboard",), str(tmp_path), PRESETS["demo"][1]),
    ):
        raise ZeroDivisionError
