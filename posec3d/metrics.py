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


def evaluate(scores: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The figures of one evaluation.

    Args:
        scores: (N, classes), higher is likelier.
        labels: (N,) class numbers.
        names: class names by number.

    Returns:
        clips, top1, top5, mean_class (mean of the recalls of the classes that occur), classes (list of name, clips,
        recall, precision) and confusion (nested lists, row = true label).

    Raises:
        ValueError: no clips.
    """
    if not len(labels):
        raise ValueError("no clips to evaluate: the split holds none with a label")
    matrix = confusion_matrix(labels, scores.argmax(1), len(names))
    right, true, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    recall = np.where(true > 0, right / np.maximum(true, 1), np.nan)
    precision = np.where(said > 0, right / np.maximum(said, 1), np.nan)
    return {
        "clips": len(labels),
        "top1": float(right.sum() / len(labels)),
        "top5": top_k(scores, labels, 5),
        "mean_class": float(np.nanmean(recall)),
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
