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
from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import FirstFew, bytes_in_words, name_some

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

# designer-core keeps the list as dicts, which need ten times the memory of the text.
_MAX_BYTES_FOR_DESIGNER_CORE = 2**26


@dataclass(frozen=True)
class LabelledImages:
    """A labelled dataset in little memory: a million images take about 40 MB."""

    port: str
    """The name of the port in messages."""
    path: Path
    files: FileNames
    """Relative to `path`, in the order of the image list."""
    labels: np.ndarray
    """The index into `classes` of each file: int64 of shape (N,)."""
    classes: tuple[str, ...]
    """The names of the classes, in the order of the category ids."""
    image_column: str
    schema: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    @property
    def where(self) -> str:
        """The port and the path, for messages."""
        return f"{self.port} {self.path}"

    def path_of(self, index: int) -> Path:
        """Return the full path of the file at `index`."""
        return self.path / self.files[index]

    def ordered_as(self, classes: tuple[str, ...]) -> LabelledImages:
        """Return the same images with labels that are indices into `classes`, matched by name."""
        index = {name: number for number, name in enumerate(classes)}
        places = np.array([index[name] for name in self.classes], dtype=np.int64)
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
    index = {nfc(name): number for number, name in enumerate(columns.categories)}
    files = FileNames()
    labels = array("q")
    unlabelled = FirstFew()
    unknown = FirstFew()
    number = 0
    for number, item in enumerate(items, start=1):
        file = file_of(item, columns) or ""
        label = item.get(columns.label)
        # The empty text is a label if a category has this name; otherwise, it means no label.
        if label is None or (label in ("", [], {}) and label != "") or (label == "" and "" not in index):
            unlabelled.add(repr(file))
        elif not isinstance(label, str) or nfc(label) not in index:
            unknown.add(f"item {number} ({file}) is labelled {label!r}")
        else:
            files.append(file)
            labels.append(index[nfc(label)])
    if unknown:
        raise InvalidDatasetError(
            where,
            f"labels that are not among the categories {name_some(columns.categories)}: {unknown.joined()}",
            "Labels must be spelled like the categories of the schema.",
        )
    if not files:
        raise NotLabeledDatasetError(where, f"None of its {number} images has a label.")
    if unlabelled:
        logger.warning(
            "%s: %d of %d images have no label and are not used: %s.",
            where,
            len(unlabelled),
            number,
            unlabelled.joined(", "),
        )
    hidden = hidden_classes(columns.categories)
    if hidden:
        raise InvalidDatasetError(
            where, f"the category {name_some(hidden)} is a hidden folder that was read as a class"
        )
    return LabelledImages(
        port, path, files, np.frombuffer(labels, dtype=np.int64), columns.categories, columns.image, schema
    )
