"""Tables with every defect there is: each is named, and one sound table comes out."""

import datetime
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import _job
from jobs import compact as job
from posec3d import compact
from posec3d import table as tables
from posec3d.table import Clip

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def row(name, label="kick", number=0, people=1, frames=3, seed=0, **stored):
    """A row as it is stored; the same seed gives the same poses."""
    rng = np.random.default_rng(seed)
    clip = Clip(
        name,
        frames,
        240,
        320,
        rng.uniform(0, 240, (people, frames, 17, 2)).astype(np.float32),
        np.ones((people, frames, 17), np.float32),
        label=number,
        label_name=label,
        splits=("train", "fold1"),
        fps=25.0,
        keypoints_3d=np.zeros((people, frames, 17, 3), np.float32),
        boxes=np.zeros((people, frames, 4), np.float32),
    )
    return {**tables.to_row(clip), **stored}


def write(folder, *rows):
    """One file of these rows."""
    return Path(tables.write_file(tables.rows_to_arrow(rows), str(folder)))


def write_raw(folder, table):
    pq.write_table(table, folder / "raw.parquet")


def fail(folder, name, attempts=1, minutes=0):
    failure = {"clip_id": name, "video": f"{name}.mp4", "stage": "decode", "error": "no video", "attempts": attempts}
    rows = pa.Table.from_pylist([{**failure, "time": NOW + datetime.timedelta(minutes=minutes)}], tables.FAILURES)
    return tables.write_file(rows, tables.failures_uri(str(folder)))


def stored(folder):
    """The rows of a table as plain values, by clip_id."""
    rows = [r for group in tables.read_row_groups(str(folder)) for r in group.to_pylist()]
    assert len({r["clip_id"] for r in rows}) == len(rows)
    return {r["clip_id"]: r for r in rows}


def summary_of(*folders, out=None, rows_per_file=512):
    """What the job writes to summary.json, and whether it ends well."""
    given = job.Compact(tables=tuple(map(str, folders)), out=out and str(out), rows_per_file=rows_per_file)
    path = Path(out) / "_compact" if out else Path(folders[0]) / "_check"
    code = _job.main(lambda: given, job.run)
    return code, json.loads((path / "summary.json").read_text())


def problems(summary):
    return {problem["kind"]: problem["count"] for problem in summary["problems"]}


def examples(summary, kind):
    (found,) = [problem for problem in summary["problems"] if problem["kind"] == kind]
    return found["examples"]


def test_a_sound_table_has_no_problems_and_its_size_is_told(tmp_path):
    write(tmp_path, row("a"), row("b", people=0), row("c", label=None, number=None, people=2, boxes=None))
    write(tmp_path, row("d", label="wave", number=7))
    code, summary = summary_of(tmp_path)
    assert (code, summary["problems"]) == (0, [])
    assert (summary["files"], summary["clips"]) == (2, 4)
    assert summary["bytes"] == sum(file.stat().st_size for file in tmp_path.glob("*.parquet"))
    assert summary["bytes per keypoint"] == pytest.approx(summary["bytes"] / (4 * 3 * 17), abs=1e-3)


