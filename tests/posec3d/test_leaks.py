"""Leaks between splits: what is found, between which splits, and what is not."""

import numpy as np
import pytest

from posec3d.counts import Counts, count_row_group
from posec3d.leaks import leaks
from posec3d.statistics import summarise
from posec3d.table import Clip, rows_to_arrow, to_row


def moving(seed: int, frames: int = 40) -> np.ndarray:
    """(1, T, 17, 2) pixels: a person of some 200 pixels whose joints swing."""
    rng = np.random.default_rng(seed)
    body = rng.normal((320, 240), 60, (17, 2))
    swing = rng.uniform(10, 30, (17, 2)) * np.sin(np.arange(frames)[:, None, None] / 6 + rng.uniform(0, 6, (17, 2)))
    return (body + swing)[None].astype(np.float32)


def clip(name: str, xy: np.ndarray, *splits: str, video: str = "", scores: np.ndarray | None = None) -> Clip:
    if scores is None:
        scores = np.ones(xy.shape[:3], np.float32)
    return Clip(name, xy.shape[1], 480, 640, xy, scores, label=0, label_name="a", splits=splits, video=video)


def found(clips: list[Clip]) -> dict:
    counts = Counts()
    for at in range(0, len(clips), 3):
        counts.add(count_row_group(rows_to_arrow([to_row(c) for c in clips[at : at + 3]])))
    return summarise(counts)


def pairs(clips: list[Clip]) -> dict:
    return {(row["kind"], row["a"], row["b"]): (row["clips_a"], row["clips_b"]) for row in found(clips)["leaks"]}


def test_different_clips_leak_nothing():
    clips = [clip(f"c{i}", moving(i), "train" if i % 2 else "test", video=f"v/{i}.mp4") for i in range(300)]
    assert pairs(clips) == {}


def test_the_same_coordinates_on_both_sides():
    copies = [clip("a", moving(0), "train"), clip("b", moving(0), "train"), clip("c", moving(0), "test")]
    assert pairs([*copies, clip("d", moving(1), "test")]) == {("identical", "test", "train"): (1, 2)}
    assert found(copies)["leak_examples"] == [
        {"kind": "identical", "a": "test", "b": "train", "clip_a": "c", "clip_b": "a"}
    ]
    assert found(copies)["measures"]["leaked_identical"] == 3


def test_copies_within_a_split_are_no_leak():
    assert pairs([clip("a", moving(0), "train"), clip("b", moving(0), "train"), clip("c", moving(1), "test")]) == {}


def test_clips_in_which_nobody_is_seen_are_not_the_same():
    nobody = np.zeros((1, 40, 17))
    clips = [clip(name, moving(0), split, scores=nobody) for name, split in (("a", "train"), ("b", "test"))]
    assert pairs(clips) == {}


def test_two_segments_of_a_video_on_both_sides():
    clips = [clip(f"c{i}", moving(i), ("train", "val", "val")[i], video="s3://v/1.mp4") for i in range(3)]
    assert pairs(clips) == {("video", "train", "val"): (1, 2)}


def test_imported_poses_have_no_video_to_share():
    assert pairs([clip("a", moving(0), "train"), clip("b", moving(1), "test")]) == {}


def again(kind: str) -> np.ndarray:
    """The same movement as another file of the same video would give it."""
    xy = moving(0)
    rng = np.random.default_rng(9)
    if kind == "estimated once more":  # jitter of 1 % of the person's 200 pixels
        return xy + rng.normal(0, 2, xy.shape).astype(np.float32)
    if kind == "resized and cropped":
        return xy * 0.5 + (40, -30)
    return np.repeat(xy, 2, axis=1)  # twice the frame rate


@pytest.mark.parametrize("kind", ["estimated once more", "resized and cropped", "twice the frame rate"])
def test_nearly_the_same_poses_are_found(kind):
    others = [clip(f"o{i}", moving(i), "train" if i % 2 else "test") for i in range(1, 100)]
    clips = [clip("a", moving(0), "train"), clip("b", again(kind).astype(np.float32), "test"), *others]
    assert pairs(clips) == {("near", "test", "train"): (1, 1)}


def test_nearly_the_same_poses_are_found_98_times_of_100():
    rng = np.random.default_rng(1)
    clips = []
    for i in range(100):
        xy = moving(i)
        clips += [clip(f"a{i}", xy, "train"), clip(f"b{i}", xy + rng.normal(0, 2, xy.shape).astype(np.float32), "test")]
    least, _ = pairs(clips)["near", "test", "train"]
    assert least >= 98


def test_a_mirrored_clip_and_another_cut_are_missed():
    mirrored, cut = moving(0) * (-1, 1) + (640, 0), moving(0, 80)[:, 40:]
    clips = [clip("a", moving(0), "train"), clip("b", mirrored, "test"), clip("c", cut, "test")]
    assert pairs(clips) == {}


def test_some_missing_joints_hide_nothing():
    scores = np.ones((1, 40, 17), np.float32)
    scores[:, :, 9] = 0  # a wrist
    xy = np.concatenate([moving(0) + 1, moving(0)])[:1]
    others = [clip(f"o{i}", moving(i), "train") for i in range(1, 20)]
    clips = [clip("a", moving(0), "train", scores=scores), clip("b", xy, "test", scores=scores), *others]
    assert ("identical", "test", "train") not in pairs(clips)
    assert pairs(clips) == {("near", "test", "train"): (1, 1)}


def test_rows_in_both_splits_are_a_leak_unless_the_splits_are_of_two_protocols():
    few = [clip(f"c{i}", moving(i), "train" if i % 2 else "test") for i in range(40)]
    assert pairs([*few, clip("x", moving(99), "train", "test")]) == {("rows", "test", "train"): (1, 1)}
    many = [clip(f"c{i}", moving(i), "xsub_train", f"xview_{i % 2}", video="v/one.mp4") for i in range(8)]
    statistics = found(many)
    assert [(p["a"], p["b"]) for p in statistics["protocols"]] == [("xsub_train", "xview_0"), ("xsub_train", "xview_1")]
    assert {(row["kind"], row["a"], row["b"]) for row in statistics["leaks"]} == {("video", "xview_0", "xview_1")}


def test_hundreds_of_copies_do_not_hide_a_near_clip():
    copies = [clip(f"c{i}", moving(0), "train") for i in range(200)]
    assert pairs([*copies, clip("x", moving(0) + np.float32(0.25) * (np.arange(17)[:, None] % 2), "test")]) == {
        ("near", "test", "train"): (1, 1)
    }


def test_a_table_of_nothing_leaks_nothing():
    from posec3d.counts import CLIP

    assert leaks(CLIP.empty_table().unify_dictionaries().combine_chunks())["pairs"] == []
