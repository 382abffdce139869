"""The jobs on one local Ray, small: train, resume, evaluate, predict; and what they refuse before any work."""

import contextlib
import dataclasses
import importlib.util
import json
import shutil
import time

import numpy as np
import pytest
import torch

from jobs import _job, _ray, evaluate, predict, stats, train
from posec3d import actors, load
from posec3d import table as tables
from posec3d.checkpoint import Checkpoint, build_model, save
from posec3d.checkpoint import load as load_checkpoint
from posec3d.config import PRESETS, ModelConfig, OptimConfig
from posec3d.frames import Frames, to_row, write_frames
from posec3d.table import Clip, write_table
from posec3d.video import open_video, write_video

CONFIG = dataclasses.replace(
    PRESETS["demo"][1],
    clip=dataclasses.replace(PRESETS["demo"][1].clip, length=4, size=12, test_size=12),
    epochs=2,
    repeat=2,
    batch=8,
)

GRAPH = dataclasses.replace(
    PRESETS["ntu60-stgcn++"][1],
    clip=dataclasses.replace(PRESETS["ntu60-stgcn++"][1].clip, length=6),
    epochs=1,
    repeat=1,
    batch=8,
)


def rows(count, label=None, splits=None):
    for i in range(count):
        action = actors.ACTIONS[i % 2]
        truth = actors.make_clip(action, actor=i, num_frames=6)
        yield Clip(
            f"c{i}",
            6,
            240,
            320,
            truth.keypoints,
            np.ones(truth.keypoints.shape[:3]),
            label=i % 2 if label is None else label(i),
            label_name=action,
            splits=("train",) if i < count - 4 else ("test",),
        )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("table"))
    write_table(rows(12), uri, rows_per_file=5)
    return uri


@pytest.fixture(scope="module")
def run(table, ray_local, tmp_path_factory):
    """A finished training run."""
    out = str(tmp_path_factory.mktemp("run"))
    train.run(train.Train(table=table, out=out, config=CONFIG))
    return out


@pytest.mark.ray
def test_a_run_leaves_checkpoints_metrics_and_curves(run, table):
    from pathlib import Path

    names = {path.name for path in Path(run).iterdir()}
    expected = {"config.json", "metrics.csv", "best.safetensors", "last.safetensors", "learning_curves.png"}
    assert expected | {"tensorboard"} <= names
    lines = (Path(run) / "metrics.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch,lr,train_loss,train_top1")
    assert load(run).labels == actors.ACTIONS[:2]


@pytest.mark.ray
def test_the_same_command_again_trains_nothing_more(run, table, caplog):
    from pathlib import Path

    before = (Path(run) / "last.safetensors").read_bytes()
    caplog.set_level("INFO")
    summary = train.run(train.Train(table=table, out=run, config=CONFIG))
    assert summary["epochs"] == 2
    assert "all 2 epochs are done already" in caplog.text
    assert (Path(run) / "last.safetensors").read_bytes() == before


@pytest.mark.ray
def test_another_config_in_the_same_folder_is_refused(run, table):
    with pytest.raises(_job.UsageError, match="holds a run with another config"):
        train.run(train.Train(table=table, out=run, config=dataclasses.replace(CONFIG, epochs=3)))


@pytest.mark.ray
def test_a_folder_in_use_is_refused(run, table):
    with _job.lock(run), pytest.raises(_job.UsageError, match="another run is writing"):
        train.run(train.Train(table=table, out=run, config=CONFIG))


@pytest.mark.ray
def test_evaluation_counts_every_clip_once_and_fuses_runs(run, table, tmp_path):
    one = evaluate.run(evaluate.Evaluate(runs=(run,), table=table, clips=2, flip=True, out=str(tmp_path / "one")))
    assert one["clips"] == 4
    assert np.sum(one["confusion"]) == 4
    two = evaluate.run(evaluate.Evaluate(runs=(run, run), table=table, clips=2, flip=True, out=str(tmp_path / "two")))
    assert two["top1"] == one["top1"]
    assert (tmp_path / "two/scores.csv").read_text() == (tmp_path / "one/scores.csv").read_text()
    assert (tmp_path / "one/confusion.png").stat().st_size > 1000
    header, *lines = (tmp_path / "one/scores.csv").read_text().splitlines()
    assert header == "clip_id,label,predicted,score:bow,score:jumping_jack"
    assert len(lines) == 4


