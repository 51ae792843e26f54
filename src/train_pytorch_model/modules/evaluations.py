"""Evaluates a scored table, of one class or of several labels per image."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import numpy as np

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.evaluation import multilabel_plots, plots
from train_pytorch_model.evaluation.metrics import compute_metrics, confusion_matrix, reliability
from train_pytorch_model.evaluation.multilabel_metrics import (
    CURVE_COLUMNS,
    compute_multilabel_metrics,
    curve_rows,
    precision_recall_curves,
)
from train_pytorch_model.modules.unknown_images import DEFAULT_LABEL
from train_pytorch_model.ports.classes import pairs_alike
from train_pytorch_model.text.csv_cells import write_sheet
from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import name_some, shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from train_pytorch_model.ports.scored_table import ScoredTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a scored table, and what is written of them."""

    report: dict[str, Any]
    """The contents of metrics.json."""
    tracked: dict[str, float]
    """The metrics that are sent to the tracked run."""
    summary: str
    """The most important metrics, as the beginning of a sentence."""
    write: Callable[[Path], None]
    """Writes the tables and the plots into a folder."""
    plots: tuple[str, ...]
    """The files of the plots."""


def evaluate_classes(scored: ScoredTable, is_usable: np.ndarray, where: str) -> Evaluation:
    """Evaluate a table of one class per image.

    Images whose true label is that of unknown images belong to none of the classes. They are counted apart.

    Args:
        scored: the table.
        is_usable: the rows to evaluate, bool of shape (N,).
        where: the table in messages.

    Raises:
        InvalidDatasetError: if a true label is not among the classes, or no image belongs to one of them.
    """
    is_foreign = is_usable & _is_foreign(scored)
    is_usable = is_usable & ~is_foreign
    if not is_usable.any():
        reason = f"all images have the true label {shown(scored.unknown_label)}, which is no class of the model"
        raise InvalidDatasetError(where, reason, "Score images of its classes together with them.")
    labels = scored.true_labels[is_usable]
    index = _index_of_labels(set(labels), scored.classes, where, "true labels", _remedy(scored.unknown_label))
    truth = np.array([index[label] for label in labels])
    probabilities = scored.probabilities[is_usable]
    # They were computed in float32, so their sum is only approximately one.
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    report = compute_metrics(truth, probabilities, scored.classes)
    summary = f"Accuracy {report['accuracy']:.5f}"
    if scored.is_unknown is not None:
        is_answered = ~scored.is_unknown[is_usable]
        is_right = (probabilities.argmax(1) == truth)[is_answered]
        report["unknown_label"] = scored.unknown_label
        report["answered_fraction"] = float(is_answered.mean())
        report["answered_accuracy"] = float(is_right.mean()) if len(is_right) else None
        known = f"{len(is_right)} images that do not have the label {shown(scored.unknown_label)}"
        summary += f" ({is_right.mean():.5f} on the {known})" if len(is_right) else f" (there are {known})"
    report.update(_rejection(scored, is_foreign))
    return Evaluation(
        report,
        {name: value for name, value in report.items() if isinstance(value, float)},
        summary,
        partial(_write_classes, report, truth, probabilities, scored.classes),
        ("confusion_matrix.png", "reliability.png"),
    )


def evaluate_labels(scored: ScoredTable, is_usable: np.ndarray, where: str) -> Evaluation:
    """Evaluate a table of several labels per image.

    Args:
        scored: the table.
        is_usable: the rows to evaluate, bool of shape (N,).
        where: the table in messages.

    Raises:
        InvalidDatasetError: if a label is not among those of the model.
    """
    if scored.scored_labels is None:
        raise AssertionError("the table has one class per image")
    truth = _label_vectors(scored.true_labels[is_usable], scored.classes, where, "true labels")
    found = _label_vectors(scored.scored_labels[is_usable], scored.classes, where, "scored labels")
    probabilities = scored.probabilities[is_usable]
    report = compute_multilabel_metrics(truth, found, probabilities, scored.classes)
    averages = {f"{average}_f1": report[average]["f1"] for average in ("micro", "macro", "weighted")}
    if report["labels_without_images"]:
        logger.warning(
            "%s: no image has the label %s, which is left out of the means.",
            where,
            name_some(report["labels_without_images"]),
        )
    mean, f1 = report["average_precision"], report["micro"]["f1"]
    return Evaluation(
        report,
        {name: value for name, value in {**report, **averages}.items() if isinstance(value, float)},
        f"Micro F1 {f1:.5f}" if mean is None else f"Mean average precision {mean:.5f} and micro F1 {f1:.5f}",
        partial(_write_labels, report, truth, probabilities, scored.classes),
        ("label_confusion.png", "precision_recall.png"),
    )


