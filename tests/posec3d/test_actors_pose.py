"""Slow: the real pose networks on fixed sets of synthetic clips."""

import numpy as np
import pytest

from posec3d import actors
from posec3d.pose import estimate


@pytest.mark.slow
def test_the_pose_networks_see_the_synthetic_people(tools):
    detector, estimator = tools
    people, errors = [], []
    for i in range(48):
        clip = actors.make_clip(actors.ACTIONS[i % 7], actor=100 + i, take=i // 7)
        frames = clip.frames[::4]
        boxes = detector.detect(frames)
        people += [len(b) for b in boxes]
        for t, found in enumerate(estimate(estimator, frames, [b[:1] for b in boxes])):
            distance = np.full(17, np.inf)
            if len(found.keypoints):
                distance = np.linalg.norm(found.keypoints[0, :, :2] - clip.keypoints[0, 4 * t], axis=-1)
            errors.append(distance / clip.height_px[0, 4 * t])
    assert (np.array(errors) < 0.1).mean() >= 0.85
    assert (np.array(people) == 1).mean() >= 0.9


@pytest.mark.slow
def test_the_detector_finds_both_of_a_pair_where_they_do_not_overlap(tools):
    people = []
    for i in range(16):
        clip = actors.make_clip(actors.PAIR_ACTIONS[i % 4], actor=300 + i)
        apart = np.abs(np.diff(clip.keypoints.mean(2)[..., 0], axis=0))[0] > 0.4 * clip.height_px.max(0)
        if apart.any():
            people += [len(boxes) for boxes in tools[0].detect(clip.frames[apart][::4])]
    assert len(people) >= 40
    assert (np.array(people) == 2).mean() >= 0.9