def test_results_on_two_tables_lie_in_two_folders(tmp_path):
    run, table = f"{tmp_path}/run", f"{tmp_path}/a/table"
    _job.write_json(f"{run}/config.json", {"table": table})
    own = evaluate.Evaluate(runs=(run,), table=table, split="fold_b")
    assert evaluate._default_out(own) == f"{run}/evaluate/fold_b-1clip"
    best = dataclasses.replace(own, runs=(f"{run}/best.safetensors",), clips=10, flip=True)
    assert evaluate._default_out(best) == f"{run}/best/evaluate/fold_b-10clips-flip"
    kept = dataclasses.replace(own, runs=(f"{run}/epochs/0002.safetensors",))
    assert evaluate._default_out(kept) == f"{run}/epochs/0002/evaluate/fold_b-1clip"
    others = [evaluate._default_out(dataclasses.replace(own, table=f"{tmp_path}/{name}/table")) for name in "bc"]
    assert all(out.startswith(f"{run}/evaluate/fold_b-1clip-on-table-") for out in others)
    assert others[0] != others[1]


def test_results_on_two_splits_lie_in_two_folders(tmp_path):
    _job.write_json(f"{tmp_path}/config.json", {"table": "t"})
    splits = ["测试", "验证", "a.b", "a,b", "a_b", "!a_b", "all", None]
    jobs = [evaluate.Evaluate(runs=(str(tmp_path),), table="t", split=split) for split in splits]
    outs = [evaluate._default_out(job) for job in jobs]
    assert len(set(outs)) == len(splits)
    assert outs[3].startswith(f"{tmp_path}/evaluate/a_b-1clip-")
    assert outs[4] == f"{tmp_path}/evaluate/a_b-1clip"
    assert outs[-1] == f"{tmp_path}/evaluate/all-1clip"


@pytest.mark.parametrize(("split", "learnt"), [("train", 8), (None, 8), ("test", 0)])
@pytest.mark.parametrize("file", ["", "/best.safetensors", "/epochs/0001.safetensors"])
def test_a_test_on_clips_that_were_learnt_is_said_to_be_none(run, table, caplog, split, learnt, file):
    caplog.clear()
    ((uri, trained),) = evaluate._sides(evaluate.Evaluate(runs=(run + file,), table=table))[0].items()
    clips = evaluate._clips(table, {split, trained})
    evaluate._tell_learnt(uri, clips[split], clips[trained], "so what")
    assert [record.args[1] for record in caplog.records] == [learnt] * bool(learnt)


