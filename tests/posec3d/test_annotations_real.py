"""The published data sets: as many clips, frames and parts of protocols as their authors say, and numbers by hand."""

import functools
import io
import zipfile
from collections import Counter

import numpy as np
import pytest
from scipy.io import loadmat

from posec3d.annotations import Options, open_annotations
from posec3d.table import from_row, to_row


@pytest.fixture(scope="module")
def clips(data):
    """The clips of a data set, by name."""

    @functools.cache
    def read(name, file):
        if not (data / file).is_file():
            pytest.skip(f"{name} not found at {data / file}")
        return {entry.clip_id: entry.read() for entry in open_annotations(name, str(data / file), Options()).entries}

    return read


def parts(clips):
    return Counter(split for clip in clips.values() for split in clip.splits)


def frames(clips):
    return sum(clip.num_frames for clip in clips.values())


def counts(clips):
    return [count for _, count in sorted(Counter(clip.label for clip in clips.values()).items())]


def test_penn_action(clips, data):
    found = clips("penn-action", "penn_action/labels.zip")
    assert len(found) == 2326
    assert parts(found) == {"train": 1258, "test": 1068}
    assert frames(found) == 163_841
    assert counts(found) == [167, 173, 140, 220, 88, 166, 82, 112, 199, 211, 100, 231, 94, 157, 186]
    seen = np.concatenate([clip.scores.ravel() for clip in found.values()])
    assert set(np.unique(seen)) == {0, 1}
    assert round(100 * seen.mean(), 1) == 78.0  # as the notes on the data set say
    assert [name for name, clip in found.items() if not clip.scores.any()] == ["1516"]
    # 0001.mat, first frame: head (136.5, 71.25) and left shoulder seen, right shoulder (102.75, 99) guessed.
    first = found["0001"]
    assert (first.height, first.width, first.num_frames, first.label_name) == (360, 480, 151, "baseball_pitch")
    assert first.keypoints[0, 0, :3].tolist() == [[136.5, 71.25], [135, 102.75], [102.75, 99]]
    assert first.scores[0, 0, :5].tolist() == [1, 1, 0, 1, 0]
    # Of joints without coordinates none is seen, so a clip's points that are seen lie in or near its frame.
    assert all(clip.keypoints[clip.scores > 0].min(initial=9) > -50 for clip in found.values())
    # One whose coordinates are stored in 8 bits.
    with zipfile.ZipFile(data / "penn_action/labels.zip") as archive:
        for name in archive.namelist():
            raw = loadmat(io.BytesIO(archive.read(name)), variable_names=["x"])["x"]
            if raw.dtype == np.uint8:
                assert found[name[:4]].keypoints[0, -1, :, 0].tolist() == raw[-1].tolist()
                break
        else:
            pytest.fail("no file of 8 bits")


def test_sbu(clips):
    found = clips("sbu", "sbu/sbu_clean.zip")
    assert len(found) == 282
    assert parts(found) == {"fold1": 55, "fold2": 52, "fold3": 56, "fold4": 54, "fold5": 65}
    assert all(len(clip.splits) == 1 for clip in found.values())
    assert frames(found) == 6822
    assert counts(found) == [42, 43, 40, 41, 18, 21, 39, 38]
    names = {clip.label: clip.label_name for clip in found.values()}
    assert [names[i] for i in range(8)] == sorted(names.values())
    # s01s02/01/001, first line: the head at 0.21496, 0.32665, 1.7849, the second person's at 0.71478, 0.42718, 1.7168.
    clip = found["s01s02_01_001"]
    assert clip.keypoints_3d[0, 0, 0].tolist() == pytest.approx([0.7297024, 0.332832, 2.284672])
    assert clip.keypoints[0, 0, 0].tolist() == pytest.approx([503.6495, 156.2338], abs=1e-3)
    assert clip.keypoints_3d[1, 0, 0].tolist() == pytest.approx([-0.5498368, 0.1398144, 2.197504])
    points = np.concatenate([clip.keypoints.reshape(-1, 2) for clip in found.values()])
    assert round(100 * (points[:, 1] >= 480).mean(), 1) == 19.5  # feet below the frame, kept


def test_utd_mhad(clips, data):
    found = clips("utd-mhad", "utd_mhad/skeleton.zip")
    assert len(found) == 861
    subjects = {f"subject{i}": 107 if i in (1, 6, 8) else 108 for i in range(1, 9)}
    assert parts(found) == {"train": 431, "test": 430, **subjects}
    assert frames(found) == 58_299
    assert counts(found) == [31 if action in (8, 23, 27) else 32 for action in range(1, 28)]
    with zipfile.ZipFile(data / "utd_mhad/skeleton.zip") as archive:
        raw = loadmat(io.BytesIO(archive.read("a10_s1_t1_skeleton.mat")))["d_skel"]
    clip = found["a10_s1_t1"]
    assert (clip.label, clip.label_name, clip.splits) == (9, "10 draw circle counter-clockwise", ("train", "subject1"))
    np.testing.assert_allclose(clip.keypoints_3d[0, 5, 11], raw[11, :, 5], rtol=1e-6)
    x, y, z = raw[11, :, 5]
    np.testing.assert_allclose(clip.keypoints[0, 5, 11], (160 + 285 * x / z, 120 - 285 * y / z), rtol=1e-5)
    assert all((clip.scores == 1).all() for clip in found.values())


def test_jhmdb_14(clips):
    found = clips("jhmdb", "jhmdb14/gt_pickles.zip")
    assert len(found) == 609
    sizes = {"split1": (433, 176), "split2": (433, 176), "split3": (434, 175)}
    assert parts(found) == {
        f"{name}_{part}": n for name, both in sizes.items() for part, n in zip(("train", "test"), both, strict=True)
    }
    assert all(len(clip.splits) == 3 for clip in found.values())
    assert {clip.label_name for clip in found.values()} == set(
        "catch clap golf jump pick pour pullup push run sit stand throw walk wave".split()
    )
    assert {clip.num_frames for clip in found.values()} <= set(range(15, 41))
    points = np.concatenate([clip.keypoints.reshape(-1, 2) for clip in found.values()])
    assert points.min() >= 0
    assert points.max() < 512
    # GT_test_1.pkl begins with the doubles 3bdf4f8d976e82bf and 7b14ae47e17ac4bf: -0.0090 and -0.16.
    first = next(iter(found.values()))
    assert first.keypoints[0, 0, 0].tolist() == pytest.approx([256 - 80 * 0.0090001, 256 - 80 * 0.16], abs=1e-3)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("penn-action", "penn_action/labels.zip"),
        ("sbu", "sbu/sbu_clean.zip"),
        ("utd-mhad", "utd_mhad/skeleton.zip"),
        ("jhmdb", "jhmdb14/gt_pickles.zip"),
    ],
)
def test_nothing_of_them_is_lost_in_the_table(clips, name, file):
    for clip in list(clips(name, file).values())[::10]:
        row = to_row(clip)
        stored = from_row(row | {"num_persons": clip.num_persons})
        assert np.abs(stored.keypoints - clip.keypoints).max() <= 0.125
        assert np.abs(stored.scores - clip.scores).max() <= 0.5 / 255
        if clip.keypoints_3d is not None:
            np.testing.assert_array_equal(stored.keypoints_3d, clip.keypoints_3d)
