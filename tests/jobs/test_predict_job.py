"""The prediction job: usage; slow: each clip once whatever happens, failures, timelines of long videos, kills."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from jobs import _job, _terminal
from jobs import evaluate as evaluate_job
from jobs import predict as predict_job
from jobs.predict import Predict, run
from pipelines import predict
from posec3d import actors, load
from posec3d import checkpoint as checkpoints
from posec3d import table as tables
from posec3d.clips import ClipConfig
from posec3d.config import PRESETS, ModelConfig
from posec3d.table import Clip, read_failures, read_table, write_table
from posec3d.video import open_video, write_video

ROOT = Path(__file__).resolve().parents[2]
SMALL = dataclasses.replace(
    PRESETS["demo"][1], clip=dataclasses.replace(PRESETS["demo"][1].clip, length=8, test_size=16)
)
RGB = dataclasses.replace(
    SMALL, model=ModelConfig(name="rgb-slowonly-light"), clip=ClipConfig(length=8, rgb_length=2, test_size=16)
)
LABELS = ("bow", "kick", "wave")


def model(path, seed=0, config=SMALL, labels=LABELS):
    """A checkpoint of random weights that says something else of each clip."""
    torch.manual_seed(seed)
    made = checkpoints.build_model(config, "coco17", len(labels))
    torch.nn.init.normal_(made.fc_cls.weight)
    checkpoints.save(checkpoints.Checkpoint(config, labels, "coco17", made.state_dict()), str(path))
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return tuple(model(folder / f"{seed}.safetensors", seed) for seed in (0, 1))


def clips(count, first=0, people=1, video=""):
    for i in range(first, first + count):
        truth = actors.make_clip(actors.ACTIONS[i % 3], actor=i, num_frames=8)
        keypoints = np.repeat(truth.keypoints, people, 0)
        yield Clip(f"c{i}", 8, 240, 320, keypoints, np.ones(keypoints.shape[:3], np.float32), fps=16, video=video)


def rows(out):
    return list(predict.read(f"{out}/predictions"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": ()}, "give at least one run"),
        ({"videos": "v"}, "give either --videos, or --table"),
        ({"table": None}, "give either --videos, or --table"),
        ({"weights": (1.0,)}, r"--weights wants a number >= 0 for each of 2 runs, one of them > 0, got \(1.0,\)"),
        ({"weights": (0.0, 0.0)}, "--weights wants a number >= 0"),
        ({"stride": 1.0}, "--window, --stride: a stride of 1.0 s and no window"),
        ({"window": 1.0, "stride": 2.0}, "the stride must be > 0 and at most the window's"),
        ({"window": -1.0}, "the window must be > 0 seconds long, got -1.0"),
        ({"clips": 0}, "--clips must be >= 1, got 0"),
        ({"max_failed": -1}, "--max-failed must be >= 0, got -1"),
        ({"table": "/nowhere"}, "no keypoint table at /nowhere"),
        ({"table": None, "videos": "/nowhere"}, "/nowhere: no folder or video there"),
        ({"table": None, "videos": "/clips/", "out": "/clips/seen"}, "--out /clips/seen lies in --videos /clips"),
        ({"runs": ("/nowhere",), "weights": None}, r"no checkpoint at /nowhere/best\.safetensors"),
        ({"runs": ("joint.pth",), "weights": None}, r"joint\.pth is no checkpoint of this project; .* jobs\.convert"),
    ],
)
def test_commands_that_mean_nothing_are_refused(runs, tmp_path, change, message):
    with pytest.raises(_job.UsageError, match=message):
        run(dataclasses.replace(Predict(runs=runs, table="/nowhere", out=str(tmp_path)), **change))
    assert not (tmp_path / "predictions").exists() and not (tmp_path / "settings.json").exists()


def test_runs_of_other_classes_and_damaged_ones_are_refused_by_prediction_and_evaluation(runs, tmp_path):
    model(tmp_path / "other.safetensors", labels=("a", "b", "c"))
    (tmp_path / "damaged.safetensors").write_bytes(Path(runs[0]).read_bytes()[:999])
    for name, told in (("other", r"\.safetensors knows other classes than .*0\.safetensors"), ("damaged", "")):
        both = (runs[0], str(tmp_path / f"{name}.safetensors"))
        with pytest.raises(_job.UsageError, match=name + told):
            run(Predict(runs=both, table="t", out=str(tmp_path)))
        with pytest.raises(_job.UsageError, match=name + told):
            evaluate_job.run(evaluate_job.Evaluate(runs=both, table="t"))


def test_predictions_of_another_kind_in_the_folder_are_refused(runs, tmp_path):
    write_table(clips(1), str(tmp_path / "table"))
    job = Predict(runs=runs[:1], table=str(tmp_path / "table"), out=str(tmp_path / "out"))
    settings = predict_job._same_settings(job, [b"one"], 10)
    _job.write_json(f"{job.out}/settings.json", settings)
    predict_job._same_settings(job, [b"one"], 10)  # the same again
    with pytest.raises(_job.UsageError, match="holds predictions made with other clips; give another --out"):
        predict_job._same_settings(job, [b"one"], 5)
    with pytest.raises(_job.UsageError, match="holds predictions made with other models, clips, window"):
        run(dataclasses.replace(job, window=2.0))


def test_names_and_paths_with_brackets_are_shown_as_they_are(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_terminal, "OUT", Console(width=300))
    top = [{"label": "[red]wave[/b]", "probability": 0.9}]
    row = {"video": "videos/a[b].mp4", "people": 1, "person": None, "start_s": None, "end_s": None, "top": top}
    predict_job._show([{**row, "error": None}])
    _job.report("predict", {"path": str(tmp_path / "out[/b]"), "see": "[/b]"})
    said = capsys.readouterr().out
    assert "a[b].mp4" in said and "[red]wave[/b] 90%" in said and said.count("[/b]") == 3


def test_a_long_video_waits_until_all_its_pieces_are_there_or_given_up(tmp_path):
    (clip,) = clips(1)
    pieces = [dataclasses.replace(clip, clip_id=f"long-0123456789ab-{n}of3", start_frame=8 * n - 8) for n in (3, 1)]
    table, out = str(tmp_path / "table"), str(tmp_path / "out")
    write_table([*pieces, dataclasses.replace(clip, clip_id="short")], table)
    todo = predict.plan(table, out, whole=True)
    assert [row["clip_id"] for row in todo.missing] == ["short"]
    assert (set(todo.videos), todo.waiting) == ({"long-0123456789ab", "short"}, {"long-0123456789ab"})
    assert len(predict.plan(table, out, whole=False).missing) == 3
    lost = {
        "clip_id": "long-0123456789ab-2of3",
        "video": "v",
        "stage": "decode",
        "error": "e",
        "attempts": 3,
        "time": 0,
    }
    tables.write_file(tables.pa.Table.from_pylist([lost], tables.FAILURES), tables.failures_uri(table))
    long, _ = predict.plan(table, out, whole=True).missing
    assert (long["clip_id"], long["pieces"]) == ("long-0123456789ab", [(0, 0, 1), (0, 0, 0)])  # in order of time


@pytest.mark.parametrize("cured", ["long-0123456789ab-1of3", "long-0123456789ab"])
def test_a_failure_that_is_cured_is_no_piece_that_will_never_come(cured, tmp_path):
    """Two of three pieces are there; one of them failed for good before, or the whole video could not be cut once."""
    (clip,) = clips(1)
    table, out = str(tmp_path / "table"), str(tmp_path / "out")
    write_table(
        [dataclasses.replace(clip, clip_id=f"long-0123456789ab-{n}of3", start_frame=8 * n - 8) for n in (1, 2)], table
    )
    row = {"clip_id": cured, "video": "v", "stage": "decode", "error": "e", "attempts": 3, "time": 0}
    again = {**row, "clip_id": "long-0123456789ab-3of3", "attempts": 1}
    tables.write_file(tables.pa.Table.from_pylist([row, again], tables.FAILURES), tables.failures_uri(table))
    todo = predict.plan(table, out, whole=True)
    assert (todo.missing, todo.waiting) == ((), {"long-0123456789ab"})


def test_a_video_that_waits_for_a_piece_is_told_and_counts_for_max_failed(runs, tmp_path, caplog, monkeypatch):
    (clip,) = clips(1, video="long.mp4")
    write_table([dataclasses.replace(clip, clip_id="long-0123456789ab-1of2")], str(tmp_path / "table"))
    job = Predict(runs=runs[:1], table=str(tmp_path / "table"), out=str(tmp_path / "out"), window=1.0, max_failed=0)
    with pytest.raises(_job.WorseThanAllowed, match="1 of 1 videos have no prediction") as raised:
        run(job)
    assert (raised.value.summary["failed"], raised.value.summary["of them waiting for a piece"]) == (1, 1)
    assert "long.mp4 failed: a piece of it has no poses yet" in caplog.text
    (said,) = json.loads((tmp_path / "out/predictions.json").read_text())
    assert (said["clip_id"], said["video"]) == ("long-0123456789ab", "long.mp4") and "a piece of it" in said["error"]
    monkeypatch.setattr(predict_job, "LISTED", 0)
    run(dataclasses.replace(job, max_failed=None))
    assert not (tmp_path / "out/predictions.json").exists(), "it would tell of fewer rows than there are now"


def test_failures_are_those_of_the_videos_asked_for(runs, tmp_path):
    """Others may be in the folder, of earlier calls with other videos; both had been given up."""
    paths = [tmp_path / "videos/a.mp4", tmp_path / "others/b.mp4"]
    failed = [
        {"clip_id": tables.clip_id(str(path)), "video": str(path), "stage": "decode", "error": "e", "attempts": 3}
        for path in paths
    ]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    rows = tables.pa.Table.from_pylist([{**row, "time": 0} for row in failed], tables.FAILURES)
    tables.write_file(rows, tables.failures_uri(str(tmp_path / "out/table")))
    summary = run(Predict(runs=runs[:1], videos=str(paths[0].parent), out=str(tmp_path / "out"), max_failed=1))
    assert (summary["videos"], summary["failed"]) == (1, 1)
    assert [row["video"] for row in summary["failures"]] == [str(paths[0])]


@pytest.mark.ray
@pytest.mark.slow
def test_clips_of_a_table_are_predicted_once_and_as_by_the_recognizer(runs, ray_local, tmp_path):
    table, out = str(tmp_path / "table"), str(tmp_path / "out")
    write_table([*clips(20), *clips(1, 20, people=0)], table, rows_per_file=8)
    job = Predict(runs=runs, weights=(3.0, 1.0), table=table, out=out, clips=2, flip=True, actors=2, pictures=2)
    first = run(job)
    assert (first["clips"], first["predicted"], first["without people"], first["failed"]) == (21, 21, 1, 0)
    write_table(clips(3, 21), table)
    second = run(job)
    assert (second["predicted"], second["already done"]) == (3, 21)
    assert {path.stem.removesuffix("-why") for path in Path(out).glob("c*.*")} == {"c0", "c1"}  # two in all
    found = rows(out)
    assert Counter(row["clip_id"] for row in found) == {f"c{i}": 1 for i in range(24)}
    recognizer = load(runs, weights=[3, 1])
    known = {clip.clip_id: clip for clip in read_table(table)}
    for row in found:
        if row["clip_id"] == "c20":
            assert (row["people"], row["label"], row["top"], row["scores"]) == (0, None, None, None)
            continue
        result = recognizer.predict(known[row["clip_id"]], clips=2, flipped=True)
        np.testing.assert_allclose(row["scores"], result.scores, atol=1e-5)
        assert [top["label"] for top in row["top"]] == [name for name, _ in result.top()]
        assert (row["label"], row["person"], row["end_s"]) == (result.top(1)[0][0], None, 0.5)
    schema = pq.read_schema(next(Path(out, "predictions").glob("*.parquet")))
    assert json.loads(schema.metadata[predict.LABELS_KEY]) == list(LABELS)
    said = json.loads(Path(out, "predictions.json").read_text())
    assert len(said) == 24 and sum(second["labels"].values()) == 24


@pytest.mark.ray
@pytest.mark.slow
def test_a_clip_that_fails_is_a_row_with_its_cause_and_is_given_up_in_the_end(ray_local, tmp_path):
    rgb = model(tmp_path / "rgb.safetensors", config=RGB)
    truth = actors.make_clip("wave", actor=1, num_frames=8)
    write_video(tmp_path / "wave.mp4", truth.frames, 16)
    table, out = str(tmp_path / "table"), str(tmp_path / "out")
    write_table([*clips(5, video=str(tmp_path / "wave.mp4")), *clips(1, 5)], table)  # the last one has no video
    job = Predict(runs=(rgb,), table=table, out=out, clips=1, actors=1, pictures=0, max_failed=0.1)
    with pytest.raises(_job.WorseThanAllowed, match=r"1 of 6 videos have no prediction, --max-failed allows 0\.1"):
        run(job)
    assert sorted(row["clip_id"] for row in rows(out)) == [f"c{i}" for i in range(5)]
    for attempts in (2, 3):
        summary = run(dataclasses.replace(job, max_failed=None))
        assert (summary["predicted"], summary["failed"], summary["already done"]) == (0, 1, 5)
        (failure,) = read_failures(f"{out}/predictions").values()
        assert (failure["clip_id"], failure["stage"], failure["attempts"]) == ("c5", "recognize", attempts)
        assert "has no video to take frames from" in failure["error"]
    assert predict.plan(table, f"{out}/predictions", whole=False).missing == ()
    bad = json.loads(Path(out, "predictions.json").read_text())[0]
    assert "has no video" in bad["error"] and bad["clip_id"] == "c5"


@pytest.mark.ray
@pytest.mark.slow
def test_windows_lie_over_poses_of_a_file_too(runs, ray_local, tmp_path):
    truth = actors.make_clip("wave", actor=1, num_frames=24)
    write_video(tmp_path / "v.mp4", truth.frames, 16)
    points = np.concatenate([truth.keypoints[0], np.ones((24, 17, 1))], -1).reshape(24, -1)
    poses = [{"video": "v", "frame": t, "keypoints": frame.tolist()} for t, frame in enumerate(points)]
    pq.write_table(tables.pa.Table.from_pylist(poses), tmp_path / "poses.parquet")
    known = {"videos": str(tmp_path / "v.mp4"), "pose": str(tmp_path / "poses.parquet"), "pictures": 0, "clips": 1}
    summary = run(Predict(runs=runs[:1], out=str(tmp_path / "out"), window=0.5, actors=1, **known))
    assert (summary["videos"], summary["failed"]) == (1, 0)
    found = rows(tmp_path / "out")
    assert found[0]["start_s"] == 0 and found[-1]["end_s"] == pytest.approx(1.5)


@pytest.mark.ray
@pytest.mark.slow
def test_a_long_video_becomes_a_timeline_for_each_person(runs, movenet, ray_local, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_job, "PIECE_S", 1.0)
    (tmp_path / "videos").mkdir()
    frames = [f for action in ("bow", "kick") for f in actors.make_clip(action, actor=2, num_frames=32).frames]
    write_video(tmp_path / "videos/long.mp4", frames, 16)
    out = tmp_path / "out"
    job = Predict(
        runs=runs[:1], videos=str(tmp_path / "videos"), out=str(out), window=1.0, stride=0.25, per_person=True
    )
    summary = run(job)
    assert (summary["videos"], summary["predicted"], summary["failed"]) == (1, 1, 0)
    assert [c.num_frames for c in read_table(str(out / "table"))] == [32, 32]
    (json_file,) = out.glob("long-*.json")
    line = json.loads(json_file.read_text())
    found = rows(out)
    assert len(found) == len(line["actions"]) >= 1
    assert {row["person"] for row in found} == {a["person"] for a in line["actions"]}
    assert line["end_s"] == 4 and 0 <= line["actions"][0]["start_s"] < line["actions"][-1]["end_s"] <= 4
    for suffix in (".csv", ".png", ".mp4"):
        assert json_file.with_suffix(suffix).stat().st_size > 50
    with open_video(str(json_file.with_suffix(".mp4"))) as video:
        assert sum(1 for _ in video) == 64
    assert run(job)["already done"] == 1


def start(*words):
    dropped = ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    command = [sys.executable, "-m", "jobs.predict", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_prediction_run_again_does_only_the_rest(runs, tmp_path):
    table, out = tmp_path / "table", tmp_path / "out"
    (one,) = clips(1)
    write_table((dataclasses.replace(one, clip_id=f"c{i}") for i in range(1200)), str(table))
    words = (runs[0], "--table", table, "--out", out, "--flip", "--actors", 2, "--pictures", 0)
    first = start(*words)
    try:
        deadline = time.monotonic() + 200
        while not list(out.glob("predictions/_pending/*.parquet")):  # saved after 15 s of work
            assert first.poll() is None, first.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        first.kill()  # the driver alone: its Ray must end by itself
        first.wait()
    assert not list(out.glob("predictions/*.parquet"))
    second = start(*words)
    output, _ = second.communicate(timeout=380)
    assert second.returncode == 0, output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["already done"] > 0 and summary["already done"] + summary["predicted"] == 1200
    assert Counter(row["clip_id"] for row in rows(out)) == {f"c{i}": 1 for i in range(1200)}
    assert not list(out.glob("predictions/_pending/*"))


@pytest.mark.slow
def test_videos_poses_and_predictions_on_s3(runs, movenet, s3, tmp_path):
    import fsspec

    fs = fsspec.filesystem("s3")
    truth = actors.make_clip("wave", actor=1, num_frames=8)
    write_video(tmp_path / "wave.mp4", truth.frames, 16)
    fs.put(str(tmp_path / "wave.mp4"), "bucket/videos/wave.mp4")
    job = start(runs[0], "--videos", f"{s3}/videos", "--out", f"{s3}/out", "--clips", 1, "--actors", 1)
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output
    fs.invalidate_cache()
    (row,) = rows(f"{s3}/out")
    assert row["video"] == f"{s3}/videos/wave.mp4" and row["people"] == 1 and row["label"] in LABELS
    written = {path.rsplit("/", 1)[1].removeprefix(row["clip_id"]) for path in fs.glob("bucket/out/*")}
    assert {".mp4", ".gif", "-why.png", "predictions.json", "summary.json", "settings.json"} <= written
