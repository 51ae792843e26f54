"""Tables as CSV files that are safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# What begins a formula in a spreadsheet, by OWASP's "CSV Injection"; with the wide forms of East Asian keyboards.
_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_sheet(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as UTF-8.

    A text that would begin a formula gets an apostrophe before it, which spreadsheets take as "text follows". All
    texts are quoted, so that a semicolon in one does not begin a new cell where spreadsheets separate cells by it.
    Numbers that are None or not finite become empty cells.
    """
    # What has no place in UTF-8, such as the half of a pair in a file name, is written as its number.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
        writer.writerow([_cell(name) for name in header])
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.lstrip(" ").startswith(_BEGINS_FORMULA) else value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return value
