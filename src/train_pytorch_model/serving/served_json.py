"""Finds the images in the JSON of a request.

It knows the forms of Azure (`data`, `input_data`, `Inputs`), MLflow (`dataframe_split`, `dataframe_records`,
`instances`, `inputs`) and TensorFlow Serving (`b64`). It is copied into each trained model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPECTED = 'a list of {"image": "<base64>"}, or {"data": [...]} with such a list'

EXPLAIN = "explain"
"""The name of what asks for heat maps."""

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
    """Return whether "explain" is true in a document, or in an object around its images or beside them.

    Raises:
        BadRequestError: if it is neither true nor false, or if an image or a row of a table has it.
    """
    found = list(_explains(document, "", _MAX_DEPTH))
    around = [wanted for place, wanted in found if not place]
    for wanted in around:
        if not isinstance(wanted, bool):
            raise BadRequestError(f'"{EXPLAIN}" should be true or false, but is {repr(wanted)[:40]}')
    if any(around):
        return True
    for place, wanted in found:
        refuse_misplaced(wanted, place)
    return False


def _explains(value: Any, place: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield each "explain" with its place; the place is empty outside of lists."""
    if not depth:
        return
    if isinstance(value, list):
        for number, entry in enumerate(value[:MAX_IMAGES]):
            yield from _explains(entry, place or f"entry {number}", depth - 1)
    elif isinstance(value, dict):
        if value.get(EXPLAIN) is not None:
            yield place, value[EXPLAIN]
        columns, rows = value.get("columns"), value.get("data")
        if isinstance(columns, list) and EXPLAIN in columns and isinstance(rows, list):
            position = columns.index(EXPLAIN)
            cells = [row[position] if isinstance(row, list) and len(row) > position else None for row in rows]
            yield from ((f"entry {number}", cell) for number, cell in enumerate(cells) if cell is not None)
        for inner in value.values():
            yield from _explains(inner, place, depth - 1)


def refuse_misplaced(wanted: Any, place: str) -> None:
    """Refuse an "explain" that asks for heat maps where it has no effect.

    Args:
        wanted: its value; None if there is none.
        place: where it is.

    Raises:
        BadRequestError: unless it says no.
    """
    if str(wanted).strip().casefold() not in ("", "none", "null", "false", "no", "off", "0"):
        remedy = f'put it beside "data": {{"data": [...], "{EXPLAIN}": true}}'
        raise BadRequestError(f'"{EXPLAIN}" has no effect in {place}; {remedy}')


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
