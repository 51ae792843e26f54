"""Formats names, values and numbers in messages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MAX_SHOWN = 200
"""The largest number of characters of a file's value in a message."""


def name_some(names: Sequence[object], limit: int = 5) -> str:
    """Return the first names in quotes and the number of others: `'a', 'b' (and 3 more)`."""
    return _some([repr(name) for name in names], ", ", limit)


def shown(value: object) -> str:
    """Return the Python representation of a value from a file, cut after `MAX_SHOWN` characters.

    The rest is never generated: a few lines of YAML can expand to more than fits in memory.
    """
    text = ""
    for piece in _pieces(value):
        text += piece
        if len(text) > MAX_SHOWN:
            return f"{text[:MAX_SHOWN]}…"
    return text


def _pieces(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key)
            yield ": "
            yield from _pieces(item)
        yield "}"
    elif isinstance(value, (list, tuple, set, frozenset)):
        opening, closing = ("(", ",)" if len(value) == 1 else ")") if isinstance(value, tuple) else ("[", "]")
        yield opening
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(item)
        yield closing
    elif isinstance(value, (str, bytes)):
        yield repr(value[: MAX_SHOWN + 1])
    elif isinstance(value, int) and value.bit_length() > MAX_SHOWN:
        yield f"a number of {value.bit_length()} bits"  # its decimal digits would take long to compute
    elif value is None or isinstance(value, (bool, int, float)):
        yield repr(value)
    else:
        yield f"a {type(value).__name__}"


def join_some(clauses: Sequence[str], limit: int = 5) -> str:
    """Return the first clauses and the number of others: `line 1 is blank; line 2 is blank (and 3 more)`."""
    return _some(clauses, "; ", limit)


def _some(texts: Sequence[str], separator: str, limit: int, count: int | None = None) -> str:
    more = (len(texts) if count is None else count) - limit
    return separator.join(texts[:limit]) + (f" (and {more} more)" if more > 0 else "")


class FirstFew:
    """Keeps the first clauses and counts the others, so that millions of clauses need no memory."""

    def __init__(self, clauses: Iterable[str] = (), limit: int = 5) -> None:
        self._first: list[str] = []
        self._count = 0
        self._limit = limit
        for clause in clauses:
            self.add(clause)

    def add(self, clause: str) -> None:
        """Add a clause."""
        if self._count < self._limit:
            self._first.append(clause)
        self._count += 1

    def __len__(self) -> int:
        """Return the number of all clauses."""
        return self._count

    def joined(self, separator: str = "; ") -> str:
        """Return the first clauses and the number of others, in the format of `join_some`."""
        return _some(self._first, separator, self._limit, self._count)


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy with None in place of numbers that are not finite, which JSON cannot represent."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def bytes_in_words(num_bytes: float) -> str:
    """Format a number of bytes: `2.0 GiB`, `31.5 MiB`."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def seconds_in_words(seconds: float) -> str:
    """Format a time: `4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