def test_which_clips_are_tested_and_learnt_from_takes_one_reading_of_the_table(table, tmp_path, monkeypatch, caplog):
    weights = build_model(CONFIG, "coco17", 2).state_dict()
    save(Checkpoint(CONFIG, actors.ACTIONS[:2], "coco17", weights), f"{tmp_path}/best.safetensors")
    _job.write_json(f"{tmp_path}/config.json", {"table": table, "train_split": "!test", "val_split": "train"})
    read, plain = [], tables.read_row_groups
    monkeypatch.setattr(tables, "read_row_groups", lambda uri, names: read.append(names) or plain(uri, names))
    monkeypatch.setattr(_ray, "connect", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.run(evaluate.Evaluate(runs=(str(tmp_path),) * 2, table=table, split="train"))
    assert [names for names in read if names[0] == "clip_id"] == [["clip_id", "label", "splits"]]
    assert "has learnt from 8 of the 8 clips" in caplog.text
    assert "is the epoch that was best on 8 of the 8 clips" in caplog.text


@pytest.mark.parametrize(("file", "chosen"), [("", 1), ("/best.safetensors", 1), ("/last.safetensors", 0)])
@pytest.mark.parametrize(("val_split", "told"), [("test", 1), ("train", 0), (None, 0)])
def test_a_test_on_clips_that_chose_the_epoch_is_said_to_be_flattered(tmp_path, caplog, file, chosen, val_split, told):
    _job.write_json(f"{tmp_path}/config.json", {"table": "t", "train_split": "train", "val_split": val_split})
    chose = evaluate._sides(evaluate.Evaluate(runs=(f"{tmp_path}{file}",), table="t"))[1]
    clips = {"train": {"a"}, "test": {"b", "c"}}
    for uri, split in chose.items():
        evaluate._tell_chosen(uri, clips["test"], clips[split])
    assert ["best on 2 of the 2 clips" in record.getMessage() for record in caplog.records] == [True] * (chosen * told)


@pytest.mark.ray
def test_evaluation_is_that_of_the_recognizer(run, table, tmp_path):
    evaluate.run(evaluate.Evaluate(runs=(run,), table=table, clips=3, out=str(tmp_path)))
    clips = {c.clip_id: c for c in rows(12)}
    recognizer = load(run)
    for line in (tmp_path / "scores.csv").read_text().splitlines()[1:]:
        name, *_, first, second = line.split(",")
        scores = recognizer.predict(clips[name], clips=3).scores
        np.testing.assert_allclose([float(first), float(second)], scores, atol=1e-3)  # stored in quarter pixels


@pytest.mark.ray
def test_prediction_names_draws_and_survives_a_bad_video(run, movenet, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    clip = actors.make_clip("bow", actor=5, num_frames=8)
    write_video(videos / "bow.mp4", clip.frames, clip.fps)
    (videos / "broken.mp4").write_text("no video")
    summary = predict.run(predict.Predict(runs=(run,), videos=str(videos), out=str(tmp_path / "out"), clips=1))
    assert (summary["videos"], summary["failed"]) == (2, 1)
    good, bad = json.loads((tmp_path / "out/predictions.json").read_text())
    assert sum(top["probability"] for top in good["top"]) == pytest.approx(1, abs=1e-5)
    assert "broken.mp4" in bad["error"]
    with open_video(str(tmp_path / f"out/{good['clip_id']}.mp4")) as video:
        assert sum(1 for _ in video) == 8
    assert (tmp_path / f"out/{good['clip_id']}.gif").read_bytes().startswith(b"GIF8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": "/nowhere"}, "no keypoint table at /nowhere"),
        ({"train_split": "tranquil"}, r"no split 'tranquil' in .*; it has test \(4\), train \(8\)"),
        ({"val_split": "!nope"}, "no split 'nope'"),
        ({"workers": "9"}, "batch 8 cannot be shared out among 9 workers: each part"),
        ({"workers": "2", "accumulate": 5}, "among 2 workers in 5 parts: each part needs a clip"),
        ({"workers": "3:2"}, "--workers must be N or MIN:MAX"),
        ({"config": dataclasses.replace(CONFIG, batch=64)}, "do not fill one batch of 64"),
        ({"config": dataclasses.replace(CONFIG, model=ModelConfig(name="nope"))}, "unknown model 'nope'"),
        ({"init": ("/nowhere",)}, "no checkpoint at /nowhere"),
        ({"skeleton": "penn14"}, "unknown skeleton 'penn14'"),
        (
            {"config": dataclasses.replace(CONFIG, balanced=True, optim=OptimConfig(class_weight=0.5))},
            "take one of the two",
        ),
        ({"precision": "float16"}, "--precision float16 is for --use-gpu"),
        ({"config": GRAPH, "render": "worker"}, r"draws volumes, and stgcn\+\+ takes none"),
        (
            {"config": dataclasses.replace(CONFIG, model=GRAPH.model)},
            r"stgcn\+\+ wants clip\.space frame, subject or body",
        ),
    ],
)
def test_training_refuses_what_cannot_work_before_any_worker_starts(table, change, message):
    job = dataclasses.replace(train.Train(table=table, out="/unused", config=CONFIG), **change)
    with pytest.raises(_job.UsageError, match=message):
        train.prepare(job)


