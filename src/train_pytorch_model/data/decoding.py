"""Decodes image files with Pillow, and reads what their headers say."""

from __future__ import annotations

import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from train_pytorch_model.data.image_formats import UnreadableImageError, open_image
from train_pytorch_model.data.image_geometry import Geometry, Size, has_wide_values, pixels_of, size_in_header
from train_pytorch_model.data.threads import in_threads, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from PIL import Image

__all__ = [
    "Header",
    "Size",
    "UnreadableImageError",
    "check_regular",
    "decode",
    "opened",
    "read_header",
    "read_headers",
    "read_size",
]


@dataclass(frozen=True)
class Header:
    """What the header of an image says."""

    size: Size
    """(height, width) in pixels."""
    oriented_size: Size
    """(height, width) in the orientation that the EXIF metadata name."""
    has_wide_values: bool
    """Whether its values may need more than 8 bits."""


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


@contextmanager
def _decoding_errors_named() -> Iterator[None]:
    try:
        yield
    except (UnreadableImageError, MemoryError):
        raise  # the second is not caused by the image
    except Exception as error:  # with broken files, Pillow's decoders can raise anything
        raise UnreadableImageError(_reason(error)) from error


def read_header(path: Path) -> Header:
    """Return what the header of an image says.

    Raises:
        UnreadableImageError: if the file is missing or is not an image.
    """
    with _decoding_errors_named(), opened(path) as image:
        size, oriented = (size_in_header(image, orients=orients) for orients in (False, True))
        return Header(size, oriented, has_wide_values(image))


def read_size(path: Path) -> Size:
    """Return the size of an image from its header, (height, width) in pixels.

    Raises:
        UnreadableImageError: if the file is missing or is not an image.
    """
    with _decoding_errors_named(), opened(path) as image:
        return size_in_header(image, orients=False)


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


def decode(path: Path, geometry: Geometry | None = None) -> np.ndarray:
    """Decode an image to RGB pixels, uint8 of shape (height, width, 3).

    Args:
        path: the file.
        geometry: how the image becomes pixels of one size; None to return what Score Image Model sees, the pixels of
            `open(file).convert("RGB")`.

    Raises:
        UnreadableImageError: if the file is missing, truncated or cannot be decoded, or if its image has another size
            than the geometry and must not be resized.
    """
    with _decoding_errors_named(), opened(path) as image:
        pixels = pixels_of(image, geometry)
    if geometry is not None and pixels.shape[:2] != geometry.size:
        (height, width), (found_height, found_width) = geometry.size, pixels.shape[:2]
        raise UnreadableImageError(f"it is {found_width}x{found_height}, but its header said {width}x{height}")
    return pixels


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    return str(error) or type(error).__name__