def _is_foreign(scored: ScoredTable) -> np.ndarray:
    """Whether the true label of each image is that of unknown images, which is no class: bool of shape (N,)."""
    unknown = scored.unknown_label
    if unknown is None:
        return np.zeros(len(scored.true_labels), dtype=bool)
    return np.array([label is not None and nfc(label) == nfc(unknown) for label in scored.true_labels], dtype=bool)


def _rejection(scored: ScoredTable, is_foreign: np.ndarray) -> dict[str, Any]:
    """Count and log the images of no class, bool of shape (N,), and those that got the label of unknown images."""
    if scored.is_unknown is None or not is_foreign.any():
        return {}
    is_rejected = scored.is_unknown[is_foreign]
    logger.info(
        "%d of %d images whose true label is %s were given this label. Other metrics leave these images out.",
        is_rejected.sum(),
        len(is_rejected),
        shown(scored.unknown_label),
    )
    return {"num_unknown_images": len(is_rejected), "rejected_fraction": float(is_rejected.mean())}


def _remedy(unknown_label: str | None) -> str:
    """What to do with images that belong to no class of the model."""
    what = "If these images belong to no class of the model, call their label"
    if unknown_label is None:
        return f"{what} {DEFAULT_LABEL!r} and score them with --unknown-below."
    return f"{what} {shown(unknown_label)}, the label of unknown images."


def _index_of_labels(
    labels: set[str], classes: tuple[str, ...], where: str, what: str, hint: str = ""
) -> dict[str, int]:
    """The index of the class of each label."""
    # A table may have a class in the Unicode form of the model, and the true labels in that of the dataset.
    index = {nfc(name): number for number, name in enumerate(classes)}
    unknown = sorted(label for label in labels if nfc(label) not in index)
    if unknown:
        alike = "".join(f"; {pair}" for pair in pairs_alike(unknown, classes))
        raise InvalidDatasetError(
            where,
            f"the {what} {name_some(unknown)} are not among the scored classes {name_some(classes)}{alike}",
            hint,
        )
    return {label: index[nfc(label)] for label in labels}


def _label_vectors(rows: Iterable[tuple[str, ...]], classes: tuple[str, ...], where: str, what: str) -> np.ndarray:
    """Whether each row has each label: bool of shape (N, C)."""
    listed = list(rows)
    index = _index_of_labels({label for row in listed for label in row}, classes, where, what)
    vectors = np.zeros((len(listed), len(classes)), dtype=bool)
    for number, row in enumerate(listed):
        vectors[number, [index[label] for label in row]] = True
    return vectors


def _write_classes(
    report: dict[str, Any], truth: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], folder: Path
) -> None:
    confusion = confusion_matrix(truth, probabilities.argmax(1), len(classes))
    rows = ([name, *counts] for name, counts in zip(classes, confusion.tolist()))
    write_sheet(folder / "confusion_matrix.csv", ["true label", *classes], rows)
    _write_rows(folder / "per_class.csv", report["per_class"])
    plots.draw_confusion_matrix(confusion, list(classes), folder / "confusion_matrix.png")
    plots.draw_reliability(
        *reliability(truth, probabilities), report["expected_calibration_error"], folder / "reliability.png"
    )


def _write_labels(
    report: dict[str, Any], truth: np.ndarray, probabilities: np.ndarray, labels: tuple[str, ...], folder: Path
) -> None:
    per_label = report["per_label"]
    _write_rows(folder / "per_label.csv", per_label)
    curves = precision_recall_curves(truth, probabilities, labels)
    write_sheet(folder / "precision_recall.csv", CURVE_COLUMNS, curve_rows(curves))
    multilabel_plots.draw_precision_recall(curves, per_label, folder / "precision_recall.png")
    multilabel_plots.draw_label_confusion(per_label, folder / "label_confusion.png")


def _write_rows(path: Path, metrics: dict[str, dict[str, Any]]) -> None:
    header = ["label", *next(iter(metrics.values()))]
    write_sheet(path, header, ([name, *found.values()] for name, found in metrics.items()))