def test_networks_that_see_rgb_refuse_a_table_without_any_before_any_worker_starts(table, tmp_path, caplog):
    config = PRESETS["rgb-light"][1]
    with pytest.raises(_job.UsageError, match=r"all 8 clips of split 'train' have neither pictures in .*_frames nor"):
        train.prepare(train.Train(table=table, out="/unused", config=config))
    model, labels = build_model(config, "coco17", 2), tuple(actors.ACTIONS[:2])
    save(Checkpoint(config, labels, "coco17", model.state_dict()), str(tmp_path / "rgb.safetensors"))
    with pytest.raises(_job.UsageError, match=r"all 4 clips of split 'test' have neither .* jobs\.extract --frames"):
        evaluate.run(evaluate.Evaluate(runs=(str(tmp_path / "rgb.safetensors"),), table=table))

    some = str(tmp_path / "some")
    shutil.copytree(table, some)
    write_frames([to_row(f"c{i}", Frames(np.array([0]), (0, 0, 9, 9), [b""])) for i in range(5, 12)], some, "x")
    config = dataclasses.replace(config, batch=2)
    plan = train.prepare(train.Train(table=some, out="/unused", config=config))
    assert (plan.train.clips, plan.train.blind, plan.val.clips) == (3, 5, 4)
    assert "5 clips of split 'train' are left out" in caplog.text

    whole = dataclasses.replace(config, clip=dataclasses.replace(config.clip, padding=None))
    with pytest.raises(_job.UsageError, match=r"the pictures of 3 clips in .* show a part of the frame"):
        train.prepare(train.Train(table=some, out="/unused", config=whole))
    save(Checkpoint(whole, labels, "coco17", model.state_dict()), str(tmp_path / "rgb.safetensors"))
    with pytest.raises(_job.UsageError, match=r"the pictures of 4 clips in .*--frames whole"):
        evaluate.run(evaluate.Evaluate(runs=(str(tmp_path / "rgb.safetensors"),), table=some))


