"""Draws the figures of a report. Evaluate Model draws the same confusion matrix and reliability diagram."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train_pytorch_model.evaluation.metrics import reliability
from train_pytorch_model.evaluation.multilabel_plots import draw_label_confusion, draw_precision_recall
from train_pytorch_model.evaluation.plots import (
    MAX_NAMED,
    draw_answered,
    draw_confusion_matrix,
    draw_reliability,
    drawable_names,
)
from train_pytorch_model.report.contents import (
    ANSWERED,
    CALIBRATION,
    CLASS_COUNTS,
    CONFUSION_MATRIX,
    LABEL_CONFUSION,
    LEARNING_CURVES,
    PRECISION_RECALL,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from train_pytorch_model.evaluation.answered import AnsweredCurve, Threshold
    from train_pytorch_model.evaluation.records import EpochRecord
    from train_pytorch_model.report.contents import Report

_DPI = 150
_TRAINING = "#1b6ca8"
_VALIDATION = "#c2541b"
# If the ratio of the largest and the smallest loss is above this, their axis is logarithmic.
_LOG_RATIO = 30


def draw_figures(
    report: Report,
    confusion: np.ndarray,
    error: float,
    curve: AnsweredCurve,
    thresholds: Sequence[Threshold],
    folder: Path,
) -> None:
    """Draw all figures of a report.

    Args:
        report: the report to draw.
        confusion: counts, int of shape (C, C); rows are true classes, columns predicted ones.
        error: the expected calibration error, in [0, 1].
        curve: accuracy against the fraction of images that are answered.
        thresholds: to mark on this curve.
        folder: where to write the PNG files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about glyphs that the font lacks, or a tight layout
        draw_learning_curves(report.records, report.best_epoch, folder / LEARNING_CURVES)
        draw_confusion_matrix(confusion, list(report.classes), folder / CONFUSION_MATRIX)
        draw_reliability(*reliability(report.truth, report.probabilities), error, folder / CALIBRATION)
        draw_answered(curve, thresholds, folder / ANSWERED)
        draw_class_counts(report.train_counts, report.valid_counts, report.classes, folder / CLASS_COUNTS)


def draw_label_figures(
    report: Report, metrics: Mapping[str, Any], curves: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Draw all figures of a report of several labels per image.

    Args:
        report: the report to draw.
        metrics: from `compute_multilabel_metrics`.
        curves: from `precision_recall_curves`.
        folder: where to write the PNG files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about glyphs that the font lacks, or a tight layout
        draw_learning_curves(report.records, report.best_epoch, folder / LEARNING_CURVES, is_multilabel=True)
        draw_label_confusion(metrics["per_label"], folder / LABEL_CONFUSION)
        draw_precision_recall(curves, metrics["per_label"], folder / PRECISION_RECALL)
        draw_class_counts(report.train_counts, report.valid_counts, report.classes, folder / CLASS_COUNTS, "labels")


def draw_learning_curves(
    records: Sequence[EpochRecord], best_epoch: int, path: Path, *, is_multilabel: bool = False
) -> None:
    """Draw loss, error and learning rate against epochs, narrow enough for a phone.

    Args:
        records: at least one; numbers that are None or not finite leave a gap.
        best_epoch: the epoch to mark, if it is among the records.
        path: the PNG to write.
        is_multilabel: whether to draw the average precision, too.
    """
    epochs = [record.epoch for record in records]
    ratios = (3, 3, 3, 1.4) if is_multilabel else (3, 3, 1.4)
    figure = Figure(figsize=(4.8, 8.6 if is_multilabel else 6.4), layout="constrained")
    loss, error, *others, rate = panels = figure.subplots(len(ratios), sharex=True, height_ratios=ratios)
    losses = [_finite([record.train_loss for record in records]), _finite([record.valid_loss for record in records])]
    _draw_pair(loss, epochs, *losses)
    _draw_pair(error, epochs, _finite([r.train_error for r in records]), _finite([_valid_error(r) for r in records]))
    known = np.concatenate(losses)
    known = known[np.isfinite(known) & (known > 0)]
    if len(known) and known.max() > _LOG_RATIO * known.min():
        loss.set_yscale("log")
    loss.set_ylabel("loss")
    error.set_ylabel("error (1 - subset accuracy)" if is_multilabel else "error (1 - accuracy)")
    error.set_ylim(bottom=0)
    for precision in others:
        values = _finite([record.average_precision for record in records])
        precision.plot(epochs, values, color=_VALIDATION, **_marked(epochs))
        precision.set_ylabel("average precision")
    rate.plot(epochs, _finite([record.learning_rate for record in records]), color="#555555", **_marked(epochs))
    rate.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-4, 3))
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(set(epochs)) == 1:
        rate.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    for axes in panels:
        axes.grid(color="#dddddd", linewidth=0.6)
        if best_epoch in epochs:
            axes.axvline(best_epoch, color="#444444", linestyle=":", linewidth=1.4, label=f"best epoch ({best_epoch})")
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=_DPI)


def _valid_error(record: EpochRecord) -> float | None:
    return None if record.top1_acc is None else 1 - record.top1_acc


def _finite(values: Sequence[float | None]) -> np.ndarray:
    return np.array(
        [value if value is not None and math.isfinite(value) else math.nan for value in values], dtype=float
    )


def _draw_pair(axes: Any, epochs: Sequence[int], train: np.ndarray, valid: np.ndarray) -> None:
    axes.plot(epochs, train, color=_TRAINING, linestyle="--", label="training", **_marked(epochs))
    axes.plot(epochs, valid, color=_VALIDATION, label="validation", **_marked(epochs))


def _marked(epochs: Sequence[int]) -> dict[str, Any]:
    """Markers for curves of few points: a curve of a single point would be invisible without."""
    return {"marker": "o", "markersize": 3.5} if len(epochs) <= 40 else {}


def draw_class_counts(
    train: np.ndarray, valid: np.ndarray, classes: Sequence[str], path: Path, noun: str = "classes"
) -> None:
    """Draw the number of images of each class as bars.

    Up to 60 classes are named, with their numbers at the bars. More classes are sorted by their training images.

    Args:
        train: training images of each class, int of shape (C,).
        valid: validation images of each class, int of shape (C,).
        classes: names of the C classes.
        path: the PNG to write.
        noun: what `classes` are.
    """
    if len(classes) <= MAX_NAMED:
        figure = _named_counts(train, valid, drawable_names(classes, "label" if noun == "labels" else "class"))
    else:
        order = np.argsort(-train, kind="stable")
        figure = Figure(figsize=(5.5, 4), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(classes))
        axes.fill_between(places, train[order], step="mid", color=_TRAINING, label="training", linewidth=0)
        axes.fill_between(places, valid[order], step="mid", color=_VALIDATION, label="validation", linewidth=0)
        axes.set(xlabel=f"{noun}, sorted by training images", ylabel="images", xlim=(0, len(classes) - 1))
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=_DPI)


def _named_counts(train: np.ndarray, valid: np.ndarray, names: Sequence[str]) -> Figure:
    figure = Figure(figsize=(5.5, 1.5 + 0.38 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for counts, shift, colour, label in ((train, -0.2, _TRAINING, "training"), (valid, 0.2, _VALIDATION, "validation")):
        bars = axes.barh(places + shift, counts, height=0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8)
    axes.set_yticks(places, names)
    axes.set(xlabel="images", ylim=(len(names) - 0.4, -0.6))
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
