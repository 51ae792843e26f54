"""Compares the classes of the two datasets, and warns of unusual classes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from train_pytorch_model.ports.labelled_images import LabelledImages

logger = logging.getLogger(__name__)

# Texts that pandas reads as missing values. Score Image Model reads index_to_label.csv with pandas.
LABELS_READ_AS_MISSING = frozenset(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)


def match_classes(train: LabelledImages, valid: LabelledImages) -> LabelledImages:
    """Return the validation images with the class indices of the training dataset, matched by name.

    Raises:
        InvalidDatasetError: if the two datasets have different categories; the message names them.
    """
    missing = [name for name in train.classes if name not in set(valid.classes)]
    extra = [name for name in valid.classes if name not in set(train.classes)]
    if missing or extra:
        parts = [f"it lacks {name_some(missing)}"] if missing else []
        parts += [f"the training dataset lacks {name_some(extra)}"] if extra else []
        raise InvalidDatasetError(
            valid.where,
            f"categories of validation dataset are different from that of training dataset ({'; '.join(parts)}).",
            "Please make sure training and validation dataset have the same categories.",
        )
    return valid.ordered_as(train.classes)


def warn_of_classes(train: LabelledImages, valid: LabelledImages) -> None:
    """Log warnings about labels that are read as missing values, classes without images, and a single class."""
    read_as_missing = [name for name in train.classes if name in LABELS_READ_AS_MISSING]
    if read_as_missing:
        logger.warning(
            "Score Image Model reads the label %s as a missing value: its scores will not have that name%s. "
            "Rename the class if you need it.",
            name_some(read_as_missing),
            ", and scoring will fail because there are several" if len(read_as_missing) > 1 else "",
        )
    if len(train.classes) == 1:
        logger.warning("There is one class, %r: every image will be scored as this class.", train.classes[0])
    for images in (train, valid):
        counts = np.bincount(images.labels, minlength=len(images.classes))
        empty = [name for name, count in zip(images.classes, counts) if not count]
        if empty:
            logger.warning("%s has no image of %s.", images.where, name_some(empty))
