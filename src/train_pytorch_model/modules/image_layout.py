"""Finds the label of each image: from a file of annotations, from its folder, or none."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.annotations import read_annotations
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelling:
    """The labels of images."""

    labels: list[Optional[str]]
    """One per image: None for a skipped image, an empty text for an unlabelled one."""
    categories: Optional[tuple[str, ...]]
    """All categories, in order; empty for those that occur in `labels`; None for unlabelled images."""


def find_labels(where: str, names: Sequence[str], texts: Mapping[str, Path]) -> Labelling:
    """Find the labels of images.

    Args:
        where: the dataset, for messages.
        names: relative names of the images, with forward slashes.
        texts: paths of files that may hold annotations, by name; only those beside or above all images are read.

    Raises:
        InvalidDatasetError: if annotations do not match the images, or the folders are ambiguous.
    """
    common = common_folder(names)
    texts = {name: path for name, path in texts.items() if is_above(folder_of(name), common)}
    found = read_annotations(where, texts)
    if found is None:
        return _by_folders(where, names)
    file, annotations = found
    start = len(folder_of(file)) + 1 if folder_of(file) else 0
    try:
        by_name = annotations.match(name[start:] for name in names)
    except ValueError as error:
        raise InvalidDatasetError(where, f"in {file}, {error}") from error
    labels = [by_name.get(name[start:]) for name in names]
    _warn_of_skipped(where, [name for name, label in zip(names, labels) if label is None], f"without a label in {file}")
    return Labelling(labels, annotations.categories)


def folder_of(name: str) -> str:
    """Return the folder of a relative name; it is empty for the top folder."""
    return name.rpartition("/")[0]


def is_above(folder: str, other: str) -> bool:
    """Whether a folder is another folder or contains it. The empty text is the top folder, which contains all."""
    return not folder or folder == other or other.startswith(folder + "/")


def common_folder(names: Sequence[str]) -> str:
    """Return the deepest folder that contains all files."""
    common = folder_of(names[0])
    for name in names:
        while not is_above(common, folder_of(name)):
            common = folder_of(common)
    return common


def _by_folders(where: str, names: Sequence[str]) -> Labelling:
    """Labels by one folder per class; the folders above those have no meaning."""
    folders = [folder_of(name) for name in names]
    roots = Counter(folder_of(folder) for folder in folders if folder)
    if not roots:
        return Labelling([""] * len(names), None)
    root = roots.most_common(1)[0][0]
    apart = [other for other in roots if not is_above(other, root) and not is_above(root, other)]
    if apart:
        raise InvalidDatasetError(
            where,
            f"several folders have class folders: {name_some(sorted([root, *apart]))}",
            "Give one of them.",
        )
    is_in_class = [bool(folder) and folder_of(folder) == root for folder in folders]
    if sum(is_in_class) < len(names) / 2:
        raise InvalidDatasetError(
            where,
            f"{len(names) - sum(is_in_class)} of {len(names)} images are in no class folder of {root or 'the input'!r}",
            "Put each image into the folder of its class, or all images into one folder without labels.",
        )
    _warn_of_skipped(where, [name for name, is_in in zip(names, is_in_class) if not is_in], "outside of class folders")
    labels = [folder.rpartition("/")[2] if is_in else None for folder, is_in in zip(folders, is_in_class)]
    return Labelling(labels, ())


def _warn_of_skipped(where: str, names: list[str], why: str) -> None:
    if names:
        logger.warning("%s: skipped %d images %s: %s.", where, len(names), why, name_some(names))