@pytest.mark.parametrize(
    ("stored_values", "kind", "what"),
    [
        ({"keypoints": np.zeros(100, np.int16)}, compact.LENGTHS, r"100 keypoints, wanted 102 \(M=1, T=3, V=17\)"),
        ({"scores": np.zeros(52, np.uint8)}, compact.LENGTHS, "52 scores, wanted 51"),
        ({"boxes": np.zeros(0, np.int16)}, compact.LENGTHS, "0 boxes, wanted 12"),
        ({"keypoints_3d": np.zeros(102, np.float32)}, compact.LENGTHS, "102 keypoints_3d, wanted 153"),
        ({"num_frames": 4}, compact.LENGTHS, "102 keypoints, wanted 136"),
        ({"num_persons": 2}, compact.LENGTHS, "102 keypoints, wanted 204"),
        ({"skeleton": "horse21"}, compact.SKELETON, "'horse21', known: blazepose33, coco17"),
        ({"skeleton": None}, compact.MISSING, "no skeleton"),
        ({"clip_id": None, "fps": None}, compact.MISSING, "no clip_id, fps"),
        ({"clip_id": ""}, compact.MISSING, "no clip_id"),
        ({"keypoints": None}, compact.MISSING, "no keypoints"),
        ({"num_frames": 0}, compact.ABSURD, "num_frames 0, wanted at least 1"),
        ({"num_persons": -1}, compact.ABSURD, "num_persons -1"),
        ({"width": 0}, compact.ABSURD, "width 0"),
        ({"number": -1}, compact.ABSURD, "label -1"),
        ({"fps": float("nan")}, compact.ABSURD, "fps nan"),
        ({"fps": float("inf")}, compact.ABSURD, "fps inf"),
        ({"keypoints_3d": np.full(153, np.inf, np.float32)}, compact.ABSURD, "keypoints_3d not finite"),
        # 320 x 240: at most 4 * 320 pixels outside, so x from -1280 to 1600.
        ({"keypoints": np.full(102, -1281 * 4, np.int16)}, compact.ABSURD, "x -1281 .. -1281 in a frame of 320 x 240"),
        ({"keypoints": np.full(102, 1521 * 4, np.int16)}, compact.ABSURD, "y 1521 .. 1521"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_left_out(tmp_path, stored_values, kind, what):
    file = write(tmp_path / "in", row("good"), row("bad", **stored_values), row("fine"))
    code, summary = summary_of(tmp_path / "in")
    assert (code, problems(summary)) == (1, {kind.name: 1})
    (example,) = examples(summary, kind.name)
    assert example["file"].endswith(str(file))
    assert example["clip_id"] == ("bad" if "clip_id" not in stored_values else "")
    assert re.match(what, example["what"])
    code, summary = summary_of(tmp_path / "in", out=tmp_path / "out")
    assert (code, summary["clips left out"], summary["clips after"]) == (1, 1, 2)
    assert set(stored(tmp_path / "out")) == {"good", "fine"}


def test_points_far_out_count_only_if_they_are_scored_and_further_than_four_frames(tmp_path):
    write(
        tmp_path,
        row("just", keypoints=np.full(102, -1279 * 4, np.int16)),
        row("unscored", keypoints=np.full(102, -32768, np.int16), scores=np.zeros(51, np.uint8)),
    )
    assert summary_of(tmp_path)[0] == 0


def test_a_point_that_was_cut_off_at_the_limit_of_what_is_stored_is_a_problem(tmp_path):
    sizes = {"height": 2160, "width": 3840}
    write(tmp_path, row("cut", keypoints=np.full(102, -32768, np.int16), **sizes))
    write(tmp_path, row("far", keypoints=np.full(102, -32767, np.int16), **sizes))
    _, summary = summary_of(tmp_path)
    assert [example["clip_id"] for example in examples(summary, compact.ABSURD.name)] == ["cut"]


def test_text_that_is_not_utf8_makes_its_row_group_unreadable(tmp_path):
    table = tables.rows_to_arrow([row("a")])
    text = pa.array([b"\xff"], pa.binary()).view(pa.string())
    write_raw(tmp_path, table.set_column(table.column_names.index("video"), tables.SCHEMA.field("video"), text))
    _, summary = summary_of(tmp_path)
    assert problems(summary) == {compact.UNREADABLE.name: 1}


def test_an_integer_that_is_null_is_a_problem(tmp_path):
    table = tables.rows_to_arrow([row("a"), row("b")])
    values = table["keypoints"].to_pylist()
    values[1][5] = None
    kind = tables.SCHEMA.field("keypoints")
    write_raw(tmp_path, table.set_column(table.column_names.index("keypoints"), kind, pa.array(values, kind.type)))
    _, summary = summary_of(tmp_path)
    assert examples(summary, compact.ABSURD.name)[0]["clip_id"] == "b"


def test_a_truncated_file_is_named_and_the_others_are_merged(tmp_path):
    source = tmp_path / "in"
    broken, empty = write(source, row("a"), row("b")), write(source, row("c"))
    write(source, row("d"))
    broken.write_bytes(broken.read_bytes()[:-100])
    empty.write_bytes(b"")
    code, summary = summary_of(source)
    assert (code, problems(summary)) == (1, {compact.UNREADABLE.name: 2})
    named = {Path(example["file"]).name for example in examples(summary, compact.UNREADABLE.name)}
    assert named == {broken.name, empty.name}
    code, summary = summary_of(source, out=tmp_path / "out")
    assert code == 1
    assert set(stored(tmp_path / "out")) == {"d"}


def test_of_a_file_with_a_corrupt_row_group_the_others_are_kept(tmp_path):
    file = write(tmp_path / "in", *(row(f"c{i}", seed=i) for i in range(130)))  # row groups of 64, 64 and 2
    column = pq.read_metadata(file).row_group(1).column(tables.SCHEMA.get_field_index("keypoints"))
    data = bytearray(file.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 100] = bytes(100)
    file.write_bytes(data)
    code, summary = summary_of(tmp_path / "in", out=tmp_path / "out")
    assert (code, summary["clips left out"]) == (1, 64)
    (example,) = examples(summary, compact.UNREADABLE.name)
    assert example["file"].endswith(file.name)
    assert example["what"].startswith("row group 1 of 64 rows: ")
    assert set(stored(tmp_path / "out")) == {f"c{i}" for i in (*range(64), 128, 129)}


def test_no_damage_to_a_file_ends_in_a_crash(tmp_path):
    whole = write(tmp_path / "whole", *(row(f"c{i}", seed=i) for i in range(4))).read_bytes()
    rng = random.Random(0)  # noqa: S311
    folder = tmp_path / "damaged"
    folder.mkdir()
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 8, 64))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        cut = rng.choice((len(data), rng.randrange(len(data))))
        (folder / "x.parquet").write_bytes(data[:cut])
        found = compact.find([str(folder)])
        compact.check(found)
        assert cut == len(data) or found.problems.counts[compact.UNREADABLE] == 1


def test_files_of_another_kind_are_named(tmp_path):
    write(tmp_path, row("a"))
    table = tables.rows_to_arrow([row("b")])
    for name, other in (
        ("newer", table.replace_schema_metadata({tables.VERSION_KEY: b"2"})),
        ("text", table.replace_schema_metadata({tables.VERSION_KEY: b"two"})),
        ("columns", table.append_column("mood", pa.array(["good"]))),
    ):
        pq.write_table(other, tmp_path / f"{name}.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    code, summary = summary_of(tmp_path)
    assert (code, problems(summary)) == (1, {compact.OTHER.name: 4})
    what = {Path(example["file"]).stem: example["what"] for example in examples(summary, compact.OTHER.name)}
    assert what["columns"] == "missing, unknown or of another type: mood"
    assert "version 2, this release reads up to 1" in what["newer"]
    assert "not a keypoint table" in what["other"]


def test_of_duplicates_the_first_is_kept_whether_they_agree_or_not(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, row("a", seed=1), row("a", seed=1), row("b", seed=2))  # in one file
    write(second, row("b", seed=2, label="wave", number=1), row("c", seed=3), row("a", seed=9))  # in another table
    code, summary = summary_of(first)
    assert (code, problems(summary)) == (1, {compact.IDENTICAL.name: 1})
    code, summary = summary_of(first, second)
    assert (code, problems(summary)) == (1, {compact.IDENTICAL.name: 1, compact.CONFLICTING.name: 2})
    assert {example["clip_id"] for example in examples(summary, compact.CONFLICTING.name)} == {"a", "b"}
    code, summary = summary_of(first, second, out=tmp_path / "out")
    assert (code, summary["clips"], summary["clips after"], summary["clips left out"]) == (0, 6, 3, 0)
    rows = stored(tmp_path / "out")
    assert {name: r["label_name"] for name, r in rows.items()} == {"a": "kick", "b": "kick", "c": "kick"}
    assert rows["a"]["keypoints"] == row("a", seed=1)["keypoints"].tolist()


def test_duplicates_are_those_a_dictionary_finds():
    rng = np.random.default_rng(0)
    names = rng.integers(0, 300, 6000)
    ids = np.array([compact._id(f"c{name}") for name in names])
    good = rng.random(6000) < 0.9
    first, expected = {}, set()
    for i in np.flatnonzero(good).tolist():
        if first.setdefault(names[i], i) != i:
            expected.add((i, first[names[i]]))
    assert set(compact._again(ids, good)) == expected


def test_a_bad_row_is_no_first_one(tmp_path):
    write(tmp_path / "in", row("a", skeleton="horse21"), row("a"))
    code, summary = summary_of(tmp_path / "in", out=tmp_path / "out")
    assert (code, problems(summary)) == (1, {compact.SKELETON.name: 1})
    assert set(stored(tmp_path / "out")) == {"a"}


def test_labels_that_disagree_are_numbered_by_sorted_name(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, row("a", "kick", 0), row("b", "wave", 1), row("u", None, None))
    write(second, row("c", "bow", 0), row("d", "wave", 1), row("a", "kick", 5))  # 0 is kick and bow, kick is 0 and 5
    assert summary_of(first)[0] == 0
    code, summary = summary_of(first, second)
    assert (code, problems(summary)) == (1, {compact.IDENTICAL.name: 1, compact.LABELS.name: 3})
    what = [example["what"] for example in examples(summary, compact.LABELS.name)]
    assert what == ["label 0 is 'bow'", "label 0 is 'kick'", "label 5 is 'kick'"]
    code, summary = summary_of(first, second, out=tmp_path / "out")
    assert (code, summary["labels renumbered"]) == (0, True)
    labels = {name: (r["label"], r["label_name"]) for name, r in stored(tmp_path / "out").items()}
    expected = {"a": (1, "kick"), "b": (2, "wave"), "u": (None, None), "c": (0, "bow"), "d": (2, "wave")}
    assert labels == expected


def test_labels_that_agree_keep_their_numbers(tmp_path):
    write(tmp_path / "first", row("a", "wave", 3))
    write(tmp_path / "second", row("b", "kick", 7), row("c", None, 4))  # without a name, a number is its name
    code, summary = summary_of(tmp_path / "first", tmp_path / "second", out=tmp_path / "out")
    assert (code, summary["labels renumbered"]) == (0, False)
    labels = {name: (r["label"], r["label_name"]) for name, r in stored(tmp_path / "out").items()}
    assert labels == {"a": (3, "wave"), "b": (7, "kick"), "c": (4, None)}


def test_a_name_without_a_number_gets_one(tmp_path):
    write(tmp_path / "in", row("a", "wave", None), row("b", "kick", 0))
    assert summary_of(tmp_path / "in")[0] == 1
    assert summary_of(tmp_path / "in", out=tmp_path / "out")[0] == 0
    assert {name: r["label"] for name, r in stored(tmp_path / "out").items()} == {"a": 1, "b": 0}


def test_stray_parts_are_named_and_never_touched(tmp_path):
    write(tmp_path, row("a"))
    fail(tmp_path, "f")
    parts = [tmp_path / "x.parquet.1.part", tmp_path / "_failures/y.parquet.2.part"]
    for part in parts:
        part.write_bytes(b"half")
    code, summary = summary_of(tmp_path)
    assert (code, problems(summary)[compact.PARTS.name]) == (1, 2)
    named = {Path(example["file"]).name for example in examples(summary, compact.PARTS.name)}
    assert named == {part.name for part in parts}
    assert all(part.exists() for part in parts)


def test_the_latest_failures_of_clips_without_a_row_are_carried_over(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, row("a"))
    write(second, row("b"))
    fail(first, "x", attempts=2, minutes=2)
    fail(second, "x", attempts=1, minutes=1)
    fail(second, "a")  # has a row in the other table
    code, summary = summary_of(second)
    assert (code, problems(summary)) == (0, {compact.FAILED.name: 2})
    code, summary = summary_of(first, second, out=tmp_path / "out")
    assert (code, problems(summary)) == (0, {compact.FAILED.name: 1, compact.OUTDATED.name: 1})
    (failure,) = tables.read_failures(str(tmp_path / "out")).values()
    assert (failure["clip_id"], failure["attempts"]) == ("x", 2)
    assert len(list((tmp_path / "out/_failures").iterdir())) == 1


def test_a_video_that_could_be_cut_after_all_is_no_failure_any_more(tmp_path):
    write(tmp_path, row("v-0123456789ab-1of3"), row("v-0123456789ab-2of3"))
    fail(tmp_path, "v-0123456789ab")
    fail(tmp_path, "v-0123456789ab-3of3")
    _, summary = summary_of(tmp_path)
    assert problems(summary) == {compact.OUTDATED.name: 1, compact.FAILED.name: 1}


def test_a_broken_file_of_failures_is_named(tmp_path):
    write(tmp_path, row("a"))
    Path(fail(tmp_path, "x")).write_bytes(b"PAR1")
    code, summary = summary_of(tmp_path)
    assert (code, problems(summary)) == (1, {compact.UNREADABLE.name: 1})


def test_a_merge_writes_every_row_as_it_was_in_whole_files_and_leaves_the_source_alone(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(7):
        write(source, row(f"c{i}", seed=i), row(f"d{i}", people=0, splits=[]))
    before = {file: file.read_bytes() for file in source.rglob("*") if file.is_file()}
    code, summary = summary_of(source, out=out, rows_per_file=5)
    assert (code, summary["files"], summary["files after"], summary["clips after"]) == (0, 7, 3, 14)
    assert sorted(pq.read_metadata(file).num_rows for file in out.glob("*.parquet")) == [4, 5, 5]
    assert stored(out) == stored(source)
    assert {file: file.read_bytes() for file in source.rglob("*") if file.is_file()} == before
    assert summary_of(out)[0] == 0
    schema = tables.open_file(tables.data_files(str(out))[0]).schema_arrow
    assert schema.equals(tables.SCHEMA)
    assert schema.metadata == tables.SCHEMA.metadata


def test_files_are_bounded_by_their_bytes_too(tmp_path, monkeypatch):
    monkeypatch.setattr("posec3d.compact.HELD_BYTES", 1)
    for i in range(3):
        write(tmp_path / "in", row(f"c{i}", seed=i))
    code, summary = summary_of(tmp_path / "in", out=tmp_path / "out")
    assert (code, summary["files after"], summary["clips after"]) == (0, 3, 3)
    assert stored(tmp_path / "out") == stored(tmp_path / "in")


def test_notes_in_a_schema_stay_with_their_rows(tmp_path):
    write(tmp_path / "plain", row("a"))
    scaled = tables.rows_to_arrow([row("b"), row("c")])
    tables.write_file(
        scaled.replace_schema_metadata({**scaled.schema.metadata, b"scale": b"256"}), f"{tmp_path}/scaled"
    )
    summary_of(tmp_path / "plain", tmp_path / "scaled", out=tmp_path / "out")
    notes = {}
    for file in tables.data_files(str(tmp_path / "out")):
        opened = tables.open_file(file)
        notes |= dict.fromkeys(opened.read()["clip_id"].to_pylist(), opened.schema_arrow.metadata.get(b"scale"))
    assert notes == {"a": None, "b": b"256", "c": b"256"}


def test_the_same_command_again_writes_only_what_is_missing(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(6):
        write(source, row(f"c{i}", seed=i))
    fail(source, "x")
    summary_of(source, out=out, rows_per_file=2)
    whole, files = stored(out), set(out.glob("*.parquet"))
    assert summary_of(source, out=out, rows_per_file=2)[0] == 0
    assert set(out.glob("*.parquet")) == files
    sorted(files)[0].unlink()  # as if killed before this file was written
    (out / "x.parquet.1.part").write_bytes(b"half")
    code, summary = summary_of(source, out=out, rows_per_file=2)
    assert (code, summary["clips after"]) == (0, 6)
    assert stored(out) == whole
    assert len(files & set(out.glob("*.parquet"))) == 2
    assert len(list((out / "_failures").iterdir())) == 1
    assert not list(out.glob("*.part"))


def test_what_makes_no_sense_is_refused_before_any_work(tmp_path, capsys):
    first, second, other = (str(tmp_path / name) for name in ("first", "second", "other"))
    write(first, row("a"))
    write(second, row("b"))
    write(other, row("c"))
    out = str(tmp_path / "out")
    assert _job.main(lambda: job.Compact(tables=(first,), out=out), job.run) == 0
    for words, message in (
        ({"tables": ()}, "at least one keypoint table"),
        ({"tables": (first, f"{first}/")}, "given twice"),
        ({"tables": (str(tmp_path / "none"),)}, "no keypoint table at"),
        ({"tables": (first,), "rows_per_file": 0}, "--rows-per-file must be >= 1, got 0"),
        ({"tables": (first,), "out": first}, "holds rows that no merge wrote; give an --out without rows"),
        ({"tables": (first,), "out": other}, "holds rows that no merge wrote"),
        ({"tables": (first, second), "out": out}, "begun with other tables"),
        ({"tables": (first,), "out": out, "rows_per_file": 7}, "begun with other rows_per_file"),
    ):
        assert _job.main(lambda words=words: job.Compact(**words), job.run) == 2
        assert message in capsys.readouterr().err
    assert not list(Path(other).glob("_*"))
    write(first, row("z", "bow", 0))
    assert _job.main(lambda: job.Compact(tables=(first,), out=out), job.run) == 2  # kick and bow are both 0
    assert "begun with other labels" in capsys.readouterr().err
    assert set(stored(out)) == {"a"}


def test_the_command_lists_problems_and_starts_no_ray(tmp_path):
    file = write(tmp_path, row("a"), row("bad", skeleton="horse21"))
    code = (
        "import sys, ray; from jobs import _job, compact\n"
        "code = _job.main(lambda: _job.parse(compact.Compact), compact.run)\n"
        "sys.exit(10 if ray.is_initialized() else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "1 rows with an unknown skeleton: --out leaves these rows out" in done.stderr
    assert f"{file}, bad, 'horse21', known: blazepose33, coco17" in done.stderr
    assert "rows with an unknown skeleton" in done.stdout


def test_tables_on_s3_are_checked_and_merged(s3):
    for i in range(5):
        tables.write_file(tables.rows_to_arrow([row(f"c{i}", seed=i), row("again")]), f"{s3}/in")
    fs = fsspec.filesystem("s3")
    fs.pipe_file("bucket/in/broken.parquet", b"PAR1")
    fs.pipe_file("bucket/in/x.parquet.1.part", b"half")
    fail(f"{s3}/in", "x")
    given = job.Compact(tables=(f"{s3}/in",), out=f"{s3}/out", rows_per_file=4)
    for _ in range(2):
        with pytest.raises(_job.ProblemsFound, match="not all rows and files are in s3://bucket/out"):
            _job.execute(job.run, given)
    summary = json.loads(fs.cat_file("bucket/out/_compact/summary.json"))
    assert problems(summary) == {
        compact.UNREADABLE.name: 1,
        compact.IDENTICAL.name: 4,
        compact.PARTS.name: 1,
        compact.FAILED.name: 1,
    }
    assert examples(summary, compact.UNREADABLE.name)[0]["file"] == f"{s3}/in/broken.parquet"
    assert (summary["files"], summary["files after"], summary["clips after"]) == (6, 2, 6)
    assert set(stored(f"{s3}/out")) == {"again", *(f"c{i}" for i in range(5))}
    assert set(tables.read_failures(f"{s3}/out")) == {"x"}
    job.run(job.Compact(tables=(f"{s3}/out",)))


@pytest.mark.slow
@pytest.mark.parametrize("written", [0, 1, 20])
def test_a_killed_merge_run_again_has_every_row_once(tmp_path, written):
    source, out = tmp_path / "in", tmp_path / "out"
    for i in range(0, 4000, 40):
        write(source, *(row(f"c{j}", seed=j) for j in range(i, i + 40)))
    fail(source, "x")
    command = [sys.executable, "-m", "jobs.compact", source, "--out", out, "--rows-per-file", "30"]
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    waiting_for = out / "_compact" if written == 0 else out
    while time.monotonic() < deadline and len(list(waiting_for.glob("*.parquet" if written else "*"))) < max(
        written, 1
    ):
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = tables.data_files(str(out))
    assert written <= len(before) < 134, "killed too late to mean anything"

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert stored(out) == stored(source)
    assert set(before) < set(tables.data_files(str(out)))
    sizes = sorted(pq.read_metadata(file).num_rows for file in out.glob("*.parquet"))
    assert sizes == [10, *[30] * 133]
    assert set(tables.read_failures(str(out))) == {"x"}
    assert not list(out.rglob("*.part"))
