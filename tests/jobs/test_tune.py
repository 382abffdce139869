"""Sweeps: spaces as words, what is refused before any work; slow: a sweep that is killed and goes on."""

import csv
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray import tune as ray_tune

from jobs import _job, _space, tune
from posec3d import actors, load
from posec3d import checkpoint as checkpoints
from posec3d.config import PRESETS
from posec3d.index import index
from posec3d.table import Clip, write_table

ROOT = Path(__file__).resolve().parents[2]
DEMO = PRESETS["demo"][1]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    uri = str(tmp_path_factory.mktemp("table"))
    clips = []
    for i in range(24):
        truth = actors.make_clip(actors.ACTIONS[i % 2], actor=i, num_frames=8)
        split = "val" if i >= 18 else "train"
        scores = np.ones(truth.keypoints.shape[:3])
        labels = {"label": i % 2, "label_name": actors.ACTIONS[i % 2]}
        clips.append(Clip(f"c{i}", 8, 240, 320, truth.keypoints, scores, splits=(split,), **labels))
    write_table(clips, uri, rows_per_file=7)
    return uri


def test_words_become_typed_domains():
    words = "optim.lr=loguniform:1e-4,1e-1 heatmap.sigma=choice:0.6,1.0 clip.length=grid:16,32 clip.size=int:28,30"
    space = _space.parse([*words.split(), "clip.stride=choice:None,2", "clip.area=grid:[0.5,1],[1,1]"])
    _space.check(space, DEMO)
    assert _space.is_log(space["optim.lr"])
    assert space["clip.length"] == {"grid_search": [16, 32]}
    assert space["clip.stride"].categories == [None, 2]
    assert space["clip.area"] == {"grid_search": [[0.5, 1], [1, 1]]}
    configs = [_space.apply(DEMO, _space.draw(space, number, 0)) for number in range(40)]
    assert {(c.clip.length, c.clip.area) for c in configs} == {(n, a) for n in (16, 32) for a in ((0.5, 1), (1, 1))}
    assert {c.clip.size for c in configs} == {28, 29, 30}  # both ends
    assert all(1e-4 <= c.optim.lr <= 1e-1 and type(c.optim.lr) is float for c in configs)
    assert np.mean([c.optim.lr < 3e-3 for c in configs]) == pytest.approx(0.5, abs=0.25)


def test_a_trial_draws_the_same_whatever_the_number_of_trials():
    space = _space.parse(["optim.lr=loguniform:1e-4,1e-1"])
    first, again = ([_space.draw(space, n, 3)["optim.lr"] for n in range(5)] for _ in range(2))
    assert first == again and len(set(first)) == 5
    assert _space.draw(space, 0, 4)["optim.lr"] not in first


