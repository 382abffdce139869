"""Timelines: windows over pieces, smoothing worked out by hand, people through cuts, and what is written of them."""

import csv
import io
import itertools
import json
import weakref

import numpy as np
import pytest
from PIL import Image

from posec3d import draw
from posec3d.overlay import write_overlay
from posec3d.pieces import joined, numbered
from posec3d.table import Clip
from posec3d.timeline import How, _merged, smoothed, timelines
from posec3d.video import open_video, write_video

LABELS = ("left", "right")


def clip(start, frames, *places, fps=10.0, video=""):
    """People who stand still, with their middle at these x; None is nobody in that row."""
    body = np.random.default_rng(0).uniform(-20, 20, (17, 2))
    keypoints = np.zeros((len(places), frames, 17, 2), np.float32)
    scores = np.zeros((len(places), frames, 17), np.float32)
    for m, x in enumerate(places):
        if x is not None:
            keypoints[m], scores[m] = body + np.array([x, 100]), 1
    return Clip("c", frames, 200, 400, keypoints, scores, fps=fps, start_frame=start, video=video)


def part(whole, start, end):
    """Some frames of a clip as a piece."""
    cut = slice(start - whole.start_frame, end - whole.start_frame)
    return Clip(
        "c", end - start, 200, 400, whole.keypoints[:, cut], whole.scores[:, cut], fps=whole.fps, start_frame=start
    )


def by_place(clips):
    """A model that says how far to the right the people are, on average."""
    right = [c.keypoints[c.scores > 0][:, 0].mean() / 400 for c in clips]
    return np.array([[1 - x, x] for x in right])


def look(pieces, **how):
    return timelines([pieces], by_place, LABELS, How(**how))[0]


def test_in_a_window_they_come_first_who_are_seen_most_of_it():
    """Who was first in the piece has a single frame of the window: a model that takes two people must not take him."""
    piece = clip(0, 100, 50, 150, 250)
    piece.scores[0, 51:], piece.scores[1:, :50], piece.scores[1, 60] = 0, 0, 0
    window, numbers = joined([(piece, [7, 8, 9])], 50, 100)
    assert numbers == [9, 8, 7]
    assert (window.scores > 0).any(-1).sum(1).tolist() == [50, 49, 1]
    np.testing.assert_array_equal(window.keypoints, piece.keypoints[::-1, 50:])


def test_in_a_window_the_subject_comes_before_who_is_small_and_always_there():
    """As tables have people: by presence times size times score."""
    piece = clip(0, 100, 150, 250)
    centre = piece.keypoints[1].mean(1, keepdims=True)
    piece.keypoints[1] = centre + 0.05 * (piece.keypoints[1] - centre)  # a bystander, far away
    piece.scores[0, 50:54] = 0  # the subject is missed for a moment
    window, numbers = joined([(piece, [7, 8])], 25, 75)
    assert numbers == [7, 8]
    assert (window.scores > 0).any(-1).sum(1).tolist() == [46, 50]


def plainly_merged(p, edges, least):
    """The rule of `smoothed`, run after run from the start."""
    best = p.argmax(1)
    while True:
        cuts = [0, *(np.flatnonzero(np.diff(best)) + 1).tolist(), len(best)]
        runs = list(itertools.pairwise(cuts))
        frames = [edges[b] - edges[a] for a, b in runs]
        shortest = int(np.argmin(frames))
        if len(runs) == 1 or frames[shortest] >= least:
            return [(a, b, int(best[a])) for a, b in runs]
        a, b = runs[shortest]
        beside = [best[i] for i in (a - 1, b) if 0 <= i < len(best)]
        best[a:b] = max(beside, key=lambda label: p[a:b, label].sum())


@pytest.mark.parametrize("seed", range(20))
def test_short_runs_are_merged_as_by_the_plain_rule(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(4), 1 + 7 * seed)
    edges = [0, *np.cumsum(rng.integers(1, 6, len(p))).tolist()]
    assert _merged(p, edges, 9.5) == plainly_merged(p, edges, 9.5)


def test_a_moment_is_the_mean_of_the_windows_over_it():
    """Windows of 4 frames every 2: frames 2-3 are seen by the first two, frames 4-5 by the last two."""
    a, b, c = np.array([0.9, 0.1]), np.array([0.7, 0.3]), np.array([0.1, 0.9])
    found = smoothed([0, 2, 4], 4, {0: a, 2: b, 4: c}, [0, 2, 4, 6, 8])
    assert [part[:3] for part in found] == [(0, 4, 0), (4, 8, 1)]
    np.testing.assert_allclose(found[0][3], [(0.9 + 0.8) / 2, (0.1 + 0.2) / 2], atol=1e-6)
    np.testing.assert_allclose(found[1][3], [(0.4 + 0.1) / 2, (0.6 + 0.9) / 2], atol=1e-6)


