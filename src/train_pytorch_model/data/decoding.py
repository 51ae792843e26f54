"""Image files to pixels, by Pillow, exactly as the downstream module decodes them: `open(file).convert("RGB")`."""

from __future__ import annotations

import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

from train_pytorch_model.data.threads import in_threads, reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Size = tuple[int, int]
"""(height, width) in pixels."""


# As designer-core sets it when it is imported, so that a comment of some megabytes is accepted here as it is there,
# imported or not. Pillow's limit of all comments of a file holds besides.
PngImagePlugin.MAX_TEXT_CHUNK = 100 * ImageFile.SAFEBLOCK


class UnreadableImageError(Exception):
    """A file that is no whole image; the text says why."""


def check_regular(path: Path) -> None:
    """Make sure that reading a file comes to an end: opening a pipe would wait for ever, and a device never ends.

    Raises:
        UnreadableImageError: when it is no regular file.
        OSError: when it is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnreadableImageError("it is no regular file")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header has been read.

    Raises:
        UnreadableImageError: when the file is no regular one, or a program.
    """
    with reading(path):
        check_regular(path)
        with Image.open(path) as image:
            if image.format == "EPS":  # for which Pillow would start Ghostscript
                raise UnreadableImageError("it is a PostScript program, whatever its name says")
            yield image


def read_size(path: Path) -> Size:
    """The size of an image by its header, (height, width) in pixels.

    Raises:
        UnreadableImageError: when the file is missing or no image.
    """
    try:
        with opened(path) as image:
            return image.height, image.width
    except UnreadableImageError:
        raise
    except MemoryError:
        raise  # says nothing of the image
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        raise UnreadableImageError(_reason(error)) from error


def look_at(files: Sequence[Path]) -> None:
    """Read the headers of images that something else is to open, which would wait for ever where a read never ends.

    Raises:
        HungReadError: when one does. Whatever else is wrong with a file is left to whoever opens it.
    """

    def look(index: int) -> None:
        with suppress(UnreadableImageError):
            read_size(files[index])

    for _ in in_threads(look, len(files)):
        pass


def decode(path: Path) -> np.ndarray:
    """The pixels of an image as RGB, uint8 of shape (height, width, 3).

    Raises:
        UnreadableImageError: when the file is missing, truncated or does not decode.
    """
    try:
        with opened(path) as image:
            # Converting RGB to RGB would only copy it.
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UnreadableImageError:
        raise
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
            f"it is {image.shape[1]}x{image.shape[0]}, though its header said {size[1]}x{size[0]}"
        )
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "the file is missing"
    if type(error).__name__ == "UnidentifiedImageError":
        return "it cannot be identified as an image"
    return str(error) or type(error).__name__
