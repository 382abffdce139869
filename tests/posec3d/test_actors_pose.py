"""Slow: the real pose networks on a fixed set of 48 synthetic clips."""

import numpy as np
import pytest

from posec3d import actors
from posec3d.pose import PoseEstimator


@pytest.mark.slow
def test_the_pose_networks_see_the_synthetic_people(movenet):
    estimator = PoseEstimator(movenet, threads=2)
    people, errors = [], []
    for i in range(48):
        clip = actors.make_clip(actors.ACTIONS[i % 7], actor=100 + i, take=i // 7)
        frames = clip.frames[::4]
        boxes = estimator.detect(frames)
        people += [len(b) for b in boxes]
        found = estimator.estimate(frames, [b[:1] for b in boxes])
        for t, keypoints in enumerate(found):
            distance = np.full(17, np.inf)
            if len(keypoints):
                distance = np.linalg.norm(keypoints[0, :, :2] - clip.keypoints[0, 4 * t], axis=-1)
            errors.append(distance / clip.height_px[0, 4 * t])
    assert (np.array(errors) < 0.1).mean() >= 0.85
    assert (np.array(people) == 1).mean() >= 0.9
