"""Metrics: class scores -> accuracies and the confusion matrix."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count clips by class: int64 (num_classes, num_classes), row = true label, column = prediction."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of clips whose label is among the k highest scores; scores (N, classes), labels (N,)."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float((best == labels[:, None]).any(1).mean())


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under precision over recall, class by class, averaged over the classes that occur.

    Clips are ranked by their score for the class; precision is taken at the rank of each clip that has it, and clips of
    equal score share one rank. No interpolation.

    Args:
        scores: (N, classes), higher is likelier.
        truth: (N, classes) bool, for clips with any number of labels; or (N,) class numbers.

    Returns:
        In [0, 1]; NaN if no class occurs.
    """
    if truth.ndim == 1:
        truth = truth[:, None] == np.arange(scores.shape[1])
    precisions = []
    for score, true in zip(scores.T, truth.T.astype(bool), strict=True):
        if not true.any():
            continue
        order = np.argsort(-score, kind="stable")
        last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # of each group of equal scores
        found = np.cumsum(true[order])[last]
        precisions.append((found / (last + 1) * np.diff(found, prepend=0)).sum() / true.sum())
    return float(np.mean(precisions)) if precisions else float("nan")


def fusion_weights(scores: np.ndarray, labels: np.ndarray, steps: int = 200) -> np.ndarray:
    """Weights of several models' probabilities that make the labels likeliest: those of a mixture, by EM.

    The likelihood has a single maximum, and unlike the best accuracy of a few clips it does not jump.

    Args:
        scores: (R, N, classes) probabilities of R models, of clips that neither trains nor tests them.
        labels: (N,) class numbers.
        steps: of EM; each one raises the likelihood.

    Returns:
        (R,), of sum 1.
    """
    said = np.maximum(scores[:, np.arange(len(labels)), labels], 1e-12)  # (R, N)
    weights = np.full(len(scores), 1 / len(scores))
    for _ in range(steps):
        part = weights[:, None] * said
        weights = (part / part.sum(0)).mean(1)
    return weights


def evaluate(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The figures of one evaluation.

    Args:
        scores: (N, classes), higher is likelier.
        labels: (N,) class numbers.
        names: class names by number.

    Returns:
        clips, top1, top5, mean_class (mean of the recalls of the classes that occur), mean_ap, classes (list of name,
        clips, recall, precision) and confusion (nested lists, row = true label).

    Raises:
        ValueError: no clips, or scores that are no numbers.
    """
    if not len(labels):
        raise ValueError("no clips to evaluate: the split holds none with a label")
    if not np.isfinite(scores).all():
        raise ValueError(
            "scores that are not finite numbers: the model's weights are damaged, or its training diverged"
        )
    matrix = confusion_matrix(labels, scores.argmax(1), len(names))
    right, true, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    recall = np.where(true > 0, right / np.maximum(true, 1), np.nan)
    precision = np.where(said > 0, right / np.maximum(said, 1), np.nan)
    return {
        "clips": len(labels),
        "top1": float(right.sum() / len(labels)),
        "top5": top_k(scores, labels, 5),
        "mean_class": float(np.nanmean(recall)),
        "mean_ap": mean_average_precision(scores, labels),
        "classes": [
            {
                "name": name,
                "clips": int(true[i]),
                "recall": None if np.isnan(recall[i]) else float(recall[i]),
                "precision": None if np.isnan(precision[i]) else float(precision[i]),
            }
            for i, name in enumerate(names)
        ],
        "confusion": matrix.tolist(),
    }
