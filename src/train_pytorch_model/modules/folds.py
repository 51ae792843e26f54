"""Assigns images to the folds of a cross-validation: stratified by class or label, without splitting a group."""

from __future__ import annotations

import logging

import numpy as np
from sklearn.model_selection import StratifiedKFold

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.label_stratification import stratified_choice_of_labels
from train_pytorch_model.text.wording import FirstFew, name_some

logger = logging.getLogger(__name__)


def assign_folds(
    labels: np.ndarray, groups: np.ndarray | None, classes: tuple[str, ...], num_folds: int, seed: int, where: str
) -> np.ndarray:
    """Assign each image to one fold, so that the folds have similar fractions of each class or label.

    Args:
        labels: the index of the class of each of N images, int64 of shape (N,); or whether each image has each label,
            bool of shape (N, C).
        groups: the index of the group of each image, int64 of shape (N,). The images of a group get the same fold. None
            if each image is on its own.
        classes: the names of the C classes or labels.
        num_folds: at least 2.
        seed: the same seed gives the same folds.
        where: the dataset in messages.

    Returns:
        The number of the fold of each image, from 0: int64 of shape (N,).

    Raises:
        InvalidDatasetError: if there are fewer images, fewer images of a class, or fewer groups than folds.
    """
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(classes))
    _check_counts(labels, groups, counts, classes, num_folds, where)
    if groups is not None:
        return _folds_of_groups(labels, groups, len(classes), num_folds, seed)
    if labels.ndim == 2:
        return _folds_of_labels(labels, num_folds, seed)
    folds = np.empty(len(labels), dtype=np.int64)
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=derive_seed(seed, "folds") % 2**32)
    for fold, (_, members) in enumerate(splitter.split(labels, labels)):
        folds[members] = fold
    return folds


def _check_counts(
    labels: np.ndarray,
    groups: np.ndarray | None,
    counts: np.ndarray,
    classes: tuple[str, ...],
    num_folds: int,
    where: str,
) -> None:
    if len(labels) < num_folds:
        raise InvalidDatasetError(
            where, f"it has {len(labels)} labelled images, but there are {num_folds} folds", "Choose fewer --folds."
        )
    few = [(name, int(count)) for name, count in zip(classes, counts) if 0 < count < num_folds]
    if few and labels.ndim == 1:
        raise InvalidDatasetError(
            where,
            f"there are {num_folds} folds, but fewer images of "
            + FirstFew(f"{name!r} ({count})" for name, count in few).joined(", "),
            "Every fold needs an image of each class. Choose fewer --folds, or add images of these classes.",
        )
    if few:
        logger.warning(
            "%s: not all of the %d folds have an image with the label %s, because there are fewer such images.",
            where,
            num_folds,
            name_some([name for name, _ in few]),
        )
    if groups is None:
        return
    num_groups = int(groups.max()) + 1
    if num_groups < num_folds:
        raise InvalidDatasetError(
            where,
            f"its images are of {num_groups} groups, but there are {num_folds} folds",
            "A group is in one fold. Choose fewer --folds, or another --group-column.",
        )
    is_in = counts_of_groups(labels, groups, len(classes))[:, :-1] > 0
    few_groups = [name for name, count in zip(classes, is_in.sum(axis=0)) if 0 < count < num_folds]
    if few_groups:
        logger.warning(
            "%s: not all of the %d folds have an image of %s, because these images are of fewer groups.",
            where,
            num_folds,
            name_some(few_groups),
        )


def counts_of_groups(labels: np.ndarray, groups: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the images of each class or label, and all images, in each group: int64 of shape (groups, classes + 1)."""
    counts = np.zeros((int(groups.max()) + 1, num_classes + 1), dtype=np.int64)
    if labels.ndim == 2:
        images, columns = np.nonzero(labels)
        np.add.at(counts, (groups[images], columns), 1)
    else:
        np.add.at(counts, (groups, labels), 1)
    counts[:, -1] = np.bincount(groups)
    return counts


def _folds_of_groups(labels: np.ndarray, groups: np.ndarray, num_classes: int, num_folds: int, seed: int) -> np.ndarray:
    """Assign groups to folds, as scikit-learn's StratifiedGroupKFold does for one class per image.

    The groups whose counts of the classes differ most come first. Each goes to the fold with which the fractions of
    each class vary least between the folds; of several, to the one with the fewest images. Several labels per image
    are counted as the classes are.
    """
    counts = counts_of_groups(labels, groups, num_classes)
    of_classes, sizes = counts[:, :-1], counts[:, -1]
    totals = np.maximum(of_classes.sum(axis=0), 1)
    order = np.random.default_rng(derive_seed(seed, "folds")).permutation(len(counts))
    order = order[np.argsort(-of_classes[order].std(axis=1), kind="stable")]
    in_folds, images = np.zeros((num_folds, num_classes)), np.zeros(num_folds)
    fold_of = np.empty(len(counts), dtype=np.int64)
    for group in order:
        best = (np.inf, np.inf)
        for fold in range(num_folds):
            in_folds[fold] += of_classes[group]
            deviation = float((in_folds / totals).std(axis=0).mean())
            in_folds[fold] -= of_classes[group]
            if deviation < best[0] or (np.isclose(deviation, best[0]) and images[fold] < best[1]):
                best, fold_of[group] = (deviation, images[fold]), fold
        in_folds[fold_of[group]] += of_classes[group]
        images[fold_of[group]] += sizes[group]
    folds: np.ndarray = fold_of[groups]
    return folds


def _folds_of_labels(labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Choose the images of one fold after the other by iterative stratification."""
    folds = np.full(len(labels), num_folds - 1, dtype=np.int64)
    rest = np.arange(len(labels))
    for fold in range(num_folds - 1):
        fraction = 1 / (num_folds - fold)
        is_chosen = stratified_choice_of_labels(labels[rest], fraction, derive_seed(seed, "folds", fold))
        folds[rest[is_chosen]] = fold
        rest = rest[~is_chosen]
    return folds
