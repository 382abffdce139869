"""Frames -> boxes -> keypoints -> tracks with the real networks, on drawn people whose joints are known."""

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posec3d import pose
from posec3d.actors import make_clip
from posec3d.batches import best_batch, in_batches
from posec3d.given import Given
from posec3d.pose import (
    Crop,
    WholeFrame,
    _between,
    _real,
    cut,
    estimate,
    extract_poses,
    regions,
    suppress,
)
from posec3d.skeletons import COCO17
from posec3d.stored import unpack
from posec3d.video import VideoError, open_video, write_video


@pytest.fixture(scope="module")
def actor():
    return make_clip("wave", actor=1, num_frames=6, size=(240, 320), fps=4)


@pytest.fixture(scope="module")
def video(actor, tmp_path_factory):
    path = tmp_path_factory.mktemp("pose") / "actor.mp4"
    write_video(path, actor.frames, actor.fps)
    return str(path)


@pytest.fixture(scope="module")
def poses(video, tools):
    return extract_poses(video, *tools).clip


def one_person(tools, frame):
    """The only person in a frame: box (5,), keypoints (17, 3)."""
    detector, estimator = tools
    boxes = detector.detect(frame[None])
    assert len(boxes[0]) == 1
    return boxes[0][0], estimate(estimator, frame[None], boxes)[0].keypoints[0]


def sure_distance(a, b):
    """Median distance of the joints both sides are sure of, in pixels."""
    sure = (a[:, 2] > 0.4) & (b[:, 2] > 0.4)
    assert sure.sum() >= 8
    return np.median(np.linalg.norm(a[sure, :2] - b[sure, :2], axis=1))


def test_joints_are_found_where_the_actor_has_them(poses, actor):
    error = np.linalg.norm(poses.keypoints[0] - actor.keypoints[0], axis=-1) / actor.height_px[0][:, None]
    assert (error < 0.1).mean() >= 0.85


def test_one_actor_is_one_track_through_all_frames(poses):
    assert poses.keypoints.shape == (1, 6, 17, 2) and poses.scores.shape == (1, 6, 17)
    assert poses.boxes.shape == (1, 6, 4) and poses.num_frames == 6
    assert (poses.height, poses.width, poses.fps) == (240, 320, 4.0)
    assert all(array.dtype == np.float32 for array in (poses.keypoints, poses.scores, poses.boxes))


def test_the_size_of_batches_does_not_matter(poses, video, tools, monkeypatch):
    monkeypatch.setattr(pose, "BATCH_FRAMES", 4)
    monkeypatch.setattr(pose, "MOST_CROPS", 3)
    by_four = extract_poses(video, *tools).clip
    np.testing.assert_allclose(by_four.keypoints, poses.keypoints, atol=1e-3)
    np.testing.assert_allclose(by_four.boxes, poses.boxes, atol=1e-3)


def test_boxes_hold_the_joints(poses, actor):
    x, y = np.moveaxis(actor.keypoints[0], -1, 0)
    x1, y1, x2, y2 = np.moveaxis(poses.boxes[0][:, None], -1, 0)
    assert ((x > x1) & (x < x2) & (y > y1) & (y < y2)).mean() > 0.9


