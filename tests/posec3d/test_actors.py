"""Tests of posec3d.actors: what the synthetic clips promise, without any pose network."""

import csv
from pathlib import Path

import numpy as np
import pytest

from posec3d.actors import ACTIONS, PAIR_ACTIONS, ActorClip, make_clip, write_videos
from posec3d.video import open_video

NOSE, SHOULDERS, WRISTS, HIPS, KNEES, ANKLES = 0, [5, 6], [9, 10], [11, 12], [13, 14], [15, 16]
TORSO = SHOULDERS + HIPS
CROSSING = ("change_sides", "pass_by")
SMALL = (120, 160)


@pytest.fixture(scope="module")
def clips() -> dict[str, list[ActorClip]]:
    return {action: [make_clip(action, actor=actor, size=SMALL) for actor in range(6)] for action in ACTIONS}


@pytest.fixture(scope="module")
def pairs() -> dict[str, list[ActorClip]]:
    return {action: [make_clip(action, actor=actor, size=SMALL) for actor in range(4)] for action in PAIR_ACTIONS}


def in_heights(clip: ActorClip, joints: int | list[int]) -> np.ndarray:
    """Mean y of some joints over time (T,), upwards, in heights of the person."""
    return -clip.keypoints[0][:, np.atleast_1d(joints), 1].mean(1) / clip.height_px[0]


def test_the_same_seeds_give_the_same_clip():
    first, second = (make_clip("walk", actor=3, take=1, num_frames=4) for _ in range(2))
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.keypoints, second.keypoints)


@pytest.mark.parametrize("other", [{"take": 1}, {"actor": 8}])
def test_another_take_or_actor_gives_another_motion(other: dict[str, int]):
    first = make_clip("wave", **{"actor": 7, "take": 0, "num_frames": 4})
    second = make_clip("wave", **{"actor": 7, "take": 0, "num_frames": 4, **other})
    assert np.abs(first.keypoints - second.keypoints).mean() > 1


def test_shapes_and_types_are_the_documented_ones():
    clip = make_clip("bow", actor=0, num_frames=5, size=(96, 130), fps=10.0)
    assert (clip.frames.shape, clip.frames.dtype) == ((5, 96, 130, 3), np.uint8)
    assert (clip.keypoints.shape, clip.keypoints.dtype) == ((1, 5, 17, 2), np.float32)
    assert (clip.visible.shape, clip.visible.dtype) == ((1, 5, 17), np.bool_)
    assert (clip.occluded.shape, clip.occluded.dtype) == ((1, 5, 17), np.bool_)
    assert (clip.height_px.shape, clip.height_px.dtype) == ((1, 5), np.float32)
    assert (clip.action, clip.actor, clip.fps) == ("bow", 0, 10.0)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_joint_stays_inside_the_frame(action: str, clips: dict[str, list[ActorClip]]):
    for clip in clips[action]:
        assert clip.visible.all()
        assert (clip.keypoints >= 0).all() and (clip.keypoints <= np.array(SMALL[::-1]) - 1).all()


@pytest.mark.parametrize("action", ACTIONS)
def test_the_person_is_as_high_in_the_picture_as_height_px_says(action: str, clips: dict[str, list[ActorClip]]):
    for clip in clips[action]:
        upright = (clip.keypoints[0, :, ANKLES, 1].mean(0) - clip.keypoints[0, :, NOSE, 1]).max()
        # Ankles are at 4 % and the nose is at 91 % of the height; kicks lift an ankle, bows hide the chin.
        assert 0.65 < upright / clip.height_px.max() < 1.0


def test_raised_arms_are_drawn_where_the_keypoints_are():
    clip = make_clip("jumping_jack", actor=5)
    still = np.median(clip.frames, axis=0)
    change = np.abs(clip.frames - still).max(-1)
    raised = clip.keypoints[0, :, WRISTS, 1].mean(0) < clip.keypoints[0, :, SHOULDERS, 1].mean(0)
    t = np.flatnonzero(raised)
    x, y = np.round(clip.keypoints[0][t][:, WRISTS]).astype(int).transpose(2, 0, 1)
    assert len(t) >= 4
    assert np.median(change[t[:, None], y, x]) > 4 * np.median(change)