def test_a_tracker_that_is_not_installed_and_a_folder_that_cannot_be_are_refused(table, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(_job.UsageError, match=r"cannot write to .*/file/run"):
        train.run(train.Train(table=table, out=f"{tmp_path}/file/run", config=CONFIG))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(_job.UsageError, match="pip install wandb"):
        train.prepare(train.Train(table=table, out="/unused", config=CONFIG, track=("wandb",)))


@pytest.mark.ray
def test_more_workers_than_cpus_are_refused_instead_of_waiting(run, table, tmp_path):
    config = dataclasses.replace(CONFIG, batch=8)
    with pytest.raises(_job.UsageError, match="4 training workers and the tasks that feed them need 5 CPUs, Ray has 4"):
        train.run(train.Train(table=table, out=str(tmp_path), config=config, workers="4"))
    with pytest.raises(_job.UsageError, match="need 1 GPUs, Ray has 0"):
        train.run(train.Train(table=table, out=str(tmp_path), config=config, use_gpu=True))
    with pytest.raises(_job.UsageError, match="4 copies of a model"):
        evaluate.run(evaluate.Evaluate(runs=(run,), table=table, actors=4))
    with pytest.raises(_job.UsageError, match=r"1 copies of a model .* need 1 GPUs, Ray has 0"):
        evaluate.run(evaluate.Evaluate(runs=(run,), table=table, use_gpu=True))


@pytest.mark.ray
def test_elastic_workers_leave_a_cpu_to_what_feeds_them(ray_local, monkeypatch):
    assert [_ray.room((1, most)) for most in (2, 3, 4, 9)] == [(1, 2), (1, 3), (1, 3), (1, 3)]  # of Ray's four
    assert _ray.room((1, 9), runs=2) == (1, 1)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(_ray, "by_hand", lambda status: False)
    assert _ray.room((1, 9)) == (1, 9)  # a cluster that grows


@pytest.mark.ray
def test_a_call_may_take_longer_than_ray_data_waits_for_progress(ray_local, monkeypatch):
    monkeypatch.setattr(ray_local.data.DataContext.get_current(), "execution_no_progress_timeout_s", 0.5)
    _ray.connect()

    def slow(batch):
        time.sleep(2)
        return batch

    assert ray_local.data.range(1).map_batches(slow).take_all() == [{"id": 0}]


@pytest.mark.ray
def test_machines_that_nothing_adds_are_not_waited_for(ray_local, monkeypatch, caplog):
    from ray.experimental.internal_kv import _internal_kv_get

    monkeypatch.setenv("RAY_ADDRESS", "auto")  # as inside a submitted job
    for _ in range(100):  # Ray's monitor speaks every few seconds
        if _ray.by_hand(_internal_kv_get("__autoscaling_status")):
            break
        time.sleep(0.2)
    with pytest.raises(_job.UsageError, match="need 1 GPUs, Ray has 0; this cluster was started by hand"):
        _ray.require(1, "training workers", gpus=1)
    _ray.require(1, "training workers")
    assert not caplog.records


def test_a_cluster_that_can_grow_is_told_from_one_started_by_hand():
    """As Ray 2.60's monitor writes it: by hand, with pools, before it has seen a machine; its successor does not."""
    number = "5d2f" * 14
    assert _ray.by_hand(json.dumps({"autoscaler_report": {"active_nodes": {f"node_{number}": 1}}}).encode())
    pools = {"head": 1, f"node_{number}": 1}, {"node_gpu": 2}, {}
    for status in (*({"autoscaler_report": {"active_nodes": names}} for names in pools), {"autoscaler_report": None}):
        assert not _ray.by_hand(json.dumps(status).encode())
    assert not _ray.by_hand(b"{}") and not _ray.by_hand(None)


@pytest.mark.ray
def test_a_mistyped_split_is_refused_by_evaluation_too(run, table):
    with pytest.raises(_job.UsageError, match="no split 'tset'"):
        evaluate.run(evaluate.Evaluate(runs=(run,), table=table, split="!tset"))


@pytest.mark.ray
def test_a_table_without_splits_is_refused_with_a_way_to_get_some():
    with pytest.raises(_job.UsageError, match=r"no split .train. in t; it has none: sort them .* docs/training\.md"):
        _job.require_splits("t", {"splits": {}}, "train")


def test_init_starts_from_a_runs_weights_but_for_other_classes(run, table):
    given = load_checkpoint(run).weights
    same = train.prepare(train.Train(table=table, out="/unused", config=CONFIG, init=(run,))).init
    assert set(same) == set(given)
    assert all(torch.equal(same[name], given[name]) for name in given)
    other = train._initial_weights((run,), CONFIG, "coco17", ("a", "b"))
    assert {name for name in given if not torch.equal(other[name], given[name])} == {"fc_cls.weight", "fc_cls.bias"}
    with pytest.raises(_job.UsageError, match=r"pose-slowonly-light, this run is a stgcn\+\+"):
        train.prepare(train.Train(table=table, out="/unused", config=GRAPH, init=(run,)))


@pytest.mark.ray
@pytest.mark.slow
def test_a_graph_network_goes_through_the_same_jobs_and_is_fused_with_a_3d_cnn(run, table, movenet, tmp_path, caplog):
    graph = str(tmp_path / "graph")
    summary = train.run(train.Train(table=table, out=graph, config=GRAPH))
    assert summary["epochs"] == 1
    both = evaluate.Evaluate(runs=(run, graph), table=table, clips=2, flip=True, out=str(tmp_path / "both"))
    alone = [evaluate.run(dataclasses.replace(both, runs=(one,), out=str(tmp_path / "one"))) for one in (run, graph)]
    scores = read_scores(tmp_path / "one")  # of the graph network, which came last
    fused = evaluate.run(dataclasses.replace(both, weights=(0.0, 3.0)))
    assert [row["weight"] for row in fused["runs"]] == [0, 1]
    assert [row["top1"] for row in fused["runs"]] == [one["top1"] for one in alone]
    np.testing.assert_allclose(read_scores(tmp_path / "both"), scores)

    chosen = evaluate.run(dataclasses.replace(both, weights_split="train"))
    assert "8 of the 8 clips: weights chosen on them favour what overfits" in caplog.text
    assert sum(row["weight"] for row in chosen["runs"]) == pytest.approx(1, abs=1e-3)
    with pytest.raises(_job.UsageError, match="4 clips of --weights-split '!train' are tested too, for example c10"):
        evaluate.run(dataclasses.replace(both, weights_split="!train"))

    videos = tmp_path / "videos"
    videos.mkdir()
    clip = actors.make_clip("bow", actor=5, num_frames=8)
    write_video(videos / "bow.mp4", clip.frames, clip.fps)
    predict.run(predict.Predict(runs=(graph,), videos=str(videos), out=str(tmp_path / "out"), clips=1))
    (said,) = json.loads((tmp_path / "out/predictions.json").read_text())
    assert sum(top["probability"] for top in said["top"]) == pytest.approx(1, abs=1e-5)
    assert [path.suffix for path in (tmp_path / "out").glob("bow-*")] == [".mp4"]  # there is no volume to show


def read_scores(folder):
    return [[float(v) for v in line.split(",")[3:]] for line in (folder / "scores.csv").read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (1.0,)}, r"wants a number >= 0 for each of 2 runs, one of them > 0, got \(1.0,\)"),
        ({"weights": (1.0, -1.0)}, "wants a number >= 0"),
        ({"weights": (0.0, 0.0)}, "one of them > 0, got"),
        ({"weights": (1.0, 1.0), "weights_split": "train"}, "or --weights-split"),
        ({"clips": 0}, "--clips must be >= 1, got 0"),
        ({"actors": -1}, "--actors must be >= 1, got -1"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(change, message):
    job = evaluate.Evaluate(runs=("a", "b"), table="/nowhere")
    with pytest.raises(_job.UsageError, match=message):
        evaluate.run(dataclasses.replace(job, **change))


@pytest.mark.ray
def test_evaluation_refuses_a_table_with_other_labels(run, tmp_path):
    write_table(rows(4, label=lambda i: 1 - i % 2), str(tmp_path))
    with pytest.raises(_job.UsageError, match=r"label 1 is 'bow' in .*, but 'jumping_jack'"):
        evaluate.run(evaluate.Evaluate(runs=(run,), table=str(tmp_path), split=None))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("s3://b/sweep/", "s3://b/sweep"), ("s3://b/sweep//", "s3://b/sweep"), ("s3://b/", "s3://b"), ("/a/b/", "/a/b"),
     ("memory://", "memory://"), (None, None)],
)  # fmt: skip
def test_a_folder_has_one_name_whether_or_not_a_slash_ends_it(given, meant):
    job = _job.absolute(evaluate.Evaluate(runs=(given,), table="s3://b/t", out=given), "runs", "out")
    assert (job.runs, job.out) == ((meant,), meant)


