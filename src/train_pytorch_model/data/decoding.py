"""Image files to pixels, by Pillow, exactly as the downstream module decodes them: `open(file).convert("RGB")`."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Callable

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Size = tuple[int, int]
"""(height, width) in pixels."""


class UnreadableImageError(Exception):
    """A file that is no whole image; the text says why."""


def read_size(path: Path) -> Size:
    """The size of an image by its header, (height, width) in pixels.

    Raises:
        UnreadableImageError: when the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise UnreadableImageError(_reason(error)) from error


def decode(path: Path) -> np.ndarray:
    """The pixels of an image as RGB, uint8 of shape (height, width, 3).

    Raises:
        UnreadableImageError: when the file is missing, truncated or does not decode.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # as above
        raise UnreadableImageError(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if type(error).__name__ == "UnidentifiedImageError":
        return "it cannot be identified as an image"
    return str(error) or type(error).__name__


def common_size(sizes: Sequence[Size | None]) -> Size | None:
    """The size that most images have, None when there is none."""
    counts = Counter(size for size in sizes if size is not None)
    return counts.most_common(1)[0][0] if counts else None


def in_threads(work: Callable[[int], object], count: int) -> Iterator[object]:
    """`work(0)`, `work(1)`, … `work(count - 1)`, done side by side, given in order.

    Decoders release the interpreter's lock, so threads use all cores and share one array.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(max_workers=cores) as pool:
        yield from pool.map(work, range(count))
