"""Linking people over time: made-up people whose identity is known, drawn ones through the networks, real ones."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from posec3d.actors import ActorClip, make_clip
from posec3d.pose import extract_poses
from posec3d.track import colours, iou, link, nearness
from posec3d.video import write_video

FPS = 30.0
CROSSING = ("change_sides", "pass_by")
POINTS = np.random.default_rng(0).uniform(0, 1, (17, 2))
"""Where a person's joints are in their box, 0..1."""


def person(x, y=100.0, width=40.0, height=100.0, mirrored=False, score=0.8):
    """A box whose left edge is x, and keypoints in it; a mirrored person faces the other way."""
    box = np.array([x, y, x + width, y + height, 0.9], np.float32)
    points = np.where([mirrored, False], 1 - POINTS, POINTS) * (width, height) + (x, y)
    return box, np.concatenate([points, np.full((17, 1), score)], 1).astype(np.float32)


def frames(people_by_frame):
    """Per frame a list of `person` -> the two arguments of link."""
    boxes = [np.array([b for b, _ in people], np.float32).reshape(-1, 5) for people in people_by_frame]
    points = [np.array([k for _, k in people], np.float32).reshape(-1, 17, 3) for people in people_by_frame]
    return boxes, points


def linked(people_by_frame, **settings):
    return link(*frames(people_by_frame), **{"fps": FPS, **settings})


def test_two_people_who_cross_keep_their_identity_whatever_their_order():
    rng = np.random.default_rng(1)
    order = [rng.permutation(2) for _ in range(60)]  # order[t][i]: who is at index i
    walkers = [(person(4.0 * t), person(236 - 4.0 * t, mirrored=True)) for t in range(60)]
    tracks = linked([[pair[i] for i in order[t]] for t, pair in enumerate(walkers)])
    who = np.array([[order[t][i] for t, i in enumerate(track)] for track in tracks])
    assert tracks.shape == (2, 60)
    assert (who == who[:, :1]).all()


def test_two_who_cross_and_look_the_same_go_on_while_only_one_of_them_is_found():
    near = [np.abs(4 * t - 118) < 28 for t in range(60)]  # both are where x is 118 at frame 29.5
    scene = [[person(4.0 * t)] if near[t] else [person(4.0 * t), person(236 - 4.0 * t)] for t in range(60)]
    tracks = linked(scene)
    x = np.array([[scene[t][i][0][0] if i >= 0 else np.nan for t, i in enumerate(track)] for track in tracks])
    assert len(tracks) == 2
    assert ((tracks >= 0).sum(0) == [len(people) for people in scene]).all()
    steps = np.sort(np.nanmean(np.diff(x[:, ~np.array(near)], axis=1), axis=1))
    np.testing.assert_allclose(steps, [-236 / 46, 236 / 46], rtol=0.05)  # 46 frames show both, from end to end


def meeting(first, second):
    """Two who meet, embrace for 0.7 s, when one of them alone is found, and turn back; with their colours."""
    x = 4.0 * np.minimum(20, np.minimum(np.arange(61), np.arange(61)[::-1]))
    alone = [20 <= t < 41 for t in range(61)]
    scene = [[person(a)] if one else [person(a), person(200 - a)] for a, one in zip(x, alone, strict=True)]
    paint = [np.array([first, second], np.float32)[: len(people), None].repeat(4, 1) for people in scene]
    return scene, paint


def test_two_who_embrace_and_turn_back_are_known_by_their_colours():
    scene, paint = meeting((200, 30, 30), (30, 30, 120))
    tracks = linked(scene, colours=paint)
    assert sorted(tracks[:, 0].tolist()) == [0, 1]
    assert (tracks[:, 41:] == tracks[:, :1]).all()


def test_somebody_in_other_clothes_in_the_same_place_after_a_while_is_somebody_else():
    scene = [[] if 30 <= t < 75 else [person(t if t < 30 else 45 + t)] for t in range(100)]
    one = [np.full((len(people), 4, 3), 20.0) for people in scene]
    other = [paint if t < 50 else paint + 200 for t, paint in enumerate(one)]
    assert len(linked(scene, colours=one)) == 1
    assert len(linked(scene, colours=other)) == 2


def test_a_gap_of_three_seconds_is_survived():
    tracks = linked([[] if 60 <= t < 150 else [person(min(t, 60))] for t in range(200)])
    assert tracks.shape == (1, 200)
    assert (tracks[0, 60:150] == -1).all() and (tracks[0, :60] == 0).all() and (tracks[0, 150:] == 0).all()


