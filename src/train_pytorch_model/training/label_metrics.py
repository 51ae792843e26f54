"""Metrics of several labels an image: average precision and F1 scores, as scikit-learn defines them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from train_pytorch_model.training.thresholds import DEFAULT_THRESHOLD, best_threshold, ranked


class LabelValues(NamedTuple):
    """What the probabilities of all images say about the labels."""

    average_precision: float
    """Mean over the labels that an image has; 0 if there is none."""
    micro_f1: float
    """Of all labels together, at the threshold 0.5; 0 if no image has a label and none is found."""
    macro_f1: float
    """Mean over the labels that an image has, at the threshold 0.5; 0 if there is none."""
    thresholds: tuple[float, ...]
    """Of each label, with the highest F1 score; see `best_threshold`."""


def label_values(probabilities: np.ndarray, truth: np.ndarray) -> LabelValues:
    """Compute the metrics of labels.

    Args:
        probabilities: float32 of shape (N, C).
        truth: whether each image has each label, bool of shape (N, C).
    """
    found = probabilities >= DEFAULT_THRESHOLD
    right, actual, predicted = ((found & truth).sum(0), truth.sum(0), found.sum(0))
    present = np.flatnonzero(actual)
    columns = [ranked(*pair) for pair in zip(probabilities.T, truth.T)]
    precisions = [_average_precision(columns[label].num_found, columns[label].num_right) for label in present]
    scores = 2 * right[present] / (actual + predicted)[present]
    return LabelValues(
        average_precision=float(np.mean(precisions)) if present.size else 0.0,
        micro_f1=float(2 * right.sum() / max(1, actual.sum() + predicted.sum())),
        macro_f1=float(scores.mean()) if present.size else 0.0,
        thresholds=tuple(map(best_threshold, columns)),
    )


def _average_precision(num_found: np.ndarray, num_right: np.ndarray) -> float:
    """The sum of the precisions at each threshold, weighted by how much the recall grows there."""
    gains = np.diff(num_right, prepend=0) / num_right[-1]
    return float((gains * num_right / num_found).sum())
