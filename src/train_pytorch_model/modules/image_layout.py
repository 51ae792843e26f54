"""Finds the label of each image: from a file of annotations, from its folder, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.annotations import read_annotations
from train_pytorch_model.ports.class_folders import read_class_folders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from train_pytorch_model.modules.conversion_options import ConversionOptions
    from train_pytorch_model.modules.conversion_summary import LeftOut


@dataclass(frozen=True)
class Labelling:
    """The labels of images."""

    labels: list[Optional[str]]
    """One per image: None for a skipped image, an empty text for an unlabelled one."""
    categories: Optional[tuple[str, ...]]
    """All categories, in order; empty for those that occur in `labels`; None for unlabelled images."""
    labels_from: tuple[str, ...] = ()
    """The files that gave the labels; empty if the folders did, or if there are none."""
    class_root: Optional[str] = None
    """The folder of the class folders; None if the folders did not give the labels."""


def find_labels(
    where: str, names: Sequence[str], texts: Mapping[str, Path], options: ConversionOptions, left_out: LeftOut
) -> Labelling:
    """Find the labels of images.

    Args:
        where: the dataset, for messages.
        names: relative names of the images, with forward slashes.
        texts: paths of files that may hold annotations, by name; only those beside or above all images are read.
        options: what may be left out.
        left_out: receives the images without a label.

    Raises:
        InvalidDatasetError: if annotations do not match the images, or the folders are ambiguous.
    """
    if options.class_level is not None:
        left_out.add_files("because --class-level was given", texts)
        return _by_folders(where, names, options, left_out)
    common = common_folder(names)
    texts = {name: path for name, path in texts.items() if is_above(folder_of(name), common)}
    found = read_annotations(where, texts)
    if found is None:
        return _by_folders(where, names, options, left_out)
    file, annotations = found
    start = len(folder_of(file)) + 1 if folder_of(file) else 0
    try:
        by_name = annotations.match(name[start:] for name in names)
    except ValueError as error:
        raise InvalidDatasetError(where, f"in {file}, {error}") from error
    labels = [by_name.get(name[start:]) for name in names]
    left_out.add_images(f"without a label in {file}", (name for name, label in zip(names, labels) if label is None))
    return Labelling(labels, annotations.categories, (file,))


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


def _by_folders(where: str, names: Sequence[str], options: ConversionOptions, left_out: LeftOut) -> Labelling:
    found = read_class_folders(where, names, options.class_level)
    if found is None:
        return Labelling([""] * len(names), None)
    labels = found.labels
    left_out.add_images("outside of class folders", (name for name, label in zip(names, labels) if label is None))
    return Labelling(labels, (), class_root=found.root)
