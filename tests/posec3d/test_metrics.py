"""Metrics by hand and by a plain implementation."""

import numpy as np
import pytest

from posec3d import metrics


def test_metrics_by_hand():
    scores = np.array([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.7, 0.2], [0.2, 0.5, 0.3]])
    found = metrics.evaluate(scores, np.array([0, 1, 1, 2]), ["a", "b", "c"])
    assert found["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert found["top1"] == 0.5
    assert found["mean_class"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metrics.top_k(scores, np.array([0, 1, 1, 2]), 2) == 1
    assert [c["precision"] for c in found["classes"]] == [0.5, 0.5, None]


def test_a_class_without_clips_does_not_count_in_the_mean():
    found = metrics.evaluate(np.eye(3)[[0, 1]], np.array([0, 1]), ["a", "b", "c"])
    assert found["mean_class"] == 1
    assert found["classes"][2]["recall"] is None


def test_no_clips_are_refused():
    with pytest.raises(ValueError, match="no clips"):
        metrics.evaluate(np.zeros((0, 3)), np.zeros(0, int), ["a", "b", "c"])


def test_scores_that_are_no_numbers_are_refused_and_not_taken_for_class_0():
    with pytest.raises(ValueError, match="not finite numbers: the model's weights are damaged"):
        metrics.evaluate(np.full((2, 3), np.nan), np.zeros(2, int), ["a", "b", "c"])


def plain_average_precision(score, true):
    """Threshold by threshold."""
    total, before = 0.0, 0
    for threshold in sorted(set(score), reverse=True):
        found = sum(t for s, t in zip(score, true, strict=True) if s >= threshold)
        total += (found - before) * found / sum(s >= threshold for s in score)
        before = found
    return total / sum(true)


def test_average_precision_by_hand():
    scores = np.array([[0.9], [0.8], [0.7], [0.6]])
    truth = np.array([[True], [False], [True], [False]])
    assert metrics.mean_average_precision(scores, truth) == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.mean_average_precision(-scores, truth) == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_average_precision_of_many_labels_a_clip():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 5)) / 5  # with many ties
    truth = rng.random((40, 5)) < [0.1, 0.5, 0.9, 0.3, 0.0]
    wanted = np.mean([plain_average_precision(scores[:, c], truth[:, c]) for c in range(4)])  # the last never occurs
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(wanted)
    labels = rng.integers(0, 5, 40)
    one = np.eye(5, dtype=bool)[labels]
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(metrics.mean_average_precision(scores, one))
    assert np.isnan(metrics.mean_average_precision(scores, np.zeros((40, 5))))


def test_fusion_weights_are_those_of_the_best_mixture():
    """Against a search over the whole simplex of three models: one good, one that helps it, one of noise."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 300)
    right = np.eye(4)[labels]

    def model(strength, clips):
        logits = rng.normal(size=(300, 4)) + strength * right * clips[:, None]
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    half = np.arange(300) % 2 == 0
    scores = np.stack([model(3, half), model(3, ~half), model(0, half)])
    weights = metrics.fusion_weights(scores, labels)
    assert weights.sum() == pytest.approx(1)
    said = scores[:, np.arange(300), labels]
    steps = np.linspace(0, 1, 101)
    best = max(
        ((a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9),
        key=lambda w: np.log(np.maximum(np.array(w) @ said, 1e-12)).sum(),
    )
    np.testing.assert_allclose(weights, best, atol=0.01)
    assert weights[2] < 0.1 < min(weights[:2])
