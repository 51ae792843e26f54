"""Reads and checks the items of a dataset, one dict per image, from an ImageDirectory or raw images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from train_pytorch_model import designer_core
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_list import (
    Columns,
    file_of,
    is_image_directory,
    read_columns,
    read_items,
    read_schema,
)
from train_pytorch_model.ports.named_files import Folder, fault_of_name
from train_pytorch_model.ports.raw_images import has_coco_annotations, read_raw_images
from train_pytorch_model.ports.small_files import META_FILE
from train_pytorch_model.text.wording import FirstFew, name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Files that a copy of the list would overwrite, and the folder itself.
_NO_IMAGES = frozenset(("", ".", META_FILE, "images.lst", "_schema.json", "_samples.json"))


def check_folder(path: Path, where: str) -> None:
    """Check that a dataset is a folder with content.

    Raises:
        InvalidDatasetError: if it is not; `where` names it.
    """
    if not path.is_dir():
        found = "is a file" if path.exists() else "does not exist"
        raise InvalidDatasetError(where, f"the input path {found}", "Give the folder of an ImageDirectory.")
    if not any(path.iterdir()):
        raise InvalidDatasetError(where, "the input folder is empty", "Give the folder of an ImageDirectory.")


def read_listed_items(
    path: Path, port: str, *, labelled: bool
) -> tuple[dict[str, Any], Columns, Callable[[], Iterator[dict[str, Any]]]]:
    """Read a dataset for a module that copies or changes its items.

    Args:
        path: an ImageDirectory, or a folder of raw images.
        port: the name of the port in messages.
        labelled: whether there must be labels.

    Returns:
        The schema, its columns, and a function that returns a new iterator over the checked items at each call.

    Raises:
        NotLabeledDatasetError: if there must be labels and there are none.
        InvalidDatasetError: if the dataset cannot be used for another reason. The iterator can raise it, too.
    """
    where = f"{port} {path}"
    try:
        return _listed_items(path, where, labelled=labelled)
    except OSError as error:
        raise InvalidDatasetError(where, f"it cannot be read: {error}") from error


def _listed_items(
    path: Path, where: str, *, labelled: bool
) -> tuple[dict[str, Any], Columns, Callable[[], Iterator[dict[str, Any]]]]:
    check_folder(path, where)
    if is_image_directory(path):
        schema, list_file = read_schema(path, where)
        columns = read_columns(schema, where, labelled=labelled)
        return schema, columns, lambda: checked_items(read_items(list_file, where), columns, path, where)
    return read_raw_items(path, where, labelled=labelled)


def read_raw_items(
    path: Path, where: str, *, labelled: bool, follow_links: bool = False
) -> tuple[dict[str, Any], Columns, Callable[[], Iterator[dict[str, Any]]]]:
    """Read a folder of raw images.

    Args:
        path: a folder with one folder per class, a folder of images without labels, or one with COCO annotations.
        where: the port and the path in messages.
        labelled: whether there must be labels.
        follow_links: whether to follow links that lead out of the folder.

    Returns:
        As `read_listed_items`.

    Raises:
        NotLabeledDatasetError: if there must be labels and there are none.
        InvalidDatasetError: if the dataset cannot be used for another reason. The iterator can raise it, too.
    """
    if has_coco_annotations(path, where):
        directory = designer_core.load_image_directory(path)
        columns = read_columns(directory.schema, where, labelled=labelled)
        return directory.schema, columns, lambda: checked_items(directory.image_list, columns, path, where)
    images = read_raw_images(path, where, labelled=labelled, follow_links=follow_links)
    return images.schema, read_columns(images.schema, where, labelled=labelled), images.items


def checked_items(
    items: Iterable[dict[str, Any]], columns: Columns, path: Path, where: str
) -> Iterator[dict[str, Any]]:
    """Iterate over the items, and check that each names an image inside the directory, and not only an address.

    Args:
        items: the items of an image list.
        columns: the columns of the schema.
        path: the directory.
        where: the port and the path in messages.

    Raises:
        InvalidDatasetError: at the end, if an item was wrong; the message names the first lines.
    """
    faults = FirstFew()
    folder = Folder(path)
    for number, item in enumerate(items, start=1):
        info = item.get(columns.image_ref)
        info = info if isinstance(info, dict) else {}
        names = [str(info[key]) for key in ("file_name", "base_file_name") if isinstance(info.get(key), str)]
        if not all(names) or file_of(item, columns) is None:
            faults.add(f"line {number} names no file under {columns.image_ref!r}")
            continue
        if any(name.rpartition("/")[2] in _NO_IMAGES for name in names):
            faults.add(f"line {number} names {name_some(names)}, which is not an image")
            continue
        spelled = names[-1] if fault_of_name(names[-1]) else folder.spelled(names[-1])
        if spelled != names[-1]:
            names = [names[0], spelled]
            item = {**item, columns.image_ref: {**info, "base_file_name": spelled}}
        # Only the last name is read; the first may lead through a link that a copy will not have.
        if fault := fault_of_name(names[0]) or folder.fault_of(names[-1]):
            faults.add(f"line {number} names {name_some(names)}, which {fault}")
        elif info.get("coco_url") and not os.path.exists(os.path.join(path, names[-1])):
            faults.add(f"line {number} gives an address instead of a file; images are not fetched")
        else:
            yield item
    if faults:
        raise InvalidDatasetError(where, f"in the image list, {faults.joined()}")
