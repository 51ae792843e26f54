"""Reads a dataset port: the files, their labels and the classes."""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from train_pytorch_model import designer_core
from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import InvalidDatasetError, NotLabeledDatasetError
from train_pytorch_model.ports.classes import hidden_classes
from train_pytorch_model.ports.dataset_items import check_folder, checked_items, read_raw_items
from train_pytorch_model.ports.file_names import FileNames
from train_pytorch_model.ports.image_list import (
    Columns,
    file_of,
    is_image_directory,
    read_columns,
    read_items,
    read_schema,
)
from train_pytorch_model.ports.item_labels import LabelReader, label_matrix
from train_pytorch_model.text.wording import FirstFew, bytes_in_words, name_some

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

# designer-core keeps the list as dicts, which need ten times the memory of the text.
_MAX_BYTES_FOR_DESIGNER_CORE = 2**26


def count_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the images of each class or label.

    Args:
        labels: int64 of shape (N,), or bool of shape (N, C).
        num_classes: the number of classes C.

    Returns:
        int64 of shape (C,).
    """
    counts: np.ndarray = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=num_classes)
    return counts


@dataclass(frozen=True)
class LabelledImages:
    """A labelled dataset in little memory: a million images take about 40 MB, lists of labels 1 MB more per label."""

    port: str
    """The name of the port in messages."""
    path: Path
    files: FileNames
    """Relative to `path`, in the order of the image list."""
    labels: np.ndarray
    """The index into `classes` of each file: int64 of shape (N,). In a multilabel dataset, whether each file has each
    label: bool of shape (N, C)."""
    classes: tuple[str, ...]
    """The names of the classes or labels, in the order of the category ids."""
    image_column: str
    schema: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    @property
    def where(self) -> str:
        """The port and the path, for messages."""
        return f"{self.port} {self.path}"

    @property
    def task(self) -> str:
        """MULTICLASS if each image has one class, MULTILABEL if it has a list of labels."""
        return MULTILABEL if self.labels.ndim == 2 else MULTICLASS

    def counts(self) -> np.ndarray:
        """Return the number of images of each class or label: int64 of shape (C,)."""
        return count_labels(self.labels, len(self.classes))

    def label_of(self, index: int) -> str | list[str]:
        """Return the label of the image at `index` as the image list has it: a class, or a list of labels."""
        if self.task == MULTILABEL:
            return [self.classes[number] for number in np.flatnonzero(self.labels[index])]
        return self.classes[int(self.labels[index])]

    def path_of(self, index: int) -> Path:
        """Return the full path of the file at `index`."""
        return self.path / self.files[index]

    def part(self, is_in: np.ndarray) -> LabelledImages:
        """Return the images for which `is_in`, bool of shape (N,), is true, with all classes."""
        files = FileNames(self.files[index] for index in np.flatnonzero(is_in).tolist())
        return replace(self, files=files, labels=self.labels[is_in])

    def ordered_as(self, classes: tuple[str, ...]) -> LabelledImages:
        """Return the same images with labels that are indices into `classes`, matched by name."""
        index = {name: number for number, name in enumerate(classes)}
        places = np.array([index[name] for name in self.classes], dtype=np.int64)
        if self.task == MULTILABEL:
            labels = np.zeros((len(self), len(classes)), dtype=bool)
            labels[:, places] = self.labels
            return replace(self, classes=classes, labels=labels)
        return replace(self, classes=classes, labels=places[self.labels])


def read_labelled_images(path: Path, port: str, *, follow_links: bool = False) -> LabelledImages:
    """Read a dataset port: an ImageDirectory, or raw images in one folder per class.

    Args:
        path: the folder.
        port: "Training dataset" or "Validation dataset".
        follow_links: whether to follow links that lead out of a folder of raw images.

    Raises:
        NotLabeledDatasetError: if the images have no labels.
        InvalidDatasetError: if the dataset cannot be used for another reason; the message names the file and the line.
    """
    where = f"{port} {path}"
    try:
        return _read(path, port, where, follow_links=follow_links)
    except OSError as error:
        raise InvalidDatasetError(where, f"it cannot be read: {error}") from error


def _read(path: Path, port: str, where: str, *, follow_links: bool) -> LabelledImages:
    check_folder(path, where)
    if not is_image_directory(path):
        schema, columns, raw_items = read_raw_items(path, where, labelled=True, follow_links=follow_links)
        return _labelled(path, port, raw_items(), columns, schema)
    schema, list_file = read_schema(path, where)
    columns = read_columns(schema, where)
    items = checked_items(read_items(list_file, where), columns, path, where)
    images = _labelled(path, port, items, columns, schema)
    _load_as_designer_core_does(path, where, list_file, schema)
    return images


def _load_as_designer_core_does(path: Path, where: str, list_file: Path, schema: dict[str, Any]) -> None:
    """Load an ImageDirectory with designer-core's helper, and check that the helper reads the same items.

    Its list of dicts, a gigabyte for a million images, is compared with the file line by line and discarded. Very large
    lists are not loaded with the helper, because they could fill the memory.
    """
    num_bytes = list_file.stat().st_size
    if num_bytes > _MAX_BYTES_FOR_DESIGNER_CORE:
        logger.info(
            "%s: the image list of %s is too large to be read with designer-core, too.",
            where,
            bytes_in_words(num_bytes),
        )
        return
    try:
        directory = designer_core.load_image_directory(path)
    except FileNotFoundError:
        return  # the first image is missing; it is reported later with all unreadable images
    except MemoryError:
        raise  # not caused by the directory
    except Exception as error:  # with unusual files, it can raise anything
        raise InvalidDatasetError(where, f"designer-core cannot load it: {error}") from error
    pairs = zip_longest(directory.image_list, read_items(list_file, where))
    same_items = all(item == line for item, line in pairs)
    if not same_items or directory.schema.get("columnAttributes") != schema["columnAttributes"]:
        raise InvalidDatasetError(where, "designer-core reads other items than its files contain")


def _labelled(
    path: Path,
    port: str,
    items: Iterable[dict[str, Any]],
    columns: Columns,
    schema: dict[str, Any],
) -> LabelledImages:
    where = f"{port} {path}"
    reader = LabelReader(columns, where)
    files = FileNames()
    labels = array("q")
    num_labels = array("q")
    unlabelled = FirstFew()
    number = 0
    for number, item in enumerate(items, start=1):
        file = file_of(item, columns) or ""
        found = reader.read(number, item)
        if found is None:
            unlabelled.add(repr(file))
        else:
            files.append(file)
            labels.extend(found)
            num_labels.append(len(found))
    reader.check()
    if not labels:
        raise NotLabeledDatasetError(where, f"None of its {number} images has a label.")
    if unlabelled:
        logger.warning(
            "%s: %d of %d images have no %s and are not used: %s.",
            where,
            len(unlabelled),
            number,
            "list of labels" if columns.multilabel else "label",
            unlabelled.joined(", "),
        )
    hidden = hidden_classes(columns.categories)
    if hidden:
        raise InvalidDatasetError(
            where, f"the category {name_some(hidden)} is a hidden folder that was read as a class"
        )
    indices = np.frombuffer(labels, dtype=np.int64)
    if columns.multilabel:
        counts = np.frombuffer(num_labels, dtype=np.int64)
        logger.info(
            "%s: %d images have several labels, %d one, and %d none.",
            where,
            (counts > 1).sum(),
            (counts == 1).sum(),
            (counts == 0).sum(),
        )
        indices = label_matrix(indices, counts, len(columns.categories))
    return LabelledImages(port, path, files, indices, columns.categories, columns.image, schema)
