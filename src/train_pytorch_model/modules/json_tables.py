"""Reads JSON of labeling tools as tables: one row per record, one column per path of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Cell = Union[str, tuple[str, ...]]
"""A text, the different texts of a list, or `Several`. An absent value is "", an empty list is ()."""
KEY = "(key)"
"""The title of the column of keys, where a JSON object maps the names of images to their labels or records."""
_MAX_DEPTH = 12
_MAX_COLUMNS = 2000
# Lists of objects that each are a label, as in {"tags": [{"tagName": "cat"}, {"tagName": "dog"}]}, unless they have
# a place in the image.
_LISTS_OF_LABELS = frozenset(("tags", "labels", "classes", "categories", "classifications"))
_PLACES = frozenset(
    (
        *("bbox", "box", "box2d", "boundingbox", "points", "polygon", "poly2d", "segmentation", "geometry", "shape"),
        *("left", "top", "x", "y", "xmin", "ymin", "x1", "y1", "topx", "topy", "start", "end"),
    )
)
_CHOICES = ".choices"
_ANNOTATIONS = ("annotations", "completions")
"""Lists that are empty where nobody has labelled an image."""
_SKIPPED = ("was_cancelled", "skipped")


class Several(tuple[str, ...]):
    """The different texts of several objects or lists in a record, such as boxes or the work of several people."""

    __slots__ = ()


class JsonTable(NamedTuple):
    """A table in a JSON document."""

    titles: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    has_header: bool = True
    categories: Optional[tuple[str, ...]] = None
    has_row_per_label: bool = False


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
            yield JsonTable(
                (KEY, "label"), [(key, _cell([list(map(_text, names))])) for key, names in document.items()]
            )
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
        values: dict[str, list[Sequence[str]]] = {}
        _flatten(record, "", values, _MAX_DEPTH)
        flat.append(values)
    _join_choices(flat)
    for values in flat:
        for title, texts in values.items():
            if any(texts) and title not in columns and len(columns) < _MAX_COLUMNS:
                columns[title] = len(columns)
    for title in sorted({title for values in flat for title in values}):
        if _is_empty_list(title, columns):
            columns[title] = len(columns)
    are_labels = {title for title in columns if _is_list_of_labels(title, columns)}
    rows: list[tuple[Cell, ...]] = []
    for values in flat:
        cells: list[Cell] = [""] * len(columns)
        for title, texts in values.items():
            if title in columns:
                if title.rpartition(".")[2].lower() in ("category_id", "label_id") and categories:
                    texts = [[categories.get(text, text) for text in group] for group in texts]
                cells[columns[title]] = _cell(texts, are_labels=title in are_labels)
            if not any(texts):
                _set_empty(cells, columns, title)
        rows.append(tuple(cells))
    return JsonTable(tuple(columns), rows)


def _flatten(value: object, path: str, values: dict[str, list[Sequence[str]]], depth: int) -> None:
    """Collect the texts by their path: a group for each list of texts, and for each text elsewhere."""
    if isinstance(value, list):
        value = [inner for inner in value if not _is_skipped(inner)]
    if isinstance(value, dict):
        for key, inner in value.items() if depth else ():
            _flatten(inner, f"{path}.{key}" if path else str(key), values, depth - 1)
    elif isinstance(value, list) and path and depth and not any(map(_is_nested, value)):
        values.setdefault(path, []).append(list(map(_text, value)))
    elif isinstance(value, list):
        for inner in value if depth else ():
            _flatten(inner, path, values, depth - 1)
    elif path:
        values.setdefault(path, []).append([_text(value)])


def _is_skipped(value: object) -> bool:
    """Whether it is an annotation of Label Studio's whose author has skipped the image."""
    return isinstance(value, dict) and any(value.get(key) is True for key in _SKIPPED)


def _join_choices(flat: Sequence[dict[str, list[Sequence[str]]]]) -> None:
    """Put several choices where a single one is: Label Studio writes "cat", and {"choices": ["cat", "dog"]}."""
    titles = {title for values in flat for title in values}
    joined = [title for title in titles if title.endswith(_CHOICES) and title[: -len(_CHOICES)] in titles]
    for values in flat:
        for title in joined:
            if title in values:
                values.setdefault(title[: -len(_CHOICES)], []).extend(values.pop(title))


def _is_empty_list(title: str, titles: Mapping[str, int]) -> bool:
    """Whether all lists at a path are empty, and say so of the image."""
    is_known = any(other == title or other.startswith(f"{title}.") for other in titles)
    return not is_known and title.rpartition(".")[2].lower() not in _ANNOTATIONS and len(titles) < _MAX_COLUMNS


def _is_list_of_labels(title: str, titles: Mapping[str, int]) -> bool:
    """Whether a column has the labels of a list of objects that each are a label of the whole image."""
    parent = title.rpartition(".")[0]
    if parent.rpartition(".")[2].lower() not in _LISTS_OF_LABELS:
        return False
    beside = [other[len(parent) + 1 :].split(".") for other in titles if other.startswith(f"{parent}.")]
    return not any(part.replace("_", "").lower() in _PLACES for parts in beside for part in parts)


def _set_empty(cells: list[Cell], columns: Mapping[str, int], path: str) -> None:
    """Note that a record has an empty list at a path, or around it."""
    is_inner = path.rpartition(".")[2].lower() not in _ANNOTATIONS
    for title, number in columns.items():
        if not cells[number] and (title == path or (is_inner and title.startswith(f"{path}."))):
            cells[number] = ()


def _is_nested(value: object) -> bool:
    return isinstance(value, (dict, list))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value).strip()


def _cell(groups: Sequence[Sequence[str]], *, are_labels: bool = False) -> Cell:
    """The text that all groups have; all different texts if there are several.

    Args:
        groups: the texts of each list or object.
        are_labels: whether the objects are the labels of an image.
    """
    texts = tuple(dict.fromkeys(text for group in groups for text in group if text))
    if texts and len(groups) == 1 and len(groups[0]) > 1 and {*texts} <= {"0", "1"}:
        return tuple(groups[0])  # a number for each label
    if len(texts) < 2:
        return texts[0] if texts else "" if any(groups) else ()
    is_one_list = len({frozenset(filter(None, group)) for group in groups}) == 1
    return texts if are_labels or is_one_list else Several(texts)


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
    has_boxes = False
    for annotation in document["annotations"]:
        if annotation.get("category_id") not in names or annotation.get("image_id") not in files:
            raise ValueError(f"annotation {annotation.get('id')!r} refers to an undefined category or image")
        annotated.add(annotation["image_id"])
        has_boxes |= bool(annotation.get("bbox") or annotation.get("segmentation"))
        rows.append((files[annotation["image_id"]], names[annotation["category_id"]]))
    rows.extend((file, ()) for number, file in files.items() if number not in annotated)
    categories = tuple(dict.fromkeys(names[number] for number in sorted(names)))
    return JsonTable(("file_name", "category"), rows, categories=categories, has_row_per_label=not has_boxes)
