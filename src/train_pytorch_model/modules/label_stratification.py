"""Chooses a fraction of images with several labels each, so that every label is split by the fraction."""

from __future__ import annotations

import numpy as np

from train_pytorch_model.data.batches import derive_seed


def stratified_choice_of_labels(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Choose images by iterative stratification: each label is split by the fraction, as closely as its images allow.

    The order is that of Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-Label Data" (2011): the label
    with the fewest images that are not assigned yet is next, and all its images are assigned. Their algorithm looks at
    this label only, which leaves frequent labels unbalanced. Here, an image goes to the part that balances all its
    labels best. Every image has one more label, which is next after all others, so that the whole dataset is split by
    the fraction too.

    The last image of a label goes to the part that has none yet, even if the fraction is not exact then. So a label of
    two or more images is in both parts, unless the other labels of that image contradict. A label of a single image
    cannot be split, and is ignored.

    Args:
        labels: whether each of N images has each of C labels: bool of shape (N, C).
        fraction: fraction of the images to choose, in (0, 1).
        seed: seed of the random choice.

    Returns:
        Whether each image is chosen: bool of shape (N,).
    """
    order = np.random.default_rng(derive_seed(seed, "split")).permutation(len(labels))
    has_label = np.column_stack([labels[order][:, labels.sum(axis=0) > 1], np.ones(len(labels), dtype=bool)])
    num_images = has_label.sum(axis=0)
    num_chosen = np.clip(num_images * fraction, 1, num_images - 1)
    num_chosen[-1] = round(len(labels) * fraction)
    rows, columns = np.nonzero(has_label)
    is_chosen = np.empty(len(labels), dtype=bool)
    is_chosen[order] = _choose(
        np.split(columns, np.searchsorted(rows, np.arange(1, len(labels)))),
        np.split(rows[np.argsort(columns, kind="stable")], np.cumsum(num_images)[:-1]),
        num_chosen,
    )
    return is_chosen


def _choose(labels_of: list[np.ndarray], images_of: list[np.ndarray], num_chosen: np.ndarray) -> np.ndarray:
    """Choose images.

    Args:
        labels_of: indices of the labels of each of N images.
        images_of: indices of the images of each of C labels. All images have the last label.
        num_chosen: how many images of each label to choose: float64 of shape (C,).

    Returns:
        Whether each image is chosen: bool of shape (N,).
    """
    remaining = np.array([len(images) for images in images_of])
    fractions = num_chosen / remaining
    wanted = num_chosen.copy()  # how many of the remaining images of each label to choose
    is_present = np.zeros((2, len(images_of)), dtype=bool)  # whether the parts (others, chosen) have each label
    is_chosen = np.zeros(len(labels_of), dtype=bool)
    is_assigned = np.zeros(len(labels_of), dtype=bool)
    while remaining.any():
        label = np.where(remaining > 0, remaining, len(labels_of) + 1).argmin()
        for image in images_of[label][~is_assigned[images_of[label]]]:
            own = labels_of[image]
            # By how much the squared deviation of `wanted` from its fraction of the remaining images is larger if the
            # image is not chosen, relative to the remaining images.
            gain = (2 * (wanted[own] - fractions[own] * (remaining[own] - 1)) - 1) / remaining[own]
            chosen = bool(gain.sum() >= 0)
            if (wanted[-1] if chosen else remaining[-1] - wanted[-1]) <= 0:
                chosen = not chosen
            absent = (~is_present[:, own] & (remaining[own] == 1)).sum(axis=1)
            if absent[0] != absent[1]:
                chosen = bool(absent[1] > absent[0])
            is_assigned[image], is_chosen[image] = True, chosen
            is_present[int(chosen), own] = True
            remaining[own] -= 1
            wanted[own] -= chosen
    return is_chosen