def test_most_actors_show_their_left_on_the_right_of_the_picture():
    x = np.array([make_clip("bow", actor=a, num_frames=1).keypoints[0, 0, SHOULDERS, 0] for a in range(16)])
    assert (x[:, 0] > x[:, 1]).sum() >= 12


def test_a_wave_raises_exactly_one_hand(clips: dict[str, list[ActorClip]]):
    for clip in clips["wave"]:
        above = clip.keypoints[0, :, WRISTS, 1] < clip.keypoints[0, :, SHOULDERS, 1]
        assert above.all(1).sum() == 1 and above.any(1).sum() == 1


def test_a_jumping_jack_takes_both_hands_over_the_nose_and_down_again(clips: dict[str, list[ActorClip]]):
    for clip in clips["jumping_jack"]:
        over = clip.keypoints[0, :, WRISTS, 1] < clip.keypoints[0, :, NOSE, 1]
        assert over.any(1).all() and not over.all(1).any()


def test_only_a_squat_lowers_the_hips_by_a_sixth_of_the_height(clips: dict[str, list[ActorClip]]):
    for action, some in clips.items():
        for clip in some:
            hips_over_ankles = in_heights(clip, HIPS) - np.minimum(
                in_heights(clip, ANKLES[0]), in_heights(clip, ANKLES[1])
            )
            assert (np.ptp(hips_over_ankles) > 1 / 6) == (action == "squat"), action


def test_only_a_kick_lifts_one_ankle_by_a_fifth_of_the_height(clips: dict[str, list[ActorClip]]):
    for action, some in clips.items():
        for clip in some:
            apart = np.abs(in_heights(clip, ANKLES[0]) - in_heights(clip, ANKLES[1]))
            assert (apart.max() > 0.2) == (action == "kick"), action


def test_actions_of_unseen_actors_are_told_apart_by_their_skeletons(clips: dict[str, list[ActorClip]]):
    def features(clip: ActorClip) -> np.ndarray:
        hip = clip.keypoints[0][:, HIPS].mean((0, 1))
        motion = ((clip.keypoints[0] - hip) / clip.height_px.mean()).reshape(len(clip.frames), -1)
        spectrum = np.abs(np.fft.rfft(motion - motion.mean(0), axis=0))[1:7] / 16
        return np.concatenate([motion.mean(0), motion.std(0), spectrum.ravel()])

    centres = np.stack([np.mean([features(clip) for clip in clips[action][:4]], 0) for action in ACTIONS])
    right = [
        np.linalg.norm(centres - features(clip), axis=1).argmin() == label
        for label, action in enumerate(ACTIONS)
        for clip in clips[action][4:]
    ]
    assert np.mean(right) >= 0.8  # 1/7 by chance; the nearest mean is about the weakest classifier there is


def middles(clip: ActorClip) -> np.ndarray:
    """Where the two are across the picture (2, T), in heights."""
    return clip.keypoints[:, :, TORSO, 0].mean(2) / clip.height_px.mean()


def test_a_pair_is_two_people_wholly_inside_the_frame(pairs: dict[str, list[ActorClip]]):
    for clip in [clip for some in pairs.values() for clip in some]:
        assert clip.keypoints.shape == (2, 32, 17, 2) and clip.occluded.shape == (2, 32, 17)
        assert clip.height_px.shape == (2, 32)
        assert clip.visible.all()
        assert (clip.keypoints >= 0).all() and (clip.keypoints <= np.array(SMALL[::-1]) - 1).all()


def test_nobody_hides_a_single_person(clips: dict[str, list[ActorClip]]):
    assert not any(clip.occluded.any() for some in clips.values() for clip in some)


def test_who_crosses_ends_on_the_other_side_and_who_does_not_stays(pairs: dict[str, list[ActorClip]]):
    for action, some in pairs.items():
        for clip in some:
            first, second = middles(clip)
            crossed = np.sign(first[0] - second[0]) != np.sign(first[-1] - second[-1])
            assert crossed == (action in CROSSING), action


def test_who_crosses_hides_the_other_one(pairs: dict[str, list[ActorClip]]):
    for clip in [clip for action in CROSSING for clip in pairs[action]]:
        assert clip.occluded.mean(2).max() > 0.3


