"""Evaluate Model: metrics and plots of a scored dataset that has true labels."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.evaluations import evaluate_classes, evaluate_labels
from train_pytorch_model.ports.directory_kinds import EVALUATION
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.ports.scored_table import ScoredTable, read_scored_table
from train_pytorch_model.tracking import Metric

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.tracking import Tracking

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"


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
        The contents of metrics.json: see `compute_metrics` and `compute_multilabel_metrics`; `num_left_out` counts the
        rows that could not be used.

    Raises:
        ModuleError: if the table cannot be read, has no true labels, or has a true label without a probability.
    """
    output = OutputDirectory(evaluation_path, "Evaluation", EVALUATION)
    output.check((scored_dataset,), outputs_path)
    scored = read_scored_table(scored_dataset)
    where = f"Scored dataset {scored_dataset}"
    is_usable = _usable_rows(scored, where)
    evaluation = (evaluate_labels if scored.is_multilabel else evaluate_classes)(scored, is_usable, where)
    report = {**evaluation.report, "num_left_out": int((~is_usable).sum())}
    with output.writing() as folder:
        (folder / METRICS_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
        evaluation.write(folder)
        (folder / "_meta.yaml").write_text("type: AnyDirectory\nextension: {}\n", encoding="utf-8")
    tracking.log_metrics(0, [Metric(_title(name), name, value) for name, value in evaluation.tracked.items()])
    for name in (METRICS_FILE, *evaluation.plots):
        tracking.log_file(evaluation_path / name, "evaluation")
    logger.info("%s on %d images. Saved all metrics to %s.", evaluation.summary, report["num_images"], evaluation_path)
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


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