@pytest.mark.parametrize("times", [3, 7])
def test_a_larger_picture_of_the_same_person_gives_the_same_joints(tools, actor, times):
    frame = actor.frames[0]
    large = cv2.resize(frame, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    small_points, large_points = one_person(tools, frame)[1], one_person(tools, large)[1]
    large_points[:, :2] = (large_points[:, :2] + 0.5) / times - 0.5
    assert sure_distance(small_points, large_points) < 1.5


def test_a_mirrored_picture_gives_mirrored_joints(tools, actor):
    frame = actor.frames[0]
    points = one_person(tools, frame)[1]
    mirrored = one_person(tools, np.ascontiguousarray(frame[:, ::-1]))[1][list(COCO17.mirror)]
    mirrored[:, 0] = frame.shape[1] - 1 - mirrored[:, 0]
    assert sure_distance(points, mirrored) < 1.5


def test_people_of_all_frames_go_to_their_own_frame(tools, actor):
    frames = actor.frames[:3]
    detector, estimator = tools
    box = detector.detect(frames[:1])[0]
    people = [p.keypoints for p in estimate(estimator, frames, [box[:0], np.concatenate([box, box]), box])]
    assert [len(p) for p in people] == [0, 2, 1]
    np.testing.assert_array_equal(people[1][0], people[1][1])
    np.testing.assert_allclose(people[2], estimate(estimator, frames[2:], [box])[0].keypoints, atol=1e-3)


def test_a_person_at_the_edge_is_found_in_frame_pixels(tools, actor):
    frame = actor.frames[0]
    box, whole = one_person(tools, frame)
    left = int(box[0])  # cut the picture at the person's left side
    part = np.ascontiguousarray(frame[:, left:])
    points = estimate(tools[1], part[None], [box[None] - [left, 0, left, 0, 0]])[0].keypoints[0]
    points[:, 0] += left
    assert sure_distance(points, whole) < 3


def test_an_empty_room_has_no_people(tools, tmp_path):
    write_video(tmp_path / "empty.mp4", [np.full((120, 160, 3), 90, np.uint8)] * 3, 10)
    poses = extract_poses(str(tmp_path / "empty.mp4"), *tools).clip
    assert poses.keypoints.shape == (0, 3, 17, 2) and poses.boxes.shape == (0, 3, 4) and poses.num_frames == 3


def test_a_broken_video_is_a_video_error(tools, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    with pytest.raises(VideoError, match=r"text\.mp4"):
        extract_poses(str(tmp_path / "text.mp4"), *tools)


def test_frames_that_a_table_has_no_room_for_are_refused(video, tools, monkeypatch):
    monkeypatch.setattr("posec3d.pose.FARTHEST", 100)
    with pytest.raises(VideoError, match="a table has room for 101 pixels to a side"):
        extract_poses(str(video), *tools)


def test_a_clip_carries_video_and_models(video, poses):
    assert (poses.video, poses.num_frames, poses.num_persons) == (video, 6, 1)
    assert poses.pose_model.startswith("movenet-thunder@") and poses.detector.startswith("movenet-multipose@")


def test_a_real_handshake_shows_two_people_all_along(data, tools, tmp_path):
    with open_video(data / "ut_interaction" / "set1" / "50_9_2.avi") as video:
        write_video(tmp_path / "short.mp4", [frame for _, frame in video][::8], fps=30 / 8)
    poses = extract_poses(str(tmp_path / "short.mp4"), *tools).clip
    assert poses.keypoints.shape[0] == 2 and poses.boxes.any(-1).mean() > 0.95
    assert (poses.scores.mean(-1) > 0.3).mean() > 0.9


def test_a_crop_keeps_places_at_any_scale():
    ramp = np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 1200, 3))
    for side in (64, 300, 700, 1100):
        crop = cut(ramp, np.array([20.0, -10.0, side, side]), Crop(256, 256))
        rows = np.arange(256) * side / 256 - 10  # where the crop's pixel centres are in the frame
        inside = (rows > 6) & (rows < 193)
        np.testing.assert_allclose(crop[inside, 5, 0], rows[inside], atol=1)


def test_overlapping_boxes_keep_the_best():
    boxes = np.array([[0, 0, 10, 10, 0.9], [1, 0, 11, 10, 0.8], [0, 0, 10, 4, 0.7]], np.float32)  # IoU 0.82 and 0.4
    np.testing.assert_array_equal(suppress(boxes, 0.6), boxes[[0, 2]])


def test_false_boxes_and_second_skeletons_on_one_body_are_dropped():
    rng = np.random.default_rng(0)
    body = np.concatenate([rng.uniform(0, 100, (17, 2)), np.full((17, 1), 0.6)], 1)
    moved = np.array([150, 0, 0])
    double, false, other = body - [0, 0, 0.1], body * [1, 1, 0.3], body + moved
    boxes = np.array([[0, 0, 60, 100, 0.9], [0, 0, 100, 100, 0.8], [0, 0, 100, 100, 0.7], [150, 0, 250, 100, 0.5]])
    assert sorted(_real(boxes, np.stack([double, body, false, other]))) == [1, 3]


def test_regions_have_the_crops_aspect_and_margin():
    boxes = np.array([[10, 20, 30, 100], [0, 0, 90, 60]], np.float64)
    # 20x80 grows to 60x80, 90x60 to 90x120; times 1.25; around the middles (20, 60) and (45, 30).
    wanted = [[20 - 37.5, 60 - 50, 75, 100], [45 - 56.25, 30 - 75, 112.5, 150]]
    np.testing.assert_allclose(regions(boxes, Crop(256, 192)), wanted)


