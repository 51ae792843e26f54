"""Reads a text file as a table: delimited text (CSV, TSV and others), JSON, or JSON Lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Optional, Union

from train_pytorch_model.modules.json_tables import JsonTable, tables_of_document, tables_of_records
from train_pytorch_model.modules.named_images import has_image_ending

if TYPE_CHECKING:
    from collections.abc import Sequence

Cell = Union[str, tuple[str, ...]]
"""The text of a cell; the texts where JSON has several or an empty list, see `json_tables`."""

JSON_LINES = (".jsonl", ".ndjson", ".manifest")
ENDINGS = (".csv", ".tsv", ".tab", ".json", *JSON_LINES, ".txt", ".xml", ".yaml", ".yml")
"""Extensions of text files that may hold labels."""
TABLE_ENDINGS = (".csv", ".tsv", ".tab", ".json", *JSON_LINES)
"""Extensions of files that are refused if they are damaged."""
MAX_BYTES = 2**30
"""No realistic file of labels is larger."""

_DELIMITERS = (",", ";", "\t", "|")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUM_SAMPLE_LINES = 200
_LIST_START = re.compile(r"""[\[{]|\(\s*['"]""")


@dataclass(frozen=True)
class Table:
    """The rows of a file."""

    titles: tuple[str, ...]
    """The titles of the columns."""
    rows: list[tuple[Cell, ...]]
    """As many cells as there are titles."""
    has_header: bool = True
    """Whether the titles are from the file. Otherwise they are "column 1" and so on."""
    categories: Optional[tuple[str, ...]] = None
    """All categories in their order, of a format that lists them."""
    has_row_per_label: bool = False
    """Whether several rows of an image are its labels, as the annotations of whole images in COCO are."""
    is_delimited: bool = False
    """Whether it is delimited text, where an empty cell is no label. In JSON, an absent value is unknown."""
    fault: str = ""
    """Why the rows cannot be trusted."""


def decode_text(content: bytes) -> str:
    """Decode a text file: UTF-8, or UTF-16 or UTF-32 if it says so or plainly is.

    Raises:
        ValueError: if the content is none of these.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return content.decode(encoding)
    start = content[:1000]
    if start.count(0) > len(start) // 4:
        return content.decode("utf-16-le" if start[1::2].count(0) >= start[::2].count(0) else "utf-16-be")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{error}; save it as UTF-8") from error


def parse_tables(name: str, text: str, separator: str | None = None) -> list[Table]:
    """Parse a text file. JSON can contain several tables.

    Args:
        name: the name of the file; its extension says what it is.
        text: the content.
        separator: what separates the labels of an image; None if it was not given.

    Returns:
        The tables; delimited text gives one, whose first row may be a header or not.

    Raises:
        ValueError: if the text is damaged.
        csv.Error: likewise.
    """
    ending = PurePosixPath(name).suffix.lower()
    if ending in (".xml", ".yaml", ".yml"):
        return []
    if not text.strip():
        if ending in TABLE_ENDINGS:
            raise ValueError("it is empty")
        return []
    if ending == ".json":
        try:
            document = json.loads(text)
        except ValueError:
            if "\n" not in text.strip():
                raise
            try:
                return _tables(tables_of_records(_json_lines(text)))  # some tools write lines under this name
            except ValueError:
                pass
            document = json.loads(text)  # the first error is the one to report
        return _tables(tables_of_document(document))
    if ending in JSON_LINES:
        return _tables(tables_of_records(_json_lines(text)))
    return [_delimited(ending, text, separator)]


def _json_lines(text: str) -> list[object]:
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
    return records


def _tables(tables: list[JsonTable]) -> list[Table]:
    return [Table(*table) for table in tables]


def _delimited(ending: str, text: str, separator: str | None) -> Table:
    """A table without a header; `with_header` makes the first row the header."""
    first, _, rest = text.partition("\n")
    delimiter = None
    if first.lower().startswith("sep=") and len(first.strip()) == 5:  # as Excel writes it
        delimiter, text = first.strip()[4], rest
    delimiter = delimiter or _delimiter_of(text, ending)
    if delimiter is None and ending == ".txt":
        rows = [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]
    else:
        rows = _rows(text, delimiter or ",")
    if rows and separator is not None and separator == delimiter:
        rows = _without_further_cells(rows, separator)
    width = len(rows[0]) if rows else 0
    while width > 1 and not any(len(row) >= width and row[width - 1] for row in rows):
        width -= 1  # a delimiter at the end of every line
    fault = ""
    for number, row in enumerate(rows, start=1):
        if any(row[width:]) and not fault:
            fault = (
                f"row {number} has {len(row)} cells, but the first row has {width}: {', '.join(row)[:200]}; if they "
                f"are labels of the image, give --label-separator {delimiter or ','!r}"
            )
    titles = tuple(f"column {number + 1}" for number in range(width))
    table: list[tuple[Cell, ...]] = [row[:width] + ("",) * (width - len(row)) for row in rows]
    return Table(titles, table, has_header=False, is_delimited=True, fault=fault)


def _rows(text: str, delimiter: str) -> list[tuple[str, ...]]:
    """The rows that are not empty. A list without the quotes of CSV is one cell: `1.png,["cat","dog"]`."""
    lines = list(io.StringIO(text, newline=""))
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    rows = []
    start = 0
    for row in reader:
        line = lines[start]
        if reader.line_num == start + 1 and _LIST_START.search(line) and _has_cut_list(row):
            row = next(csv.reader([_with_quoted_lists(line, delimiter)], reader.dialect))
        start = reader.line_num
        if any(map(str.strip, row)):
            rows.append(tuple(cell.strip() for cell in row))
    return rows


def _has_cut_list(row: Sequence[str]) -> bool:
    """Whether a cell begins a list that a later one ends."""
    cells = list(map(str.strip, row))
    starts = [number for number, cell in enumerate(cells) if _LIST_START.match(cell) and cell[-1] not in "]})"]
    return bool(starts) and any(cell.endswith(("]", "}", ")")) for cell in cells[starts[0] + 1 :])


def _with_quoted_lists(line: str, delimiter: str) -> str:
    """The line with the quotes of CSV around lists that are cells."""
    mark = re.escape(delimiter)
    pattern = rf"""(^|{mark})\s*(\[.*?\]|\{{.*?\}}|\(\s*['"].*?\))\s*(?={mark}|$)"""
    return re.sub(pattern, lambda found: f'{found[1]}"' + found[2].replace('"', '""') + '"', line)


def _without_further_cells(rows: list[tuple[str, ...]], separator: str) -> list[tuple[str, ...]]:
    """The rows with several labels in the last cell, where each label has a cell of its own: `1.png,cat,dog`."""
    last = max(2, min(map(len, rows))) - 1
    return [(*row[:last], separator.join(filter(None, row[last:]))) for row in rows]


def _delimiter_of(text: str, ending: str) -> str | None:
    """The delimiter that gives all of the first rows the same number of cells, at least two; None if none does."""
    sample = "\n".join(text.split("\n", _NUM_SAMPLE_LINES)[:_NUM_SAMPLE_LINES])
    best: tuple[tuple[bool, bool, int, int], str] | None = None
    for delimiter in _DELIMITERS:
        try:
            reader = csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, skipinitialspace=True)
            rows = [row for row in reader if any(map(str.strip, row))]
        except csv.Error:
            continue
        widths = [len(row) for row in rows]
        if not widths or widths[0] < 2:
            continue
        num_same = widths.count(widths[0])
        if ending == ".txt" and num_same < len(widths):
            continue
        # In `1.png,cat;dog`, a semicolon would leave no cell with the name of an image.
        has_images = any(has_image_ending(cell.strip()) for row in rows for cell in row)
        key = (num_same == len(widths), has_images, num_same, widths[0])
        if best is None or key > best[0]:
            best = key, delimiter
    return best[1] if best else None


def with_header(table: Table) -> Table:
    """Return a table whose first row is its header."""
    titles = tuple(str(cell).lstrip("#").strip() for cell in table.rows[0])
    return replace(table, titles=titles, rows=table.rows[1:], has_header=True)
