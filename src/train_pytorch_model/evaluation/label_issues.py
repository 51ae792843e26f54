"""Labels that look wrong, by confident learning (cleanlab)."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec

import numpy as np

from train_pytorch_model.evaluation.metrics import confusion_matrix

# Of the images of one of two classes that are predicted as one of the two, the fraction that looks like the other, both
# ways, at which the two classes look like one. Half means that nothing tells them apart.
_SAME_CLASS = 0.3
# Fewer such images of a class do not tell.
_MIN_IMAGES = 10


def why_no_label_issues() -> str:
    """Return why labels that look wrong cannot be found, as words that follow "because"; "" if they can."""
    if find_spec("cleanlab") is not None:
        return ""
    if sys.version_info < (3, 10):
        return "cleanlab needs Python 3.10 or later"
    return "cleanlab is not installed (pip install 'train-pytorch-model[label-issues]')"


def find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> tuple[list[tuple[int, int, float]], int]:
    """Find the images that look like another class than the given one.

    Args:
        labels: given classes, int of shape (N,).
        probabilities: by models that were not fitted on these images, float of shape (N, C). The images with NaN are
            left out.

    Returns:
        For each image, its index, the class that it looks like, and the probability that it is not of the given class;
        the highest first. And the number of wrong labels that confident learning estimates.

    Raises:
        ImportError: if cleanlab is not installed.
    """
    from cleanlab.count import num_label_issues  # importing it takes a second
    from cleanlab.rank import get_label_quality_scores

    known = np.flatnonzero(np.isfinite(probabilities).all(axis=1))
    given, predicted = labels[known], probabilities[known].astype(np.float64)
    if len(np.unique(given)) < 2:
        return [], 0
    quality = get_label_quality_scores(given, predicted, method="self_confidence")
    suggested = predicted.argmax(axis=1)
    order = np.argsort(quality, kind="stable")
    order = order[suggested[order] != given[order]]
    found = list(zip(known[order].tolist(), suggested[order].tolist(), (1 - quality[order]).tolist()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they advise cannot be done here
        num_wrong = int(num_label_issues(given, predicted))
    return found, min(len(found), num_wrong)


def classes_alike(labels: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, int, float, float]]:
    """Find pairs of classes that should perhaps be one, because a model cannot tell their images apart.

    Args:
        labels: given classes, int of shape (N,).
        probabilities: as for `find_label_issues`.

    Returns:
        For each pair, the two classes, and the fractions of the images of the first that look like the second, and of
        the second that look like the first; the most alike first.
    """
    known = np.isfinite(probabilities).all(axis=1)
    given, of_known = labels[known], probabilities[known]
    predicted = of_known.argmax(axis=1)
    num_classes = probabilities.shape[1]
    sizes = np.maximum(np.bincount(given, minlength=num_classes), 1)
    confusion = confusion_matrix(given, predicted, num_classes)
    num_images = confusion + np.diag(confusion)[:, None]
    num_alike = np.zeros_like(confusion)
    for one in np.unique(given):
        rows = given == one
        # Of two classes that a model cannot tell apart, it predicts the larger one. Their sizes must not count.
        likelihoods = of_known[rows] / sizes
        is_either = (predicted[rows] == one)[:, None] | (predicted[rows, None] == np.arange(num_classes))
        num_alike[one] = ((likelihoods > likelihoods[:, one, None]) & is_either).sum(axis=0)
    fractions = num_alike / np.maximum(num_images, 1)
    is_alike = (fractions >= _SAME_CLASS) & (num_images >= _MIN_IMAGES)
    found = [
        (int(first), int(second), float(fractions[first, second]), float(fractions[second, first]))
        for first, second in zip(*np.nonzero(np.triu(is_alike & is_alike.T, 1)))
    ]
    return sorted(found, key=lambda pair: -min(pair[2:]))
