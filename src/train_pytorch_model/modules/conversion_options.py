"""The options of Convert to Image Directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class ConversionOptions:
    """What is converted, and what may be left out."""

    split: Optional[str] = None
    """The only split to convert, such as "train"; None for all."""
    allow_partial: bool = False
    """Whether any number of images, classes and files of labels may be left out."""
    skip_unreadable_images: bool = False
    """Whether any number of images that cannot be read may be left out."""
