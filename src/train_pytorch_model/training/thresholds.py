"""The threshold of each label: from which probability on an image is said to have it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DEFAULT_THRESHOLD = 0.5
# With fewer images that have a label, or that do not, the best threshold is mostly chance.
_FEWEST_IMAGES = 10


class Ranked(NamedTuple):
    """The images of a dataset by falling probability of one label. Images with the same probability are one entry."""

    probabilities: np.ndarray
    """float64 of shape (K,), all different."""
    num_found: np.ndarray
    """The number of images with at least this probability, int64 of shape (K,)."""
    num_right: np.ndarray
    """How many of these have the label, int64 of shape (K,)."""


def ranked(probabilities: np.ndarray, truth: np.ndarray) -> Ranked:
    """Count the images by falling probability.

    Args:
        probabilities: of the label, float of shape (N,), N > 0.
        truth: whether each image has the label, bool of shape (N,).
    """
    order = np.argsort(-probabilities)
    falling = probabilities[order].astype(np.float64)
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    return Ranked(falling[last], last + 1, truth[order].cumsum()[last])


def best_threshold(images: Ranked) -> float:
    """Return the threshold of a label with the highest F1 score.

    An image has the label if its probability is at least the threshold. All thresholds between two neighbouring
    probabilities find the same images: of these it is 0.5, if 0.5 is among them, and else the middle. Of several with
    the highest score it is the one nearest to 0.5, of two as near the higher one. It is 0.5 for a label that fewer than
    10 images have, or that fewer than 10 do not have.

    Args:
        images: the validation images, see `ranked`.
    """
    num_positive, num_images = images.num_right[-1], images.num_found[-1]
    if min(num_positive, num_images - num_positive) < _FEWEST_IMAGES:
        return DEFAULT_THRESHOLD
    scores = 2 * images.num_right / (images.num_found + num_positive)
    lower = np.append(images.probabilities[1:], 0.0)
    has_default = (lower < DEFAULT_THRESHOLD) & (images.probabilities >= DEFAULT_THRESHOLD)
    thresholds = np.where(has_default, DEFAULT_THRESHOLD, (lower + images.probabilities) / 2)
    best = thresholds[scores == scores.max()]  # from the highest, so that the first of two as near is the higher one
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])