def test_a_run_shorter_than_half_a_window_goes_to_the_neighbour_that_is_likelier_in_it():
    """Windows of 10 frames; the middle of the moment 10-12 is seen by the one from 7 on alone."""
    edges = [0, 10, 13, 23]
    said = {0: np.array([0.9, 0.1, 0.0]), 7: np.array([0.1, 0.6, 0.3]), 13: np.array([0.1, 0.0, 0.9])}
    runs = smoothed([0, 7, 13], 10, said, edges)
    assert [run[:3] for run in runs] == [(0, 10, 0), (10, 23, 2)]
    said[7] = np.array([0.3, 0.6, 0.1])
    runs = smoothed([0, 7, 13], 10, said, edges)
    assert [run[:3] for run in runs] == [(0, 13, 0), (13, 23, 2)]


def test_a_run_of_half_a_window_stays():
    """Frames 10-14 are seen by the window from 6 on; 5 are half of 10."""
    said = {0: np.array([0.9, 0.1]), 6: np.array([0.1, 0.9]), 15: np.array([0.9, 0.1])}
    runs = smoothed([0, 6, 15], 10, said, [0, 10, 15, 25])
    assert [run[:3] for run in runs] == [(0, 10, 0), (10, 15, 1), (15, 25, 0)]


def test_an_action_is_called_what_its_run_is_though_what_it_was_given_says_otherwise():
    """As above; the moments say 0.52, 0.02 and 0.52 of the first class, so the second is likelier in the whole."""
    a, b = np.array([0.52, 0.48]), np.array([0.02, 0.98])
    (run,) = smoothed([0, 7, 13], 10, {0: a, 7: b, 13: a}, [0, 10, 13, 23])
    assert run[:3] == (0, 23, 0)
    np.testing.assert_allclose(run[3], [1.06 / 3, 1.94 / 3], atol=1e-6)


def test_where_nobody_is_there_is_no_action():
    there, gone = clip(0, 40, 100), clip(40, 40)
    line = look([there, gone, clip(80, 40, 300)], window_s=1, stride_s=0.5)
    (first, second) = line.actions
    assert (first.start_frame, first.label, second.end_frame, second.label) == (0, "left", 120, "right")
    # A window with somebody in half of it counts; those that see nobody outvote it beyond.
    assert abs(first.end_frame - 40) <= 5 and abs(second.start_frame - 80) <= 5
    assert line.people == 2
    assert look([clip(0, 30)], window_s=1).actions == look([clip(0, 30)]).actions == ()


def test_pieces_say_what_the_whole_video_says():
    whole = clip(0, 100, 100, 300)
    whole.keypoints[0, :, :, 0] += np.linspace(0, 250, 100)[:, None]
    pieces = [part(whole, *ends) for ends in ((0, 37), (37, 41), (41, 100))]
    for how in ({"window_s": 1.5, "stride_s": 0.5}, {"window_s": 1.5, "stride_s": 0.5, "per_person": True}):
        one, several = look([whole], **how), look(pieces, **how)
        assert len(one.looks) == len(several.looks) > 15
        for a, b in zip(one.looks, several.looks, strict=True):
            assert (a.start_frame, a.end_frame, a.person) == (b.start_frame, b.end_frame, b.person)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


def test_windows_cover_the_video_to_its_end():
    line = look([clip(0, 47, 100)], window_s=2, stride_s=1)
    assert [(w.start_frame, w.end_frame) for w in line.looks] == [(0, 20), (10, 30), (20, 40), (27, 47)]
    assert [(a.start_frame, a.end_frame) for a in line.actions] == [(0, 47)]
    short = look([clip(0, 7, 100)], window_s=2)
    assert [(w.start_frame, w.end_frame) for w in short.looks] == [(0, 7)]
    fine = look([clip(0, 30, 100)], window_s=1, stride_s=0.001)  # not finer than a frame
    assert [w.start_frame for w in fine.looks] == list(range(21))
    later = look([clip(300, 47, 100)], window_s=2, stride_s=1)  # a segment of a longer video
    assert [w.start_frame for w in later.looks] == [300, 310, 320, 327]
    assert later.as_dict()["actions"][0]["start_s"] == 30


def test_people_keep_their_numbers_through_cuts_whatever_their_order():
    pieces = [clip(0, 20, 50, 350), clip(20, 20, 350, 200, 50), clip(40, 20, 200), clip(61, 20, 200)]
    assert [numbers for _, numbers in numbered(pieces)] == [[0, 1], [1, 2, 0], [2], [3]]  # frame 60 is missing


