"""Draws the figures of a report. Evaluate Model draws the same confusion matrix and reliability diagram."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from train_pytorch_model.evaluation.metrics import reliability
from train_pytorch_model.evaluation.plots import (
    MAX_NAMED,
    draw_confusion_matrix,
    draw_reliability,
    drawable_names,
)
from train_pytorch_model.report.contents import CALIBRATION, CLASS_COUNTS, CONFUSION_MATRIX, LEARNING_CURVES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from train_pytorch_model.evaluation.records import EpochRecord
    from train_pytorch_model.report.contents import Report

_DPI = 150
_TRAINING = "#1b6ca8"
_VALIDATION = "#c2541b"
# If the ratio of the largest and the smallest loss is above this, their axis is logarithmic.
_LOG_RATIO = 30


def draw_figures(report: Report, confusion: np.ndarray, error: float, folder: Path) -> None:
    """Draw all figures of a report.

    Args:
        report: the report to draw.
        confusion: counts, int of shape (C, C); rows are true classes, columns predicted ones.
        error: the expected calibration error, in [0, 1].
        folder: where to write the PNG files.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about glyphs that the font lacks, or a tight layout
        draw_learning_curves(report.records, report.best_epoch, folder / LEARNING_CURVES)
        draw_confusion_matrix(confusion, list(report.classes), folder / CONFUSION_MATRIX)
        draw_reliability(*reliability(report.truth, report.probabilities), error, folder / CALIBRATION)
        draw_class_counts(report.train_counts, report.valid_counts, report.classes, folder / CLASS_COUNTS)


def draw_learning_curves(records: Sequence[EpochRecord], best_epoch: int, path: Path) -> None:
    """Draw loss, error and learning rate against epochs, narrow enough for a phone.

    Args:
        records: at least one; numbers that are None or not finite leave a gap.
        best_epoch: the epoch to mark, if it is among the records.
        path: the PNG to write.
    """
    epochs = [record.epoch for record in records]
    figure = Figure(figsize=(4.8, 6.4), layout="constrained")
    loss, error, rate = figure.subplots(3, sharex=True, height_ratios=(3, 3, 1.4))
    losses = [_finite([record.train_loss for record in records]), _finite([record.valid_loss for record in records])]
    _draw_pair(loss, epochs, *losses)
    _draw_pair(error, epochs, _finite([r.train_error for r in records]), _finite([_valid_error(r) for r in records]))
    known = np.concatenate(losses)
    known = known[np.isfinite(known) & (known > 0)]
    if len(known) and known.max() > _LOG_RATIO * known.min():
        loss.set_yscale("log")
    loss.set_ylabel("loss")
    error.set_ylabel("error (1 - accuracy)")
    error.set_ylim(bottom=0)
    rate.plot(epochs, _finite([record.learning_rate for record in records]), color="#555555", **_marked(epochs))
    rate.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-4, 3))
    rate.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(set(epochs)) == 1:
        rate.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    for axes in (loss, error, rate):
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


def draw_class_counts(train: np.ndarray, valid: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw the number of images of each class as bars.

    Up to 60 classes are named, with their numbers at the bars. More classes are sorted by their training images.

    Args:
        train: training images of each class, int of shape (C,).
        valid: validation images of each class, int of shape (C,).
        classes: names of the C classes.
        path: the PNG to write.
    """
    if len(classes) <= MAX_NAMED:
        figure = _named_counts(train, valid, classes)
    else:
        order = np.argsort(-train, kind="stable")
        figure = Figure(figsize=(5.5, 4), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(classes))
        axes.fill_between(places, train[order], step="mid", color=_TRAINING, label="training", linewidth=0)
        axes.fill_between(places, valid[order], step="mid", color=_VALIDATION, label="validation", linewidth=0)
        axes.set(xlabel="classes, sorted by training images", ylabel="images", xlim=(0, len(classes) - 1))
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=_DPI)


def _named_counts(train: np.ndarray, valid: np.ndarray, classes: Sequence[str]) -> Figure:
    figure = Figure(figsize=(5.5, 1.5 + 0.38 * len(classes)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(classes))
    for counts, shift, colour, label in ((train, -0.2, _TRAINING, "training"), (valid, 0.2, _VALIDATION, "validation")):
        bars = axes.barh(places + shift, counts, height=0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{count:,}" for count in counts], padding=3, fontsize=8)
    axes.set_yticks(places, drawable_names(classes))
    axes.set(xlabel="images", ylim=(len(classes) - 0.4, -0.6))
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure
