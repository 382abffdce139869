"""Statistics of a small table, against numbers worked out by hand, and through Ray."""

import csv
import datetime
import html
import io
import itertools
import json
import re
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from posec3d import table as tables
from posec3d.counts import Counts, count_row_group, identity_breaks
from posec3d.statistics import charts, summarise, to_csv
from posec3d.table import Clip

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


def counted(*parts: list[Clip]) -> Counts:
    total = Counts()
    for number, part in enumerate(parts):
        total.add(count_row_group(rows(part), ("file", number)))
    return total


@pytest.fixture(scope="module")
def found() -> dict:
    counts = counted(CLIPS[:2], CLIPS[2:])
    counts.totals["bytes"] = 7_000
    return summarise(counts)


def test_totals(found: dict):
    assert (found["clips"], found["frames"], found["no_fps"]) == (5, 235, 1)
    assert found["hours"] == pytest.approx((50 + 50 + 100 + 10) / 25 / 3600, abs=1e-6)
    assert found["keypoints"] == 17 * (50 + 2 * 50 + 2 * 100 + 3 * 10)
    assert found["bytes_per_keypoint"] == pytest.approx(7000 / found["keypoints"], abs=1e-3)


def test_classes_and_splits(found: dict):
    names = ("label", "name", "clips", "frames")
    assert [tuple(c[k] for k in names) for c in found["classes"]] == [(0, NAMES[0], 1, 50), (1, NAMES[1], 3, 175)]
    assert [c["hours"] for c in found["classes"]] == pytest.approx([2 / 3600, 6 / 3600], abs=1e-6)
    members = {(row["label"], row["split"]): row["clips"] for row in found["class_splits"]}
    assert members == {(0, "train"): 1, (0, "fold1"): 1, (1, "train"): 1, (1, "test"): 2}
    assert (found["unlabelled"], found["no_split"]) == (1, 1)
    assert {row["split"]: (row["clips"], row["frames"]) for row in found["splits"]} == {
        "fold1": (1, 50), "test": (2, 125), "train": (2, 100)
    }  # fmt: skip


def test_balance(found: dict):
    # Shares 1/4 and 3/4: exp of the entropy is 4 / 3^(3/4).
    assert found["balance"] == {"imbalance": 3, "effective_classes": 1.75, "largest_share": 0.75}
    assert 4 / 3**0.75 == pytest.approx(1.755, abs=0.001)


def test_folders_of_videos_are_sources():
    clips = [walker(f"c{i}", 25, 1, label=0, video=f"s3://b/{'night' if i else 'day'}/{i}.mp4") for i in range(3)]
    sources = summarise(counted([*clips, walker("p", 10, 1, label=0)]))["sources"]
    assert {row["folder"]: row["clips"] for row in sources} == {"s3://b/night": 2, "s3://b/day": 1, None: 1}
    assert sources[0]["hours"] == pytest.approx(2 / 3600, abs=1e-6)


def test_clips_without_people_are_counted(found: dict):
    assert [(p["persons"], p["clips"]) for p in found["persons_per_clip"]] == [(0, 1), (1, 1), (2, 2), (3, 1)]
    assert found["measures"]["nobody"] == 0.2


def test_people_in_a_frame_and_lengths_of_tracks(found: dict):
    # a: 50 frames of 1; b: 25 of 1, 25 of 2; c: 50 of 1, 50 of 2; d: 25 of nobody; e: 5 of 2, 5 of 3.
    people = {row["persons"]: row["frames"] for row in found["persons_per_frame"]}
    assert people == {0: 25, 1: 125, 2: 80, 3: 5}
    # The first person of all, and the second: 25 of 50, 50 of 100, 5 of 10; the third of e all 10.
    assert (found["track_lengths"]["min"], found["track_lengths"]["max"]) == (5, 100)
    assert found["track_lengths"]["mean"] == pytest.approx((50 + 50 + 25 + 100 + 50 + 10 + 5 + 10) / 8)


def test_lengths(found: dict):
    lengths = found["lengths"]
    assert [lengths[k] for k in ("min", "p25", "p50", "p75", "max", "mean")] == [10, 25, 50, 50, 100, 47.0]
    bins = found["length_histogram"]
    assert sum(b["count"] for b in bins) == 5
    assert all(low["to"] + 1 == high["from"] for low, high in itertools.pairwise(bins))


