"""Chooses a fraction of images with several labels each, so that every label is split by the fraction."""

from __future__ import annotations

import numpy as np

from train_pytorch_model.data.batches import derive_seed


def stratified_choice_of_labels(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose images by iterative stratification: each label is split by the fraction, as closely as its images allow.

    The algorithm is that of Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data" (2011), for
    two parts. The label with the fewest images that are not assigned yet is next. Each of its images goes to the part
    that needs the label most, then to the part that needs images most. There are three additions:

    - A part needs at least one image of each label of two or more images.
    - A part that has all its images gets another one only if it has none of the label, so that the whole dataset is
      split by the fraction too.
    - A label of a single image cannot be split, and is ignored.

    Args:
        labels: whether each of N images has each of C labels: bool of shape (N, C).
        fraction: fraction of the images to choose, in (0, 1).
        seed: seed of the random choice.

    Returns:
        Whether each image is chosen: bool of shape (N,).
    """
    order = np.random.default_rng(derive_seed(seed, "split")).permutation(len(labels))
    num_images = labels.sum(axis=0)
    is_split = num_images > 1
    rows, columns = np.nonzero(labels[order][:, is_split])
    num_chosen = round(len(labels) * fraction)
    chosen = np.clip(num_images[is_split] * fraction, 1, num_images[is_split] - 1)
    parts = _assign(
        np.split(columns, np.searchsorted(rows, np.arange(1, len(labels)))),
        np.split(rows[np.argsort(columns, kind="stable")], np.cumsum(num_images[is_split])[:-1]),
        np.array([num_chosen, len(labels) - num_chosen]),
        np.stack([chosen, num_images[is_split] - chosen]),
    )
    is_chosen = np.empty(len(labels), dtype=bool)
    is_chosen[order] = parts == 0
    return is_chosen


def _assign(
    labels_of: list[np.ndarray], images_of: list[np.ndarray], free: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Assign images to two parts.

    Args:
        labels_of: indices of the labels of each of N images.
        images_of: indices of the images of each of C labels.
        free: the number of images that each part still needs: int64 of shape (2,). It is changed.
        wanted: the number of images of each label that each part still needs: float64 of shape (2, C). It is changed.

    Returns:
        The part of each image: int64 of shape (N,).
    """
    parts = np.full(len(labels_of), -1)
    remaining = np.array([len(images) for images in images_of], dtype=np.int64)
    is_present = np.zeros(wanted.shape, dtype=bool)
    while remaining.any():
        label = np.where(remaining > 0, remaining, len(parts) + 1).argmin()
        for image in images_of[label][parts[images_of[label]] < 0]:
            part = _needier(wanted[0, label] - wanted[1, label] or free[0] - free[1])
            if free[part] <= 0 and is_present[part, label]:
                part = 1 - part
            parts[image] = part
            free[part] -= 1
            remaining[labels_of[image]] -= 1
            wanted[part, labels_of[image]] -= 1
            is_present[part, labels_of[image]] = True
    for image in np.flatnonzero(parts < 0):
        parts[image] = _needier(free[0] - free[1])
        free[parts[image]] -= 1
    return parts


def _needier(difference: float) -> int:
    """The part that needs more, by the difference between the needs of both."""
    return 0 if difference >= 0 else 1
