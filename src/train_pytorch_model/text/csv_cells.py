"""CSV files that are safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# Characters that start a formula in a spreadsheet (OWASP, "CSV Injection"), with their full-width forms.
_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_sheet(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as UTF-8.

    A string that would start a formula gets a leading apostrophe, by which spreadsheets recognize text. All strings are
    quoted, because some spreadsheets also separate cells at semicolons. None and numbers that are not finite become
    empty cells.
    """
    # A character without an encoding in UTF-8, such as a lone surrogate in a file name, is written as its number.
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
