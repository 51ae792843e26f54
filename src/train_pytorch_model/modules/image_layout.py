"""Which image has which label: by a file of annotations, by the folder it lies in, or none at all."""

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
    """What each image is labelled."""

    labels: list[Optional[str]]
    """None for an image that is left out; empty where there are no labels at all."""
    categories: Optional[tuple[str, ...]]
    """All that there may be, in order; None where there are no labels; empty where the labels that occur are all."""


def find_labels(where: str, names: Sequence[str], texts: Mapping[str, Path]) -> Labelling:
    """Find the labels of images.

    Args:
        where: the dataset, for messages.
        names: of the images, relative, with forward slashes.
        texts: where files that may hold annotations lie, by name; those beside or above all images count.

    Raises:
        InvalidDatasetError: when annotations do not fit, or folders say several things.
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
    _warn_of_left_out(where, [name for name, label in zip(names, labels) if label is None], "have no label there")
    return Labelling(labels, annotations.categories)


def folder_of(name: str) -> str:
    """The folder of a relative name, empty for the top."""
    return name.rpartition("/")[0]


def is_above(folder: str, other: str) -> bool:
    """Whether a folder is or holds another; the top, which is called by the empty text, holds all."""
    return not folder or folder == other or other.startswith(folder + "/")


def common_folder(names: Sequence[str]) -> str:
    """The deepest folder that holds all files."""
    common = folder_of(names[0])
    for name in names:
        while not is_above(common, folder_of(name)):
            common = folder_of(common)
    return common


def _by_folders(where: str, names: Sequence[str]) -> Labelling:
    """One folder a class: the folders around those are passed through."""
    folders = [folder_of(name) for name in names]
    roots = Counter(folder_of(folder) for folder in folders if folder)
    if not roots:
        return Labelling([""] * len(names), None)
    root = roots.most_common(1)[0][0]
    apart = [other for other in roots if not is_above(other, root) and not is_above(root, other)]
    if apart:
        raise InvalidDatasetError(
            where, f"class folders lie in several folders: {name_some(sorted([root, *apart]))}", "Give one of them."
        )
    is_in_class = [bool(folder) and folder_of(folder) == root for folder in folders]
    if sum(is_in_class) < len(names) / 2:
        raise InvalidDatasetError(
            where,
            f"{len(names) - sum(is_in_class)} of {len(names)} images lie in no class folder of {root or 'the input'!r}",
            "Put every image into the folder of its class, or all of them into one folder without labels.",
        )
    _warn_of_left_out(where, [name for name, is_in in zip(names, is_in_class) if not is_in], "lie in no class folder")
    labels = [folder.rpartition("/")[2] if is_in else None for folder, is_in in zip(folders, is_in_class)]
    return Labelling(labels, ())


def _warn_of_left_out(where: str, names: list[str], why: str) -> None:
    if names:
        logger.warning("%s: %d images %s and are left out: %s.", where, len(names), why, name_some(names))
