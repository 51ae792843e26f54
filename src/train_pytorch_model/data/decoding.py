"""Decodes image files with Pillow exactly as Score Image Model does: `open(file).convert("RGB")`."""

from __future__ import annotations

import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np

from train_pytorch_model.data.image_formats import UnreadableImageError, open_image
from train_pytorch_model.data.threads import in_threads, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from PIL import Image

__all__ = [
    "Size",
    "UnreadableImageError",
    "check_regular",
    "decode",
    "decode_sized",
    "opened",
    "read_headers",
    "read_size",
]

Size = tuple[int, int]
"""(height, width) in pixels."""


def check_regular(path: Path) -> None:
    """Check that a file is a regular file. Opening a pipe could block, and reading a device might never end.

    Raises:
        UnreadableImageError: if it is not a regular file.
        OSError: if it does not exist.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableImageError("it is not a regular file")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image and read its header.

    Raises:
        UnreadableImageError: if the file is not a regular file, or not an image of a format that is read.
    """
    with reading(path):
        check_regular(path)
        with open_image(path) as image:
            yield image


def read_size(path: Path) -> Size:
    """Return the size of an image from its header, (height, width) in pixels.

    Raises:
        UnreadableImageError: if the file is missing or is not an image.
    """
    try:
        with opened(path) as image:
            return image.height, image.width
    except UnreadableImageError:
        raise
    except MemoryError:
        raise  # not caused by the image
    except Exception as error:  # with broken files, Pillow's decoders can raise anything
        raise UnreadableImageError(_reason(error)) from error


def read_headers(files: Sequence[Path]) -> None:
    """Read the headers of images before other code opens them, because that code would wait for ever for a hung read.

    Other errors are ignored; the other code reports them.

    Raises:
        HungReadError: if a read does not return.
    """

    def read(index: int) -> None:
        with suppress(UnreadableImageError):
            read_size(files[index])

    for _ in in_threads(read, len(files)):
        pass


def decode(path: Path) -> np.ndarray:
    """Decode an image to RGB pixels, uint8 of shape (height, width, 3).

    Raises:
        UnreadableImageError: if the file is missing, truncated or cannot be decoded.
    """
    try:
        with opened(path) as image:
            # Converting RGB to RGB would only copy the image.
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UnreadableImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise UnreadableImageError(_reason(error)) from error


def decode_sized(path: Path, size: Size) -> np.ndarray:
    """Decode an image that must have the given size, see `decode`.

    Raises:
        UnreadableImageError: as in `decode`, and if the image has another size.
    """
    image = decode(path)
    if image.shape[:2] != size:
        raise UnreadableImageError(f"it is {image.shape[1]}x{image.shape[0]}, but its header said {size[1]}x{size[0]}")
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    return str(error) or type(error).__name__
