"""How messages name things."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def name_some(names: Sequence[object], limit: int = 5) -> str:
    """The first names in quotes, and how many more there are: `'a', 'b' (and 3 more)`."""
    return _some([repr(name) for name in names], ", ", limit)


def join_some(clauses: Sequence[str], limit: int = 5) -> str:
    """The first clauses, and how many more there are: `line 1 is blank; line 2 is blank (and 3 more)`."""
    return _some(clauses, "; ", limit)


def _some(texts: Sequence[str], separator: str, limit: int) -> str:
    return separator.join(texts[:limit]) + (f" (and {len(texts) - limit} more)" if len(texts) > limit else "")
