"""Thumbnails: the most confident mistakes, and a few samples of each class."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
from PIL import Image

from train_pytorch_model.report.contents import AugmentedSample, LabelMistake, Thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

HeatOf = Callable[[np.ndarray, int], "bytes | None"]
"""Returns a JPEG of the heat map of an image, uint8 of shape (H, W, 3), for a class; None if there is none."""
MAX_MISTAKES = 24
MAX_SAMPLES = 60
MAX_SAMPLES_PER_CLASS = 3
MAX_AUGMENTED = 4
MAX_PIXELS = 160
_QUALITY = 80


def no_heat(pixels: np.ndarray, label: int) -> None:
    """Return no heat map."""


def choose_mistakes(truth: np.ndarray, probabilities: np.ndarray, limit: int = MAX_MISTAKES) -> np.ndarray:
    """Choose wrongly predicted images, the most confident first.

    Args:
        truth: true classes, int of shape (N,).
        probabilities: float of shape (N, C).
        limit: the largest number of images.

    Returns:
        Their indices, int of shape (M,), M <= limit; ties are sorted by index.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return np.asarray(wrong[order[:limit]])


def choose_samples(
    labels: np.ndarray, num_classes: int, per_class: int = MAX_SAMPLES_PER_CLASS, limit: int = MAX_SAMPLES
) -> np.ndarray:
    """Choose a few images of each class, deterministically.

    Images are spread over their class from its first to its last, because neighbours are often similar. If there are
    more classes than the limit, the classes are spread in the same way.

    Args:
        labels: class of each image, int of shape (N,), or whether each image has each label, bool of shape (N, C).
        num_classes: C.
        per_class: the largest number of images of one class.
        limit: the largest number of images in total.

    Returns:
        Indices, int of shape (M,), M <= limit, in the order of the classes; each image once.
    """
    if labels.ndim == 2:
        images, of_images = np.nonzero(labels)
        chosen_images = images[choose_samples(of_images, num_classes, per_class, limit)].tolist()
        return np.array(list(dict.fromkeys(chosen_images)), dtype=np.int64)
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], np.arange(num_classes + 1))
    present = np.flatnonzero(np.diff(ends))
    if len(present) > limit:
        present = present[_spread(len(present), limit)]
    per_class = min(per_class, limit // max(1, len(present)))
    groups = [order[ends[number] : ends[number + 1]] for number in present]
    chosen = [group[_spread(len(group), min(per_class, len(group)))] for group in groups]
    return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)


def _spread(count: int, taken: int) -> np.ndarray:
    """`taken` distinct numbers from 0 to `count` - 1, evenly spaced."""
    return np.round(np.linspace(0, count - 1, taken)).astype(np.int64)


def make_mistakes(
    truth: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    pixels_of: Callable[[int], np.ndarray],
    name_of: Callable[[int], str],
    heat_of: HeatOf = no_heat,
) -> tuple[Thumbnail, ...]:
    """Make thumbnails of the most confident mistakes.

    Args:
        truth: true classes, int of shape (N,).
        probabilities: float of shape (N, C).
        classes: names of the C classes.
        pixels_of: returns the image at an index, uint8 of shape (H, W, 3).
        name_of: returns the name of its file.
        heat_of: makes the heat map for the predicted class.
    """
    thumbnails = []
    for index in choose_mistakes(truth, probabilities).tolist():
        predicted = int(probabilities[index].argmax())
        confidence = float(probabilities[index, predicted])
        pixels = pixels_of(index)
        pictures = make_jpeg(pixels), heat_of(pixels, predicted)
        thumbnails.append(Thumbnail(classes[truth[index]], classes[predicted], confidence, name_of(index), *pictures))
    return tuple(thumbnails)


def name_labels(labels: Any, classes: Sequence[str]) -> str:
    """Name the class of an image, given as an index, or its labels, given as bool of shape (C,)."""
    if np.ndim(labels) == 0:
        return classes[int(labels)]
    return ", ".join(classes[number] for number in np.flatnonzero(labels).tolist()) or "no label"


