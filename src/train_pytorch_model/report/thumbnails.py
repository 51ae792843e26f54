"""Small pictures of images: the surest mistakes, and a few samples a class."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Callable

import numpy as np
from PIL import Image

from train_pytorch_model.report.contents import Thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MISTAKES = 24
MAX_SAMPLES = 60
MAX_SAMPLES_A_CLASS = 3
MAX_PIXELS = 160
_QUALITY = 80


def choose_mistakes(truth: np.ndarray, probabilities: np.ndarray, limit: int = MAX_MISTAKES) -> np.ndarray:
    """Images predicted wrongly, the most confident first.

    Args:
        truth: true classes, int of shape (N,).
        probabilities: float of shape (N, C).
        limit: of images.

    Returns:
        Their indices, int of shape (M,), M <= limit; of equally confident ones the first goes first.
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != truth)
    order = np.argsort(-probabilities[wrong].max(axis=1), kind="stable")
    return np.asarray(wrong[order[:limit]])


def choose_samples(
    labels: np.ndarray, num_classes: int, per_class: int = MAX_SAMPLES_A_CLASS, limit: int = MAX_SAMPLES
) -> np.ndarray:
    """A few images a class, the same every time.

    Images of a class are taken from its beginning, middle and end, because neighbours are often alike. Where the
    limit allows less than one a class, classes are taken at equal distances.

    Args:
        labels: class of each image, int of shape (N,).
        num_classes: C.
        per_class: the most images of one class.
        limit: the most images in all.

    Returns:
        Indices, int of shape (M,), M <= limit, in the order of the classes.
    """
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
    """`taken` different numbers below `count`, from the first to the last at equal distances."""
    return np.round(np.linspace(0, count - 1, taken)).astype(np.int64)


def make_mistakes(
    truth: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    pixels_of: Callable[[int], np.ndarray],
    name_of: Callable[[int], str],
) -> tuple[Thumbnail, ...]:
    """Thumbnails of the most confident mistakes.

    Args:
        truth: true classes, int of shape (N,).
        probabilities: float of shape (N, C).
        classes: names of the C classes.
        pixels_of: the image at an index, uint8 of shape (H, W, 3).
        name_of: the name of its file.
    """
    thumbnails = []
    for index in choose_mistakes(truth, probabilities).tolist():
        predicted = int(probabilities[index].argmax())
        confidence = float(probabilities[index, predicted])
        jpeg = make_jpeg(pixels_of(index))
        thumbnails.append(Thumbnail(classes[truth[index]], classes[predicted], confidence, name_of(index), jpeg))
    return tuple(thumbnails)


def make_samples(
    labels: np.ndarray,
    classes: Sequence[str],
    pixels_of: Callable[[int], np.ndarray],
    name_of: Callable[[int], str],
) -> tuple[Thumbnail, ...]:
    """Thumbnails of a few images a class.

    Args:
        labels: class of each image, int of shape (N,).
        classes: names of the C classes.
        pixels_of: the image at an index, uint8 of shape (H, W, 3).
        name_of: the name of its file.
    """
    return tuple(
        Thumbnail(classes[labels[index]], None, None, name_of(index), make_jpeg(pixels_of(index)))
        for index in choose_samples(labels, len(classes)).tolist()
    )


def make_jpeg(pixels: np.ndarray) -> bytes:
    """A JPEG of at most 160 pixels on a side, of nothing but the pixels: no metadata.

    Args:
        pixels: uint8 of shape (H, W, 3).
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((MAX_PIXELS, MAX_PIXELS), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=_QUALITY, optimize=True)
    return written.getvalue()
