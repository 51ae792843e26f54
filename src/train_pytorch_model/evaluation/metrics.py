"""Metrics of a classifier, shared by Evaluate Model and the training report."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import metrics

_TOP_K = 5
_NUM_BINS = 15


def compute_metrics(
    truth: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], *, with_areas: bool = True
) -> dict[str, Any]:
    """Compute the metrics of a classifier with scikit-learn; only the calibration error is computed here.

    Args:
        truth: index of the true class, int of shape (N,).
        probabilities: float of shape (N, C), each row summing to one.
        classes: names of the C classes.
        with_areas: whether to compute the areas under curves, which need one sort of all images per class: half a
            minute for 50,000 images of 1,000 classes. If False, they are None.

    Returns:
        Plain values: floats in [0, 1], except for the log loss. A metric that is undefined is None, such as the area
        under a curve if only one class occurs. `per_class` maps the names of classes to their metrics.
    """
    numbers = np.arange(len(classes))
    predicted = probabilities.argmax(1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, labels=numbers, zero_division=0
    )
    present = np.flatnonzero(support)
    report: dict[str, Any] = {
        "num_images": len(truth),
        "accuracy": float(metrics.accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall[present].mean()),
        "top5_accuracy": None,
        "log_loss": float(metrics.log_loss(truth, probabilities, labels=numbers)) if len(classes) > 1 else None,
        "roc_auc": None,
        "average_precision": None,
        "expected_calibration_error": calibration_error(truth, probabilities),
    }
    if len(classes) > _TOP_K:
        report["top5_accuracy"] = float(metrics.top_k_accuracy_score(truth, probabilities, k=_TOP_K, labels=numbers))
    if with_areas:
        report.update(_areas(truth, probabilities, present[support[present] < len(truth)]))
    for average in ("macro", "weighted"):
        values = metrics.precision_recall_fscore_support(
            truth, predicted, labels=present, average=average, zero_division=0
        )
        report[average] = dict(zip(("precision", "recall", "f1"), map(float, values)))
    report["per_class"] = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(classes, precision, recall, f1, support)
    }
    return report


def _areas(truth: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Areas under the one-versus-rest curves, averaged over the classes; nothing without a class."""
    if not len(classes):
        return {}
    curves = [(truth == number, probabilities[:, number]) for number in classes]
    return {
        "roc_auc": float(np.mean([metrics.roc_auc_score(is_class, scores) for is_class, scores in curves])),
        "average_precision": float(
            np.mean([metrics.average_precision_score(is_class, scores) for is_class, scores in curves])
        ),
    }


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute the expected calibration error over 15 bins of equal width.

    It is the mean of |accuracy - confidence| over the bins, weighted by their number of images (Guo et al. 2017, "On
    Calibration of Modern Neural Networks", equation 3).

    Args:
        truth: index of the true class, int of shape (N,).
        probabilities: float of shape (N, C), each row summing to one.

    Returns:
        The error, in [0, 1].
    """
    confidence, accuracy, counts = reliability(truth, probabilities)
    return float((np.abs(accuracy - confidence) * counts).sum() / counts.sum())


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the points of a reliability diagram, one for each bin of confidence that is not empty.

    Args:
        truth: index of the true class, int of shape (N,).
        probabilities: float of shape (N, C), each row summing to one.

    Returns:
        Mean confidence, accuracy and number of images of each bin, each of shape (B,), B <= 15.
    """
    confidence = probabilities.max(1)
    is_right = probabilities.argmax(1) == truth
    # Bins are open below and closed above, as in the paper.
    bins = np.clip(np.ceil(confidence * _NUM_BINS).astype(int) - 1, 0, _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    held = counts > 0
    mean_confidence = np.bincount(bins, confidence, _NUM_BINS)[held] / counts[held]
    accuracy = np.bincount(bins, is_right, _NUM_BINS)[held] / counts[held]
    return mean_confidence, accuracy, counts[held]


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the images of each true class (row) and predicted class (column).

    Args:
        truth: index of the true class, int of shape (N,).
        predicted: index of the predicted class, int of shape (N,).
        num_classes: C.

    Returns:
        Counts, int of shape (C, C).
    """
    counts = np.bincount(truth.astype(np.int64) * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)
