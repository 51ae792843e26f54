"""Reads JSON of labeling tools as tables: one row per record, one column per path of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Cell = Union[str, tuple[str, ...]]
KEY = "(key)"
"""The title of the column of keys, where a JSON object maps the names of images to their labels or records."""
_MAX_DEPTH = 12
_MAX_COLUMNS = 500


class JsonTable(NamedTuple):
    """A table in a JSON document."""

    titles: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    has_header: bool = True
    categories: Optional[tuple[str, ...]] = None


def tables_of_document(document: object) -> list[JsonTable]:
    """Find the tables in a JSON document: COCO, lists of records, or objects by the name of the image.

    Raises:
        ValueError: if it is COCO and cannot be used.
        KeyError, TypeError, AttributeError: if it has the keys of COCO, but not its structure.
    """
    if isinstance(document, dict) and "images" in document and "annotations" in document:
        return [_coco(document)] if _has_categories(document) else []
    return list(_tables_in(document, _category_names(document), depth=3))


def tables_of_records(records: Sequence[object]) -> list[JsonTable]:
    """Return the table of a list of records."""
    return list(_list_table(records, {}))


def _tables_in(document: object, categories: Mapping[str, str], depth: int) -> Iterator[JsonTable]:
    if isinstance(document, list):
        yield from _list_table(document, categories)
    elif isinstance(document, dict) and document:
        values = list(document.values())
        if all(isinstance(value, dict) for value in values):
            yield _records_table([{KEY: key, **value} for key, value in document.items()], categories)
        elif all(isinstance(value, list) and not any(map(_is_nested, value)) for value in values):
            rows = [(str(name), key) for key, names in document.items() for name in names]
            yield JsonTable((KEY, "class"), [(name, key) for name, key in rows])
            yield JsonTable((KEY, "label"), [(key, _cell(names)) for key, names in document.items()])
        elif not any(map(_is_nested, values)):
            yield JsonTable((KEY, "value"), [(key, _text(value)) for key, value in document.items()], has_header=False)
        else:
            yield _records_table([document], categories)
        if depth:
            for value in values:
                if _is_nested(value):
                    yield from _tables_in(value, categories, depth - 1)


def _list_table(records: Sequence[object], categories: Mapping[str, str]) -> Iterator[JsonTable]:
    if not records:
        return
    if all(isinstance(record, dict) for record in records):
        yield _records_table(records, categories)  # type: ignore[arg-type]
    elif all(isinstance(record, list) for record in records):
        width = len(records[0])  # type: ignore[arg-type]
        if all(len(record) == width and not any(map(_is_nested, record)) for record in records):  # type: ignore
            titles = tuple(f"column {number + 1}" for number in range(width))
            yield JsonTable(titles, [tuple(map(_text, record)) for record in records], has_header=False)  # type: ignore
    elif not any(map(_is_nested, records)):
        yield JsonTable(("column 1",), [(_text(record),) for record in records], has_header=False)


def _records_table(records: Sequence[dict[str, Any]], categories: Mapping[str, str]) -> JsonTable:
    columns: dict[str, int] = {}
    flat = []
    for record in records:
        values: dict[str, list[str]] = {}
        _flatten(record, "", values, _MAX_DEPTH)
        for title in values:
            if title not in columns and len(columns) < _MAX_COLUMNS:
                columns[title] = len(columns)
        flat.append(values)
    rows: list[tuple[Cell, ...]] = []
    for values in flat:
        cells: list[Cell] = [""] * len(columns)
        for title, texts in values.items():
            if title in columns:
                named = texts
                if title.rpartition(".")[2].lower() in ("category_id", "label_id") and categories:
                    named = [categories.get(text, text) for text in texts]
                cells[columns[title]] = _cell(named)
        rows.append(tuple(cells))
    return JsonTable(tuple(columns), rows)


def _flatten(value: object, path: str, values: dict[str, list[str]], depth: int) -> None:
    if isinstance(value, dict):
        for key, inner in value.items() if depth else ():
            _flatten(inner, f"{path}.{key}" if path else str(key), values, depth - 1)
    elif isinstance(value, list):
        for inner in value if depth else ():
            _flatten(inner, path, values, depth - 1)
    elif path:
        values.setdefault(path, []).append(_text(value))


def _is_nested(value: object) -> bool:
    return isinstance(value, (dict, list))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value).strip()


def _cell(values: Sequence[object]) -> Cell:
    """The text that all values have; all different texts if there are several."""
    texts = tuple(dict.fromkeys(text for text in map(_text, values) if text))
    return texts[0] if len(texts) == 1 else texts or ""


def _category_names(document: object) -> dict[str, str]:
    """The names of categories by id, if the document lists them beside its records, as COCO and Datumaro do."""
    listed: Any = document.get("categories") if isinstance(document, dict) else None
    if isinstance(listed, dict):
        labels = listed.get("label")
        listed = labels.get("labels") if isinstance(labels, dict) else None
    if not isinstance(listed, list):
        return {}
    return {
        str(entry.get("id", number)): str(entry["name"]).strip()
        for number, entry in enumerate(listed)
        if isinstance(entry, dict) and "name" in entry
    }


def _has_categories(document: Mapping[str, Any]) -> bool:
    """Whether COCO has categories. A file of captions has none."""
    return "categories" in document or any("category_id" in annotation for annotation in document["annotations"])


def _coco(document: Mapping[str, Any]) -> JsonTable:
    names = {entry["id"]: str(entry["name"]).strip() for entry in document.get("categories", [])}
    files = {entry["id"]: str(entry["file_name"]) for entry in document["images"]}
    rows: list[tuple[Cell, ...]] = []
    annotated = set()
    for annotation in document["annotations"]:
        if annotation.get("category_id") not in names or annotation.get("image_id") not in files:
            raise ValueError(f"annotation {annotation.get('id')!r} refers to an undefined category or image")
        annotated.add(annotation["image_id"])
        rows.append((files[annotation["image_id"]], names[annotation["category_id"]]))
    rows.extend((file, "") for number, file in files.items() if number not in annotated)
    categories = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    return JsonTable(("file_name", "category"), rows, categories=categories)
