"""RGB frames beside a table: the same crop, turn and flip as the coordinates', stored or straight from the video."""

import shutil
from dataclasses import replace

import av
import numpy as np
import pytest

from posec3d import feed
from posec3d.clips import ClipConfig, clip_box
from posec3d.frames import cut_frames, frames_uri, locate, read_frames, rgb_clips, spread, to_row, write_frames
from posec3d.index import index, index_options, testing_groups, training_groups
from posec3d.table import Clip, read_table, write_table
from posec3d.video import Video, VideoError, write_video

HEIGHT, WIDTH, T = 240, 320, 20
CONFIG = ClipConfig(length=4, rgb_length=3, size=28, test_size=32)


def dots(points, t=0):
    """A picture with a white disc at each point, a grey that tells the time, and noise elsewhere far below them."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    near = (np.hypot(x - points[:, 0, None, None], y - points[:, 1, None, None]) < 5).any(0)
    return np.where(near, 255, 4 * t).astype(np.uint8)[..., None].repeat(3, 2)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three clips of people who stand still, their joints drawn into their videos; the first two have frames."""
    folder = tmp_path_factory.mktemp("videos")
    uri = str(tmp_path_factory.mktemp("table"))
    clips = []
    for number in range(3):
        rng = np.random.default_rng(number)
        points = rng.uniform([60, 40], [250, 210], (17, 2)).astype(np.float32)
        write_video(folder / f"{number}.mp4", [dots(points, t) for t in range(T)], 10)
        keypoints = np.broadcast_to(points, (1, T, 17, 2))
        scores = np.ones((1, T, 17), np.float32)
        clips.append(
            Clip(f"c{number}", T, HEIGHT, WIDTH, keypoints, scores, video=str(folder / f"{number}.mp4"), fps=10,
                 label=0, label_name="a")
        )  # fmt: skip
    write_table(clips, uri)
    write_frames([to_row(c.clip_id, cut_frames(c, most=8)) for c in clips[:2]], uri, "x")
    return uri


def brightness(rgb, xy):
    """At each joint that lies in the picture, and all over."""
    side = rgb.shape[-2]
    where = np.rint(4 * xy).astype(int)
    inside = ((where >= 3) & (where < side - 3)).all(-1)
    x, y = where[inside].T
    return rgb[0, y, x].mean(-1), rgb.mean()


@pytest.mark.parametrize(
    "more", [{}, {"flip": 1.0}, {"flip": 0.0}, {"rotate": 40, "scale": 0.2, "flip": 0.5}], ids=lambda m: str(m)
)
def test_joints_lie_on_the_same_places_of_the_picture(table, more):
    """However the clip is cropped, turned and flipped: pictures at four times the resolution show the joints there."""
    config = replace(CONFIG, **more)
    chosen = index(table, rgb=True)
    for epoch in range(3):
        (group,) = training_groups(chosen, seed=0, epoch=epoch)
        samples = feed.training_samples(group, chosen, config, seed=0, epoch=epoch)
        assert samples["rgb"].shape == (3, 3, 112, 112, 3) and samples["rgb"].dtype == np.uint8
        for rgb, xy in zip(samples["rgb"], samples["xy"], strict=True):
            on, everywhere = brightness(rgb, xy[0, 0])
            assert len(on) >= 8
            assert on.min() > 150 and everywhere < 100


def test_processes_that_are_forked_after_a_picture_was_read_read_their_own(table, monkeypatch):
    """Of one open file they would share, and move, the position."""
    monkeypatch.setattr(feed, "group_options", lambda _: {"piece": 2, "size": 4})  # so that both read all the time
    chosen, plan = index(table, rgb=True), {"seed": 0, "epoch": 0, "repeat": 40}
    here = list(feed.training_batches(chosen, CONFIG, 20, **plan))
    there = list(feed.training_batches(chosen, CONFIG, 20, **plan, processes=2))
    assert len(here) == 6
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one["rgb"], other["rgb"])


def test_test_clips_show_the_joints_too(table):
    chosen = index(table, rgb=True)
    (group,) = testing_groups(chosen)
    samples = feed.testing_samples(group, chosen, CONFIG, num_clips=2)
    assert samples["rgb"].shape == (3, 2, 3, 128, 128, 3)
    for rgb, xy in zip(samples["rgb"], samples["xy"], strict=True):
        for view in range(2):
            on, _ = brightness(rgb[view], xy[view, 0, 0])
            assert len(on) == 17 and on.min() > 150


