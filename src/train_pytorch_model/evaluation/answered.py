"""Accuracy against the fraction of images that get a class, if the others are left to a person."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MIN_IMAGES = 20
"""The accuracy of fewer images says nothing about others."""
_MAX_DECIMALS = 7


class AnsweredCurve(NamedTuple):
    """One point for each probability that is the highest of an image, in descending order; each of shape (P,)."""

    probability: np.ndarray
    """Images with at least this probability are answered."""
    num_images: np.ndarray
    """The number of images that are answered, int."""
    fraction: np.ndarray
    """Of all images, in (0, 1]."""
    accuracy: np.ndarray
    """Of the images that are answered, in [0, 1]."""


@dataclass(frozen=True)
class Threshold:
    """The lowest probability of answered images with which these reach an accuracy."""

    wanted: float
    below: float
    """Images whose highest probability is lower are not answered; 0 if all images may be answered."""
    fraction: float
    """Of the images that are answered."""
    accuracy: float
    """Of the images that are answered, at least `wanted`."""


def answered_curve(truth: np.ndarray, probabilities: np.ndarray) -> AnsweredCurve:
    """Compute accuracy against the fraction of images that are answered.

    Args:
        truth: index of the true class, int of shape (N,), N > 0.
        probabilities: float of shape (N, C).
    """
    highest = probabilities.max(1)
    order = np.argsort(-highest, kind="stable")
    num_right = np.cumsum((probabilities.argmax(1) == truth)[order])
    sorted_probabilities = highest[order]
    # Images with the same probability are answered together.
    last = np.flatnonzero(np.append(sorted_probabilities[1:] != sorted_probabilities[:-1], True))
    counts = last + 1
    return AnsweredCurve(sorted_probabilities[last], counts, counts / len(truth), num_right[last] / counts)


def threshold_for(curve: AnsweredCurve, wanted: float) -> Threshold | None:
    """Return the threshold that answers the most images with an accuracy.

    Args:
        curve: from `answered_curve`.
        wanted: the accuracy, in [0, 1].

    Returns:
        The threshold, with as few decimals as tell these images from the others; None if no threshold that answers 20
        images reaches the accuracy.
    """
    reached = np.flatnonzero((curve.accuracy >= wanted) & (curve.num_images >= MIN_IMAGES))
    if not len(reached):
        return None
    chosen = int(reached[-1])
    below = 0.0
    if chosen < len(curve.probability) - 1:
        below = _between(float(curve.probability[chosen + 1]), float(curve.probability[chosen]))
    return Threshold(wanted, below, float(curve.fraction[chosen]), float(curve.accuracy[chosen]))


def _between(low: float, high: float) -> float:
    """Return the shortest decimal number above `low` and at most `high`, or `high` if that takes many digits."""
    for decimals in range(1, _MAX_DECIMALS + 1):
        scale = 10.0**decimals
        number = math.floor(high * scale) / scale
        if low < number <= high:
            return number
    return high
