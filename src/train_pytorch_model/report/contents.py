"""What a report is made of."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming


REPORT_FOLDER = "report"
"""In the outputs folder."""
REPORT_FILE = "report.html"
LEARNING_CURVES = "learning_curves.png"
CONFUSION_MATRIX = "confusion_matrix.png"
CALIBRATION = "calibration.png"
CLASS_COUNTS = "class_counts.png"
PICTURES = (LEARNING_CURVES, CONFUSION_MATRIX, CALIBRATION, CLASS_COUNTS)
SHEETS = ("learning_curves.csv", "confusion_matrix.csv", "calibration.csv", "per_class.csv")


def remove_report(folder: Path) -> None:
    """Remove the files of a report, and the folder when nothing else is in it."""
    with contextlib.suppress(OSError):
        for name in (REPORT_FILE, *PICTURES, *SHEETS):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of one image."""

    label: str
    """The true class."""
    predicted: Optional[str]
    """The predicted class; None for an image that was not scored."""
    confidence: Optional[float]
    """The probability of the predicted class, in [0, 1]; None likewise."""
    file_name: str
    """As the dataset names it. It is shown, never opened."""
    jpeg: bytes


@dataclass(frozen=True, eq=False)
class Report:
    """One finished training."""

    title: str
    facts: list[tuple[str, list[tuple[str, str]]]]
    """Groups of names and values: the parameters, the data, the versions of libraries, …"""
    records: Sequence[EpochRecord]
    """One an epoch, at least one; numbers that are not finite are left out of curves."""
    timings: Sequence[EpochTiming]
    """Of the same epochs, or of some of them."""
    best_epoch: int
    """The epoch of the model that was kept, from 1."""
    stop_reason: str
    """Why the training ended when it did, as a sentence."""
    classes: tuple[str, ...]
    """Names of the C classes, in the model's order."""
    train_counts: np.ndarray
    """Training images of each class, int of shape (C,)."""
    valid_counts: np.ndarray
    """Validation images of each class, likewise."""
    truth: np.ndarray
    """True class of each of the N validation images, int of shape (N,), N > 0."""
    probabilities: np.ndarray
    """What the kept model says of them, float of shape (N, C), each row summing to one."""
    drawn_from: Optional[int] = None
    """Validation images in all, where the N were drawn from them at random."""
    warnings: tuple[str, ...] = ()
    mistakes: tuple[Thumbnail, ...] = ()
    """Thumbnails of validation images that were predicted wrongly, the surest first; none in a basic report."""
    samples: tuple[Thumbnail, ...] = ()
    """Thumbnails of a few images a class; none in a basic report."""
