"""Images that get the label of unknown ones, because their highest probability is too low."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from train_pytorch_model.errors import NotInRangeValueError, UserError
from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.data.model_task import Task

logger = logging.getLogger(__name__)

DEFAULT_LABEL = "Unknown"


@dataclass(frozen=True)
class UnknownImages:
    """Which images are unknown, and what they are called."""

    below: float
    """Images whose highest probability is lower than this are unknown; in [0, 1]."""
    label: str

    def relabelled(self, labels: Sequence[str | None], probabilities: np.ndarray) -> list[str | None]:
        """Return the labels with that of unknown images where it belongs, and log how many these are.

        Args:
            labels: of N images; None for images that could not be scored.
            probabilities: float of shape (N, C); NaN for images that could not be scored.
        """
        # Comparisons with NaN are false.
        is_unknown = probabilities.max(axis=1) < self.below
        logger.info(
            "%d of %d images have the label %s, because their highest probability is below %g.",
            is_unknown.sum(),
            (~np.isnan(probabilities[:, 0])).sum(),
            shown(self.label),
            self.below,
        )
        return [self.label if unknown else label for label, unknown in zip(labels, is_unknown.tolist())]


def unknown_images(below: float | None, label: str, task: Task, classes: Sequence[str]) -> UnknownImages | None:
    """Check the options of unknown images.

    Args:
        below: the lowest probability of a known image; None if all images are known.
        label: of unknown images.
        task: of the model.
        classes: its labels.

    Returns:
        Which images are unknown; None if all are known.

    Raises:
        NotInRangeValueError: if `below` is not in [0, 1].
        UserError: if a value is of the wrong kind, the label cannot be used, or images may have several labels.
    """
    if below is None:
        return None
    if isinstance(below, bool) or not isinstance(below, Real):
        raise UserError(f"unknown_below: expected a number or None, but got {below!r}.")
    if not 0 <= below <= 1:
        raise NotInRangeValueError("Unknown below", 0, 1)
    if task.is_multilabel:
        raise UserError(
            "--unknown-below is for models of one class per image. This model gives an image any number of labels, "
            "and none if no probability reaches its threshold. Leave --unknown-below out."
        )
    label = label.strip()
    if not label or not label.isprintable():
        raise UserError(f"--unknown-label {shown(label)} cannot be written. Choose a label of printable characters.")
    if nfc(label) in map(nfc, classes):
        raise UserError(
            f"--unknown-label {shown(label)} is a class of the model, so unknown images could not be told from it. "
            "Choose another label."
        )
    return UnknownImages(below, label)
