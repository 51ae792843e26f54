"""Evaluate Model: a scored table with true labels becomes metrics and pictures."""

from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import metrics

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.evaluation import plots as evaluation_pictures
from train_pytorch_model.ports.output_directory import EVALUATION, OutputDirectory
from train_pytorch_model.ports.scored_table import ScoredTable, read_scored_table
from train_pytorch_model.text.csv_cells import write_sheet
from train_pytorch_model.text.wording import name_some
from train_pytorch_model.tracking import Metric

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.tracking import Tracking

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
PICTURES = ("confusion_matrix.png", "reliability.png")
_TOP_K = 5
_NUM_BINS = 15


def evaluate_model(scored_path: Path, output_path: Path, outputs_path: Path, tracking: Tracking) -> dict[str, Any]:
    """Write metrics.json, tables and pictures about a scored dataset.

    Args:
        scored_path: the output of Score Image Model, ours or the retired one's.
        output_path: the folder to write.
        outputs_path: the folder of reports.
        tracking: gets the numbers and the pictures.

    Returns:
        What metrics.json holds.

    Raises:
        ModuleError: when the table holds no true labels, or labels without a probability, or cannot be read.
    """
    output = OutputDirectory(output_path, "Evaluation", EVALUATION)
    output.check((scored_path,), outputs_path)
    scored = read_scored_table(scored_path)
    is_usable = scored.is_scored & scored.is_labelled
    if not is_usable.all():
        logger.warning(
            "%d of %d rows are left out: %d without probabilities, %d without a true label.",
            (~is_usable).sum(),
            len(is_usable),
            (~scored.is_scored).sum(),
            (~scored.is_labelled).sum(),
        )
    if not is_usable.any():
        raise InvalidDatasetError(f"Scored dataset {scored_path}", "no row has both probabilities and a true label")
    index = {name: number for number, name in enumerate(scored.classes)}
    unknown = sorted({label for label in scored.true_labels[is_usable] if label not in index})
    if unknown:
        raise InvalidDatasetError(
            f"Scored dataset {scored_path}",
            f"the true labels {name_some(unknown)} are none of the scored classes {name_some(scored.classes)}",
        )
    truth = np.array([index[label] for label in scored.true_labels[is_usable]])
    probabilities = scored.probabilities[is_usable]
    # They were computed in float32, and so sum to one only nearly.
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    report = compute_metrics(truth, probabilities, scored.classes)
    report["num_left_out"] = int((~is_usable).sum())
    with output.writing() as folder:
        _write(folder, report, truth, probabilities, scored)
    numbers = {name: value for name, value in report.items() if isinstance(value, float)}
    tracking.log_metrics(0, [Metric(_title(name), name, value) for name, value in numbers.items()])
    for name in (METRICS_FILE, *PICTURES):
        tracking.log_file(output_path / name, "evaluation")
    logger.info("Accuracy %.5f on %d images; all metrics lie in %s.", report["accuracy"], len(truth), output_path)
    return report


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def compute_metrics(
    truth: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], *, with_areas: bool = True
) -> dict[str, Any]:
    """Metrics of a classifier, by scikit-learn but for the calibration error.

    Args:
        truth: index of the true class, int of shape (N,).
        probabilities: float of shape (N, C), each row summing to one.
        classes: names of the C classes.
        with_areas: whether to compute the areas under curves, which sort all images once a class: half a minute for
            50,000 images of 1,000 classes. They are None otherwise.

    Returns:
        Plain values: floats in [0, 1] but for the log loss; None where a metric says nothing, such as the area under
        a curve when one class alone occurs. `per_class` is by name.
    """
    numbers = np.arange(len(classes))
    predicted = probabilities.argmax(1)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, predicted, labels=numbers, zero_division=0
    )
    present = np.flatnonzero(support)
    by_class = {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
        for name, p, r, f, s in zip(classes, precision, recall, f1, support)
    }
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
    # One class against the others, for each class that occurs and is not all there is; the mean over them.
    against = [number for number in present if support[number] < len(truth)]
    if against and with_areas:
        is_class = [truth == number for number in against]
        curves = list(zip(is_class, against))
        report["roc_auc"] = float(np.mean([metrics.roc_auc_score(is_it, probabilities[:, n]) for is_it, n in curves]))
        report["average_precision"] = float(
            np.mean([metrics.average_precision_score(is_it, probabilities[:, n]) for is_it, n in curves])
        )
    for average in ("macro", "weighted"):
        values = metrics.precision_recall_fscore_support(
            truth, predicted, labels=present, average=average, zero_division=0
        )
        report[average] = dict(zip(("precision", "recall", "f1"), map(float, values)))
    report["per_class"] = by_class
    return report


def calibration_error(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The expected calibration error over 15 bins of equal width.

    The mean over the bins of |accuracy - confidence|, weighted by their images (Guo et al. 2017, "On Calibration of
    Modern Neural Networks", equation 3). In [0, 1]; arguments as for `compute_metrics`.
    """
    confidence, accuracy, counts = reliability(truth, probabilities)
    return float((np.abs(accuracy - confidence) * counts).sum() / counts.sum())


def reliability(truth: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, accuracy and count of the images in each bin of confidence that holds any."""
    confidence = probabilities.max(1)
    is_right = probabilities.argmax(1) == truth
    # A confidence on the border of two bins belongs to the lower, as in the paper.
    bins = np.clip(np.ceil(confidence * _NUM_BINS).astype(int) - 1, 0, _NUM_BINS - 1)
    counts = np.bincount(bins, minlength=_NUM_BINS)
    held = counts > 0
    mean_confidence = np.bincount(bins, confidence, _NUM_BINS)[held] / counts[held]
    accuracy = np.bincount(bins, is_right, _NUM_BINS)[held] / counts[held]
    return mean_confidence, accuracy, counts[held]


def _write(
    folder: Path, report: dict[str, Any], truth: np.ndarray, probabilities: np.ndarray, scored: ScoredTable
) -> None:
    names = list(scored.classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class, which its labels say is all there is
        confusion = metrics.confusion_matrix(truth, probabilities.argmax(1), labels=np.arange(len(names)))
    (folder / METRICS_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    rows = ([name, *counts] for name, counts in zip(names, confusion.tolist()))
    write_sheet(folder / "confusion_matrix.csv", ["true label", *names], rows)
    per_class: dict[str, dict[str, Any]] = report["per_class"]
    header = ["label", *next(iter(per_class.values()))]
    write_sheet(folder / "per_class.csv", header, ([name, *found.values()] for name, found in per_class.items()))
    evaluation_pictures.draw_confusion_matrix(confusion, names, folder / "confusion_matrix.png")
    evaluation_pictures.draw_reliability(
        *reliability(truth, probabilities), report["expected_calibration_error"], folder / "reliability.png"
    )
    (folder / "_meta.yaml").write_text("type: AnyDirectory\nextension: {}\n", encoding="utf-8")