def test_stats_and_predict_refuse_what_is_not_there(tmp_path):
    with pytest.raises(_job.UsageError, match=r"jobs\.extract"):
        stats.run(stats.Stats(table=str(tmp_path), report=str(tmp_path)))
    with pytest.raises(_job.UsageError, match=r"folder of a jobs\.train run"):
        predict.run(predict.Predict(runs=(str(tmp_path),), videos=str(tmp_path), out=str(tmp_path)))


def test_a_preset_and_its_overrides_arrive_typed():
    job = train.parse(
        ["ntu60-joint", "--table", "t", "--out", "o", "--optim.lr", "0.1", "--model.name", "pose-slowonly-light"]
    )
    bare = train.parse("demo --table t --out o --clip.padding None".split())
    assert bare.config.clip == dataclasses.replace(PRESETS["demo"][1].clip, padding=None)
    assert job.config.optim.lr == 0.1
    assert job.config.model == ModelConfig(name="pose-slowonly-light")
    assert job.config.clip == PRESETS["ntu60-joint"][1].clip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dmeo", "--table", "t", "--out", "o"], "there is no preset 'dmeo'; did you mean demo?"),
        (["--table", "t", "--out", "o"], "the first word is a flag; python -m jobs.train PRESET"),
    ],
)
def test_a_preset_that_is_mistyped_or_left_out_is_said_in_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse(words)
    assert end.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["demo"],
        ["demo", "--table", "t", "--out", "o", "--optim.lrr", "1"],
        ["demo", "--table", "t", "--out", "o", "--batch", "x"],
    ],
)
def test_wrong_flags_end_with_exit_code_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        train.parse(words)
    assert end.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "failed", "allowed"),
    [(None, 9, True), (0, 0, True), (0, 1, False), (0.2, 2, True), (0.2, 3, False), (2, 2, True), (2, 3, False)],
)
def test_max_failed_is_a_fraction_or_a_count(limit, failed, allowed):
    end = contextlib.nullcontext() if allowed else pytest.raises(_job.WorseThanAllowed, match=f"{failed} of 10 clips")
    with end:
        _job.require_few_failures(limit, failed, 10, "clips failed", "t/_failures", {})


def test_the_first_failures_are_told_and_where_the_others_are(caplog):
    _job.tell_failures([f"{i} failed: e" for i in range(22)], "t/_failures")
    assert caplog.messages[-2:] == ["19 failed: e", "and 2 more; all are in t/_failures"] and len(caplog.messages) == 21


def test_more_failures_than_allowed_is_exit_code_3(tmp_path, capsys, ray_local):
    def work(_job_):
        raise _job.WorseThanAllowed("5 of 6 failed", {"path": str(tmp_path)})

    assert _job.main(lambda: None, work) == 3
    assert json.loads((tmp_path / "summary.json").read_text())["path"] == str(tmp_path)
    assert "error: 5 of 6 failed" in capsys.readouterr().err