def make_label_mistakes(
    truth: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    thresholds: Sequence[float],
    pixels_of: Callable[[int], np.ndarray],
    name_of: Callable[[int], str],
    heat_of: HeatOf = no_heat,
    limit: int = MAX_MISTAKES // 2,
) -> tuple[tuple[LabelMistake, ...], tuple[LabelMistake, ...]]:
    """Make thumbnails of the most confident mistakes both ways.

    Args:
        truth: whether each image has each label, bool of shape (N, C).
        probabilities: float of shape (N, C).
        classes: names of the C labels.
        thresholds: of the C labels.
        pixels_of: returns the image at an index, uint8 of shape (H, W, 3).
        name_of: returns the name of its file.
        heat_of: makes the heat map for the label.
        limit: the largest number of each kind.

    Returns:
        The labels that were wrongly found, the highest probability first, and those that were missed, the lowest
        probability first; ties are sorted by image and label.
    """
    found = probabilities >= np.asarray(thresholds)

    def mistake(image: int, label: int) -> LabelMistake:
        pixels = pixels_of(image)
        return LabelMistake(
            classes[label],
            name_labels(truth[image], classes),
            float(probabilities[image, label]),
            thresholds[label],
            name_of(image),
            make_jpeg(pixels),
            heat_of(pixels, label),
        )

    kinds = []
    for are_wrong, order in ((found & ~truth, -probabilities), (truth & ~found, probabilities)):
        images, labels = np.nonzero(are_wrong)
        first = np.argsort(order[images, labels], kind="stable")[:limit]
        kinds.append(tuple(mistake(*pair) for pair in zip(images[first].tolist(), labels[first].tolist())))
    return kinds[0], kinds[1]


def make_samples(
    labels: np.ndarray,
    classes: Sequence[str],
    pixels_of: Callable[[int], np.ndarray],
    name_of: Callable[[int], str],
    heat_of: HeatOf = no_heat,
) -> tuple[Thumbnail, ...]:
    """Make thumbnails of a few images per class.

    Args:
        labels: class of each image, int of shape (N,), or whether each image has each label, bool of shape (N, C).
        classes: names of the C classes or labels.
        pixels_of: returns the image at an index, uint8 of shape (H, W, 3).
        name_of: returns the name of its file.
        heat_of: makes the heat map for the class, or for the first label.
    """

    def sample(index: int) -> Thumbnail:
        pixels = pixels_of(index)
        shown = np.flatnonzero(labels[index]).tolist()[:1] if labels.ndim == 2 else [int(labels[index])]
        heat = heat_of(pixels, shown[0]) if shown else None
        return Thumbnail(name_labels(labels[index], classes), None, None, name_of(index), make_jpeg(pixels), heat)

    return tuple(sample(index) for index in choose_samples(labels, len(classes)).tolist())


def make_augmented(
    labels: np.ndarray,
    classes: Sequence[str],
    epochs: Sequence[int],
    pixels_of: Callable[[int, int], np.ndarray],
    name_of: Callable[[int], str],
) -> tuple[AugmentedSample, ...]:
    """Make thumbnails of a few images as the network sees them in some epochs.

    Args:
        labels: class of each image, int of shape (N,), or whether each image has each label, bool of shape (N, C).
        classes: names of the C classes or labels.
        epochs: counted from 1.
        pixels_of: returns the image at an index in an epoch, uint8 of shape (H, W, 3); without augmentation in epoch 0.
        name_of: returns the name of its file.
    """
    return tuple(
        AugmentedSample(
            name_labels(labels[index], classes),
            name_of(index),
            make_jpeg(pixels_of(index, 0)),
            tuple((epoch, make_jpeg(pixels_of(index, epoch))) for epoch in epochs),
        )
        for index in choose_samples(labels, len(classes), MAX_AUGMENTED, MAX_AUGMENTED).tolist()
    )


def make_jpeg(pixels: np.ndarray) -> bytes:
    """Encode an image as a JPEG of at most 160 pixels on a side, without metadata.

    Args:
        pixels: uint8 of shape (H, W, 3).
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return written.getvalue()