def test_without_a_crop_pictures_and_poses_are_the_whole_frame(table, tmp_path):
    """320 x 240 pixels in a square of 320: at 0.4 of the size 16 black rows above and below, and joints in place."""
    config = replace(CONFIG, padding=None)
    with pytest.raises(ValueError, match=r"the pictures of 2 clips in .* clip\.padding None, .* wants more: .*whole"):
        index(table, rgb=True, whole=True)
    uri, clips = str(tmp_path / "table"), list(read_table(table))
    write_table(clips, uri)
    write_frames([to_row(c.clip_id, cut_frames(c, crop="whole")) for c in clips[:2]], uri, "x")
    chosen = index(uri, rgb=True, whole=True)  # the third clip's pictures are its video's
    (group,) = testing_groups(chosen)
    samples = feed.testing_samples(group, chosen, config)
    for clip, rgb, xy in zip(clips, samples["rgb"][:, 0], samples["xy"][:, 0], strict=True):
        np.testing.assert_allclose(xy[0], (clip.keypoints[0, :4] + [0, 40]) / 10, atol=1e-4)
        assert not rgb[:, :15].any() and not rgb[:, 113:].any() and rgb[2, 17:111].mean(-1).min() > 20
        on, _ = brightness(rgb, xy[0, 0])
        assert len(on) == 17 and on.min() > 150
    (group,) = training_groups(chosen, seed=0, epoch=0)
    samples = feed.training_samples(group, chosen, replace(config, flip=1.0), seed=0, epoch=0)
    for rgb, xy in zip(samples["rgb"], samples["xy"], strict=True):
        on, _ = brightness(rgb, xy[0, 0])
        assert len(on) >= 8 and on.min() > 150


def test_a_wide_crop_shows_what_is_around_the_people(table, tmp_path):
    """By half of what they span, of which stored pictures of subjects show a quarter: those are refused."""
    config, narrow = replace(CONFIG, padding=0.5), replace(CONFIG, padding=0.1)
    assert not index_options(narrow)["whole"]
    with pytest.raises(ValueError, match=r"of 2 clips in .* clip\.padding None, or above 0\.25, wants more"):
        index(table, **index_options(config))
    uri = str(tmp_path / "table")
    write_table(read_table(table), uri)
    chosen = index(uri, **index_options(config))
    (group,) = testing_groups(chosen)
    samples = feed.testing_samples(group, chosen, config)
    for clip, rgb in zip(read_table(uri), samples["rgb"][:, 0], strict=True):
        x, _, w, _ = clip_box(clip.keypoints, clip.scores, (HEIGHT, WIDTH), config.padding)
        left, right = (max(0, -x), min(w, WIDTH - x))
        seen = rgb[2, :, :, 0] > 10  # the last of three frames is a light grey
        columns = np.flatnonzero(seen.any(0)) * w / 128
        assert columns[0] == pytest.approx(left, abs=3) and columns[-1] == pytest.approx(right, abs=6)


def test_frames_are_sampled_apart_from_poses_and_evenly(table):
    (clip, *_) = read_table(table)
    place = np.array([[0.25, 0, 0], [0, 0.25, 0]])
    frames = cut_frames(clip, most=T, crop="whole")
    assert frames.indices.tolist() == list(range(T))
    seen, straight = (np.median(rgb_clips(clip, source, place, 60, 5)[0], (1, 2, 3)) for source in (frames, None))
    for part, grey in enumerate(seen / 4):  # the background tells the time: one frame of each fifth
        assert 4 * part - 0.5 <= grey <= 4 * part + 3.5
    np.testing.assert_allclose(straight, seen, atol=4)


def test_stored_pictures_are_those_of_the_video(table):
    clips = list(read_table(table))
    files, places = locate(table)
    assert set(places) == {"c0", "c1"}
    file, row = places["c1"]
    frames = read_frames(files[file], row)
    place = np.array([[0.3, 0.05, 3], [-0.05, 0.3, 9]])
    stored = rgb_clips(clips[1], frames, place, 96, len(frames.images))[0]
    straight = rgb_clips(clips[1], cut_frames(clips[1], most=8, crop="whole", quality=100), place, 96, 8)[0]
    x, y, w, h = frames.region
    inside = np.array([[x + 8, y + 8], [x + w - 8, y + h - 8]]) @ place[:, :2].T + place[:, 2]
    left, top, right, bottom = np.r_[np.ceil(inside.min(0)), np.floor(inside.max(0))].astype(int)
    a, b = (v[:, top + 8 : bottom - 8, left + 8 : right - 8].astype(int) for v in (stored, straight))
    assert abs(a - b).mean() < 2


def test_a_network_sees_the_same_from_the_video_as_from_its_pictures(tmp_path):
    """Fine noise that gets lighter: without the shrink it would be aliased, of other frames it would be darker."""
    noise = np.random.default_rng(0).normal(0, 50, (320, 400, 1))
    write_video(tmp_path / "noise.mp4", [np.clip(40 + 2 * t + noise, 0, 255).astype(np.uint8).repeat(3, 2)
                                         for t in range(66)], 10)  # fmt: skip
    points = np.broadcast_to(np.random.default_rng(1).uniform([60, 40], [340, 280], (17, 2)), (1, 66, 17, 2))
    clip = Clip("c", 66, 320, 400, points, np.ones((1, 66, 17)), video=str(tmp_path / "noise.mp4"), fps=10)
    frames = cut_frames(clip)
    for place, seed in (([[0.2, 0.02, 3], [-0.02, 0.2, 2]], None), ([[0.25, 0, 0], [0, 0.25, 0]], 1)):
        stored, straight = (
            rgb_clips(clip, source, np.array(place), 112, 4, rng=seed and np.random.default_rng(seed)).astype(int)
            for source in (frames, None)
        )
        assert abs(stored - straight).mean() < 1.5 < 5 < straight[straight > 0].std()