def test_a_person_nobody_sees_in_a_piece_is_no_one_of_the_next():
    pieces = [clip(0, 20, 50, None), clip(20, 20, 350, 50)]
    assert [numbers for _, numbers in numbered(pieces)] == [[0, 1], [2, 0]]


def test_each_person_is_looked_at_alone():
    seen = []

    def model(clips):
        seen.extend(clips)
        return by_place(clips)

    (line,) = timelines([[clip(0, 40, 50, 350)]], model, LABELS, How(window_s=2, per_person=True))
    assert {c.num_persons for c in seen} == {1}
    assert {(a.person, a.label) for a in line.actions} == {(0, "left"), (1, "right")}
    late = clip(0, 40, 50, 350)
    late.scores[1, :30] = 0  # comes at frame 30
    (line,) = timelines([[late]], by_place, LABELS, How(per_person=True))
    assert [(a.person, a.start_frame, a.end_frame) for a in line.actions] == [(0, 0, 40), (1, 30, 40)]


def test_memory_does_not_grow_with_the_length():
    alive = weakref.WeakSet()
    most = 0

    class Pieces:
        def __iter__(self):
            nonlocal most
            for i in range(60):
                piece = clip(10 * i, 10, 100)
                alive.add(piece)
                yield piece
                del piece
                most = max(most, len(alive))

    assert look(Pieces(), window_s=2, stride_s=1).actions[0].end_frame == 600
    assert most <= 5  # of 10 frames each: a window of 20, one stride before it, and a batch


def test_what_cannot_be_cut_into_windows_is_said():
    with pytest.raises(ValueError, match="c: the frame rate is unknown, so no window of 2 s can be cut"):
        look([clip(0, 10, 100, fps=0)], window_s=2)
    assert look([clip(0, 10, 100, fps=0)]).as_dict()["actions"][0]["start_s"] is None
    for wrong in ({"window_s": 0}, {"stride_s": 1}, {"window_s": 1, "stride_s": 2}, {"window_s": 1, "stride_s": 0}):
        with pytest.raises(ValueError, match="window"):
            How(**wrong)


def test_a_timeline_is_written_as_json_csv_and_a_picture(tmp_path):
    line = look([clip(0, 40, 100), clip(40, 40, 300)], window_s=1, stride_s=0.5)
    said = json.loads(json.dumps(line.as_dict()))
    assert [a["label"] for a in said["actions"]] == ["left", "right"] and said["end_s"] == 8
    assert len(said["windows"]) == len(line.looks)
    rows = list(csv.DictReader(io.StringIO(line.as_csv())))
    assert [row["label"] for row in rows] == ["left", "right"]
    assert (float(rows[0]["start_s"]), float(rows[-1]["end_s"])) == (0, 8)
    line.strip(tmp_path / "strip.png")
    assert min(Image.open(tmp_path / "strip.png").size) > 100
    assert "left" in repr(line)


def test_an_overlay_says_that_nobody_is_found_only_of_nobody(tmp_path):
    """Who is seen too briefly for a window does nothing that could be named, but is there."""
    write_video(tmp_path / "grey.mp4", [np.full((200, 400, 3), 90, np.uint8)] * 10, 10)
    written = []
    for places in ((200,), ()):
        one = clip(0, 10, *places, video=str(tmp_path / "grey.mp4"))
        one.scores[:, 2:] = 0
        line = look([one], window_s=1, per_person=True)
        assert line.actions == () and line.people == len(places)
        line.overlay(tmp_path / "o.mp4")
        with open_video(str(tmp_path / "o.mp4")) as video:
            last = [frame for _, frame in video][-1]
        written.append(bool((last > 150).any()))
    assert written == [False, True]
    with pytest.raises(ValueError, match=r"clip c has no video to take frames from \(imported poses\)"):
        look([clip(0, 10, 200)]).overlay(tmp_path / "none.mp4")
    assert not (tmp_path / "none.mp4").exists()


def test_an_overlay_shows_each_persons_number_and_action_in_their_colour(tmp_path):
    write_video(tmp_path / "grey.mp4", [np.full((200, 400, 3), 90, np.uint8)] * 10, 10)
    pieces = [
        clip(0, 5, 60, 330, video=str(tmp_path / "grey.mp4")),
        clip(5, 5, 330, 60, video=str(tmp_path / "grey.mp4")),
    ]
    write_overlay(tmp_path / "o.mp4", pieces, look(pieces, per_person=True).actions)
    with open_video(str(tmp_path / "o.mp4")) as video:
        frames = [frame.astype(int) for _, frame in video]
    assert len(frames) == 10
    for frame in (frames[0], frames[-1]):  # in the second piece the two are in another order
        for number, half in ((0, frame[:, :200]), (1, frame[:, 200:])):
            plate = np.abs(half[40:80] - draw.PEOPLE[number]).max(-1) < 40
            assert plate.mean() > 0.03, number