def test_after_a_gap_of_more_than_four_seconds_a_person_is_a_new_track():
    assert len(linked([[] if 60 <= t < 185 else [person(0)] for t in range(240)])) == 2


def test_the_gap_is_in_seconds_not_in_frames():
    assert len(linked([[] if 20 <= t < 41 else [person(0)] for t in range(60)], fps=5)) == 2


def test_false_people_who_flash_in_one_place_do_not_make_a_track():
    scene = [[person(0)] if t % 60 < 3 else [] for t in range(480)]
    assert len(linked(scene)) == 0


def test_somebody_elsewhere_is_somebody_else():
    assert len(linked([[person(0)] if t < 30 else [person(400)] for t in range(60)])) == 2


def test_a_jogger_at_five_frames_a_second_stays_one_track():
    # 2.5 m/s, a person of 1.7 m being 100 pixels high: 30 pixels from frame to frame.
    assert linked([[person(30.0 * t)] for t in range(20)], fps=5).shape == (1, 20)


def test_short_tracks_are_dropped():
    tracks = linked([[person(0), person(300)] if 20 <= t < 30 else [person(0)] for t in range(60)])
    assert tracks.shape == (1, 60)


def test_a_false_track_between_two_who_cross_does_not_confuse_them():
    def scene(t):
        false = [person(100, y=110, width=30, height=60, score=0.3)] if 28 <= t < 33 else []
        return [person(4.0 * t), person(236 - 4.0 * t, mirrored=True), *false]

    tracks = linked([scene(t) for t in range(60)])
    assert tracks.shape == (2, 60)
    assert (tracks == tracks[:, :1]).all()