def test_frames_can_be_removed_and_the_table_is_as_before(table, tmp_path):
    copy = str(tmp_path / "table")
    shutil.copytree(table, copy)
    before = [clip.keypoints.copy() for clip in read_table(copy)]
    shutil.rmtree(frames_uri(copy))
    for old, clip in zip(before, read_table(copy), strict=True):
        np.testing.assert_array_equal(old, clip.keypoints)
    chosen = index(copy, rgb=True)
    (group,) = testing_groups(chosen)
    assert feed.testing_samples(group, chosen, CONFIG)["rgb"].any()  # straight from the videos


def test_pictures_are_no_larger_than_asked_for_and_no_more(table):
    import cv2

    (clip, *_) = read_table(table)
    whole = cut_frames(clip, most=3, crop="whole", short_side=120)
    assert len(whole.images) == 3 and whole.indices.tolist() == [3, 10, 16]
    sizes = {cv2.imdecode(np.frombuffer(image, np.uint8), -1).shape for image in whole.images}
    assert sizes == {(120, 160, 3)} and whole.region == (0, 0, 320, 240)
    subject = cut_frames(clip, most=3)
    x, y, w, h = subject.region
    points = clip.keypoints[0, 0]
    assert (points > [x, y]).all() and (points < [x + w, y + h]).all()
    assert x >= 0 and y >= 0 and x + w <= WIDTH and y + h <= HEIGHT


def test_spread_by_hand():
    assert spread(10, 5).tolist() == [1, 3, 5, 7, 9]
    assert spread(3, 5).tolist() == [0, 1, 2]


def test_a_segment_shows_its_own_frames(table):

    (clip, *_) = read_table(table)
    part = replace(clip, start_frame=10, num_frames=5, keypoints=clip.keypoints[:, :5], scores=clip.scores[:, :5])
    frames = cut_frames(part, crop="whole", quality=100)
    greys = rgb_clips(part, frames, np.array([[0.25, 0, 0], [0, 0.25, 0]]), 60, 5)[0, :, 1, 1, 0]
    np.testing.assert_allclose(greys, 4 * np.arange(10, 15), atol=4)


@pytest.mark.parametrize("fps", [10, 5])
def test_a_segment_costs_its_own_length(tmp_path, monkeypatch, fps):
    """Of 10 s, the last 2 s: the rest is not decoded, whether or not the rate was lowered."""
    decoded = []
    plain = Video._frames_of
    monkeypatch.setattr(Video, "_frames_of", lambda self, packet: decoded.append(packet) or plain(self, packet))
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for t in range(100):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 2 * t, np.uint8))))
        file.mux(stream.encode())
    count = 2 * fps
    clip = Clip("c", count, 64, 64, np.zeros((0, count, 17, 2)), np.zeros((0, count, 17)),
                video=str(tmp_path / "a.mp4"), fps=fps, start_frame=8 * fps)  # fmt: skip
    frames = cut_frames(clip, quality=100)
    greys = rgb_clips(clip, frames, np.eye(2, 3), 64, count)[0, :, 1, 1, 0]
    np.testing.assert_allclose(greys, 160 + 20 / fps * np.arange(count), atol=4)
    assert len(decoded) < 60  # its own, from a keyframe on, and what opening decodes


def test_what_has_no_frames_says_why(table):

    (clip, *_) = read_table(table)
    with pytest.raises(ValueError, match=r"clip c0 has no video to take frames from \(imported poses\)"):
        cut_frames(replace(clip, video=""))
    with pytest.raises(ValueError, match=r"was made from frames of 480 x 320, .* has 240 x 320: another video"):
        cut_frames(replace(clip, height=480))
    long = replace(clip, start_frame=15)
    with pytest.raises(ValueError, match=r"ends before frame .* of clip c0: another video"):
        cut_frames(long)
    with pytest.raises(VideoError):
        cut_frames(replace(clip, video="/nowhere.mp4"))


def test_a_damaged_picture_is_named(table):
    (clip, *_) = read_table(table)
    frames = cut_frames(clip, most=2)
    frames.images[1] = b"no picture"
    with pytest.raises(ValueError, match="a stored frame of clip c0 is no JPEG"):
        rgb_clips(clip, frames, np.eye(2, 3), 32, 2)


def test_graph_networks_see_no_rgb():
    with pytest.raises(ValueError, match=r"clip\.stride and clip\.share are for poses alone"):
        ClipConfig(rgb_length=8, stride=2)
    with pytest.raises(ValueError, match=r"clip\.stride and clip\.share are for poses alone"):
        ClipConfig(rgb_length=8, share=0.5)
    with pytest.raises(ValueError, match=r"clip\.rgb_length must be >= 0, and 0 unless clip\.space is volume"):
        ClipConfig(space="frame", rgb_length=8)