def test_fields_joined_by_plus_change_together():
    space = _space.parse(["clip.size+clip.test_size=grid:[28,32],[56,64]"])
    _space.check(space, DEMO)
    sizes = [_space.apply(DEMO, _space.draw(space, n, 0)).clip for n in range(2)]
    assert [(c.size, c.test_size) for c in sizes] == [(28, 32), (56, 64)]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.lr", "wanted FIELD=KIND:VALUES"),
        ("optim.lr=normal:0,1", "normal is none of grid, choice"),
        ("optim.lr=uniform:1", "wants two numbers"),
        ("optim.lr=uniform:1,0.5", "the lowest must be under the highest"),
        ("optim.lr=loguniform:0,1", "and > 0"),
        ("clip.length=int:1.5,3", "two whole numbers"),
        ("optim.lrr=grid:1", r"no config field 'optim\.lrr'; near it: optim\.lr"),
        ("sigma=grid:1", r"no config field 'sigma'; near it: heatmap\.sigma"),
        ("optim=grid:1", "no config field 'optim'"),
        ("heatmap.kind=choice:joint,jiont", "heatmap.kind = 'jiont': Input should be 'joint' or 'limb'"),
        ("clip.length=uniform:16,32", "clip.length = .*valid integer"),
        ("model.dropout=uniform:0,1.5", r"model\.dropout must be in \[0, 1\), got 1.5"),
        ("clip.size+clip.test_size=grid:28,32", r"wanted \[clip\.size, clip\.test_size\], got 28"),
        ("clip.size+clip.size=grid:[28,32]", "searched twice"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(word, message):
    with pytest.raises(ValueError, match=message):
        _space.check(_space.parse([word]), DEMO)


def test_a_python_file_holds_a_space(tmp_path):
    path = tmp_path / "space.py"
    path.write_text("from ray import tune\nSPACE = {'optim.lr': tune.loguniform(1e-4, 1e-1)}\n")
    assert _space.is_log(_space.read(str(path))["optim.lr"])
    path.write_text("SPACES = 1\n")
    with pytest.raises(ValueError, match="wanted a dictionary SPACE"):
        _space.read(str(path))
    with pytest.raises(ValueError, match="FileNotFoundError"):
        _space.read(str(tmp_path / "no.py"))
    with pytest.raises(ValueError, match="wanted a grid, choice"):
        _space.check({"optim.lr": ray_tune.randn()}, DEMO)


@pytest.mark.parametrize("name", _space.SWEEPS)
def test_every_ready_sweep_fits_a_preset(name):
    preset = (
        "rgbpose-light"
        if "rgbpose-slowfast" in _space.SWEEPS[name].models and name in ("rgb-losses", "lateral")
        else "ntu60-joint"
    )
    config = PRESETS[preset][1]
    assert config.model.name in _space.SWEEPS[name].models
    _space.check(_space.SWEEPS[name].space, config)
    assert len(_space.grid(_space.SWEEPS[name].space)) >= 2


def test_the_crop_is_swept_off_and_on(table):
    _, count = tune.prepare(job(table, search=(), sweep="crop"))
    assert count == 2
    space = _space.SWEEPS["crop"].space
    assert [_space.apply(DEMO, _space.draw(space, n, 0)).clip.padding for n in range(2)] == [None, 0.25]


def job(uri, out="/unused", **change):
    flags = {"table": uri, "out": str(out), "val_split": "val", "search": (("optim.lr=grid:0.001,0.01",),)}
    return tune.Tune(**(flags | {"config": dataclasses.replace(DEMO, batch=8)} | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": ()}, "nothing to search"),
        ({"search": (("optim.lrr=grid:1",),)}, "no config field"),
        ({"search": (("optim.lr=grid:1", "optim.lr=grid:2"),)}, "given twice"),
        ({"search": (("model.name=grid:pose-slowonly,nope",),)}, "unknown model 'nope'"),
        ({"search": (("batch=choice:8,512",),)}, "do not fill one batch of 512"),
        ({"trials": 0}, "--trials must be 2, as many as the grid"),
        ({"trials": 0, "search": (("optim.lr=uniform:0.1,0.2",),)}, "--trials must be >= 1, got 0"),
        ({"concurrent": 0}, "--concurrent must be >= 1"),
        ({"grace": 0}, "--grace must be >= 1"),
        ({"reduction": 1}, "--reduction must be >= 2"),
        ({"val_split": "None"}, "needs a validation split"),
        ({"val_split": "vla"}, "no split 'vla'"),
        ({"table": "/nowhere"}, "no keypoint table at /nowhere"),
        ({"sweep": "lateral"}, "--sweep lateral says nothing about a pose-slowonly-light"),
        ({"searcher": "optuna"}, "optuna"),  # it is not there, or draws no grids
    ],
)
def test_what_cannot_work_is_refused_before_any_worker_starts(table, change, message):
    with pytest.raises(_job.UsageError, match=message):
        tune.prepare(job(table, **change))


@pytest.mark.parametrize(
    ("split", "told"), [("xsub_test", True), ("val,test", True), ("!xsub_test", False), ("val, !xsub_test", False)]
)
def test_that_a_sweep_chooses_on_test_clips_is_told(split, told, caplog):
    with pytest.raises(_job.UsageError):
        tune.prepare(job("/nowhere", val_split=split))
    assert ("the trial chosen on test clips looks better" in caplog.text) == told


def test_trials_that_want_the_same_of_the_table_look_at_it_once(table, monkeypatch):
    seen, plain = [], index
    monkeypatch.setattr("jobs.train.index", lambda *args, **how: seen.append(args[1]) or plain(*args, **how))
    _, count = tune.prepare(job(table, search=(("clip.length=grid:8,12", "clip.padding=grid:None,0.25"),)))
    assert count == 4
    assert seen == ["train", "val"]


def test_a_preset_a_table_a_folder_and_a_validation_split_must_be_given(capsys):
    for words in ("nope --table t --out o --val-split v", "demo --table t --out o", "demo --sweep nope"):
        with pytest.raises(SystemExit) as end:
            tune.parse(words.split())
        assert end.value.code == 2
    assert capsys.readouterr().err
    words = "demo --table t --out o --val-split v --search optim.lr=grid:1,2 epochs=grid:3 --search seed=grid:1"
    assert [word for words in tune.parse(words.split()).search for word in words] == [
        "optim.lr=grid:1,2",
        "epochs=grid:3",
        "seed=grid:1",
    ]


def test_a_folder_with_another_sweep_is_refused(table, tmp_path):
    first = job(table, tmp_path)
    space, _ = tune.prepare(first)
    tune._same_sweep(dataclasses.replace(first, metric="val_loss"), space)  # no trial has begun
    tune._same_sweep(first, space)
    tune.Ledger(first, space, 2).begin("0000")
    tune._same_sweep(dataclasses.replace(first, concurrent=2, retry_failed=True), space)
    with pytest.raises(_job.UsageError, match="holds another sweep"):
        tune._same_sweep(first, {"optim.lr": ray_tune.uniform(0.1, 0.2)})
    with pytest.raises(_job.UsageError, match="holds another sweep"):
        tune._same_sweep(dataclasses.replace(first, metric="val_loss"), space)
    # Trials of a table that has grown would be ranked among those that knew less.
    grown = dataclasses.replace(first, table=str(tmp_path / "table"), out=str(tmp_path / "of_grown"))
    shutil.copytree(table, grown.table)
    tune._same_sweep(grown, space)
    tune.Ledger(grown, space, 2).begin("0000")
    points = np.ones((1, 8, 17, 2))
    more = {"label": 0, "label_name": actors.ACTIONS[0], "splits": ("train",)}
    write_table([Clip("more", 8, 240, 320, points, points[..., 0], **more)], grown.table)
    with pytest.raises(_job.UsageError, match=r"holds another sweep \(clips"):
        tune._same_sweep(grown, space)


def ended(out, *values):
    """Trials that are over, each of one epoch that came to a value."""
    for number, value in enumerate(values):
        folder = out / f"trials/{number:04d}"
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(json.dumps({"params": {"optim.lr": 0.1}, "status": "over", "error": ""}))
        (folder / "metrics.csv").write_text(f"epoch,val_top1,val_loss\n1,{value},1\n")
        for name in ("best.safetensors", "last.safetensors", "config.json"):
            (folder / name).write_text(f"{name} of {number}")


DRAWN = {"search": (("optim.lr=loguniform:1e-4,1e-1",),)}


@pytest.mark.parametrize("retry_failed", [False, True])
def test_fewer_trials_than_there_are_keep_the_best_of_all(table, tmp_path, retry_failed):
    ended(tmp_path, 0.5, 0.6, 0.9, 0.4)
    failed = {"params": {"optim.lr": 0.1}, "status": "failed", "error": "the loss is nan"}
    (tmp_path / "trials/0003/trial.json").write_text(json.dumps(failed))
    summary = tune.run(job(table, tmp_path, trials=2, retry_failed=retry_failed, **DRAWN))
    assert (summary["best trial"], summary["best val_top1"], summary["trials"]) == ("0002", 0.9, 4)
    assert (tmp_path / "best/best.safetensors").read_text() == "best.safetensors of 2"


def test_another_best_model_takes_nothing_over_from_the_one_before(table, tmp_path):
    ended(tmp_path, 0.5)
    best = tmp_path / "best"
    tune.run(job(table, tmp_path, trials=1, **DRAWN))
    told = ("evaluate/test-1clip/summary.json", "epochs/0001.safetensors", "learning_curves.png", "_state/tracked")
    for name in told:
        (best / name).parent.mkdir(parents=True, exist_ok=True)
        (best / name).touch()
    tune.run(job(table, tmp_path, trials=1, **DRAWN))
    assert all((best / name).exists() for name in told)  # the same model
    shutil.rmtree(tmp_path / "trials")
    ended(tmp_path, 0.4, 0.5)
    tune.run(job(table, tmp_path, trials=2, **DRAWN))
    copied = ("best.safetensors", "last.safetensors", "config.json", "metrics.csv")
    assert {path.name for path in best.iterdir()} - {"lock"} == {*copied}
    assert {(best / name).read_text() for name in copied[:3]} == {f"{name} of 1" for name in copied[:3]}


def test_a_replacement_of_the_best_model_that_was_interrupted_is_done_again(table, tmp_path):
    ended(tmp_path, 0.5)
    best = tmp_path / "best"
    best.mkdir()
    (best / "last.safetensors").write_text("of a model before")  # half of it is gone, half of the next one is there
    (best / "best.safetensors").write_text("best.safetensors of 0")
    (best / "learning_curves.png").touch()
    tune.run(job(table, tmp_path, trials=1, **DRAWN))
    assert not (best / "learning_curves.png").exists()
    assert (best / "last.safetensors").read_text() == "last.safetensors of 0"


def test_asha_compares_trials_after_equally_many_epochs_where_validations_are_far_between(table, tmp_path):
    """Rungs are at epochs 3 and 9: after 6 nobody is stopped, whatever the others were then."""
    rare = job(table, tmp_path, val_every=3, **DRAWN)
    asha = tune._scheduler(rare, tune.Ledger(rare, {}, 1))
    heard = {}
    for epoch, values in {3: (0.3, 0.4, 0.5), 6: (0.8, 0.7, 0.6), 9: (0.8, 0.85, 0.7)}.items():
        for name, value in enumerate(values):
            trial = SimpleNamespace(trial_id=str(name))
            if epoch == 3:
                asha.on_trial_add(None, trial)
            heard[epoch, name] = asha.on_trial_result(None, trial, {"epoch": epoch, rare.metric: value})
    assert [key for key, said in heard.items() if said == "STOP"] == [(9, 2)]


def test_what_trials_came_to_when_tested_is_told(table, tmp_path, capsys):
    ended(tmp_path, 0.5, 0.6, 0.4)
    for number, views in ((0, 3), (1, 10)):
        found = {"clips": 6, "views": views, "top1": 0.75, "top5": 1.0, "mean_class": 0.7}
        (tmp_path / f"trials/{number:04d}/final.json").write_text(json.dumps(found))
    ten = tune.run(job(table, tmp_path, trials=3, final_clips=10, **DRAWN))
    assert "0.7500" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [(row["trial"], row["final_top1"], row["final_mean_class"]) for row in rows] == [
        ("0001", "0.75", "0.7"), ("0000", "", ""), ("0002", "", "")
    ]  # fmt: skip
    assert ten["best, 10 clips"] == 0.75
    assert [row["final"] and row["final"]["views"] for row in ten["ranked"]] == [10, None, None]
    three = tune.run(job(table, tmp_path, trials=3, final_clips=3, **DRAWN))
    assert "best, 3 clips" not in three and three["ranked"][1]["final"]["top1"] == 0.75
    tune.run(job(table, tmp_path, trials=3, **DRAWN))
    assert "final_top1" not in (tmp_path / "trials.csv").read_text()


def test_a_sweeps_report_holds_no_passwords(table, tmp_path, monkeypatch):
    monkeypatch.setenv("STORE_PASSWORD", "opensesame")
    shutil.copytree(table, tmp_path / "opensesame")
    ended(tmp_path, 0.5, 0.4)
    failed = {"params": {"optim.lr": 0.1}, "status": "failed", "error": "sftp://me:hunter2@host/table: no such file"}
    (tmp_path / "trials/0001/trial.json").write_text(json.dumps(failed))
    summary = tune.run(job(str(tmp_path / "opensesame"), tmp_path, trials=2, **DRAWN))
    for text in ((tmp_path / "report.html").read_text(), (tmp_path / "trials.csv").read_text(), json.dumps(summary)):
        assert "hunter2" not in text and "opensesame" not in text
        assert "sftp://me:***@host/table" in text


def params(name):
    return {"name": name, "params": {"optim.lr": 0.1}}


def test_a_trial_is_over_by_what_would_end_it_again_and_not_by_a_lost_machine(table, tmp_path, caplog):
    sweep = job(table, tmp_path, trials=2, **DRAWN)
    ledger = tune.Ledger(sweep, _space.parse(DRAWN["search"][0]), 2)
    for name in ledger.names:
        ledger.begin(name)
    with pytest.raises(_job.UsageError):
        tune._trial(params("0000"), dataclasses.replace(sweep, table="/nowhere"))
    book = tune._Book(ledger, lambda done, note: None)
    for name in ledger.names:
        file = tmp_path / f"error_{name}.txt"
        file.write_text("Failure # 1\nThe actor died unexpectedly\n\tits node has died\n")
        book.on_trial_error(0, [], SimpleNamespace(config=params(name), error_file=str(file)))
    assert ledger.left == ["0001"] == tune.Ledger(sweep, ledger.space, 2).left
    assert "trial 0001 did not end: its node has died; the same command again goes on with it" in caplog.text
    assert ledger.ended["0000"]["error"].startswith("no keypoint table at /nowhere")


def test_while_the_storage_is_away_a_trial_has_the_rows_it_had(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,val_top1\n1,0.5\n")
    rows = tune._latest(str(file), [])
    assert rows == [{"epoch": 1, "val_top1": 0.5}]
    file.unlink()
    file.mkdir()  # reading it is an error
    assert tune._latest(str(file), rows) == rows
    file.rmdir()
    file.write_text("epoch,val_top1\n1,0.5\n2,0.6\n")
    assert [row["epoch"] for row in tune._latest(str(file), rows)] == [1, 2]


def test_optuna_learns_where_the_good_values_are():
    pytest.importorskip("optuna")
    space = _space.parse(["optim.lr=loguniform:1e-6,1", "clip.area=choice:[0.5,1],[1,1]", "clip.length=int:4,8"])
    search = _space.Optuna(space, "max", 1)
    late = []
    for n in range(60):
        params = search.draw()
        _space.apply(DEMO, params)
        distance = abs(np.log10(params["optim.lr"]) + 3)
        search.tell(params, -distance)
        late += [distance] * (n >= 40)
    assert np.mean(late) < 0.8  # drawn at random it is 1.5


def test_a_sweep_by_optuna_goes_on_whatever_its_seed_and_the_types_of_its_values(tmp_path):
    """A Python file may have tuples and NumPy's numbers; what is read back from trial.json is lists and Python's."""
    pytest.importorskip("optuna")
    areas = ray_tune.choice([(0.5, 1.0), (1.0, 1.0)])
    space = {"clip.area": areas, "batch": ray_tune.choice(np.array([8, 16])), "optim.lr": ray_tune.loguniform(1e-4, 1)}
    _space.check(space, DEMO)
    assert _space.describe(space["batch"]) == "choice: [8, 16]"
    config = dataclasses.replace(DEMO, seed=2**31)
    job = tune.Tune(table="t", out=str(tmp_path), val_split="val", searcher="optuna", config=config)
    begun = tune.Ledger(job, space, 2)
    params = begun.begin("0000")
    (tmp_path / "trials/0000/metrics.csv").write_text("epoch,val_top1\n1,0.5\n")
    begun.end("0000", "over")
    again = tune.Ledger(job, space, 2)
    assert again.ended["0000"]["params"] == params and params["batch"] in (8, 16)
    assert [trial.value for trial in again.optuna.study.trials] == [0.5]
    assert again.begin("0001") != params


def start(table, out):
    """A sweep of six learning rates in a process of its own, which says at the end what Ray still holds."""
    code = (
        "import time, ray\nfrom jobs import _job, tune\nfrom ray.util import placement_group_table\n"
        "_job.execute(tune.run, tune.parse())\n"
        "for _ in range(30):\n"
        "    held = [g['state'] for g in placement_group_table().values() if g['state'] != 'REMOVED']\n"
        "    if not held: break\n"
        "    time.sleep(1)\n"
        "print('\\nHELD', held)\n"
    )
    small = "--clip.length 4 --clip.size 12 --clip.test-size 12 --batch 8 --repeat 2 --epochs 4".split()
    # One diverges to no number, two cannot learn.
    rates = "3e-3,1e30,1e-12,2e-3,1e-11,4e-3"
    words = [*small, "--table", table, "--out", out, "--val-split", "val", "--search", f"optim.lr=grid:{rates}"]
    return subprocess.Popen(
        [sys.executable, "-c", code, "demo", *map(str, words), "--metric", "val_loss", "--concurrent", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_sweep_goes_on_and_trains_nothing_twice(table, tmp_path):
    out = tmp_path / "sweep"
    first = start(table, out)
    deadline = time.monotonic() + 800
    ended = []
    while time.monotonic() < deadline and len(ended) < 3 and first.poll() is None:
        ended = [path for path in out.glob("trials/*/trial.json") if "status" in json.loads(path.read_text())]
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    said, _ = first.communicate()
    assert len(ended) >= 3, said
    before = {path.parent: written(path.parent) for path in ended}

    second = start(table, out)
    said, _ = second.communicate(timeout=800)
    assert second.returncode == 0, said
    assert "HELD []" in said.splitlines(), said
    assert {folder: written(folder) for folder in before} == before

    rows = list(csv.DictReader((out / "trials.csv").open()))
    assert sorted(row["trial"] for row in rows) == [f"{n:04d}" for n in range(6)]
    status = {row["optim.lr"]: row["status"] for row in rows}
    assert status["1e+30"] == "failed"
    assert "the loss is" in next(row["error"] for row in rows if row["status"] == "failed")
    assert "stopped" in status.values() and "finished" in status.values()
    for row in rows:
        lines = out.joinpath("trials", row["trial"], "metrics.csv")
        epochs = [line.split(",")[0] for line in lines.read_text().splitlines()[1:]] if lines.exists() else []
        assert epochs == [f"{n}.0" for n in range(1, len(epochs) + 1)]
        assert (len(epochs) == 4) == (row["status"] == "finished")
        assert int(row["epochs"]) == len(epochs)
    assert load(out / "best").labels == actors.ACTIONS[:2]
    assert checkpoints.load(str(out / "best")).best_by == "val_loss"  # for jobs.train, which may go on with it
    summary = json.loads((out / "summary.json").read_text())
    assert summary["trials"] == 6 == summary["finished"] + summary["stopped"] + summary["failed"]
    assert rows[0]["status"] != "failed" and "<svg" in (out / "report.html").read_text()


def written(folder):
    """When the files of a run were written that training would write again."""
    files = [folder / name for name in ("config.json", "metrics.csv", "last.safetensors", "trial.json")]
    return {file.name: file.stat().st_mtime_ns for file in files if file.exists()}