def test_one_very_long_clip_does_not_flatten_the_histogram():
    counts = Counts()
    counts.tracks.update({n: 10 for n in range(20, 60)} | {1_000_000: 1})
    histogram = summarise(counts)["track_histogram"]
    assert len(histogram) > 10 and histogram[-1]["to"] == 1_000_000 and sum(b["count"] for b in histogram) == 401


def test_frames_without_the_person_are_no_missing_joints(found: dict):
    # Person 1 of b, c and e is absent in 25, 50 and 5 frames of 50 + 2 * 50 + 2 * 100 + 3 * 10.
    assert found["absent"] == pytest.approx(80 / 380, abs=1e-4)
    assert {j["joint"]: j["missing"] for j in found["joints"]}["nose"] == 0


def test_missing_joint_by_name_class_and_split(found: dict):
    # Of 300 present frames, person 1 is in 25 + 50 + 5 and lacks the wrist in each.
    assert {j["joint"]: j["missing"] for j in found["joints"]}["left_wrist"] == pytest.approx(80 / 300, abs=1e-4)
    classes = {(j["label"], j["joint"]): j["missing"] for j in found["class_joints"]}
    assert classes[1, "left_wrist"] == pytest.approx(75 / 225, abs=1e-4) and classes[0, "left_wrist"] == 0
    splits = {(j["split"], j["joint"]): j["missing"] for j in found["split_joints"]}
    assert splits["test", "left_wrist"] == pytest.approx(50 / 150, abs=1e-4) and splits["fold1", "left_wrist"] == 0


def test_mean_score_is_over_scored_points_only(found: dict):
    assert {j["mean_score"] for j in found["joints"]} == {0.8}


def test_score_histogram_counts_every_scored_point_once(found: dict):
    (full,) = [b for b in found["scores"] if b["points"]]
    assert (full["from"], full["points"]) == (0.8, 300 * 17 - 80)
    assert found["measures"]["missing"] == pytest.approx(80 / (300 * 17), abs=1e-4)


def test_a_missing_joint_counts_zero_in_a_clips_quality(found: dict):
    # e: 25 person-frames of 17 joints, 5 of them lack the wrist; the others score 0.8.
    (worst,) = [row["quality"] for row in found["worst"] if row["clip_id"] == "e"]
    assert worst == pytest.approx(0.8 * (25 * 17 - 5) / (25 * 17), abs=1e-4)


