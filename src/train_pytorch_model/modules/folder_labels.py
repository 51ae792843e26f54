"""Reads the classes of images from their folders, split by split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.class_folders import read_class_folders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.modules.splits import Splits


@dataclass(frozen=True)
class FolderLabels:
    """The classes of images by their folders."""

    labels: dict[int, Optional[str]] = field(default_factory=dict)
    """The class of each image in a split that has class folders; None outside of them."""
    flat_splits: frozenset[str] = frozenset()
    """The folders of splits without class folders."""
    root: Optional[str] = None
    """The folder of the class folders, relative to the input; None if there are splits, each with one of its own."""
    error: Optional[InvalidDatasetError] = None
    """Why the folders cannot be read."""

    @property
    def is_labelled(self) -> bool:
        """Whether there are class folders."""
        return bool(self.labels)

    @property
    def classes(self) -> frozenset[str]:
        """The names of the classes."""
        return frozenset(label for label in self.labels.values() if label is not None)


def read_folder_labels(
    where: str, names: Sequence[str], splits: Splits, numbers: Sequence[int], level: int | None
) -> FolderLabels:
    """Read the classes of images from their folders. Errors are kept: files of labels may make them irrelevant.

    Args:
        where: the dataset, for messages.
        names: the names of all images.
        splits: the folders of the splits of all images.
        numbers: the images to read.
        level: which folder on the path of an image is its class; None to find it, apart from folders of splits.
    """
    if level is None and splits.paths:
        names = [f"{splits.wrapping}{name}" for name in splits.names]
    deep = {splits.folders[number] for number in numbers if "/" in splits.names[number] or level is not None}
    flat = frozenset(folder for number in numbers if (folder := splits.folders[number]) and folder not in deep)
    labelled = [number for number in numbers if splits.folders[number] not in flat]
    if not labelled:
        return FolderLabels(flat_splits=flat)
    try:
        found = read_class_folders(where, [names[number] for number in labelled], level)
    except InvalidDatasetError as error:
        return FolderLabels(flat_splits=flat, error=error)
    if found is None:
        return FolderLabels(flat_splits=flat)
    return FolderLabels(dict(zip(labelled, found.labels)), flat, None if splits.paths else found.root)
