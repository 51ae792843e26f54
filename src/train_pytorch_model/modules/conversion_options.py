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
    follow_links: bool = False
    """Whether to follow links that lead out of the folder of the input."""
    class_level: Optional[int] = None
    """Which folder on the path of an image is its class, 1 for the first and -1 for the last; None to find it."""
