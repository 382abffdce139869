"""Two rows of the same clip: distances by hand."""

import numpy as np
import pytest

from posec3d.comparison import Differences, summarise
from posec3d.table import Clip

FRAMES = 4


def clip(*people: float, skeleton: str = "coco17", joints: int = 17, **more) -> Clip:
    """People 160 pixels tall at these x; joint v is 10 v from the top."""
    xy = np.zeros((len(people), FRAMES, joints, 2), np.float32)
    xy[..., 1] = 160 * np.linspace(0, 1, joints)
    for m, x in enumerate(people):
        xy[m, ..., 0] = x
    scores = np.full(xy.shape[:3], 0.5, np.float32)
    given = {"height": 480, "width": 640, "label": 3, "label_name": "wave"} | more
    return Clip("c", FRAMES, keypoints=xy, scores=scores, skeleton=skeleton, **given)


def compared(here: Clip, there: Clip) -> dict:
    found = Differences()
    found.add_clip(here, there)
    return summarise(found, 1, 1, 1, 1, "other")


def test_equal_rows_have_no_distance():
    found = compared(clip(100), clip(100))
    assert found["measures"] == {"unmatched": 0, "distance": 0, "far": 0, "found_less": 0}


def test_a_distance_is_relative_to_the_subjects_size():
    there = clip(100)
    there.keypoints[:, :, 2] += (0, 16)  # a tenth of the height
    there.keypoints[:, :2, 3] += (32, 0)  # a fifth, in half of the frames
    joints = compared(clip(100), there)["joints"]
    assert [round(joints[v]["distance"], 4) for v in (1, 2, 3)] == [0, 0.1, 0.1]
    assert [joints[v]["far"] for v in (1, 3)] == [0, 0.5]


def test_found_and_scores_are_of_each_table():
    here, there = clip(100), clip(100)
    there.scores[:, 0, 5] = 0
    there.scores[:, 1:, 5] = 0.8
    row = compared(here, there)["joints"][5]
    assert (row["found_here"], row["found_there"]) == (1, 0.75)
    assert (row["score_here"], row["score_there"]) == (0.5, pytest.approx(0.8))
    assert compared(here, there)["measures"]["found_less"] == pytest.approx(-0.25 / 17, abs=1e-5)


def test_people_are_paired_whatever_their_order():
    found = compared(clip(100, 400), clip(404, 104))
    assert (found["people"], found["people_only_here"]) == (2, 0)
    assert found["measures"]["distance"] == pytest.approx(4 / 160)


def test_somebody_else_is_nobodys_pair():
    found = compared(clip(100, 400), clip(100))
    assert (found["people"], found["people_only_here"], found["people_only_there"]) == (1, 1, 0)
    found = compared(clip(100), clip(500))
    assert (found["people"], found["people_only_here"], found["people_only_there"]) == (0, 1, 1)
    assert found["measures"]["distance"] is None


def test_frames_of_another_size_are_brought_to_this_one():
    there = clip(100, height=240, width=320)
    there.keypoints[:] /= 2
    assert compared(clip(100), there)["measures"]["distance"] == pytest.approx(0, abs=1e-6)


def test_rows_of_other_lengths_are_counted_not_compared():
    there = clip(100)
    short = Clip("c", 2, 480, 640, there.keypoints[:, :2], there.scores[:, :2])
    found = compared(clip(100), short)
    assert (found["compared"], found["other_length"], found["joints"]) == (0, 1, [])


def test_joints_that_the_other_skeleton_lacks_are_not_compared():
    found = compared(clip(100), clip(100, skeleton="penn13", joints=13))
    rows = {row["joint"]: row for row in found["joints"]}
    assert rows["left_eye"]["found_there"] is None and rows["left_wrist"]["found_there"] == 1


def test_classes_are_sorted_by_their_distance():
    found = Differences()
    found.add_clip(clip(100), clip(101))
    found.add_clip(clip(100, label=1, label_name="bow"), clip(110))
    summary = summarise(found, 5, 4, 3, 2, "other")
    assert [(row["name"], row["clips"]) for row in summary["classes"]] == [("bow", 1), ("wave", 1)]
    assert (summary["only_here"], summary["only_there"], summary["sampled"]) == (2, 1, True)
    assert summary["measures"]["unmatched"] == 0.5  # of six clips
