"""Reads the files of an ImageDirectory strictly, before designer-core's helper reads them.

If a file is damaged (no `_meta.yaml`, a blank line in `images.lst`), the helper reads the folder as something else,
usually as a folder with one class named "image". Here, damage is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.errors import InvalidDatasetError, NotLabeledDatasetError
from train_pytorch_model.ports.classes import one_class_each
from train_pytorch_model.ports.image_directory import CLASSIFICATION, MULTILABEL_CLASSIFICATION
from train_pytorch_model.ports.small_files import META_FILE, find_meta_file, read_meta, read_text
from train_pytorch_model.text.wording import join_some, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKERS = (META_FILE, "images.lst", "_schema.json")
_IMAGE_MIME_TYPE = "image/png"  # designer-core accepts no other type, whatever the files are
# Much larger than any real file.
_MAX_SCHEMA_BYTES = 2**28
_MAX_LINE_CHARACTERS = 2**24
_REBUILD = "Create the directory again from the original images with Convert to Image Directory."


@dataclass(frozen=True)
class Columns:
    """The columns of `_schema.json` that are used."""

    image: str
    """The name of the image column."""
    image_ref: str
    """The key of an item under which the name of its file is."""
    label: str
    """The name of the label column."""
    categories: tuple[str, ...]
    """The labels in the order of their ids. Names that are the same text in two Unicode forms are one label."""
    multilabel: bool = False
    """Whether the label column has a list of labels per image, instead of one class."""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def is_image_directory(path: Path) -> bool:
    """Whether a folder is an ImageDirectory, complete or damaged."""
    return any((path / marker).exists() for marker in _MARKERS)


def read_schema(path: Path, where: str) -> tuple[dict[str, Any], Path]:
    """Read the schema of an ImageDirectory, strictly.

    Args:
        path: the directory.
        where: the port and the path in messages.

    Returns:
        The schema, and the path of the image list.

    Raises:
        InvalidDatasetError: if a file is damaged; the message names it.
    """
    try:
        meta = read_meta(path, "ImageDirectory")
        return _read_schema(find_meta_file(path, meta, "schema")), find_meta_file(path, meta, "image_list")
    except ValueError as error:
        raise InvalidDatasetError(where, str(error), _REBUILD) from error


def read_items(file: Path, where: str) -> Iterator[dict[str, Any]]:
    """Iterate over the items of an image list, strictly: one JSON object per line. The list may be larger than memory.

    Args:
        file: the image list.
        where: the port and the path in messages.

    Raises:
        InvalidDatasetError: if the list is damaged; the message names the file and the line.
    """
    try:
        yield from _read_lines(file)
    except ValueError as error:
        raise InvalidDatasetError(where, str(error), _REBUILD) from error


def _read_schema(file: Path) -> dict[str, Any]:
    try:
        schema = json.loads(read_text(file, _MAX_SCHEMA_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is not JSON: {error}") from error
    columns = schema.get("columnAttributes") if isinstance(schema, dict) else None
    if not isinstance(columns, list) or not all(isinstance(column, dict) for column in columns):
        raise ValueError(f"{file.name} has no list 'columnAttributes'")
    names: set[str] = set()
    for column in columns:
        _check_column(file.name, column)
        if column["name"] in names:
            raise ValueError(f"{file.name} has several columns named {shown(column['name'])}")
        names.add(column["name"])
    return dict(schema)


def _check_column(file_name: str, column: dict[str, Any]) -> None:
    properties = column.get("properties") or {}
    are_right = {
        "name": isinstance(column.get("name"), str) and _is_text(column["name"]),
        "properties": isinstance(properties, dict),
        "elementType": isinstance(column.get("elementType") or {}, dict),
        "image_ref": not isinstance(properties, dict) or isinstance(properties.get("image_ref", ""), str),
    }
    for key, is_right in are_right.items():
        if not is_right:
            value = properties[key] if key == "image_ref" else column.get(key)
            raise ValueError(f"{file_name} has a column whose {key!r} is {shown(value)}")


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            while line := lines.readline(_MAX_LINE_CHARACTERS + 1):
                number += 1
                if len(line) > _MAX_LINE_CHARACTERS:
                    raise ValueError(f"{file.name} line {number} has more than {_MAX_LINE_CHARACTERS} characters")
                if not line.strip():
                    raise ValueError(f"{file.name} line {number} is blank; remove it")
                try:
                    item = _JSON.decode(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{file.name} line {number} is not JSON: {error}") from error
                if not isinstance(item, dict):
                    raise ValueError(f"{file.name} line {number} is not a JSON object")
                yield item
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    if not number:
        raise ValueError(f"{file.name} lists no image")


def read_columns(schema: dict[str, Any], where: str, *, labelled: bool = True) -> Columns:
    """Find the image column, the label column and the categories in a schema.

    Args:
        schema: the content of `_schema.json`.
        where: the port and the path in messages.
        labelled: whether there must be labels; otherwise, only the image column is searched.

    Raises:
        NotLabeledDatasetError: if there is no annotation column.
        InvalidDatasetError: if there is no image column, the annotations are not classes, or the categories are
            damaged.
    """
    image = annotation = None
    for column in schema["columnAttributes"]:
        properties = column.get("properties") or {}
        type_name = (column.get("elementType") or {}).get("typeName")
        if image is None and type_name == "bytes" and properties.get("mime_type") == _IMAGE_MIME_TYPE:
            image = column
        if annotation is None and "annotation_type" in properties:
            annotation = column
    if image is None:
        raise InvalidDatasetError(
            where, f"the schema has no image column (elementType bytes, mime_type {_IMAGE_MIME_TYPE})", _REBUILD
        )
    image_ref = str((image.get("properties") or {}).get("image_ref", "image_info"))
    if not labelled:
        return Columns(str(image.get("name")), image_ref, label="", categories=())
    if annotation is None:
        raise NotLabeledDatasetError(
            where, "Give images in one folder per class, or an ImageDirectory created from such a folder."
        )
    properties = annotation["properties"]
    if properties["annotation_type"] not in (CLASSIFICATION, MULTILABEL_CLASSIFICATION):
        raise InvalidDatasetError(
            where,
            f"its annotations are {shown(properties['annotation_type'])}, not one class per image ({CLASSIFICATION}) "
            f"or a list of labels per image ({MULTILABEL_CLASSIFICATION})",
            "Give images in one folder per class.",
        )
    return Columns(
        image=str(image.get("name")),
        image_ref=image_ref,
        label=str(annotation.get("name")),
        categories=_categories(properties.get("categories"), where),
        multilabel=properties["annotation_type"] == MULTILABEL_CLASSIFICATION,
    )


def _categories(categories: Any, where: str) -> tuple[str, ...]:
    faults = []
    if not isinstance(categories, list) or not categories:
        raise InvalidDatasetError(where, "the schema lists no categories", _REBUILD)
    by_id: dict[int, str] = {}
    names: set[str] = set()
    for entry in categories:
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            faults.append(f"category id {shown(number)} is not an integer from 0")
        elif not isinstance(name, str) or not _is_text(name):
            faults.append(f"category name {shown(name)} is not text")
        elif number in by_id:
            faults.append(f"category id {shown(number)} occurs twice")
        elif name in names:
            faults.append(f"category name {shown(name)} occurs twice")
        else:
            by_id[number] = name
            names.add(name)
    if faults:
        raise InvalidDatasetError(where, f"the schema's categories are damaged: {join_some(faults)}", _REBUILD)
    ordered = [by_id[number] for number in sorted(by_id)]
    class_of = one_class_each(where, ordered, alike=True)
    return tuple(dict.fromkeys(class_of[name] for name in ordered))


def _is_text(name: str) -> bool:
    """Whether a text can be written as UTF-8. JSON may contain lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def file_of(item: dict[str, Any], columns: Columns) -> str | None:
    """Return the file of an item, relative to the directory; None if it has none."""
    info = item.get(columns.image_ref)
    name = info.get("base_file_name") or info.get("file_name") if isinstance(info, dict) else None
    return name if isinstance(name, str) and name else None


def info_of_copy(item: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Return the image information of an item for a copy: `file_name` is the name of the copy."""
    info = dict(item[columns.image_ref])
    read = info.pop("base_file_name", None)
    if not isinstance(info.get("file_name"), str) or not info["file_name"]:
        info["file_name"] = read
    return info
