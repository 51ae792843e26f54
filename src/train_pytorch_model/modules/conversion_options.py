"""The options of Convert to Image Directory."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Optional

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import UserError
from train_pytorch_model.modules.label_lists import SEPARATOR_WORDS

AUTO = "auto"
"""The task is told from the labels."""
TASKS = (AUTO, MULTICLASS, MULTILABEL)


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

    task: str = AUTO
    """MULTICLASS if an image has one label, MULTILABEL if it may have several, AUTO to find it."""
    label_separator: Optional[str] = None
    """What separates the labels of an image in a text, or a word for it such as "blank"; None to find it."""

    @property
    def separator(self) -> str | None:
        """What separates the labels of an image."""
        return None if self.label_separator is None else SEPARATOR_WORDS.get(self.label_separator, self.label_separator)

    @property
    def reading(self) -> str:
        """The task by which tables are read: labels with a separator are several."""
        return self.task if self.label_separator is None else MULTILABEL

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UserError: if Python does not know the encoding, or there is no such task or separator.
        """
        if self.task not in TASKS:
            raise UserError(f"--task {self.task}: expected one of {', '.join(TASKS)}.")
        if self.label_separator == "":
            raise UserError("--label-separator is empty. Give a text, or a word such as blank or tab.")
        if self.label_separator is not None and self.task == MULTICLASS:
            raise UserError(f"--label-separator is for images of several labels, but --task {MULTICLASS} was given.")
        try:
            codecs.lookup(self.archive_encoding or "utf-8")
        except LookupError as error:
            raise UserError(f"--archive-encoding: {error}. Give one such as cp437, cp932 or cp936.") from error
