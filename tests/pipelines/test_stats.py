"""Statistics of a small table, against numbers worked out by hand, and through Ray."""

import datetime
import html
import json
import sys

import numpy as np
import pyarrow as pa
import pytest

from posec3d import table as tables
from posec3d.counts import Counts, count_row_group, summarise
from posec3d.table import Clip

STORAGE = {"files": 2, "row_groups": 2, "bytes": 7_000}
NAMES = ["<script>alert('x')</script>", "wave"]


def walker(name: str, frames: int, people: int, *, label: int | None, splits: tuple[str, ...] = (), **more) -> Clip:
    """People as sticks that sway by a sine; person 1 is there in the second half only and has no left wrist."""
    t = np.arange(frames)[:, None]
    person = np.stack([100 + 5 * np.sin(t / 4 + np.arange(17)), 20 + 10 * np.arange(17) + 0 * t], -1)
    keypoints = np.stack([person + 40 * m for m in range(people)]) if people else np.zeros((0, frames, 17, 2))
    scores = np.full((people, frames, 17), 0.8)
    scores[1:2, : frames // 2] = 0
    scores[1:2, :, 9] = 0
    given = {"height": 240, "width": 320, "fps": 25.0, "pose_model": "p", "detector": "d"} | more
    label_name = None if label is None else NAMES[label]
    return Clip(
        name, frames, keypoints=keypoints, scores=scores, label=label, label_name=label_name, splits=splits, **given
    )


CLIPS = [
    walker("a", 50, 1, label=0, splits=("train", "fold1")),
    walker("b\n<b>", 50, 2, label=1, splits=("train",)),
    walker("c", 100, 2, label=1, splits=("test",)),
    walker("d", 25, 0, label=1, splits=("test",), fps=0.0),
    walker("e", 10, 3, label=None, height=480, width=640),
]


def rows(clips: list[Clip]) -> pa.Table:
    return tables.rows_to_arrow([tables.to_row(clip) for clip in clips])


@pytest.fixture(scope="module")
def found() -> dict:
    total = count_row_group(rows(CLIPS[:2]), set())
    total.add(Counts.from_json(count_row_group(rows(CLIPS[2:]), set()).to_json()))
    return summarise(total, STORAGE)


def test_totals(found: dict):
    assert (found["clips"], found["frames"], found["no_fps"]) == (5, 235, 1)
    assert found["hours"] == pytest.approx((50 + 50 + 100 + 10) / 25 / 3600, abs=1e-6)
    assert found["keypoints"] == 17 * (50 + 2 * 50 + 2 * 100 + 3 * 10)
    assert found["bytes_per_keypoint"] == pytest.approx(7000 / found["keypoints"], abs=1e-3)


def test_classes_and_splits(found: dict):
    assert found["classes"] == [
        {"label": 0, "name": NAMES[0], "clips": 1, "frames": 50, "splits": {"train": 1, "fold1": 1}},
        {"label": 1, "name": NAMES[1], "clips": 3, "frames": 175, "splits": {"train": 1, "test": 2}},
    ]
    assert (found["unlabelled"], found["no_split"]) == (1, 1)
    assert found["splits"] == {"fold1": 1, "test": 2, "train": 2}


def test_clips_without_people_are_counted(found: dict):
    assert [(p["persons"], p["clips"]) for p in found["persons_per_clip"]] == [(0, 1), (1, 1), (2, 2), (3, 1)]


def test_lengths(found: dict):
    lengths = found["lengths"]
    assert [lengths[k] for k in ("min", "p25", "p50", "p75", "max", "mean")] == [10, 25, 50, 50, 100, 47.0]
    assert sum(b["clips"] for b in lengths["histogram"]) == 5
    assert all(low["to"] + 1 == high["from"] for low, high in zip(lengths["histogram"], lengths["histogram"][1:]))  # noqa: B905


def test_one_very_long_clip_does_not_flatten_the_histogram():
    counts = Counts()
    counts.by["lengths"].update({str(n): 10 for n in range(20, 60)} | {"1000000": 1})
    histogram = summarise(counts, STORAGE)["lengths"]["histogram"]
    assert len(histogram) > 10 and histogram[-1]["to"] == 1_000_000 and sum(b["clips"] for b in histogram) == 401


def test_frames_without_the_person_are_no_missing_joints(found: dict):
    # Person 1 of b, c and e is absent in 25, 50 and 5 frames of 50 + 2 * 50 + 2 * 100 + 3 * 10.
    assert found["absent"] == pytest.approx(80 / 380, abs=1e-4)
    assert {j["joint"]: j["missing"] for j in found["joints"]}["nose"] == 0


def test_missing_joint_by_name(found: dict):
    # Of 300 present frames, person 1 is in 25 + 50 + 5 and lacks the wrist in each.
    assert {j["joint"]: j["missing"] for j in found["joints"]}["left_wrist"] == pytest.approx(80 / 300, abs=1e-4)


def test_mean_score_is_over_scored_points_only(found: dict):
    assert {j["mean_score"] for j in found["joints"]} == {0.8}


def test_score_histogram_counts_every_scored_point_once(found: dict):
    (full,) = [b for b in found["scores"]["histogram"] if b["points"]]
    assert (full["from"], full["points"]) == (0.8, 300 * 17 - 80)
    assert found["scores"]["missing"] == pytest.approx(80 / (300 * 17), abs=1e-4)


def test_sources(found: dict):
    assert found["resolutions"][0] == {"width": 320, "height": 240, "clips": 4}
    assert {f["fps"]: f["clips"] for f in found["fps"]} == {25.0: 4, 0.0: 1}
    assert found["models"] == [{"pose_model": "p", "detector": "d", "clips": 5}]


def test_counts_do_not_depend_on_how_the_table_is_cut(found: dict):
    whole = summarise(count_row_group(rows(CLIPS[::-1]), set()), STORAGE)
    assert {**whole, "samples": 0} == {**found, "samples": 0}


def test_samples_are_the_same_however_the_table_is_cut(found: dict):
    whole = summarise(count_row_group(rows(CLIPS[::-1]), set()), STORAGE)
    assert [s["clip_id"] for s in whole["samples"]] == [s["clip_id"] for s in found["samples"]]


def test_samples_prefer_clips_with_people():
    clips = [walker(f"n{i}", 5, 0, label=0) for i in range(20)] + [walker("someone", 5, 1, label=0)]
    assert summarise(count_row_group(rows(clips), set()), STORAGE)["samples"][0]["clip_id"] == "someone"


def test_at_most_twelve_samples_from_as_many_classes():
    clips = [
        Clip(**{**walker(f"c{i}", 5, 1, label=0).__dict__, "label": i % 50, "label_name": f"{i % 50}"})
        for i in range(100)
    ]
    samples = summarise(count_row_group(rows(clips), set()), STORAGE)["samples"]
    assert len(samples) == len({s["label_name"] for s in samples}) == 12


def test_an_empty_table_has_statistics():
    assert summarise(Counts(), {"files": 1, "row_groups": 0, "bytes": 100})["clips"] == 0


@pytest.fixture
def table(tmp_path) -> str:
    uri = str(tmp_path / "table")
    tables.write_table(CLIPS, uri, rows_per_file=2)
    rows = [(f"f{i}", f"/v/f{i}.mp4", "decode", f"/v/f{i}.mp4: the file is empty (0 bytes)") for i in range(5)]
    rows += [("a", "/v/a.mp4", "pose", "MemoryError: no"), ("g", "/v/g.mp4", "pose", "ValueError: x\nmore")]
    now = datetime.datetime.now(datetime.UTC)
    names = ("clip_id", "video", "stage", "error")
    failures = [{**dict(zip(names, row, strict=True)), "attempts": 1, "time": now} for row in rows]
    tables.write_file(pa.Table.from_pylist(failures, tables.FAILURES), tables.failures_uri(uri))
    return uri


@pytest.mark.ray
def test_statistics_of_a_table_through_ray(table: str, found: dict, ray_local):
    from pipelines.stats import statistics

    counted = statistics(table)
    same = ("clips", "frames", "hours", "classes", "splits", "lengths", "joints", "scores", "persons_per_clip")
    assert {k: counted[k] for k in same} == {k: found[k] for k in same}
    assert (counted["files"], counted["row_groups"]) == (3, 3)
    assert json.loads(json.dumps(counted)) == counted


@pytest.mark.ray
def test_failures_are_grouped_by_cause_without_those_that_succeeded(table: str, ray_local):
    from pipelines.stats import statistics

    failures = statistics(table)["failures"]
    assert (failures["clips"], failures["succeeded_later"]) == (6, 1)
    causes = [(g["stage"], g["cause"], g["clips"], len(g["examples"])) for g in failures["groups"]]
    assert causes == [("decode", "the file is empty (0 bytes)", 5, 3), ("pose", "ValueError: x", 1, 1)]


@pytest.mark.ray
def test_job_writes_report_and_statistics(table: str, tmp_path, monkeypatch, ray_local):
    from jobs import _job, stats

    out = tmp_path / "report"
    monkeypatch.setattr(sys, "argv", ["stats", "--table", table, "--report", str(out)])
    assert _job.main(lambda: _job.parse(stats.Stats), stats.run) == 0
    assert json.loads((out / "statistics.json").read_text())["clips"] == 5
    assert json.loads((out / "summary.json").read_text())["failed"] == 6
    text = (out / "index.html").read_text()
    assert NAMES[0] in html.unescape(text) and NAMES[0] not in text and text.count("<img ") == 4


@pytest.mark.ray
def test_job_without_a_table_is_a_usage_error(tmp_path, ray_local):
    from jobs import _job, stats

    with pytest.raises(_job.UsageError, match=r"no keypoint table at .*jobs\.extract"):
        stats.run(stats.Stats(table=str(tmp_path / "none"), report=str(tmp_path / "report")))
