"""Reads several labels in one cell of a table: a JSON or Python list, or a text with separators."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, Optional

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from train_pytorch_model.modules.label_tables import Cell

TOLD_SEPARATORS = (";", "|")
"""Separators that are told from the labels. Any other has to be given."""
SEPARATOR_WORDS = {
    **{"blank": " ", "space": " ", "comma": ",", "tab": "\t", "slash": "/", "semicolon": ";", "bar": "|", "pipe": "|"},
    **{"\\t": "\t", "\\n": "\n"},
}
"""What stands for a separator that is hard to write on a command line."""
# Fractions of the names in texts with a separator that occur in another text, too.
_MAX_FRACTION_OF_NAMES = 0.25
_MIN_FRACTION_OF_LISTS = 0.5

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_QUOTED_LIST = re.compile(rf"[\[(]\s*(?:{_QUOTED})(?:[\s,]*(?:{_QUOTED}))*[\s,]*[\])]", re.DOTALL)


class Listed(NamedTuple):
    """The labels in a cell."""

    labels: list[str]
    """Different, not empty, in their order."""
    is_list: bool
    """Whether the cell is one list with several labels; several values of another kind may be a mistake."""


def labels_in(cell: Cell) -> Listed:
    """Return the labels in a cell: a text, a JSON or Python list, or what a JSON record has at this place."""
    if not isinstance(cell, str):
        labels: dict[str, None] = {}
        for text in cell:
            labels.update(dict.fromkeys(labels_in(text).labels))
        return Listed(list(labels), type(cell) is tuple and len(labels) > 1)
    document = _document_in(cell)
    if document is None:
        return Listed([text] if (text := cell.strip()) else [], is_list=False)
    labels = dict.fromkeys(filter(None, _leaves(document)))
    is_list = isinstance(document, list) or (isinstance(document, dict) and len(document) == 1)
    return Listed(list(labels), is_list and len(labels) > 1)


def is_empty_list(cell: Cell) -> bool:
    """Whether a cell is a list without labels, which says more than an absent value."""
    return cell == () or (isinstance(cell, str) and _document_in(cell) in ([], {}))


def are_vectors(cells: Sequence[Cell]) -> bool:
    """Whether cells are lists of zeros and ones: one number for each label, whose names are elsewhere."""
    lists = [_document_in(cell) if isinstance(cell, str) else list(cell) for cell in cells]
    lengths = {len(values) if isinstance(values, list) else 0 for values in lists}
    if len(lengths) != 1 or max(lengths) < 2:
        return False
    return {str(value) for values in lists if isinstance(values, list) for value in values} <= {"0", "1", "0.0", "1.0"}


def is_bare_list(cell: Cell) -> bool:
    """Whether a cell is a list without quotes, such as `[cat, dog]`."""
    if not isinstance(cell, str) or _document_in(cell) is not None:
        return False
    text = cell.strip()
    return text[:1] + text[-1:] == "[]" and "," in text and not any(letter in text[1:-1] for letter in "[]'\"")


def _document_in(text: str) -> object:
    """The JSON or the Python list in a text; None if there is none."""
    text = text.strip()
    if text[:1] + text[-1:] not in ("[]", "{}", "()"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass  # it may be a list of Python's
    if not _QUOTED_LIST.fullmatch(text):
        return [] if text.startswith("[") and not text[1:-1].strip() else None
    return [_unquoted(quoted) for quoted in re.findall(_QUOTED, text, re.DOTALL)]


def _unquoted(text: str) -> str:
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text[1:-1]


def _leaves(value: object) -> list[str]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner)]
    return [] if value is None else [str(value).strip()]


def split_labels(text: str, separator: str) -> tuple[str, ...]:
    """Return the different labels in a text, without blanks around them."""
    return tuple(dict.fromkeys(part for part in map(str.strip, text.split(separator)) if part))


class Separation(NamedTuple):
    """What a separator would make of the labels of a dataset."""

    separator: str
    example: str
    """A text that would be several labels."""
    fraction: float
    """The fraction of the names in such texts that occur in another text, too."""

    @property
    def is_list(self) -> bool:
        """Whether the texts are lists: most names occur in other texts, alone or beside other names."""
        return self.fraction > _MIN_FRACTION_OF_LISTS

    @property
    def is_name(self) -> bool:
        """Whether the texts are names that have the separator within them."""
        return self.fraction < _MAX_FRACTION_OF_NAMES


def separation(texts: Iterable[str], separator: str) -> Optional[Separation]:
    """Try a separator on the labels of a dataset.

    Args:
        texts: the labels as they are given.
        separator: the separator.

    Returns:
        What it would make of them; None if no text would be several labels.
    """
    lists = {split_labels(text, separator): text for text in sorted(set(texts))}
    separated = [labels for labels in lists if len(labels) > 1]
    if not separated:
        return None
    counts = Counter(label for labels in lists for label in labels)
    names = {label for labels in separated for label in labels}
    return Separation(separator, lists[separated[0]], sum(counts[name] > 1 for name in names) / len(names))


def separations(texts: Sequence[str], separators: Iterable[str] = TOLD_SEPARATORS) -> list[Separation]:
    """Try several separators on the labels of a dataset; return what those make of them that occur."""
    return [found for separator in separators if (found := separation(texts, separator))]
