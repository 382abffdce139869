"""Frames -> boxes -> keypoints -> tracks with the real networks, on drawn people whose joints are known."""

import cv2
import numpy as np
import pytest

from posec3d.actors import make_clip
from posec3d.pose import PoseEstimator, _crop, _real, _suppress, extract_poses
from posec3d.skeletons import COCO17
from posec3d.video import VideoError, open_video, write_video


@pytest.fixture(scope="module")
def estimator(movenet):
    return PoseEstimator(movenet)


@pytest.fixture(scope="module")
def actor():
    return make_clip("wave", actor=1, num_frames=6, size=(240, 320), fps=4)


@pytest.fixture(scope="module")
def video(actor, tmp_path_factory):
    path = tmp_path_factory.mktemp("pose") / "actor.mp4"
    write_video(path, actor.frames, actor.fps)
    return str(path)


@pytest.fixture(scope="module")
def poses(video, estimator):
    return extract_poses(video, estimator)


def one_person(estimator, frame):
    """The only person in a frame: box (5,), keypoints (17, 3)."""
    boxes = estimator.detect(frame[None])
    assert len(boxes[0]) == 1
    return boxes[0][0], estimator.estimate(frame[None], boxes)[0][0]


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


def test_the_size_of_batches_does_not_matter(poses, video, estimator):
    by_four = extract_poses(video, estimator, batch_frames=4)
    np.testing.assert_allclose(by_four.keypoints, poses.keypoints, atol=1e-3)
    np.testing.assert_allclose(by_four.boxes, poses.boxes, atol=1e-3)


def test_boxes_hold_the_joints(poses, actor):
    x, y = np.moveaxis(actor.keypoints[0], -1, 0)
    x1, y1, x2, y2 = np.moveaxis(poses.boxes[0][:, None], -1, 0)
    assert ((x > x1) & (x < x2) & (y > y1) & (y < y2)).mean() > 0.9


@pytest.mark.parametrize("times", [3, 7])
def test_a_larger_picture_of_the_same_person_gives_the_same_joints(estimator, actor, times):
    frame = actor.frames[0]
    large = cv2.resize(frame, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC)
    small_points, large_points = one_person(estimator, frame)[1], one_person(estimator, large)[1]
    large_points[:, :2] = (large_points[:, :2] + 0.5) / times - 0.5
    assert sure_distance(small_points, large_points) < 1.5


def test_a_mirrored_picture_gives_mirrored_joints(estimator, actor):
    frame = actor.frames[0]
    points = one_person(estimator, frame)[1]
    mirrored = one_person(estimator, np.ascontiguousarray(frame[:, ::-1]))[1][list(COCO17.mirror)]
    mirrored[:, 0] = frame.shape[1] - 1 - mirrored[:, 0]
    assert sure_distance(points, mirrored) < 1.5


def test_people_of_all_frames_go_to_their_own_frame(estimator, actor):
    frames = actor.frames[:3]
    box = estimator.detect(frames[:1])[0]
    people = estimator.estimate(frames, [box[:0], np.concatenate([box, box]), box])
    assert [len(p) for p in people] == [0, 2, 1]
    np.testing.assert_array_equal(people[1][0], people[1][1])
    np.testing.assert_allclose(people[2], estimator.estimate(frames[2:], [box])[0], atol=1e-3)


def test_a_person_at_the_edge_is_found_in_frame_pixels(estimator, actor):
    frame = actor.frames[0]
    box, whole = one_person(estimator, frame)
    left = int(box[0])  # cut the picture at the person's left side
    part = np.ascontiguousarray(frame[:, left:])
    points = estimator.estimate(part[None], [box[None] - [left, 0, left, 0, 0]])[0][0]
    points[:, 0] += left
    assert sure_distance(points, whole) < 3


def test_an_empty_room_has_no_people(estimator, tmp_path):
    write_video(tmp_path / "empty.mp4", [np.full((120, 160, 3), 90, np.uint8)] * 3, 10)
    poses = extract_poses(str(tmp_path / "empty.mp4"), estimator)
    assert poses.keypoints.shape == (0, 3, 17, 2) and poses.boxes.shape == (0, 3, 4) and poses.num_frames == 3


def test_a_broken_video_is_a_video_error(estimator, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    with pytest.raises(VideoError, match=r"text\.mp4"):
        extract_poses(str(tmp_path / "text.mp4"), estimator)


def test_a_clip_carries_video_and_models(video, poses):
    assert (poses.video, poses.num_frames, poses.num_persons) == (video, 6, 1)
    assert poses.pose_model.startswith("movenet-thunder@") and poses.detector.startswith("movenet-multipose@")


def test_a_real_handshake_shows_two_people_all_along(data, estimator, tmp_path):
    with open_video(data / "ut_interaction" / "set1" / "50_9_2.avi") as video:
        write_video(tmp_path / "short.mp4", [frame for _, frame in video][::8], fps=30 / 8)
    poses = extract_poses(str(tmp_path / "short.mp4"), estimator)
    assert poses.keypoints.shape[0] == 2 and poses.boxes.any(-1).mean() > 0.95
    assert (poses.scores.mean(-1) > 0.3).mean() > 0.9


def test_a_crop_keeps_places_at_any_scale():
    ramp = np.tile(np.arange(200, dtype=np.uint8)[:, None, None], (1, 1200, 3))
    for side in (64, 300, 700, 1100):
        crop = _crop(ramp, np.array([20.0, -10.0]), side)
        rows = np.arange(256) * side / 256 - 10  # where the crop's pixel centres are in the frame
        inside = (rows > 6) & (rows < 193)
        np.testing.assert_allclose(crop[inside, 5, 0], rows[inside], atol=1)


def test_overlapping_boxes_keep_the_best():
    boxes = np.array([[0, 0, 10, 10, 0.9], [1, 0, 11, 10, 0.8], [0, 0, 10, 4, 0.7]], np.float32)  # IoU 0.82 and 0.4
    np.testing.assert_array_equal(_suppress(boxes), boxes[[0, 2]])


def test_false_boxes_and_second_skeletons_on_one_body_are_dropped():
    rng = np.random.default_rng(0)
    body = np.concatenate([rng.uniform(0, 100, (17, 2)), np.full((17, 1), 0.6)], 1)
    moved = np.array([150, 0, 0])
    double, false, other = body - [0, 0, 0.1], body * [1, 1, 0.3], body + moved
    boxes = np.array([[0, 0, 60, 100, 0.9], [0, 0, 100, 100, 0.8], [0, 0, 100, 100, 0.7], [150, 0, 250, 100, 0.5]])
    assert sorted(_real(boxes, np.stack([double, body, false, other]))) == [1, 3]
