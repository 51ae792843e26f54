"""The files of an ImageDirectory, checked before designer-core's helper sees them.

The helper answers any damage (a lost `_meta.yaml`, one blank line in `images.lst`) by reading the folder anew as
something else, mostly as a folder of one class called "image". Here every such damage is found and named instead.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_pytorch_model.errors import InvalidDatasetError, NotLabeledDatasetError
from train_pytorch_model.ports.small_files import META_FILE, find_meta_file, read_meta, read_text
from train_pytorch_model.text.wording import join_some, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKERS = (META_FILE, "images.lst", "_schema.json")
_IMAGE_MIME_TYPE = "image/png"  # designer-core takes no other, whatever the files are
_CLASSIFICATION = "COCO_classification"
# Far more than any that was made to be read; what is larger was made to fill a memory.
_MAX_SCHEMA_BYTES = 2**28
_MAX_LINE_CHARACTERS = 2**24
_REBUILD = "Make the directory again with Convert to Image Directory."


@dataclass(frozen=True)
class Columns:
    """What `_schema.json` says of the columns."""

    image: str
    """Name of the image column."""
    image_ref: str
    """Key of an item that holds the file's name."""
    label: str
    """Name of the label column."""
    categories: tuple[str, ...]
    """Labels in the order of their ids."""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)


def is_image_directory(path: Path) -> bool:
    """Whether the folder means to be an ImageDirectory, be it whole or damaged."""
    return any((path / marker).exists() for marker in _MARKERS)


def read_schema(path: Path, where: str) -> tuple[dict[str, Any], Path]:
    """Read the schema of an ImageDirectory, strictly.

    Args:
        path: the directory.
        where: the port and the path, for messages.

    Returns:
        The schema, and the file of the image list.

    Raises:
        InvalidDatasetError: for any damage; it names the file.
    """
    try:
        meta = read_meta(path)
        if meta.get("type") != "ImageDirectory":
            raise ValueError(f"{META_FILE} says type {shown(meta.get('type'))} where an ImageDirectory is expected")
        return _read_schema(find_meta_file(path, meta, "schema")), find_meta_file(path, meta, "image_list")
    except ValueError as error:
        raise InvalidDatasetError(where, str(error), _REBUILD) from error


def read_items(file: Path, where: str) -> Iterator[dict[str, Any]]:
    """Read an image list, strictly, one dict a line; a list of millions of lines never lies in memory as a whole.

    Args:
        file: of the image list.
        where: the port and the path, for messages.

    Raises:
        InvalidDatasetError: for any damage; it names the file, and the line where there is one.
    """
    try:
        yield from _read_lines(file)
    except ValueError as error:
        raise InvalidDatasetError(where, str(error), _REBUILD) from error


def _read_schema(file: Path) -> dict[str, Any]:
    try:
        schema = json.loads(read_text(file, _MAX_SCHEMA_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file.name} is no JSON: {error}") from error
    columns = schema.get("columnAttributes") if isinstance(schema, dict) else None
    if not isinstance(columns, list) or not all(isinstance(column, dict) for column in columns):
        raise ValueError(f"{file.name} has no list 'columnAttributes'")
    names: set[str] = set()
    for column in columns:
        _check_column(file.name, column)
        if column["name"] in names:
            raise ValueError(f"{file.name} has several columns called {shown(column['name'])}")
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
                    raise ValueError(f"{file.name} line {number} is no JSON: {error}") from error
                if not isinstance(item, dict):
                    raise ValueError(f"{file.name} line {number} is no JSON object")
                yield item
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    if not number:
        raise ValueError(f"{file.name} lists no image")


def read_columns(schema: dict[str, Any], where: str, *, labelled: bool = True) -> Columns:
    """Find the image column, the label column and the categories in a schema.

    Args:
        schema: `_schema.json`.
        where: the port and the path, for messages.
        labelled: whether there must be labels; without, only the image column is looked for.

    Raises:
        NotLabeledDatasetError: when there is no annotation column.
        InvalidDatasetError: when there is no image column, the annotation is not of classes, or the categories are
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
        raise NotLabeledDatasetError(where, "Give images in one folder a class, or an ImageDirectory made from such.")
    properties = annotation["properties"]
    if properties["annotation_type"] != _CLASSIFICATION:
        raise InvalidDatasetError(
            where,
            f"its annotations are {shown(properties['annotation_type'])}, not one class an image ({_CLASSIFICATION})",
            "Give images in one folder a class.",
        )
    return Columns(
        image=str(image.get("name")),
        image_ref=image_ref,
        label=str(annotation.get("name")),
        categories=_categories(properties.get("categories"), where),
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
            faults.append(f"category id {shown(number)} is no whole number from 0")
        elif not isinstance(name, str) or not _is_text(name):
            faults.append(f"category name {shown(name)} is no text")
        elif number in by_id:
            faults.append(f"category id {shown(number)} stands twice")
        elif name in names:
            faults.append(f"category name {shown(name)} stands twice")
        else:
            by_id[number] = name
            names.add(name)
    if faults:
        raise InvalidDatasetError(where, f"the schema's categories are damaged: {join_some(faults)}", _REBUILD)
    return tuple(by_id[number] for number in sorted(by_id))


def _is_text(name: str) -> bool:
    """Whether it can be written as UTF-8; JSON may hold half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def file_of(item: dict[str, Any], columns: Columns) -> str | None:
    """The file of an item, relative to the directory; None when it names none."""
    info = item.get(columns.image_ref)
    name = info.get("base_file_name") or info.get("file_name") if isinstance(info, dict) else None
    return name if isinstance(name, str) and name else None


def info_of_copy(item: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """What an item says of its file once that is copied: `file_name` is what a copy is called, whatever is read."""
    info = dict(item[columns.image_ref])
    read = info.pop("base_file_name", None)
    if not isinstance(info.get("file_name"), str) or not info["file_name"]:
        info["file_name"] = read
    return info
