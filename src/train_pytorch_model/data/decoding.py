"""Image files to pixels, by Pillow, exactly as the downstream module decodes them: `open(file).convert("RGB")`."""

from __future__ import annotations

import os
import stat
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Callable, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

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
        if not stat.S_ISREG(path.stat().st_mode):
            raise UnreadableImageError("it is no regular file")  # opening a pipe would wait for ever
        with Image.open(path) as image:
            return image.height, image.width
    except UnreadableImageError:
        raise
    except MemoryError:
        raise  # says nothing of the image
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise UnreadableImageError(_reason(error)) from error


def decode(path: Path) -> np.ndarray:
    """The pixels of an image as RGB, uint8 of shape (height, width, 3).

    Raises:
        UnreadableImageError: when the file is missing, truncated or does not decode.
    """
    try:
        with Image.open(path) as image:
            # Converting RGB to RGB would only copy it.
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise UnreadableImageError(_reason(error)) from error


def decode_sized(path: Path, size: Size) -> np.ndarray:
    """The pixels of an image whose header said `size`; see `decode`.

    Raises:
        UnreadableImageError: as `decode` does, and when the image is of another size.
    """
    image = decode(path)
    if image.shape[:2] != size:
        raise UnreadableImageError(
            f"it is {image.shape[1]}x{image.shape[0]}, though its header says {size[1]}x{size[0]}"
        )
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if type(error).__name__ == "UnidentifiedImageError":
        return "it cannot be identified as an image"
    return str(error) or type(error).__name__


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[int], _Result], count: int, *, at_once: int = 64) -> Iterator[_Result]:
    """`work(0)`, `work(1)`, … `work(count - 1)`, done side by side, given in order.

    Decoders release the interpreter's lock, so threads use all cores and share one array.

    Args:
        work: what to do with each number.
        count: of numbers.
        at_once: numbers that a thread takes at a time.
    """
    cores = num_cores()
    chunks = (range(start, min(start + at_once, count)) for start in range(0, count, at_once))
    with ThreadPoolExecutor(max_workers=cores) as pool:
        # A bounded number of chunks under way: a million futures at once would be a gigabyte.
        under_way: deque[Future[list[_Result]]] = deque()
        for chunk in chunks:
            under_way.append(pool.submit(lambda numbers: [work(number) for number in numbers], chunk))
            if len(under_way) > 4 * cores:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()


def ahead(work: Callable[[_Item], _Result], items: Iterable[_Item], *, by: int = 2) -> Iterator[_Result]:
    """`work(item)` for each item in order, done in a thread that is up to `by` items ahead of whoever asks."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        under_way: deque[Future[_Result]] = deque()
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > by:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
