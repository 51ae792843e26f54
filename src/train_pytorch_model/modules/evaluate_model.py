"""Evaluate Model: metrics and plots of a scored dataset that has true labels."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.evaluation import plots
from train_pytorch_model.evaluation.metrics import compute_metrics, confusion_matrix, reliability
from train_pytorch_model.ports.classes import pairs_alike
from train_pytorch_model.ports.directory_kinds import EVALUATION
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.ports.scored_table import ScoredTable, read_scored_table
from train_pytorch_model.text.csv_cells import write_sheet
from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import name_some
from train_pytorch_model.tracking import Metric

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.tracking import Tracking

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
PLOTS = ("confusion_matrix.png", "reliability.png")


def evaluate_model(
    scored_dataset: Path, evaluation_path: Path, *, outputs_path: Path, tracking: Tracking
) -> dict[str, Any]:
    """Write metrics.json, tables and plots for a scored dataset.

    Args:
        scored_dataset: the output of Score Image Model, of this package or of the retired module.
        evaluation_path: the folder to write.
        outputs_path: the folder of reports, which must not overlap with the output.
        tracking: where to log the metrics and the plots.

    Returns:
        The contents of metrics.json: see `compute_metrics`; `num_left_out` counts the rows that could not be used.

    Raises:
        ModuleError: if the table cannot be read, has no true labels, or has a true label without a probability.
    """
    output = OutputDirectory(evaluation_path, "Evaluation", EVALUATION)
    output.check((scored_dataset,), outputs_path)
    scored = read_scored_table(scored_dataset)
    is_usable = _usable_rows(scored, f"Scored dataset {scored_dataset}")
    truth = _true_classes(scored, is_usable, f"Scored dataset {scored_dataset}")
    probabilities = scored.probabilities[is_usable]
    # They were computed in float32, so their sum is only approximately one.
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    report = compute_metrics(truth, probabilities, scored.classes)
    report["num_left_out"] = int((~is_usable).sum())
    with output.writing() as folder:
        _write(folder, report, truth, probabilities, scored.classes)
    numbers = {name: value for name, value in report.items() if isinstance(value, float)}
    tracking.log_metrics(0, [Metric(_title(name), name, value) for name, value in numbers.items()])
    for name in (METRICS_FILE, *PLOTS):
        tracking.log_file(evaluation_path / name, "evaluation")
    logger.info("Accuracy %.5f on %d images. Saved all metrics to %s.", report["accuracy"], len(truth), evaluation_path)
    return report


def _usable_rows(scored: ScoredTable, where: str) -> np.ndarray:
    """Whether each row has both probabilities and a true label: bool of shape (N,)."""
    is_usable = np.logical_and(scored.is_scored, scored.is_labelled)
    if not is_usable.any():
        raise InvalidDatasetError(where, "no row has both probabilities and a true label")
    if not is_usable.all():
        logger.warning(
            "Skipped %d of %d rows: %d without probabilities, %d without a true label.",
            (~is_usable).sum(),
            len(is_usable),
            (~scored.is_scored).sum(),
            (~scored.is_labelled).sum(),
        )
    return np.asarray(is_usable)


def _true_classes(scored: ScoredTable, is_usable: np.ndarray, where: str) -> np.ndarray:
    """Index of the true class of each usable row."""
    # A table may have a class in the Unicode form of the model, and the true labels in that of the dataset.
    index = {nfc(name): number for number, name in enumerate(scored.classes)}
    labels = scored.true_labels[is_usable]
    unknown = sorted({label for label in labels if nfc(label) not in index})
    if unknown:
        alike = "".join(f"; {pair}" for pair in pairs_alike(unknown, scored.classes))
        raise InvalidDatasetError(
            where,
            f"the true labels {name_some(unknown)} are not among the scored classes {name_some(scored.classes)}{alike}",
        )
    return np.array([index[nfc(label)] for label in labels])


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _write(
    folder: Path, report: dict[str, Any], truth: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...]
) -> None:
    confusion = confusion_matrix(truth, probabilities.argmax(1), len(classes))
    (folder / METRICS_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    rows = ([name, *counts] for name, counts in zip(classes, confusion.tolist()))
    write_sheet(folder / "confusion_matrix.csv", ["true label", *classes], rows)
    per_class: dict[str, dict[str, Any]] = report["per_class"]
    header = ["label", *next(iter(per_class.values()))]
    write_sheet(folder / "per_class.csv", header, ([name, *found.values()] for name, found in per_class.items()))
    plots.draw_confusion_matrix(confusion, list(classes), folder / "confusion_matrix.png")
    plots.draw_reliability(
        *reliability(truth, probabilities), report["expected_calibration_error"], folder / "reliability.png"
    )
    (folder / "_meta.yaml").write_text("type: AnyDirectory\nextension: {}\n", encoding="utf-8")
