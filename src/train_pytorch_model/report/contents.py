"""The contents of a report, and the names of its files."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.report.suspicious import SUSPICIOUS_IMAGES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
    from train_pytorch_model.report.suspicious import Suspicions


REPORT_FOLDER = "report"
"""Name of the report's folder in the outputs folder."""
REPORT_FILE = "report.html"
LEARNING_CURVES = "learning_curves.png"
CONFUSION_MATRIX = "confusion_matrix.png"
CALIBRATION = "calibration.png"
ANSWERED = "answered.png"
CLASS_COUNTS = "class_counts.png"
LABEL_CONFUSION = "label_confusion.png"
PRECISION_RECALL = "precision_recall.png"
FIGURES = (LEARNING_CURVES, CONFUSION_MATRIX, CALIBRATION, ANSWERED, CLASS_COUNTS)
TABLES = ("learning_curves.csv", "confusion_matrix.csv", "calibration.csv", "answered.csv", "per_class.csv")
# With several labels per image:
LABEL_FIGURES = (LEARNING_CURVES, LABEL_CONFUSION, PRECISION_RECALL, CLASS_COUNTS)
LABEL_TABLES = ("learning_curves.csv", "per_label.csv", "precision_recall.csv")


def remove_report(folder: Path) -> None:
    """Remove the files of a report, and the folder if it is empty then."""
    with contextlib.suppress(OSError):
        for name in {REPORT_FILE, SUSPICIOUS_IMAGES, *FIGURES, *TABLES, *LABEL_FIGURES, *LABEL_TABLES}:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


@dataclass(frozen=True)
class Thumbnail:
    """A small version of one image."""

    label: str
    """The true class."""
    predicted: Optional[str]
    """The predicted class; None for an image that was not predicted."""
    confidence: Optional[float]
    """Probability of the predicted class, in [0, 1]; None if `predicted` is None."""
    file_name: str
    """Name in the dataset. It is only shown, never opened."""
    jpeg: bytes
    heat: Optional[bytes] = None
    """A JPEG of the heat map for the predicted class, else for the true one; None if there is none."""


@dataclass(frozen=True)
class LabelMistake:
    """A small version of one image that a label was wrongly found in or missed in."""

    label: str
    true_labels: str
    """All true labels of the image."""
    probability: float
    """Of the label, in [0, 1]."""
    threshold: float
    """Of the label."""
    file_name: str
    """Name in the dataset. It is only shown, never opened."""
    jpeg: bytes
    heat: Optional[bytes] = None
    """A JPEG of the heat map for the label; None if there is none."""


@dataclass(frozen=True)
class AugmentedSample:
    """A training image as the network sees it in some epochs."""

    label: str
    """The true class."""
    file_name: str
    """Name in the dataset. It is only shown, never opened."""
    plain: bytes
    """A JPEG of the image without augmentation."""
    views: tuple[tuple[int, bytes], ...]
    """Epochs, counted from 1, and JPEGs of the image in them."""


@dataclass(frozen=True, eq=False)
class Report:
    """A finished training run."""

    title: str
    facts: list[tuple[str, list[tuple[str, str]]]]
    """Groups of names and values, such as the parameters or the versions of libraries."""
    records: Sequence[EpochRecord]
    """One record per epoch, at least one. Numbers that are not finite leave gaps in the curves."""
    timings: Sequence[EpochTiming]
    """Timings of these epochs, or of some of them."""
    best_epoch: int
    """Epoch of the model that was saved, from 1."""
    stop_reason: str
    """A sentence that says why training ended."""
    classes: tuple[str, ...]
    """Names of the C classes or labels, in the model's order."""
    train_counts: np.ndarray
    """Training images of each class, int of shape (C,)."""
    valid_counts: np.ndarray
    """Validation images of each class, int of shape (C,)."""
    truth: np.ndarray
    """True class of each of the N validation images, int of shape (N,), N > 0. If images may have several labels:
    whether each image has each label, bool of shape (N, C)."""
    probabilities: np.ndarray
    """Probabilities that the saved model predicts for them, float of shape (N, C). Those of classes sum to one."""
    drawn_from: Optional[int] = None
    """Number of all validation images, if the N are a random sample of them."""
    warnings: tuple[str, ...] = ()
    mistakes: tuple[Thumbnail, ...] = ()
    """Thumbnails of wrongly predicted validation images, the most confident first; none in a basic report."""
    samples: tuple[Thumbnail, ...] = ()
    """Thumbnails of a few images per class; none in a basic report."""
    augmented: tuple[AugmentedSample, ...] = ()
    """A few training images in the same epochs; none without augmentation and in a basic report."""
    thresholds: Optional[tuple[float, ...]] = None
    """The lowest probability with which an image gets each label; None for one class per image."""
    wrongly_found: tuple[LabelMistake, ...] = ()
    """Thumbnails of images that a label was wrongly found in, the highest probability first."""
    missed: tuple[LabelMistake, ...] = ()
    """Thumbnails of images that a label was missed in, the lowest probability first."""
    heat_note: str = ""
    """Sentences that say why heat maps are left out, if some are."""
    image_size: Optional[tuple[int, int]] = None
    """(height, width) in pixels of all images as the network sees them, if the page should name it."""
    enlarges_samples: bool = False
    """Whether training resizes images of this size, too, which validation and scoring use as they are."""
    suspicions: Optional[Suspicions] = None
    """Images that a person should look at; None if they were not searched for."""