def test_the_share_of_low_quality_is_of_all_clips():
    clips = [walker("good", 10, 1, label=0), walker("bad", 10, 1, label=0), walker("empty", 10, 0, label=0)]
    clips[1].scores[:] = 0.2
    found = summarise(counted(clips), quality=0.5)
    assert found["measures"]["low_quality"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["classes"][0]["low_quality"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["classes"][0]["quality"] == pytest.approx(0.5, abs=0.001)


def test_joints_outside_the_frame():
    clip = walker("a", 10, 1, label=0)
    clip.keypoints[0, :5, 0] = (-0.5, 239.5)  # the frame's corner: its edge is half a pixel outside the first centre
    clip.keypoints[0, :4, 1] = (-0.75, 50)
    clip.keypoints[0, :2, 2] = (50, 239.75)
    clip.keypoints[0, :1, 3] = (-9, 50)
    clip.scores[0, 0, 3] = 0  # not there, so not outside
    outside = [j["outside"] for j in summarise(counted([clip]))["joints"]]
    assert outside[:4] == [0, 0.4, 0.2, 0]


def test_boxes_and_how_much_the_crop_saves():
    clip = walker("a", 10, 1, label=0)
    clip.keypoints[:] = np.linspace((100, 100), (148, 148), 17)
    found = summarise(counted([clip]))
    # A box of 48 x 48 in 320 x 240; a quarter larger each way it is 60 x 60, of 320 the square that holds the frame.
    assert found["crop"] == {"box": 0.03, "crop": pytest.approx(3600 / 76800, abs=1e-4), "larger": 5.33}


def standing(places: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """People 100 pixels tall, 17 joints along a line, at (first, second half) x of four frames."""
    xy = np.zeros((len(places), 4, 17, 2))
    xy[..., 1] = np.linspace(0, 100, 17)
    for m, (first, second) in enumerate(places):
        xy[m, :2, :, 0], xy[m, 2:, :, 0] = first, second
    return xy, np.ones(xy.shape[:3], bool)


@pytest.mark.parametrize(
    ("places", "exchanges", "jumps"),
    [
        ([(0, 200), (200, 0)], 1, 0),  # each stands where the other was
        ([(0, 200), (400, 400)], 0, 1),  # one is somewhere else
        ([(0, 60), (200, 140)], 0, 0),  # less than a height
        ([(0, 20), (20, 0)], 0, 0),  # so near each other that nobody could tell
    ],
)
def test_suspected_identity_switches(places, exchanges, jumps):
    assert identity_breaks(*standing(places), fps=25) == (exchanges, jumps)


def test_at_a_low_frame_rate_people_may_go_further():
    assert identity_breaks(*standing([(0, 200)]), fps=10) == (0, 1)
    assert identity_breaks(*standing([(0, 200)]), fps=4) == (0, 0)


def test_people_who_are_not_there_make_no_switches():
    xy, scored = standing([(0, 200), (200, 0)])
    scored[:, 2] = False
    assert identity_breaks(xy, scored, fps=25) == (0, 0)


def test_sources_of_frames(found: dict):
    assert found["resolutions"][0] == {"width": 320, "height": 240, "clips": 4}
    assert {f["fps"]: f["clips"] for f in found["fps"]} == {25.0: 4, 0.0: 1}
    assert found["models"] == [{"pose_model": "p", "detector": "d", "clips": 5}]


def test_frame_rates_that_look_the_same_are_one():
    clips = [walker(f"c{i}", 2, 0, label=0, fps=29.97 + i / 10_000) for i in range(-40, 41)]
    found = summarise(counted([*clips, walker("other", 2, 0, label=0, fps=30.0)]))
    assert found["fps"] == [{"fps": 29.97, "clips": 81}, {"fps": 30.0, "clips": 1}]


def test_a_table_with_more_frame_rates_than_anybody_reads_lists_the_most_frequent():
    clips = [walker("c", 1, 0, label=0, fps=25.0), walker("d", 1, 0, label=0, fps=25.0)]
    counts = counted(clips)
    many = counts.clips[0].slice(0, 1)
    counts.clips += [many.set_column(many.column_names.index("fps"), "fps", pa.array([1 + i / 100], pa.float32()))
                     for i in range(10_100) if i != 2400]  # fmt: skip
    found = summarise(counts)["fps"]
    assert len(found) == 10_000 and found[0] == {"fps": 25.0, "clips": 2}


def test_statistics_do_not_depend_on_how_the_table_is_cut(found: dict):
    counts = counted(CLIPS[::-1])
    counts.totals["bytes"] = 7_000
    whole = summarise(counts)
    assert {**whole, "samples": 0} == {**found, "samples": 0}
    assert [s["clip_id"] for s in whole["samples"]] == [s["clip_id"] for s in found["samples"]]


def test_samples_are_the_worst_median_and_best_of_a_class():
    clips = [walker(f"c{i}", 5, 1, label=0) for i in range(5)] + [walker("nobody", 5, 0, label=0)]
    for i, clip in enumerate(clips[:5]):
        clip.scores[:] = (0.5, 0.9, 0.1, 0.7, 0.3)[i]
    samples = summarise(counted(clips))["samples"]
    assert {s["rank"]: s["clip_id"] for s in samples} == {"worst": "c2", "median": "c0", "best": "c1"}


@pytest.mark.parametrize(("clips", "ranks"), [(1, ["only"]), (2, ["worst", "best"])])
def test_a_clip_is_a_sample_once(clips, ranks):
    samples = summarise(counted([walker(f"c{i}", 5, 1, label=0) for i in range(clips)]))["samples"]
    assert [s["rank"] for s in samples] == ranks


def test_of_many_classes_six_have_samples_from_the_worst_to_the_best():
    clips = []
    for i in range(50):
        clip = walker(f"c{i}", 5, 1, label=0)
        clip.scores[:] = 1 - i / 100
        clips.append(Clip(**{**clip.__dict__, "label": i, "label_name": f"{i}"}))
    samples = summarise(counted(clips))["samples"]
    names = [int(s["label_name"]) for s in samples]
    assert len(names) == 6 and names == sorted(names, reverse=True) and {0, 49} <= set(names)


def test_an_empty_table_has_statistics():
    found = summarise(Counts())
    assert (found["clips"], found["measures"]["missing"], found["samples"]) == (0, None, [])


def test_every_list_of_the_statistics_is_a_chart_with_numbers_in_csv(found: dict):
    parts = charts(found)
    assert {"classes", "joints", "class_joints", "measures", "leaks", "columns"} <= parts.keys()
    text = to_csv(parts["classes"])
    (header, first, _) = csv.reader(io.StringIO(text))
    assert header[:3] == ["label", "name", "clips"] and first[:3] == ["0", NAMES[0], "1"]


def test_a_name_in_csv_is_no_formula():
    text = to_csv([{"name": name, "n": -1} for name in ("=1+1", "@x", "+a", "-a", "a\nb", 'a"b')])
    assert [row[0] for row in csv.reader(io.StringIO(text))][1:] == ["'=1+1", "'@x", "'+a", "'-a", "a\nb", 'a"b']
    assert ",-1" in text


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

    counted, where = statistics(table)
    same = ("clips", "hours", "classes", "splits", "lengths", "joints", "scores", "persons_per_clip", "class_joints")
    assert {k: counted[k] for k in same} == {k: found[k] for k in same}
    assert (counted["files"], counted["row_groups"]) == (3, 3)
    assert json.loads(json.dumps(counted)) == counted
    assert sorted(where["clip_id"].to_pylist()) == sorted(clip.clip_id for clip in CLIPS)
    stored = {row["column"]: row["bytes"] for row in counted["columns"]}
    assert stored.keys() == set(tables.SCHEMA.names)
    # The files hold their columns, their footers and little else.
    assert 0.1 * counted["bytes"] < sum(stored.values()) < counted["bytes"]


def test_other_parquet_files_are_told_before_any_task(tmp_path):
    from pipelines.stats import count_table

    pa.parquet.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="not a keypoint table"):
        count_table(str(tmp_path))


def test_failures_are_grouped_by_cause_without_those_that_succeeded(table: str):
    from pipelines.stats import failed

    pictures = {"clip_id": "c", "video": "c.mp4", "stage": "frames", "error": "gone", "attempts": 1}
    told = tables.read_failures(table) | {"c": pictures}
    failures = failed(told, {clip.clip_id for clip in CLIPS})
    assert (failures["clips"], failures["succeeded_later"]) == (6, 1), "a clip without pictures never failed"
    video = "v-0123456789ab"
    whole, cut = {video: {**pictures, "clip_id": video, "stage": "decode"}}, {f"{video}-1of4", f"{video}-2of4"}
    assert (failed(whole, cut)["clips"], failed(whole, cut)["succeeded_later"]) == (0, 1), "it is cut by now"
    assert failed({f"{video}-3of4": whole[video]}, cut)["clips"] == 1
    causes = [(g["stage"], g["cause"], g["clips"], len(g["examples"])) for g in failures["groups"]]
    assert causes == [("decode", "the file is empty (0 bytes)", 5, 3), ("pose", "ValueError: x", 1, 1)]


@pytest.mark.ray
def test_job_writes_report_and_numbers(table: str, tmp_path, monkeypatch, ray_local):
    from jobs import _job, stats

    out = tmp_path / "report"
    monkeypatch.setattr(sys, "argv", ["stats", "--table", table, "--report", str(out)])
    assert _job.main(lambda: _job.parse(stats.Stats), stats.run) == 0
    found = json.loads((out / "statistics.json").read_text())
    assert (found["clips"], json.loads((out / "summary.json").read_text())["failed"]) == (5, 6)
    text = (out / "index.html").read_text()
    assert NAMES[0] in html.unescape(text) and NAMES[0] not in text
    assert text.count("<img ") == 3  # one clip of a class, and two of the other: d has nobody to see
    linked = set(re.findall(r'href="([^"#]+)"', text))
    assert len(linked) > 30 and all((out / name).is_file() for name in linked)
    assert json.loads((out / "charts/classes.json").read_text()) == found["classes"]


@pytest.mark.ray
def test_a_table_worse_than_its_limits_ends_with_exit_code_3_after_the_report(
    table, tmp_path, monkeypatch, ray_local, capsys
):
    from jobs import _job, stats

    limits, out = tmp_path / "limits.toml", tmp_path / "report"
    limits.write_text("[at_most]\nnobody = 0.1\nmissing = 0.9\n[at_least]\nsmallest_class = 1\n")
    monkeypatch.setattr(sys, "argv", ["stats", "--table", table, "--report", str(out), "--limits", str(limits)])
    assert _job.main(lambda: _job.parse(stats.Stats), stats.run) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "nobody (share of clips in which nobody was found) is 0.2, at most 0.1 is allowed" in said
    assert "missing" not in said
    assert (out / "summary.json").exists() and "1 of 3 limits are broken" in (out / "index.html").read_text()


@pytest.mark.ray
def test_two_tables_are_compared_by_clip_id(table, tmp_path, ray_local):
    from jobs import stats

    moved = [Clip(**{**clip.__dict__, "keypoints": clip.keypoints + 8}) for clip in CLIPS[::-1] if clip.clip_id != "c"]
    tables.write_table(moved, str(tmp_path / "other"), rows_per_file=1)
    out = tmp_path / "report"
    job = stats.Stats(table=table, report=str(out), against=str(tmp_path / "other"))
    assert stats.run(job)["compared"] == 4
    found = json.loads((out / "statistics.json").read_text())["comparison"]
    assert (found["matched"], found["only_here"], found["only_there"], found["people"]) == (4, 1, 0, 6)
    # Moved by (8, 8); a person's longer side is 160 pixels, its 17 joints 10 apart.
    assert [row["distance"] for row in found["joints"]] == pytest.approx([8 * 2**0.5 / 160] * 17, abs=1e-4)
    assert "4 clips have a row in both tables, 1 only here" in (out / "index.html").read_text()


@pytest.mark.ray
def test_a_clip_that_a_table_has_twice_is_matched_once(tmp_path, ray_local):
    from pipelines.stats import compare, count_places

    one, other = str(tmp_path / "one"), str(tmp_path / "other")
    tables.write_table([walker(name, 10, 1, label=0) for name in "aabc"], one, rows_per_file=1)
    tables.write_table([walker(name, 10, 1, label=0) for name in "aaabd"], other, rows_per_file=2)
    found = compare(count_places(one), other)
    assert (found["matched"], found["only_here"], found["only_there"]) == (2, 1, 1)
    assert found["measures"]["unmatched"] == 0.5  # c and d of a, b, c, d


@pytest.mark.ray
def test_a_report_holds_no_passwords(tmp_path, monkeypatch, ray_local):
    from jobs import stats

    monkeypatch.setenv("STORE_PASSWORD", "opensesame")
    table, out = str(tmp_path / "opensesame"), tmp_path / "report"
    tables.write_table([walker("a", 10, 1, label=0, video="sftp://me:hunter2@host/videos/a.mp4")], table)
    failure = {
        "clip_id": "b",
        "video": "sftp://me:hunter2@host/b.mp4",
        "stage": "decode",
        "error": "sftp://me:hunter2@",
    }
    failure |= {"attempts": 1, "time": datetime.datetime.now(datetime.UTC)}
    tables.write_file(pa.Table.from_pylist([failure], tables.FAILURES), tables.failures_uri(table))
    stats.run(stats.Stats(table=table, report=str(out), against=table))
    written = {path.name: path.read_text() for path in out.rglob("*.*")}
    assert {"index.html", "statistics.json", "sources.csv"} <= written.keys()
    assert [name for name, text in written.items() if "hunter2" in text or "opensesame" in text] == []
    found = json.loads(written["statistics.json"])
    assert found["table"] == found["comparison"]["against"] == str(tmp_path / "***")
    assert found["sources"][0]["folder"] == "sftp://me:***@host/videos"


@pytest.mark.ray
def test_job_without_a_table_is_a_usage_error(tmp_path, ray_local):
    from jobs import _job, stats

    with pytest.raises(_job.UsageError, match=r"no keypoint table at .*jobs\.extract"):
        stats.run(stats.Stats(table=str(tmp_path / "none"), report=str(tmp_path / "report")))
