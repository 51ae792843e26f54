"""How messages name things and write numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def name_some(names: Sequence[object], limit: int = 5) -> str:
    """The first names in quotes, and how many more there are: `'a', 'b' (and 3 more)`."""
    return _some([repr(name) for name in names], ", ", limit)


def join_some(clauses: Sequence[str], limit: int = 5) -> str:
    """The first clauses, and how many more there are: `line 1 is blank; line 2 is blank (and 3 more)`."""
    return _some(clauses, "; ", limit)


def _some(texts: Sequence[str], separator: str, limit: int, count: int | None = None) -> str:
    more = (len(texts) if count is None else count) - limit
    return separator.join(texts[:limit]) + (f" (and {more} more)" if more > 0 else "")


class FirstFew:
    """Clauses of which the first are told and the others counted: those of millions take no more room than five."""

    def __init__(self, clauses: Iterable[str] = (), limit: int = 5) -> None:
        self._first: list[str] = []
        self._count = 0
        self._limit = limit
        for clause in clauses:
            self.add(clause)

    def add(self, clause: str) -> None:
        """Take one more."""
        if self._count < self._limit:
            self._first.append(clause)
        self._count += 1

    def __len__(self) -> int:
        """How many there are."""
        return self._count

    def joined(self, separator: str = "; ") -> str:
        """The first clauses, and how many more there are, as `join_some` has them."""
        return _some(self._first, separator, self._limit, self._count)


def finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with None for numbers that are not finite, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }


def bytes_in_words(num_bytes: float) -> str:
    """Bytes for reading: `2.0 GiB`, `31.5 MiB`."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def seconds_in_words(seconds: float) -> str:
    """A time for reading: `4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