def test_everybody_of_thirty_is_kept_apart_though_they_are_missed_half_of_the_time():
    rng = np.random.default_rng(2)
    who = [rng.permutation(np.flatnonzero(rng.random(30) > 0.5)) for _ in range(90)]
    scene = [[person(60.0 * (i % 10) + t, y=120.0 * (i // 10)) for i in who[t]] for t in range(90)]
    tracks = linked(scene, max_persons=40)
    assert len(tracks) == 30
    for track in tracks:
        assert len({who[t][i] for t, i in enumerate(track) if i >= 0}) == 1


def test_joints_that_are_not_found_lie_nowhere():
    """As in poses from files, at (0, 0) with a score of 0: far from their person."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scene = [[person(600.0 + t, y=400.0), person(800.0, y=420.0)][: 1 if 25 <= t < 33 else 2] for t in range(60)]
        for _, points in (one for people in scene for one in people):
            points[rng.random(17) < 0.15] = 0
        tracks = linked(scene)
        assert [(track >= 0).sum() for track in tracks] == [60, 52], seed


def test_in_a_very_short_clip_nobody_is_dropped_for_being_short():
    assert linked([[person(t)] for t in range(3)]).shape == (1, 3)


def test_the_main_subject_is_the_one_who_is_large_and_long_present():
    def scene(t):
        small, large = person(300, width=10, height=25), person(0, width=80, height=200)
        return [small, large, person(600)] if t < 40 else [small, large]

    assert linked([scene(t) for t in range(60)])[:, 0].tolist() == [1, 2, 0]


def test_of_two_as_large_and_present_the_surer_one_comes_first():
    assert linked([[person(0, score=0.3), person(300, score=0.7)]] * 30)[:, 0].tolist() == [1, 0]


def test_only_the_main_people_are_kept():
    people = [person(100.0 * i, height=50 + 10 * i) for i in range(5)]
    assert linked([people] * 20, max_persons=2)[:, 0].tolist() == [4, 3]


def test_nobody_gives_no_tracks():
    assert linked([[]] * 7).shape == (0, 7)
    assert linked([]).shape == (0, 0)


def test_an_unknown_frame_rate_is_taken_for_thirty():
    scene = [[] if 60 <= t < 185 else [person(0)] for t in range(240)]
    np.testing.assert_array_equal(linked(scene, fps=0), linked(scene, fps=30))


def test_iou_by_hand():
    a, b = np.array([[0, 0, 4, 4]]), np.array([[2, 0, 6, 4], [8, 8, 9, 9], [0, 0, 4, 4], [3, 3, 3, 3]])
    np.testing.assert_allclose(iou(a, b), [[8 / 24, 0, 1, 0]])


def test_nearness_by_hand():
    one = np.array([[0, 0, 1.0], [10, 0, 0.5]])
    others = np.array([[[0, 0, 1.0], [10, 0, 0.5]], [[3, 4, 1.0], [10, 0, 1.0]]])
    np.testing.assert_allclose(nearness(one, others, 5.0), [1, (np.exp(-1) + 0.5) / 1.5], rtol=1e-5)
    near = nearness(np.stack([others, others[::-1]]), others, np.full((2, 2), 5.0))
    np.testing.assert_allclose(near[0], [1, 1])


def test_colours_are_those_of_the_middle_of_the_box_from_top_to_bottom():
    frame = np.zeros((80, 60, 3), np.uint8)
    frame[:, 15:45] = np.repeat([10, 60, 110, 160], 20)[:, None, None] + np.array([0, 5, 9])  # black beside it
    found = colours(frame, np.array([[-0.5, -0.5, 59.5, 79.5, 0.9], [-300, -300, -200, -200, 0.9]]))
    np.testing.assert_allclose(found[0], np.array([10, 60, 110, 160])[:, None] + [0, 5, 9])
    assert found.shape == (2, 4, 3) and (found[1] == 0).all()  # outside: the nearest pixels
    assert colours(frame, np.zeros((0, 5))).shape == (0, 4, 3)


def switches(truth: np.ndarray, found: np.ndarray, on: float | np.ndarray) -> int:
    """Identity switches as the CLEAR metrics count them (Bernardin & Stiefelhagen, 2008).

    In each frame every true person has at most one track, which lies on them; they keep the one they had as long as
    it does, and the others are assigned so that distances are smallest. A switch is a person whose track is another
    one than the last they had.

    Args:
        truth: (M, T, V, 2).
        found: (K, T, V, 2); NaN where absent.
        on: mean distance of the joints below which a track lies on a person; (M, T) or one number.
    """
    distance = np.linalg.norm(truth[:, None] - found[None], axis=-1).mean(-1)
    on = np.broadcast_to(on, truth.shape[:2])
    last = np.full(len(truth), -1)
    count = 0
    for t in range(truth.shape[1]):
        cost = np.where(distance[:, :, t] < on[:, t, None], distance[:, :, t] / on[:, t, None], 100.0)
        kept = np.flatnonzero(last >= 0)
        cost[kept, last[kept]] -= np.where(cost[kept, last[kept]] < 100, 50, 0)
        for m, k in zip(*linear_sum_assignment(cost), strict=True):
            if cost[m, k] < 100:
                count += last[m] not in (-1, k)
                last[m] = k
    return count


def test_switches_by_hand():
    truth = np.zeros((2, 4, 1, 2))
    truth[1, ..., 0] = 10
    assert switches(truth, truth, 3.0) == 0
    swapped = truth.copy()
    swapped[:, 2:] = truth[::-1, 2:]
    assert switches(truth, swapped, 3.0) == 2
    broken = np.full((3, 4, 1, 2), np.nan)  # the second person is missed once, and then found as a third track
    broken[0], broken[1, :2], broken[2, 3] = truth[0], truth[1, :2], truth[1, 3]
    assert switches(truth, broken, 3.0) == 1
    assert switches(truth, truth[::-1] + 4, 3.0) == 0  # tracks on nobody
    # While both are within reach, people keep their tracks, however near the others' are.
    assert switches(truth[:, [0, 1]], swapped[:, [0, 2]], 12.0) == 0


def clear_switches(clip: ActorClip, tools, path) -> int:
    """Identity switches of a drawn clip which went through a video file and the networks."""
    write_video(path, clip.frames, clip.fps)
    poses = extract_poses(str(path), *tools).clip
    found = np.where(poses.scores.any(-1)[..., None, None], poses.keypoints, np.nan)
    return switches(clip.keypoints, found, 0.15 * clip.height_px)


@pytest.mark.slow
def test_people_who_cross_keep_their_identity_through_the_networks(tools, tmp_path):
    clips = [make_clip(CROSSING[i % 2], actor=500 + i, size=(180, 240)) for i in range(12)]
    count = [clear_switches(clip, tools, tmp_path / f"{i}.mp4") for i, clip in enumerate(clips)]
    assert np.mean(count) <= 0.1, count


@pytest.mark.slow
@pytest.mark.parametrize("video", ["set1/32_6_1.avi", "set2/44_18_1.avi"])
def test_real_people_who_embrace_turn_back_as_who_they_were(video, data, tools):
    poses = extract_poses(str(data / "ut_interaction" / video), *tools).clip
    both = np.flatnonzero(poses.scores[:2].any(-1).all(0))
    before, after = (poses.boxes[:2, t, 0] for t in both[[0, -1]])
    assert both[-1] - both[0] > 0.9 * poses.num_frames  # nobody changes sides in these videos
    assert (before[0] < before[1]) == (after[0] < after[1])
