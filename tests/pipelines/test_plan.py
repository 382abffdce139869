"""From folders and label files to videos, and from videos and a table to what there is to do."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from pipelines.plan import DONE, Video, find_videos, hold_out, number_labels, plan
from posec3d import table as tables


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_folders_are_labels_and_splits(tmp_path):
    touch(tmp_path, "train/wave/a.mp4", "wave/b.AVI", "c.webm", "notes.txt", "wave/.mp4.swp")
    found = {v.video.removeprefix(f"{tmp_path}/"): (v.label_name, v.splits) for v in find_videos(str(tmp_path))}
    assert found == {
        "train/wave/a.mp4": ("wave", ("train",)),
        "wave/b.AVI": ("wave", ()),
        "c.webm": (None, ()),
    }


def test_a_labels_file_names_videos_labels_and_splits(tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("﻿video,label,split\na.mp4,wave,train; fold1\n/data/b.mp4,kick,\ns3://bucket/c.mp4,,test\n")
    found = find_videos(str(tmp_path), str(labels))
    assert [(v.video, v.label_name, v.splits) for v in found] == [
        (f"{tmp_path}/a.mp4", "wave", ("train", "fold1")),
        ("/data/b.mp4", "kick", ()),
        ("s3://bucket/c.mp4", None, ("test",)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\n", "header is file,label, wanted video,label"),
        ("video,label\n,x\n", "no video in this row"),
        ("video,label\na.mp4,x\na.mp4,y\n", "named twice; join its splits"),
        ("video,label\nhttps://h/a?sig=1,x\nhttps://h/a?sig=2,y\n", "https://h/a is named twice"),
        ("video,label\n" + 2000 * "a.mp4,x\n" + "b.mp4,caf\xe9\n", "not UTF-8 .*; save it as UTF-8"),
        ("video,label\na.mp4," + 200_000 * "x", r"not CSV \(field larger than .*, after line 1\)"),
    ],
)
def test_a_bad_labels_file_is_refused_with_the_reason(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        find_videos(str(tmp_path), str(tmp_path / "labels.csv"))


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no videos at"):
        find_videos(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="none: no folder or video there"):
        find_videos(str(tmp_path / "none"))


def test_ids_are_stable_and_unique():
    assert tables.clip_id("s3://b/x/clip.one.mp4") == tables.clip_id("s3://b/x/clip.one.mp4")
    assert tables.clip_id("s3://b/x/clip.one.mp4") != tables.clip_id("s3://b/y/clip.one.mp4")
    assert tables.clip_id("s3://b/x/clip.one.mp4").startswith("clip.one-")


def numbers(names, known, given=False):
    return [v.label for v in number_labels([Video(n or "", "", None, n) for n in names], known, given=given)]


def test_a_share_of_each_class_is_held_out_by_name_whatever_the_order():
    names = ["wave"] * 10 + ["kick"] * 4 + ["bow"] * 2 + ["sit"]
    videos = [Video(f"c{i}", f"c{i}.mp4", None, name) for i, name in enumerate(names)]
    sides = {v.clip_id: v.splits for v in hold_out(videos, 0.2)}
    assert sides == {v.clip_id: v.splits for v in hold_out(videos[::-1], 0.2)}
    tested = [v.label_name for v in videos if sides[v.clip_id] == ("test",)]
    assert sorted(tested) == ["bow", "kick", "wave", "wave"]  # at least one, but never the only one
    assert set(sides.values()) == {("test",), ("train",)}
    with pytest.raises(ValueError, match=r"c0.mp4 is in a split already \(fold1\)"):
        hold_out([Video("c0", "c0.mp4", None, "wave", ("fold1",))], 0.2)


def test_labels_are_numbered_by_name_and_keep_the_numbers_they_have():
    assert numbers(["wave", "kick", None, "kick"], {}) == [1, 0, None, 0]
    assert numbers(["wave", "bow", "kick"], {0: "kick", 1: "wave"}) == [1, 2, 0]


def test_labels_of_a_file_that_are_numbers_are_the_numbers():
    assert numbers(["12", "3"], {}, given=True) == [12, 3]
    assert numbers(["20230101", "3"], {}) == [0, 1]  # folders named by dates are names
    assert numbers(["01", "1"], {}, given=True) == [0, 1]
    assert numbers(["1000", "3"], {}, given=True) == [1000, 3]
    assert numbers(["5000", "3"], {5000: "5000"}, given=True) == [5000, 3]  # a table has it already
    assert numbers(["20230101", "3"], {}, given=True) == [0, 1]  # ids and dates: a model has an output for each number
    assert numbers(["7", "3"], {3: "3", 5: "5"}, given=True) == [7, 3]


def test_numbers_that_a_table_has_already_stay_whatever_a_file_says():
    assert numbers(["1", "2"], {0: "1", 1: "2", 2: "unknown"}, given=True) == [0, 1]
    assert numbers(["5", "9"], {0: "5", 1: "7"}, given=True) == [0, 2]
    assert numbers(["0"], {0: "walk"}, given=True) == [1]


def test_hidden_files_are_no_videos_and_paths_are_normal(tmp_path):
    touch(tmp_path, ".hidden.mp4", "a.mp4")
    assert [v.video for v in find_videos(f"{tmp_path}/")] == [f"{tmp_path}/a.mp4"]
    (tmp_path / "labels.csv").write_text("video,label\n./a.mp4,x\n")
    assert [v.video for v in find_videos(str(tmp_path), str(tmp_path / "labels.csv"))] == [f"{tmp_path}/a.mp4"]


def test_links_to_folders_are_followed_but_not_round_and_round(tmp_path):
    touch(tmp_path / "elsewhere", "a.mp4", "deep/b.mp4")
    touch(tmp_path / "videos", "kick/c.mp4")
    (tmp_path / "videos/wave").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "videos/kick/gone.mp4").symlink_to(tmp_path / "gone.mp4")  # becomes a failure, and is not passed over
    (tmp_path / "videos/kick/up").symlink_to(tmp_path / "videos")
    (tmp_path / "elsewhere/self").symlink_to(tmp_path / "elsewhere")
    found = [(v.video.removeprefix(f"{tmp_path}/videos/"), v.label_name) for v in find_videos(str(tmp_path / "videos"))]
    kick = [("kick/c.mp4", "kick"), ("kick/gone.mp4", "kick")]
    assert found == [*kick, ("wave/a.mp4", "wave"), ("wave/deep/b.mp4", "deep")]


def test_folders_that_are_linked_from_each_other_are_walked_once_on_each_way(tmp_path):
    touch(tmp_path, "a/1.mp4", "b/2.mp4")
    (tmp_path / "a/x").symlink_to(tmp_path / "b")
    (tmp_path / "b/y").symlink_to(tmp_path / "a")
    found = [v.video.removeprefix(f"{tmp_path}/") for v in find_videos(str(tmp_path))]
    assert found == ["a/1.mp4", "a/x/2.mp4", "b/2.mp4", "b/y/1.mp4"]


def test_a_name_that_is_not_utf8_is_escaped(tmp_path):
    import os

    open(os.fsencode(tmp_path) + b"/caf\xe9.mp4", "w").close()
    assert [v.video for v in find_videos(str(tmp_path))] == [f"{tmp_path}/caf\\xe9.mp4"]


def test_a_labels_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "labels.csv").write_bytes("video,label\na.mp4,café\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv: not UTF-8"):
        find_videos(str(tmp_path), str(tmp_path / "labels.csv"))


def clip(name, label=None, splits=()):
    return tables.Clip(name, 2, 48, 64, np.zeros((0, 2, 17, 2)), np.zeros((0, 2, 17)), label_name=label, splits=splits)


def fail(table, *rows):
    now = datetime.datetime.now(datetime.UTC)
    rows = [dict(clip_id=i, video="", stage="decode", error="?", attempts=n, time=now) for i, n in rows]
    tables.write_file(pa.Table.from_pylist(rows, tables.FAILURES), tables.failures_uri(table))


def names(todo):
    return sorted(v.clip_id for v in todo.missing)


def test_what_is_in_the_table_or_failed_too_often_is_not_done_again(tmp_path):
    table = str(tmp_path)
    videos = [Video(n, n) for n in "abcd"]
    assert names(plan(videos, table)) == ["a", "b", "c", "d"]
    tables.write_table([clip("a")], table)
    fail(table, ("b", 3), ("c", 2))
    todo = plan(videos, table)
    assert (names(todo), todo.done, todo.given_up) == (["c", "d"], 1, 1)
    assert {v.clip_id: v.attempts for v in todo.missing} == {"c": 2, "d": 0}
    assert names(plan(videos, table, max_attempts=2)) == ["d"]
    again = plan(videos, table, retry_failed=True)
    assert names(again) == ["b", "c", "d"] and {v.attempts for v in again.missing} == {0}


def test_a_video_in_pieces_is_done_when_all_its_pieces_are(tmp_path):
    table = str(tmp_path)
    a, b, c, d = (f"{n}-0123456789ab" for n in "abcd")
    videos = [Video(n, n) for n in (a, b, c, d)]
    tables.write_table([clip(tables.piece_id(n, i, 3)) for n, i in ((a, 1), (a, 2), (a, 3), (b, 2), (c, 1))], table)
    fail(table, (f"{b}-1of3", 1), (f"{c}-2of3", 3), (f"{c}-3of3", 3))
    todo = plan(videos, table)
    assert (names(todo), todo.done, todo.given_up) == ([b, d], 1, 1)
    (half,) = (v for v in todo.missing if v.clip_id == b)
    assert dict(half.pieces) == {f"{b}-2of3": DONE, f"{b}-1of3": 1}
    assert names(plan(videos, table, retry_failed=True)) == [b, c, d]


def test_a_name_that_looks_like_a_piece_is_a_video(tmp_path):
    tables.write_table([clip("walk-1of2")], str(tmp_path))
    todo = plan([Video("walk-1of2", "x"), Video("walk-2of2", "y")], str(tmp_path))
    assert (names(todo), todo.done) == (["walk-2of2"], 1)


def test_rows_with_other_labels_than_the_videos_are_counted(tmp_path):
    tables.write_table([clip("a", "wave", ("train",)), clip("b", "kick")], str(tmp_path))
    videos = [Video("a", "a", 0, "wave", ("test",)), Video("b", "b", 1, "kick")]
    assert plan(videos, str(tmp_path)).relabelled == 1


def test_a_video_in_one_piece_keeps_its_name():
    assert (tables.piece_id("a-12", 1, 1), tables.piece_id("a-12", 2, 10)) == ("a-12", "a-12-2of10")
