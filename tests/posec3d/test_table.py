"""The keypoint table: what goes in comes out, and any Parquet reader understands it."""

import dataclasses

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3fs import S3File

from posec3d import table as tables
from posec3d.table import Clip, data_files, in_split, read_table, write_table


def make_clip(number=0, people=2, frames=7, **fields):
    rng = np.random.default_rng(number)
    given = {
        "clip_id": f"clip{number}",
        "num_frames": frames,
        "height": 240,
        "width": 320,
        "keypoints": np.round(rng.uniform(-20, 300, (people, frames, 17, 2)) * 4).astype(np.float32) / 4,
        "scores": rng.integers(0, 256, (people, frames, 17)).astype(np.float32) / 255,
        "video": f"videos/{number}.mp4",
        "fps": 25.0,
        "label": number % 3,
        "label_name": "abc"[number % 3],
        "splits": ("train",) if number % 2 else ("test", "fold1"),
        "boxes": rng.integers(0, 300, (people, frames, 4)).astype(np.float32),
        "pose_model": "net@1",
    }
    return Clip(**{**given, **fields})


def test_a_clip_comes_back_as_it_was(tmp_path):
    clip = make_clip(keypoints_3d=np.ones((2, 7, 17, 3), np.float32))
    assert write_table([clip], str(tmp_path)) == 1
    (back,) = read_table(str(tmp_path))
    for field in dataclasses.fields(Clip):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(clip, field.name), err_msg=field.name)


def test_an_unlabelled_clip_without_people_comes_back(tmp_path):
    write_table([make_clip(people=0, label=None, label_name=None, splits=(), boxes=None)], str(tmp_path))
    (back,) = read_table(str(tmp_path))
    assert (back.num_persons, back.label, back.boxes, back.splits) == (0, None, None, ())
    assert back.keypoints.shape == (0, 7, 17, 2)


def test_coordinates_keep_a_quarter_pixel_and_scores_a_255th(tmp_path):
    rng = np.random.default_rng(0)
    xy, score = rng.uniform(-50, 7700, (2, 7, 17, 2)), rng.random((2, 7, 17))
    write_table([make_clip(keypoints=xy, scores=score)], str(tmp_path))
    (back,) = read_table(str(tmp_path))
    assert np.abs(back.keypoints - xy).max() <= 0.125 + 1e-6
    assert np.abs(back.scores - score).max() <= 0.5 / 255 + 1e-6


def test_points_that_are_not_finite_become_undetected(tmp_path):
    clip = make_clip()
    clip.keypoints[0, 0, 0, 1] = np.nan
    clip.scores[0, 0, 0] = 1
    write_table([clip], str(tmp_path))
    (back,) = read_table(str(tmp_path))
    assert back.scores[0, 0, 0] == 0
    assert np.isfinite(back.keypoints).all()


def test_rows_per_file_and_append(tmp_path):
    write_table((make_clip(i) for i in range(5)), str(tmp_path), rows_per_file=2)
    write_table([make_clip(9)], str(tmp_path))
    assert sorted(pq.read_metadata(f).num_rows for f in tmp_path.glob("*.parquet")) == [1, 1, 2, 2]
    assert sorted(c.clip_id for c in read_table(str(tmp_path))) == [f"clip{i}" for i in (0, 1, 2, 3, 4, 9)]
    assert not list(tmp_path.glob("*.tmp"))


def test_plain_pyarrow_reads_it_without_us(tmp_path):
    clip = make_clip()
    write_table([clip], str(tmp_path))
    table = pq.read_table(tmp_path)
    wanted = {
        "clip_id": pa.string(),
        "video": pa.string(),
        "start_frame": pa.int64(),
        "num_frames": pa.int32(),
        "fps": pa.float32(),
        "height": pa.int32(),
        "width": pa.int32(),
        "label": pa.int32(),
        "label_name": pa.string(),
        "splits": pa.list_(pa.string()),
        "skeleton": pa.string(),
        "num_persons": pa.int32(),
        "keypoints": pa.list_(pa.int16()),
        "scores": pa.list_(pa.uint8()),
        "keypoints_3d": pa.list_(pa.float32()),
        "boxes": pa.list_(pa.int16()),
        "pose_model": pa.string(),
        "detector": pa.string(),
    }
    assert {f.name: pa.list_(f.type.value_type) if pa.types.is_list(f.type) else f.type for f in table.schema} == wanted
    row = table.to_pylist()[0]
    np.testing.assert_array_equal(np.reshape(row["keypoints"], (2, 7, 17, 2)) / 4, clip.keypoints)


def test_duckdb_reads_it_without_us(tmp_path):
    write_table((make_clip(i, people=i) for i in range(3)), str(tmp_path))
    table = duckdb.read_parquet(f"{tmp_path}/*.parquet")
    query = "select sum(num_persons), sum(len(keypoints)), count(label_name) from clips"
    assert table.query("clips", query).fetchall() == [(3, 3 * 7 * 17 * 2, 3)]


