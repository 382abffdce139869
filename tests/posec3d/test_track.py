"""Linking people over time, on made-up people whose identity is known."""

import numpy as np

from posec3d.track import iou, link, nearness

FPS = 30.0
POINTS = np.random.default_rng(0).uniform(0, 1, (17, 2))
"""Where a person's joints are in their box, 0..1."""


def person(x, y=100.0, width=40.0, height=100.0, mirrored=False):
    """A box whose left edge is x, and keypoints in it; a mirrored person faces the other way."""
    box = np.array([x, y, x + width, y + height, 0.9], np.float32)
    points = np.where([mirrored, False], 1 - POINTS, POINTS) * (width, height) + (x, y)
    return box, np.concatenate([points, np.full((17, 1), 0.8)], 1).astype(np.float32)


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


def test_a_gap_of_under_half_a_second_is_survived():
    tracks = linked([[] if 20 <= t < 34 else [person(t)] for t in range(60)])
    assert tracks.shape == (1, 60)
    assert (tracks[0, 20:34] == -1).all() and (tracks[0, :20] == 0).all() and (tracks[0, 34:] == 0).all()


def test_after_a_longer_gap_a_person_is_a_new_track():
    assert len(linked([[] if 20 <= t < 37 else [person(t)] for t in range(60)])) == 2


def test_the_gap_is_in_seconds_not_in_frames():
    assert len(linked([[] if 20 <= t < 23 else [person(t)] for t in range(60)], fps=5)) == 2


def test_somebody_elsewhere_is_somebody_else():
    assert len(linked([[person(0)] if t < 30 else [person(400)] for t in range(60)])) == 2


def test_a_jogger_at_five_frames_a_second_stays_one_track():
    # 2.5 m/s, a person of 1.7 m being 100 pixels high: 30 pixels from frame to frame.
    assert linked([[person(30.0 * t)] for t in range(20)], fps=5).shape == (1, 20)


def test_short_tracks_are_dropped():
    tracks = linked([[person(0), person(300)] if 20 <= t < 30 else [person(0)] for t in range(60)])
    assert tracks.shape == (1, 60)


def test_in_a_very_short_clip_nobody_is_dropped_for_being_short():
    assert linked([[person(t)] for t in range(3)]).shape == (1, 3)


def test_the_main_subject_is_the_one_who_is_large_and_long_present():
    def scene(t):
        small, large = person(300, width=10, height=25), person(0, width=80, height=200)
        return [small, large, person(600)] if t < 40 else [small, large]

    assert linked([scene(t) for t in range(60)])[:, 0].tolist() == [1, 2, 0]


def test_only_the_main_people_are_kept():
    people = [person(100.0 * i, height=50 + 10 * i) for i in range(5)]
    assert linked([people] * 20, max_persons=2)[:, 0].tolist() == [4, 3]


def test_nobody_gives_no_tracks():
    assert linked([[]] * 7).shape == (0, 7)


def test_an_unknown_frame_rate_is_taken_for_thirty():
    scene = [[] if 20 <= t < 34 else [person(t)] for t in range(60)]
    np.testing.assert_array_equal(linked(scene, fps=0), linked(scene, fps=30))


def test_iou_by_hand():
    a, b = np.array([[0, 0, 4, 4]]), np.array([[2, 0, 6, 4], [8, 8, 9, 9], [0, 0, 4, 4], [3, 3, 3, 3]])
    np.testing.assert_allclose(iou(a, b), [[8 / 24, 0, 1, 0]])


def test_nearness_by_hand():
    one = np.array([[0, 0, 1.0], [10, 0, 0.5]])
    others = np.array([[[0, 0, 1.0], [10, 0, 0.5]], [[3, 4, 1.0], [10, 0, 1.0]]])
    np.testing.assert_allclose(nearness(one, others, 5.0), [1, (np.exp(-1) + 0.5) / 1.5], rtol=1e-5)
