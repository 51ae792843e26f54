"""Metrics of a model that predicts several labels per image, shared by Evaluate Model and the training report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CURVE_COLUMNS = ("label", "threshold", "precision", "recall")
_MAX_POINTS = 200
_NAMES = ("precision", "recall", "f1")


def compute_multilabel_metrics(
    truth: np.ndarray, found: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]
) -> dict[str, Any]:
    """Compute the metrics of a model that predicts several labels per image, with scikit-learn.

    Macro means are over the labels that at least one image has. Micro means are over all pairs of image and label.

    Args:
        truth: whether each image has each label, bool of shape (N, C).
        found: whether the model found each label in each image, bool of shape (N, C).
        probabilities: of each label, float of shape (N, C), in [0, 1].
        labels: names of the C labels.

    Returns:
        Plain values: floats in [0, 1], except for the log loss. A metric that is undefined is None, such as the average
        precision of a label that no image has. `per_label` maps the names of labels to their metrics.
    """
    everyone = np.arange(len(labels))
    present = np.flatnonzero(truth.any(axis=0))
    areas = [_areas(truth[:, number], probabilities[:, number]) for number in everyone]
    report: dict[str, Any] = {
        "num_images": len(truth),
        "average_precision": _mean(average_precision for average_precision, _ in areas),
        "micro_average_precision": _areas(truth.ravel(), probabilities.ravel())[0],
        "roc_auc": _mean(roc_auc for _, roc_auc in areas),
        "subset_accuracy": float(metrics.accuracy_score(truth, found)),
        "hamming_loss": float(metrics.hamming_loss(truth, found)),
        "log_loss": _mean(
            float(metrics.log_loss(truth[:, number], probabilities[:, number], labels=[False, True]))
            for number in everyone
        ),
    }
    for average, numbers in (("micro", everyone), ("macro", present), ("weighted", present)):
        report[average] = dict.fromkeys(_NAMES)
        if len(numbers):
            values = _precision_recall_f1(truth, found, numbers, average)
            report[average] = dict(zip(_NAMES, map(float, values)))
    per_label = {
        label: {**values, "average_precision": average_precision, "roc_auc": roc_auc}
        for label, values, (average_precision, roc_auc) in zip(labels, _per_label(truth, found), areas)
    }
    report["labels_without_images"] = [label for label, values in per_label.items() if not values["support"]]
    report["per_label"] = per_label
    return report


def _precision_recall_f1(truth: np.ndarray, found: np.ndarray, numbers: np.ndarray, average: str | None) -> Any:
    return metrics.precision_recall_fscore_support(
        _widened(truth), _widened(found), labels=numbers, average=average, zero_division=0
    )[:3]


def _widened(columns: np.ndarray) -> np.ndarray:
    """Append an empty column: scikit-learn reads a single column as two classes instead of as one label."""
    return np.pad(columns, ((0, 0), (0, 1)))


def _per_label(truth: np.ndarray, found: np.ndarray) -> list[dict[str, Any]]:
    numbers = np.arange(truth.shape[1])
    counts = metrics.multilabel_confusion_matrix(_widened(truth), _widened(found), labels=numbers)
    return [
        {
            **dict(zip(_NAMES, map(float, values))),
            "support": int(truth[:, number].sum()),
            "true_positives": int(counts[number, 1, 1]),
            "false_positives": int(counts[number, 0, 1]),
            "false_negatives": int(counts[number, 1, 0]),
            "true_negatives": int(counts[number, 0, 0]),
        }
        for number, *values in zip(numbers, *_precision_recall_f1(truth, found, numbers, None))
    ]


def _areas(has_label: np.ndarray, probabilities: np.ndarray) -> tuple[float | None, float | None]:
    """Average precision and area under the ROC curve; None where they are undefined."""
    if not has_label.any():
        return None, None
    roc_auc = None if has_label.all() else float(metrics.roc_auc_score(has_label, probabilities))
    return float(metrics.average_precision_score(has_label, probabilities)), roc_auc


def precision_recall_curves(
    truth: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]
) -> dict[str, np.ndarray]:
    """Compute the precision-recall curve of each label that at least one image has.

    Args:
        truth: whether each image has each label, bool of shape (N, C).
        probabilities: of each label, float of shape (N, C).
        labels: names of the C labels.

    Returns:
        For each of these labels, the threshold, the precision and the recall of at most 200 points, evenly chosen among
        all, from the lowest threshold to the highest: float of shape (P, 3).
    """
    curves = {}
    for number, label in enumerate(labels):
        if truth[:, number].any():
            precision, recall, thresholds = metrics.precision_recall_curve(truth[:, number], probabilities[:, number])
            chosen = np.unique(np.linspace(0, len(thresholds) - 1, _MAX_POINTS).round().astype(int))
            curves[label] = np.stack([thresholds, precision[:-1], recall[:-1]], axis=1)[chosen]
    return curves


def curve_rows(curves: Mapping[str, np.ndarray]) -> Iterator[list[Any]]:
    """Iterate over the rows of a table of curves, with the columns of `CURVE_COLUMNS`."""
    for label, points in curves.items():
        for point in points.tolist():
            yield [label, *point]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
