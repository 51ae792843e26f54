"""The tables of a report, as rows."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from train_pytorch_model.text.wording import seconds_in_words

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from train_pytorch_model.report.contents import Report

MAX_PAIRS = 20


@dataclass(frozen=True)
class ClassRow:
    """Metrics of one class, each in [0, 1]."""

    number: int
    label: str
    train_images: int
    valid_images: int
    precision: float
    recall: float
    f1: float
    is_predicted: bool
    """Whether any image was predicted as this class; otherwise, the precision is undefined."""


@dataclass(frozen=True)
class LabelRow:
    """Metrics of one label, each in [0, 1], and numbers of images."""

    number: int
    label: str
    train_images: int
    valid_images: int
    average_precision: Optional[float]
    precision: float
    recall: float
    f1: float
    threshold: float
    num_found: int
    """The images that the label was found in. Without any, the precision is undefined."""
    wrongly_found: int
    missed: int


@dataclass(frozen=True)
class Pair:
    """A true class and the class that some of its images were wrongly predicted as."""

    label: str
    predicted: str
    images: int
    fraction: float
    """Fraction of the images of the true class, in (0, 1]."""


@dataclass(frozen=True)
class EpochRow:
    """One epoch. Numbers that are unknown or not finite are None."""

    epoch: int
    learning_rate: Optional[float]
    train_loss: Optional[float]
    train_error: Optional[float]
    valid_loss: Optional[float]
    valid_error: Optional[float]
    valid_top5_error: Optional[float]
    train_seconds: Optional[float]
    valid_seconds: Optional[float]
    train_images_per_second: Optional[float]


@dataclass(frozen=True)
class LabelEpochRow(EpochRow):
    """One epoch of a training with several labels per image; errors are those of all labels of an image together."""

    valid_average_precision: Optional[float]
    valid_micro_f1: Optional[float]


def class_rows(report: Report, per_class: Mapping[str, Mapping[str, Any]], confusion: np.ndarray) -> list[ClassRow]:
    """Make one row per class, in the model's order.

    Args:
        report: provides the names and the numbers of training images.
        per_class: metrics of each class, from `compute_metrics`.
        confusion: int of shape (C, C).
    """
    predictions = confusion.sum(axis=0)
    rows = []
    for number, label in enumerate(report.classes):
        found = per_class[label]
        metrics = (found["precision"], found["recall"], found["f1"])
        images = (int(report.train_counts[number]), found["support"])
        rows.append(ClassRow(number, label, *images, *metrics, is_predicted=bool(predictions[number])))
    return rows


def label_rows(report: Report, per_label: Mapping[str, Mapping[str, Any]]) -> list[LabelRow]:
    """Make one row per label, in the model's order.

    Args:
        report: provides the names, the thresholds and the numbers of training images.
        per_label: metrics of each label, from `compute_multilabel_metrics`.
    """
    rows = []
    for number, (label, threshold) in enumerate(zip(report.classes, report.thresholds or ())):
        found = per_label[label]
        metrics = (found["average_precision"], found["precision"], found["recall"], found["f1"])
        num_found = found["true_positives"] + found["false_positives"]
        counts = (num_found, found["false_positives"], found["false_negatives"])
        images = (int(report.train_counts[number]), found["support"])
        rows.append(LabelRow(number, label, *images, *metrics, threshold, *counts))
    return rows


def confused_pairs(confusion: np.ndarray, classes: tuple[str, ...], limit: int = MAX_PAIRS) -> list[Pair]:
    """Find the most frequent pairs of true and predicted class; ties are sorted by the fraction of the true class."""
    rows, columns = np.nonzero(confusion)
    is_wrong = rows != columns
    rows, columns = rows[is_wrong], columns[is_wrong]
    counts = confusion[rows, columns]
    fractions = counts / confusion.sum(axis=1)[rows]
    order = np.lexsort((-fractions, -counts))[:limit]
    return [
        Pair(classes[rows[place]], classes[columns[place]], int(counts[place]), float(fractions[place]))
        for place in order
    ]


def epoch_rows(report: Report) -> Sequence[EpochRow]:
    """Make one row per epoch, with its timing if it is known."""
    timings = {timing.epoch: timing for timing in report.timings}
    rows = []
    for record in report.records:
        timing = timings.get(record.epoch)
        row: EpochRow = EpochRow(
            record.epoch,
            _finite(record.learning_rate),
            _finite(record.train_loss),
            _finite(record.train_error),
            _finite(record.valid_loss),
            _error(record.top1_acc),
            _error(record.top5_acc),
            _finite(timing.train_seconds if timing else None),
            _finite(timing.valid_seconds if timing else None),
            _finite(timing.train_images_per_second if timing else None),
        )
        if report.thresholds is not None:
            more = (_finite(record.average_precision), _finite(record.micro_f1))
            row = LabelEpochRow(*(*astuple(row), *more))
        rows.append(row)
    return rows


def _finite(value: Optional[float]) -> Optional[float]:
    return value if value is not None and math.isfinite(value) else None


def _error(accuracy: Optional[float]) -> Optional[float]:
    known = _finite(accuracy)
    return None if known is None else 1 - known


def time_facts(report: Report) -> list[tuple[str, str]]:
    """Summarise how long the epochs took, as names and values; empty without timings."""
    if not report.timings:
        return []
    epochs = [timing for timing in report.timings if timing.epoch]  # before the first one, only the head is fitted
    rates = [rate for rate in (_finite(timing.train_images_per_second) for timing in epochs) if rate is not None]
    train = sum(timing.train_seconds for timing in report.timings)
    valid = sum(timing.valid_seconds for timing in report.timings)
    facts = [
        ("Epochs timed", f"{len(epochs)}"),
        ("Training", seconds_in_words(train)),
        ("Validation", seconds_in_words(valid)),
    ]
    if rates:
        facts.append(("Training images per second", f"{median(rates):,.1f} (median epoch)"))
    return facts
