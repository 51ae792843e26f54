"""The options of Convert to Image Directory."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Optional

from train_pytorch_model.errors import UserError


@dataclass(frozen=True)
class ConversionOptions:
    """What is converted, and what may be left out."""

    split: Optional[str] = None
    """The only split to convert, such as "train"; None for all."""
    allow_partial: bool = False
    """Whether any number of images, classes and files of labels may be left out."""
    skip_unreadable_images: bool = False
    """Whether any number of images that cannot be read may be left out."""
    follow_links: bool = False
    """Whether to follow links that lead out of the folder of the input."""
    class_level: Optional[int] = None
    """Which folder on the path of an image is its class, 1 for the first and -1 for the last; None to find it."""
    archive_encoding: Optional[str] = None
    """The encoding of names in an archive that are neither marked as Unicode nor UTF-8; None if it is unknown."""

    def __post_init__(self) -> None:
        """Check the encoding.

        Raises:
            UserError: if Python does not know it.
        """
        try:
            codecs.lookup(self.archive_encoding or "utf-8")
        except LookupError as error:
            raise UserError(f"--archive-encoding: {error}. Give one such as cp437, cp932 or cp936.") from error
