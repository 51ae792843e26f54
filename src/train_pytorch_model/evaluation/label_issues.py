"""Labels that look wrong, by confident learning (cleanlab)."""

from __future__ import annotations

import sys
import warnings
from importlib.util import find_spec

import numpy as np

from train_pytorch_model.evaluation.metrics import confusion_matrix

# Of the images of one of two classes that are predicted as one of the two, the fraction that is predicted as the other,
# both ways, at which the two classes look like one. Half means that nothing tells them apart.
_SAME_CLASS = 0.3
# Fewer images of a class do not tell.
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
    num_classes = probabilities.shape[1]
    predicted = probabilities[known].argmax(axis=1)
    confusion = confusion_matrix(labels[known], predicted, num_classes)
    totals = confusion.sum(axis=1)
    found = []
    for first, second in zip(*np.nonzero(np.triu(np.minimum(confusion, confusion.T), 1))):
        if min(totals[first], totals[second]) < _MIN_IMAGES:
            continue
        there, back = (
            confusion[one, other] / (confusion[one, one] + confusion[one, other])
            for one, other in ((first, second), (second, first))
        )
        if min(there, back) >= _SAME_CLASS:
            found.append((int(first), int(second), float(there), float(back)))
    return sorted(found, key=lambda pair: -min(pair[2:]))