def test_the_nearer_one_hides_the_other(pairs: dict[str, list[ActorClip]]):
    for clip in [clip for action in CROSSING for clip in pairs[action]]:
        feet = clip.keypoints[:, :, ANKLES, 1].mean(2)  # the camera looks down: nearer is lower
        hidden, other = clip.occluded.sum(2), clip.occluded[::-1].sum(2)
        assert ((feet < feet[::-1]) == (hidden > other))[hidden + other >= 4].all()


def test_one_follows_the_other_the_same_way_at_a_distance(pairs: dict[str, list[ActorClip]]):
    for clip in pairs["follow"]:
        x = middles(clip)
        way = x[:, -1] - x[:, 0]
        assert way[0] * way[1] > 0 and np.abs(way).min() > 0.3
        assert np.abs(x[0] - x[1]).min() > 0.3


def test_hands_meet_in_a_handshake_and_part_again(pairs: dict[str, list[ActorClip]]):
    for clip in pairs["handshake"]:
        right = clip.keypoints[:, :, WRISTS[1]]
        apart = np.linalg.norm(right[0] - right[1], axis=-1) / clip.height_px.mean()
        assert apart.min() < 0.12 and apart.max() > 0.2  # hands are 0.1 long from the wrist


def test_each_of_a_pair_keeps_their_clothes(pairs: dict[str, list[ActorClip]]):
    for clip in pairs["pass_by"]:
        shins = (clip.keypoints[:, :, KNEES] + clip.keypoints[:, :, ANKLES]) / 2  # no arm hangs before them
        x, y = np.round(shins).astype(int).transpose(3, 0, 1, 2)
        colour = clip.frames[np.arange(32)[:, None], y, x].astype(float)
        first, last = np.median(colour[:, :8], (1, 2)), np.median(colour[:, -8:], (1, 2))
        change = np.linalg.norm(first[:, None] - last, axis=-1)
        assert change.argmin(1).tolist() == [0, 1]


@pytest.mark.parametrize("num_frames", [1, 3])
def test_very_short_clips_are_drawn_too(num_frames: int):
    for action in ACTIONS + PAIR_ACTIONS:
        assert np.isfinite(make_clip(action, actor=1, num_frames=num_frames, size=SMALL).keypoints).all()


def test_an_unknown_action_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown action 'moonwalk'; known: bow, jumping_jack, kick"):
        make_clip("moonwalk", actor=0)


def test_a_clip_without_frames_is_refused():
    with pytest.raises(ValueError, match="num_frames is 0"):
        make_clip("walk", actor=0, num_frames=0)


def write(folder: Path) -> Path:
    actions = ("bow", "wave")
    return write_videos(folder, actors=[2, 9], held_out={9}, actions=actions, num_frames=3, size=(64, 96))


def test_the_csv_names_every_video_with_label_and_split(tmp_path: Path):
    table = write(tmp_path / "videos")
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    assert table == tmp_path / "videos" / "labels.csv"
    assert rows == [
        ["video", "label", "split"],
        ["bow/a2_t0.mp4", "bow", "train"],
        ["bow/a9_t0.mp4", "bow", "test"],
        ["wave/a2_t0.mp4", "wave", "train"],
        ["wave/a9_t0.mp4", "wave", "test"],
    ]
    assert sorted(p.relative_to(table.parent).as_posix() for p in table.parent.rglob("*.mp4")) == sorted(
        row[0] for row in rows[1:]
    )


def test_a_written_video_shows_the_clip(tmp_path: Path):
    write(tmp_path)
    with open_video(tmp_path / "wave" / "a9_t0.mp4") as video:
        frames = np.stack([frame for _, frame in video])
    wanted = make_clip("wave", actor=9, num_frames=3, size=(64, 96)).frames
    assert frames.shape == wanted.shape
    assert np.abs(frames.astype(int) - wanted).mean() < 6


def test_writing_again_keeps_the_videos_that_exist(tmp_path: Path):
    table = write(tmp_path)
    before = table.read_text()
    (tmp_path / "bow" / "a2_t0.mp4").write_bytes(b"mine")
    (tmp_path / "wave" / "a9_t0.mp4").unlink()
    assert write(tmp_path).read_text() == before
    assert (tmp_path / "bow" / "a2_t0.mp4").read_bytes() == b"mine"
    assert (tmp_path / "wave" / "a9_t0.mp4").stat().st_size > 100