def test_files_beside_the_data_are_not_data(tmp_path):
    write_table([make_clip()], str(tmp_path))
    (tmp_path / "_failures").mkdir()
    (tmp_path / "_failures" / "x.parquet").write_bytes(b"not read")
    (tmp_path / "y.parquet.tmp").write_bytes(b"half written")
    assert len(data_files(str(tmp_path))) == 1
    assert len(list(read_table(str(tmp_path)))) == 1


def test_a_video_signed_anew_is_the_same_video():
    plain, signed = "https://h/a.mp4", "https://h/a.mp4?X-Amz-Date={0}&X-Amz-Signature={0}.7/b"
    assert tables.clip_id(plain) == tables.clip_id(signed.format(1)) == tables.clip_id(signed.format(2))
    assert tables.clip_id(f"{plain}?versionId=1") != tables.clip_id(f"{plain}?versionId=2")


def test_a_newer_table_is_refused(tmp_path):
    table = tables.rows_to_arrow([tables.to_row(make_clip())]).replace_schema_metadata({tables.VERSION_KEY: b"99"})
    pq.write_table(table, tmp_path / "new.parquet")
    with pytest.raises(ValueError, match="version 99, this release reads up to 1; update posec3d"):
        list(read_table(str(tmp_path)))


def test_any_other_parquet_is_refused(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="not a keypoint table"):
        list(read_table(str(tmp_path)))


def test_no_table_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"jobs\.extract"):
        list(read_table(str(tmp_path / "none")))


def test_arrays_that_disagree_are_refused_with_the_clips_name():
    with pytest.raises(ValueError, match=r"clip clip0: keypoints \(2, 7, 17, 2\) and scores \(2, 6, 17\)"):
        make_clip(scores=np.zeros((2, 6, 17)))


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [(None, True), ("a", True), ("c", False), ("!a", False), ("!c", True), ("c,b", True), ("c, !b", False)],
)
def test_split_expressions(expression, wanted):
    assert in_split(("a", "b"), expression) is wanted


def test_a_split_is_read_alone_and_columns_by_name(tmp_path):
    write_table((make_clip(i) for i in range(4)), str(tmp_path))
    found = list(read_table(str(tmp_path), columns=("label",), split="fold1"))
    assert sorted(c.clip_id for c in found) == ["clip0", "clip2"]
    assert found[0].label is not None
    assert found[0].boxes is None


def test_summary_counts_without_reading_poses(tmp_path):
    write_table((make_clip(i, people=i) for i in range(4)), str(tmp_path))
    assert tables.summary(str(tmp_path)) == {
        "clips": 4,
        "persons": 3,
        "skeletons": {"coco17"},
        "labels": {0: "a", 1: "b", 2: "c"},
        "splits": {"test": 2, "fold1": 2, "train": 2},
    }


def test_two_names_for_a_label_are_refused(tmp_path):
    write_table([make_clip(0), make_clip(3, label_name="other")], str(tmp_path))
    with pytest.raises(ValueError, match="label 0 is 'a' in one clip and 'other' in another"):
        tables.summary(str(tmp_path))


def test_a_table_on_s3_is_appended_and_read(s3):
    write_table((make_clip(i) for i in range(3)), f"{s3}/a/table", rows_per_file=2)
    write_table([make_clip(3)], f"{s3}/a/table")
    assert sorted(c.clip_id for c in read_table(f"{s3}/a/table")) == [f"clip{i}" for i in range(4)]
    assert len(data_files(f"{s3}/a/table")) == 3


def test_of_a_table_on_s3_is_fetched_what_is_asked_for(s3, monkeypatch):
    """Small columns without the coordinates, and a row group without the others."""
    uri, fetched = f"{s3}/a/table", []
    write_table((make_clip(i, frames=300) for i in range(384)), uri)  # 18 MB
    fetch = S3File._fetch_range
    monkeypatch.setattr(S3File, "_fetch_range", lambda *args: fetched.append(fetch(*args)) or fetched[-1])

    def share(read):
        fetched.clear()
        read()
        return sum(map(len, fetched)) / tables.size(uri)

    (path,) = data_files(uri)
    assert share(lambda: tables.summary(uri)) < 0.1
    assert share(lambda: tables.open_file(path).read(["clip_id"])) < 0.1
    assert share(lambda: tables.open_file(path).read_row_group(3)) < 1.1 / 6


def test_a_mistyped_bucket_is_an_error_and_not_a_new_bucket(s3):
    with pytest.raises(FileNotFoundError, match="bucket"):
        write_table([make_clip()], "s3://typo/table")


def test_real_sized_tracks_cost_at_most_four_bytes_a_keypoint(tmp_path):
    # Smooth tracks with a pixel of jitter, as an estimator gives; raw storage is 5 bytes.
    rng = np.random.default_rng(0)
    path = np.cumsum(rng.normal(0, 1.5, (2, 120, 17, 2)), 1) + rng.uniform(50, 300, (2, 1, 17, 2))
    score = np.clip(0.7 + np.cumsum(rng.normal(0, 0.03, (2, 120, 17)), 1), 0, 1)
    write_table(
        [make_clip(i, keypoints=path + i, scores=score, boxes=None, frames=120) for i in range(40)], str(tmp_path)
    )
    size = sum(f.stat().st_size for f in tmp_path.glob("*.parquet"))
    assert size / (40 * 2 * 120 * 17) <= 4
