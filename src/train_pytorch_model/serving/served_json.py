"""Finds the images in the JSON of a request.

It knows the forms of Azure (`data`, `input_data`, `Inputs`), MLflow (`dataframe_split`, `dataframe_records`,
`instances`, `inputs`) and TensorFlow Serving (`b64`). It is copied into each trained model.
"""

from __future__ import annotations

from typing import Any

EXPECTED = 'a list of {"image": "<base64>"}, or {"data": [...]} with such a list'

_WRAPPERS = ("data", "input_data", "inputs", "instances", "dataframe_split", "dataframe_records")
_WORDS = ("image", "img", "b64", "base64")
_MAX_DEPTH = 6
MAX_IMAGES = 1000


class BadRequestError(Exception):
    """An invalid request; the message says why."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def find_images(document: Any) -> list[tuple[str, Any]]:
    """List the values of a document that should be base64, each with its place for messages.

    Raises:
        BadRequestError: if the document has no known form.
    """
    found = _find(document, _MAX_DEPTH)
    if not found:
        raise BadRequestError(f"the JSON contains no image; expected {EXPECTED}")
    return found


def asks_for_heat_maps(document: Any) -> bool:
    """Return the value of "explain" in a document, in its "input_data", or in the "params" of one of them.

    MLflow's forms have these two.

    Raises:
        BadRequestError: if it is neither true nor false.
    """
    if not isinstance(document, dict):
        return False
    records = [document, document.get("input_data")]
    records += [record.get("params") for record in records if isinstance(record, dict)]
    for record in records:
        value = record.get("explain") if isinstance(record, dict) else None
        if not isinstance(value, (bool, type(None))):
            raise BadRequestError(f'"explain" should be true or false, but is {repr(value)[:40]}')
        if value:
            return True
    return False


def _find(value: Any, depth: int) -> list[tuple[str, Any]]:
    if not depth:
        raise BadRequestError(f"the JSON is nested too deeply; expected {EXPECTED}")
    if isinstance(value, str):
        return [("the image", value)]
    if isinstance(value, list):
        return _rows(value, None)
    if not isinstance(value, dict):
        raise BadRequestError(f"the JSON is neither a list nor an object; expected {EXPECTED}")
    if value.get("columns") and "data" in value:
        return _table(value["columns"], value["data"], depth)
    wrappers = [key for key in value if key.casefold() in _WRAPPERS]
    if len(wrappers) > 1:
        raise BadRequestError(f"the JSON contains {_quoted(wrappers)}, of which it should contain one")
    if wrappers:
        return _find(value[wrappers[0]], depth - 1)
    column = value[image_field(value, "the JSON")]
    if isinstance(column, dict) and column and all(key.isdecimal() for key in column):  # pandas' DataFrame.to_json()
        column = list(column.values())
    return _find(column, depth - 1)


def _table(columns: Any, data: Any, depth: int) -> list[tuple[str, Any]]:
    """The images of a table, which is split into the names of its columns and its rows."""
    names = columns if isinstance(columns, list) else [columns]
    if not all(isinstance(name, str) for name in names):
        raise BadRequestError('"columns" should contain names, such as "image"')
    field = image_field(dict.fromkeys(names, ""), '"columns"')
    if names.count(field) > 1:
        raise BadRequestError(f'"columns" contains "{field}" {names.count(field)} times')
    return _rows(data, names.index(field), len(names)) if isinstance(data, list) else _find(data, depth - 1)


def _rows(rows: list[Any], position: int | None, length: int = 1) -> list[tuple[str, Any]]:
    """The image of each row: the row itself, its field, or its item at a position."""
    if len(rows) > MAX_IMAGES:
        raise BadRequestError(f"a request may contain at most {MAX_IMAGES} images, but this one has {len(rows)}")
    found = []
    for number, row in enumerate(rows):
        place = f"entry {number}"
        if isinstance(row, list):
            if len(row) != length:
                raise BadRequestError(f"{place} is a list of {len(row)} values instead of {length}")
            row = row[position or 0]
        found.append(_cell(row, place))
    return found


def _cell(value: Any, place: str, depth: int = _MAX_DEPTH) -> tuple[str, Any]:
    if not isinstance(value, dict) or not depth:
        return place, value
    field = image_field(value, place)
    return _cell(value[field], f'"{field}" of {place}', depth - 1)


def image_field(record: dict[str, Any], place: str) -> str:
    """Return the field `image`; else the only one whose name speaks of an image; else the only one with text in it.

    Raises:
        BadRequestError: if several fields could be meant, or none.
    """
    for fields in (
        [key for key in record if key.casefold() == "image"],
        [key for key in record if any(word in key.casefold() for word in _WORDS)],
        [key for key, value in record.items() if isinstance(value, (str, list, dict))],
    ):
        if len(fields) == 1:
            return fields[0]
    names = _quoted(list(record)) or "no field"
    raise BadRequestError(f'{place} has {names}; the field of an image is called "image"; expected {EXPECTED}')


def _quoted(names: list[str]) -> str:
    shown = ", ".join(f'"{name[:40]}"' for name in names[:5])
    return f"{shown}, …" if len(names) > 5 else shown