def test_boxes_beyond_the_videos_end_are_of_another_video(video, tools, tmp_path):
    rows = [{"video": "actor.mp4", "frame": t, "x1": 90.0, "y1": 20.0, "x2": 190.0, "y2": 230.0} for t in range(1, 7)]
    for count, message in (
        (5, None),
        (6, r"boxes.*: a box in frame 6 of .*, which has frames 0 to 5; count .* from 0"),
    ):
        pq.write_table(pa.Table.from_pylist(rows[:count]), tmp_path / "boxes.parquet")
        boxes = Given(str(tmp_path / "boxes.parquet"))
        if message is None:
            assert (extract_poses(video, boxes, tools[1]).clip.scores[0, 1:].max(-1) > 0).all()
        else:
            with pytest.raises(ValueError, match=message):
                extract_poses(video, boxes, tools[1])


def test_people_between_two_looks_move_evenly_and_those_seen_once_stay_half_way():
    before = np.array([[0, 0, 10, 10, 0.8], [100, 0, 110, 10, 0.5]], np.float32)
    after = np.array([[4, 0, 14, 10, 0.6], [50, 0, 60, 10, 0.9]], np.float32)
    np.testing.assert_allclose(_between(before, after, 0.25), [[1, 0, 11, 10, 0.75], before[1]])
    np.testing.assert_allclose(_between(before, after, 0.75), [[3, 0, 13, 10, 0.65], after[1]])
    assert _between(before, after, 0) is before


def test_boxes_are_followed_between_the_frames_the_detector_sees(video, tools, poses):
    class Counting:
        name, seen = "counting", 0

        def detect(self, frames):
            self.seen += len(frames)
            return tools[0].detect(frames)

    detector = Counting()
    few = extract_poses(video, detector, tools[1], detect_every=4).clip
    assert detector.seen == 3  # frames 0, 4 and the last of 6
    assert few.num_persons == 1
    for t in range(6):
        assert sure_distance(
            np.c_[few.keypoints[0, t], few.scores[0, t]], np.c_[poses.keypoints[0, t], poses.scores[0, t]]
        ) < 3  # fmt: skip


def test_the_whole_frame_is_a_box():
    (box,) = WholeFrame().detect(np.zeros((1, 48, 64, 3), np.uint8))
    np.testing.assert_array_equal(box, [[-0.5, -0.5, 63.5, 47.5, 1]])


def test_the_best_batch_is_the_largest_that_pays_and_fits():
    import time

    import torch

    def run(size):
        if size > 64:
            raise torch.OutOfMemoryError("too large")
        time.sleep(0.02 + 0.0001 * size)

    assert best_batch(run) == 64
    assert best_batch(lambda size: time.sleep(0.01 if size <= 8 else 0.1)) == 8


def test_heatmaps_are_those_the_keypoints_come_from(video, tools):
    done = extract_poses(video, *tools, keep_heatmaps=True)
    maps, regions, size = done.heatmaps.maps, done.heatmaps.regions, done.heatmaps.size
    assert size == (64, 64) and regions.shape == (1, 6, 4) and len(maps[0]) == 6
    for t in range(6):
        heat = unpack(maps[0][t], 17, size)
        cell = (done.clip.keypoints[0, t] - regions[0, t, :2]) / regions[0, t, 2:] * 64  # in cells of the map
        for joint in np.flatnonzero(done.clip.scores[0, t] > 0.5):
            x, y = np.clip(np.rint(cell[joint]).astype(int), 2, 61)
            near = heat[joint, y - 2 : y + 3, x - 2 : x + 3]  # a joint's offset may lead out of its cell
            assert abs(near - done.clip.scores[0, t, joint]).min() < 0.01


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_left_out():
    import torch

    def run(images):
        if len(images) > 3:
            raise torch.OutOfMemoryError("too large")
        return images[:, 0].tolist()

    answers, size = in_batches(run, np.arange(10)[:, None], 8)
    assert ([i for answer in answers for i in answer], size) == (list(range(10)), 2)
    with pytest.raises(torch.OutOfMemoryError):
        in_batches(lambda images: run(np.zeros((9, 1))), np.zeros((4, 1)), 4)
