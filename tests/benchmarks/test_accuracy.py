"""Runs of the evidence: their recipes are valid, statistics are those of a hand, the page shows what the files hold."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from filelock import FileLock

from benchmarks import _claims, _evidence, _groups, _in_process, _perturb, _pictures, _tables, accuracy
from benchmarks._data import DATA
from benchmarks._suites import RUNS, SUITES
from posec3d import actors
from posec3d import checkpoint as checkpoints
from posec3d import table as tables
from posec3d.clips import uniform_sample
from posec3d.config import PRESETS

SKELETONS = {
    "utd-mhad": "utd20", "sbu": "sbu15", "penn-action": "penn13", "jhmdb14": "jhmdb15", "ut-interaction": "coco17",
    "ut-interaction-weak": "coco17", "groups-1": "utd20", "groups-2": "utd20", "groups-13": "utd20",
}  # fmt: skip


def test_the_recipe_of_every_run_is_a_config_of_a_network_that_can_be_built():
    seen = set()
    for run in RUNS.values():
        assert run.data in DATA
        assert all(name in RUNS for name in run.best_of + run.models + run.init)
        assert (run.train is None) == bool(run.models)
        starts = [RUNS[name] for name in run.init if RUNS[name].data == run.data]
        assert all((start.seed, start.train) == (run.seed, run.train) for start in starts)
        for choice in run.best_of or ((run.name,) if run.train else ()):
            results = {name: {"tests": {"1": {"top1": float(name == choice)}}} for name in run.best_of}
            config = dataclasses.replace(accuracy.config_of(accuracy.resolved(run, results)), seed=0)
            network = (config.model, config.clip.space, config.clip.persons, config.heatmap.kind, run.data)
            if network not in seen:
                seen.add(network)
                with torch.device("meta"):
                    checkpoints.build_model(config, SKELETONS[run.data], 8)
    assert len(seen) >= 10


def test_the_preset_light_is_what_utd_mhad_was_measured_with_but_for_flips():
    measured = accuracy.config_of(RUNS["utd-mhad/joint-s0"])
    assert PRESETS["light"][1] == dataclasses.replace(measured, clip=dataclasses.replace(measured.clip, flip=0.5))


def test_nothing_is_trained_or_chosen_on_clips_that_are_tested():
    for run in RUNS.values():
        if run.train is not None:
            assert not set(run.train.split(",")) & set(run.test.split(","))
        for name in run.best_of:
            chosen = RUNS[name]
            assert run.data != chosen.data or (run.train, run.test) == ("train", "test")
            assert set(f"{chosen.train},{chosen.test}".split(",")) == {f"subject{i}" for i in (1, 3, 5, 7)}


def test_a_run_learns_from_all_folds_but_its_own():
    for run in SUITES["sbu"]:
        if run.train is not None:
            assert sorted([run.test, *run.train.split(",")]) == [f"fold{i}" for i in range(1, 6)]
    assert sum(run.fold.startswith("set2") for run in SUITES["ut-interaction"] if run.seed == 0) == 10 * 10


@pytest.mark.parametrize("name", ["utd-mhad/limb-s1", "utd-mhad/choose-msg3d-lr0.03", "losses/one-s2", "losses/two-s0"])
def test_the_command_beside_a_number_is_its_recipe(name):
    from jobs import train

    run = RUNS[name]
    words = [run.preset, "--table", "t", "--out", "o", "--seed", str(run.seed), *accuracy.words_of(run.fields)]
    assert train.parse(words).config == accuracy.config_of(run)


def test_what_was_validated_on_test_clips_is_tested_as_the_last_epoch_left_it():
    for name, tested in (
        ("losses/one-s2", ["losses/one-s2/last.safetensors"]),
        ("rgb/late-s1", ["rgb/rgb-s1", "rgb/pose-s1"]),
    ):
        assert accuracy.Made(RUNS[name], device="cpu", in_process=True, work="w").models() == [
            f"w/{part}" for part in tested
        ]


def test_tables_are_made_by_commands_that_the_jobs_take():
    from jobs import _job, extract, import_poses

    parsers = {"jobs.extract": extract.Extract, "jobs.import_poses": import_poses.ImportPoses}
    for data in DATA.values():
        job, *words = data.source
        made = _job.parse(parsers[job], [*words, "--table", "t"])
        assert made.table == "t"


def test_a_run_takes_the_recipe_that_was_best_on_held_out_clips():
    run = RUNS["utd-mhad/stgcn++-s1"]
    top1 = dict(zip(run.best_of, (0.5, 0.8, 0.8), strict=True))
    found = accuracy.resolved(run, {name: {"tests": {"1": {"top1": share}}} for name, share in top1.items()})
    assert found.fields["optim.lr"] == 0.03  # the first of equals
    assert found.fields["epochs"] == 16  # not the shorter schedule of choosing
    assert accuracy.config_of(found).seed == 1


def test_wilsons_interval_by_hand():
    assert _tables.interval(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    # Of none in ten the upper end is z² / (n + z²).
    assert _tables.interval(0.0, 10) == pytest.approx((0, 3.841459 / 13.841459), abs=1e-6)


def test_holms_correction_by_hand():
    # 0.01 <= 0.05 / 4, 0.016 <= 0.05 / 3, but 0.03 > 0.05 / 2: it ends there, though 0.04 <= 0.05.
    assert _claims.holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.016}) == {"b", "d"}
    assert _claims.holm({"a": 0.03, "b": 0.03}) == set()


@pytest.mark.parametrize(
    ("first", "second", "p"), [(1, 7, 18 / 256), (7, 1, 18 / 256), (3, 3, 1), (0, 0, 1), (0, 5, 2 / 32)]
)
def test_mcnemars_p_by_hand(first, second, p):
    assert _tables.mcnemar(first, second) == pytest.approx(p)


def made_up(run, wrong, count=100, top1=None):
    """A result: of clips c0 .. c99 these are wrong."""
    rows = [[f"c{i}", "sit", "stand <b>|"] for i in wrong]
    test = {
        "clips": count, "top1": 1 - len(rows) / count if top1 is None else top1, "ids": "same",
        "classes": {"sit": count // 2, "stand <b>|": count - count // 2}, "wrong": rows, "seconds": 1.0,
    }  # fmt: skip
    preset, fields = ("ntu60-stgcn++", {}) if "gcn" in run.name else ("ut-interaction", {"clip.length": 16})
    config = accuracy.configured(PRESETS[preset][1], fields)
    trained = {"top1": 1.0, "seconds": 600.0}
    if run.watch is not None:
        trained["curve"] = {"train_top1": [0.5, 0.9, 1.0], "val_top1": [0.4, 0.6, 0.5], "val_loss": [1.5, 1.25, 1.75]}
    return {
        "run": run.declared(), "date": "2026-01-02", "machine": "a machine", "commit": "abc", "note": "",
        "in_process": False,
        "commands": [f"python -m jobs.train of {run.name}"], "configs": [dataclasses.asdict(config)],
        "tests": {str(clips): test for clips in run.clips}, "trained": trained,
        "parameters_m": 0.5, "gmacs": 1.25, "seconds": 700.0,
    }  # fmt: skip


def write(folder, run, result):
    path = folder / f"{run.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def test_clips_that_only_one_of_two_gets_right_are_counted_on_the_same_clips_alone():
    first, second = (made_up(RUNS["utd-mhad/joint-s0"], wrong) for wrong in ((0, 1, 2), (2, 3)))
    assert _tables.discordant([(first, second), (first, second)], "10") == (2, 4)
    second["tests"]["10"] = {**second["tests"]["10"], "ids": "others"}
    with pytest.raises(ValueError, match="not tested on the same clips"):
        _tables.discordant([(first, second)], "10")


def test_the_page_shows_what_the_files_hold_and_says_what_is_missing(tmp_path):
    wrong = {
        "utd-mhad/joint-s0": range(10), "utd-mhad/joint-s1": range(14), "utd-mhad/stgcn++-s0": range(5, 25),
        "sbu/joint-fold1-s0": range(3), "penn-action/joint-s0": range(4), "occlusion/joint-s0-guess": range(6),
        "robustness/limb-s0-drop1": range(50), "rgb/rgb-s0": range(40), "rgb/both-s0": range(5),
        "losses/one-s0": range(9), "losses/one-s1": range(9), "heatmaps/stored-Lightning-s0": range(30),
    }  # fmt: skip
    for name, clips in wrong.items():
        write(tmp_path, RUNS[name], made_up(RUNS[name], clips))
    limb = RUNS["utd-mhad/limb-s0"]
    write(tmp_path, limb, made_up(limb, ()) | {"run": {**limb.declared(), "fields": {}}})  # of another recipe
    for run in SUITES["robustness"]:
        if "/joint" in run.name:
            write(tmp_path, run, made_up(run, range(int(20 * run.perturb[1]))))

    results = accuracy.read_results(tmp_path)
    assert set(results) >= wrong.keys() - {"robustness/limb-s0-drop1"}
    assert not {limb.name, "robustness/limb-s0-drop1"} & results.keys()  # nor a test of its model
    # Of the best line, whose worst class is taken for the other; c0 is its first clip.
    points = np.random.default_rng(0).uniform(20, 220, (1, 30, 20, 2)).astype(np.float32)
    drawn = tables.Clip("c0", 30, 240, 320, points, np.ones((1, 30, 20), np.float32), skeleton="utd20")
    tables.write_table([drawn], str(tmp_path / "tables/utd-mhad"))
    (tmp_path / "tables/utd-mhad.json").touch()
    page = _evidence.page(results)
    _pictures.write(results, tmp_path, tmp_path / "tables")
    # 90 and 86: mean 88, deviation 2 sqrt 2; Wilson's interval of 0.88 of 100.
    assert "| 3D-CNN, joints | CPU, 16 x 32 x 32 | **88.0 ± 2.8** | 80.2 - 93.0 | 88.0 ± 2.8 |" in page
    assert "| ST-GCN++ | CPU, 100 frames | **80.0** |" in page
    others = "about 94.5 (Evolution of Pose Maps, poses of RGB (from memory))"
    assert f"| UTD-MHAD | 88.0 ± 2.8 | - | - | - | {others} | 90: not met by joints |" in page
    assert "| 180 of 200 |" not in page and "| 176 of 200 |" in page
    assert "| h. One clip against ten | ten are better | no difference seen: ten 88.0, one 88.0 (p = 1, 1) |" in page
    # Of 40 and of 5 wrong ones, the 5 among the 40: only both ways is right in 35, and 2 / 2^35 is next to nothing.
    # 0-4 are wrong by the first alone, 10-24 by the second alone: p = 2 (1 + 20 + 190 + 1140 + 4845 + 15504) / 2^20.
    assert "| 3D-CNN, joints | ST-GCN++ | 0 | 15 | 5 | 0.041 |" in page
    assert "stand <b>\\| (24)" in page
    assert "| 3D-CNN, joints | 100.0 | 98.0 | 95.0 | 90.0 | 80.0 |" in page
    assert "| 3D-CNN, joints | 96.0 | 94.0 | 96.0 | 94.0 |" in page  # with the guesses of occluded joints
    made = _evidence.commands(results)
    assert "python -m jobs.train of utd-mhad/joint-s1" in made
    assert "| 3D-CNN, joints | 1 | 97.0 | 97.0 | - |" in page  # SBU's first fold
    assert page.count("Not measured yet") >= 4  # SBU among them: one fold of five is no result
    assert "|  | poses of Thunder | poses of Lightning |" in page
    assert "| the network's own heatmaps | - | 70.0 / 70.0 |" in page
    assert "| RGB | CPU, 16 x 32 x 32 | **60.0** |" in page
    assert "one loss, of the mean of both scores | 2 | **91.0 ± 0.0** | 91.0 ± 0.0 | 100.0 | 1.250, 2 | 1.750 |" in page
    assert (tmp_path / "evidence-cost.png").stat().st_size > 1000
    assert (tmp_path / "evidence-worst-utd-mhad.png").stat().st_size > 1000
    assert not (tmp_path / "evidence-worst-sbu.png").exists()
    assert (tmp_path / "evidence-robustness.png").stat().st_size > 1000
    assert (tmp_path / "evidence-losses.png").stat().st_size > 1000


def test_a_run_is_made_by_one_process_at_a_time(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(accuracy, "ROOT", tmp_path)
    monkeypatch.setattr(accuracy.read_results, "__defaults__", (tmp_path / "results",))
    monkeypatch.setattr("sys.argv", "accuracy utd-mhad --only ^utd-mhad/both-s0$ --in-process".split())
    with FileLock(tmp_path / accuracy.WORK / "locks/utd-mhad/both-s0"):
        accuracy.main()
    assert "utd-mhad/both-s0 is made by another process" in capsys.readouterr().out
    accuracy.main()
    assert "both-s0 waits for the models of utd-mhad/joint-s0, utd-mhad/limb-s0" in capsys.readouterr().out


def clip(frames=400):
    points = np.random.default_rng(0).uniform(20, 220, (1, frames, 17, 2)).astype(np.float32)
    return tables.Clip("c", frames, 240, 320, points, np.ones(points.shape[:3], np.float32))


def test_a_dropped_limb_joint_is_one_of_eight_in_as_many_frames_as_asked_for():
    whole = clip()
    for amount, low, high in ((0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)):
        lost = _perturb.perturbed(whole, "drop", amount).scores[0] == 0
        assert lost.sum(1).max() <= 1
        assert low <= lost.sum() <= high
        if amount == 1:
            assert set(np.flatnonzero(lost.any(0))) == {7, 8, 9, 10, 13, 14, 15, 16}  # COCO's elbows to ankles
        kept = _perturb.perturbed(whole, "centre", amount)  # the same joints, but for what becomes of them
        np.testing.assert_array_equal((kept.keypoints[0] == (160, 120)).all(-1), lost)
        np.testing.assert_array_equal(kept.scores, whole.scores)


def test_jitter_is_a_share_of_the_peoples_box():
    whole = clip()
    moved = _perturb.perturbed(whole, "jitter", 0.05).keypoints - whole.keypoints
    side = np.ptp(whole.keypoints.reshape(-1, 2), axis=0).max()
    assert moved.std() == pytest.approx(0.05 * side, rel=0.02)
    again = _perturb.perturbed(whole, "jitter", 0.05).keypoints - whole.keypoints
    np.testing.assert_array_equal(moved, again)


def test_guesses_of_invisible_joints_are_seen_but_not_those_that_nobody_guessed():
    whole = clip(3)
    whole.scores[0, :, :2] = 0
    whole.keypoints[0, :, 0] = 1.02  # as Penn Action's files say that there is no guess
    whole.scores[0, 1, 5], whole.keypoints[0, 1, 5] = 1, 1.02  # visible, there
    shown = _perturb.perturbed(whole, "guess", 1.0)
    assert (shown.scores[0, :, 0] == 0).all() and (shown.scores[0, :, 1:] == 1).all()
    np.testing.assert_array_equal(shown.keypoints, whole.keypoints)


def test_a_group_shows_each_person_whole_in_a_place_of_their_own():
    members = [dataclasses.replace(clip(40 + i), clip_id=f"c{i}") for i in range(13)]
    group = _groups.grouped(members)
    assert group.keypoints.shape == (13, 20, 17, 2)
    boxes = np.concatenate([group.keypoints.min((1, 2)), group.keypoints.max((1, 2))], 1)
    assert boxes.min() >= 0
    assert (boxes.max(0)[2:] <= (group.width, group.height)).all()
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        for u0, v0, u1, v1 in boxes[:i]:
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0
    # The same motion as of the clip that the person is from, but for place and scale.
    frames = uniform_sample(41, 20)[0]
    ours, theirs = group.keypoints[1].reshape(-1, 2), members[1].keypoints[0, frames].reshape(-1, 2)
    assert np.corrcoef(ours[:, 0], theirs[:, 0])[0, 1] == pytest.approx(1, abs=1e-4)


def test_groups_keep_to_their_side_of_the_protocol(tmp_path):
    clips = []
    for i in range(12):
        one = clip(24)
        splits = ("test", "subject2") if i % 2 else ("train", "subject1")
        scores = one.scores * (0.2 if i % 2 else 0.8)  # tells whose side somebody in a group is from
        clips.append(dataclasses.replace(one, clip_id=f"c{i:02}", label=i // 6, splits=splits, scores=scores))
    tables.write_table(clips, str(tmp_path / "single"))
    _groups.write(str(tmp_path / "single"), 3, str(tmp_path / "groups"))
    groups = list(tables.read_table(str(tmp_path / "groups")))
    assert sorted(group.clip_id for group in groups) == [one.clip_id for one in clips]
    assert {group.num_persons for group in groups} == {3}
    assert all(np.allclose(group.scores, 0.8 if group.splits == ("train",) else 0.2, atol=0.01) for group in groups)
    assert {(group.label, group.splits) for group in groups} == {(n, (s,)) for n in (0, 1) for s in ("train", "test")}


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_in_this_process_is_that_of_the_jobs(ray_local, tmp_path):
    from jobs import evaluate, train

    clips = []
    for i in range(24):
        truth = actors.make_clip(actors.ACTIONS[i % 2], actor=i, num_frames=8)
        scores = np.ones(truth.keypoints.shape[:3])
        names = {"label": i % 2, "label_name": actors.ACTIONS[i % 2], "splits": ("test" if i > 15 else "train",)}
        clips.append(tables.Clip(f"c{i}", 8, 240, 320, truth.keypoints, scores, **names))
    table = str(tmp_path / "table")
    tables.write_table(clips, table, rows_per_file=7)
    tiny = {"clip.length": 4, "clip.size": 12, "clip.test_size": 12, "epochs": 2, "repeat": 4, "batch": 12}
    # Not AdamW, whose first steps are as long for a gradient of rounding errors as for any other; threads round apart.
    fields = {**tiny, "optim.ema": 0.9, "optim.name": "sgd", "optim.lr": 0.01}
    config = accuracy.configured(PRESETS["demo"][1], fields)

    first, out = str(tmp_path / "first"), str(tmp_path / "here")
    assert len(_in_process.train(config, table, "train", first)) == 2
    train.run(train.Train(table=table, out=str(tmp_path / "jobs"), init=(first,), val_split="test", config=config))
    epochs = _in_process.train(config, table, "train", out, init=[first], watch="test")
    assert _in_process.train(config, table, "train", out, init=[first], watch="test") == epochs, "it is done"
    with pytest.raises(ValueError, match="begun by another recipe"):
        _in_process.train(config, table, "train", out, watch="test")
    ours, theirs = (checkpoints.load(str(tmp_path / name / "last.safetensors")) for name in ("here", "jobs"))
    assert (ours.config, ours.labels, ours.epoch) == (theirs.config, theirs.labels, theirs.epoch)
    for name in ("train_loss", "val_loss"):
        assert epochs[-1][name] == pytest.approx(theirs.metrics[name], rel=1e-3)
    for name, weight in theirs.weights.items():
        torch.testing.assert_close(ours.weights[name], weight, rtol=1e-2, atol=2e-3)
    for flip in (False, True):
        found, said = _in_process.evaluate([out], table, "test", 3, flipped=flip)
        again = evaluate.Evaluate(runs=(out,), table=table, clips=3, flip=flip, out=str(tmp_path / f"e{flip}"))
        there = evaluate.run(again)
        assert (found["top1"], found["clips"]) == (there["top1"], len(said))
