"""Skeletons: joint orders and graphs as published, trees and mirrors that hold, joints carried from one to another."""

import numpy as np
import pytest

from posec3d.skeletons import COCO17, SKELETONS, convert, counterparts, skeleton

EVERY = pytest.mark.parametrize("body", SKELETONS.values(), ids=lambda s: s.name)


@EVERY
def test_the_bones_are_a_tree_of_all_joints(body):
    assert len(body.bones) == len(body.joints) - 1
    inward = dict(body.bones)
    (centre,) = set(range(len(body.joints))) - set(inward)
    for joint in range(len(body.joints)):
        steps = 0
        while joint != centre:
            joint, steps = inward[joint], steps + 1
            assert steps < len(body.joints)


@EVERY
def test_a_mirror_swaps_sides_and_keeps_graph_limbs_and_bone_vectors(body):
    mirror = body.mirror
    for i, name in enumerate(body.joints):
        other = name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        assert body.joints[mirror[i]] == other
    assert {frozenset((mirror[a], mirror[b])) for a, b in body.limbs} == {frozenset(limb) for limb in body.limbs}
    assert {(mirror[a], mirror[b]) for a, b in body.bones} == set(body.bones)
    assert [mirror[body.parents[mirror[i]]] for i in range(len(mirror))] == list(body.parents)


@EVERY
def test_bone_vectors_of_all_joints_but_one_have_a_length(body):
    assert sum(parent == joint for joint, parent in enumerate(body.parents)) == 1


# Published joint orders, a few each: (skeleton, number of joints, {joint: number}).
ORDERS = [
    ("openpose18", 18, {"nose": 0, "neck": 1, "right_wrist": 4, "left_wrist": 7, "left_ankle": 13, "left_ear": 17}),
    ("openpose25", 25, {"mid_hip": 8, "right_ankle": 11, "left_hip": 12, "left_ear": 18, "right_heel": 24}),
    ("halpe26", 26, {"left_wrist": 9, "right_ankle": 16, "head": 17, "neck": 18, "mid_hip": 19, "right_heel": 25}),
    ("ntu25", 25, {"spine": 1, "left_hand": 7, "right_hand": 11, "right_foot": 19, "left_hand_tip": 21}),
    ("penn13", 13, {"head": 0, "left_elbow": 3, "right_wrist": 6, "left_knee": 9, "right_ankle": 12}),
    ("jhmdb15", 15, {"neck": 0, "right_shoulder": 3, "left_hip": 6, "right_knee": 9, "left_ankle": 14}),
    ("sbu15", 15, {"torso": 2, "left_hand": 5, "right_hand": 8, "left_foot": 11, "right_foot": 14}),
    ("utd20", 20, {"hip_centre": 3, "left_hand": 7, "right_hand": 11, "left_ankle": 14, "right_foot": 19}),
    ("blazepose33", 33, {"left_mouth": 9, "left_shoulder": 11, "right_thumb": 22, "left_heel": 29, "right_hip": 24}),
]


@pytest.mark.parametrize(("name", "count", "some"), ORDERS)
def test_joints_are_in_the_published_order(name, count, some):
    joints = skeleton(name).joints
    assert len(joints) == len(set(joints)) == count
    assert {joint: joints.index(joint) for joint in some} == some


def test_the_published_graphs():
    """PYSKL's edges, child first; those of NTU count from 1."""
    openpose = [(4, 3), (3, 2), (7, 6), (6, 5), (13, 12), (12, 11), (10, 9), (9, 8), (11, 5), (8, 2), (5, 1), (2, 1),
                (0, 1), (15, 0), (14, 0), (17, 15), (16, 14)]  # fmt: skip
    assert set(skeleton("openpose18").bones) == set(openpose)
    ntu = [(1, 2), (2, 21), (3, 21), (4, 3), (5, 21), (6, 5), (7, 6), (8, 7), (9, 21), (10, 9), (11, 10), (12, 11),
           (13, 1), (14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18), (20, 19), (22, 8), (23, 8), (24, 12),
           (25, 12)]  # fmt: skip
    assert {(a + 1, b + 1) for a, b in skeleton("ntu25").bones} == set(ntu)


def test_the_published_bone_vectors():
    """Where they begin: at the graph's next joint but for hips (COCO), neck (OpenPose) and hand tips (NTU)."""
    assert COCO17.parents == (0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 0, 0, 11, 12, 13, 14)
    openpose, ntu = skeleton("openpose18").parents, skeleton("ntu25").parents
    assert openpose == (0, 0, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15)
    assert ntu == (1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11)


def test_most_skeletons_hold_the_joints_of_penn13():
    penn = skeleton("penn13")
    for body in SKELETONS.values():
        found = [counterparts(joint, body) for joint in penn.joints]
        assert all(len(one) == 1 for one in found), body.name
        assert len(set(found)) == 13
        for (number,), joint in zip(found, penn.joints, strict=True):  # a left joint is not taken for a right one
            side = joint.split("_")[0]
            assert side == "head" or body.joints[number].startswith(side)


def test_joints_carried_over_by_hand():
    joints = {name: i for i, name in enumerate(COCO17.joints)}
    points = np.arange(34, dtype=np.float32).reshape(1, 1, 17, 2)
    scores = np.linspace(0.1, 0.9, 17, dtype=np.float32)[None, None]
    xy, score = convert(points, scores, COCO17, skeleton("jhmdb15"))
    assert xy.shape == (1, 1, 15, 2) and score.shape == (1, 1, 15) and xy.dtype == score.dtype == np.float32
    neck, belly, face, right_shoulder = range(4)
    shoulders, hips = (joints["left_shoulder"], joints["right_shoulder"]), (joints["left_hip"], joints["right_hip"])
    np.testing.assert_array_equal(xy[0, 0, neck], (points[0, 0, shoulders[0]] + points[0, 0, shoulders[1]]) / 2)
    np.testing.assert_array_equal(xy[0, 0, belly], points[0, 0, [*shoulders, *hips]].mean(0))
    np.testing.assert_array_equal(xy[0, 0, face], points[0, 0, joints["nose"]])
    np.testing.assert_array_equal(xy[0, 0, right_shoulder], points[0, 0, shoulders[1]])
    assert score[0, 0, belly] == scores[0, 0, shoulders[0]]  # the lowest of the four


def test_a_joint_the_source_lacks_is_not_there():
    points, scores = np.ones((2, 13, 2)), np.ones((2, 13))
    xy, score = convert(points, scores, skeleton("penn13"), COCO17)
    assert [COCO17.joints[i] for i in np.flatnonzero(score[0] == 0)] == [
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
    ]
    assert (xy[:, 1:5] == 0).all() and (xy[:, 5:] == 1).all()


def test_there_and_back_is_nothing_lost():
    """What penn13 has, sbu15 has too."""
    rng = np.random.default_rng(0)
    points, scores = rng.normal(size=(3, 13, 3)), rng.random((3, 13))
    penn, sbu = skeleton("penn13"), skeleton("sbu15")
    back = convert(*convert(points, scores, penn, sbu), sbu, penn)
    np.testing.assert_array_equal(back[0], points)
    np.testing.assert_array_equal(back[1], scores)


def test_an_unknown_skeleton_is_named():
    with pytest.raises(ValueError, match="unknown skeleton 'penn14'; known: blazepose33, coco17"):
        skeleton("penn14")
