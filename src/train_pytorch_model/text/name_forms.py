"""Compares names as a reader does: two names that look the same may consist of different characters."""

from __future__ import annotations

import os
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_FORM = "Unicode form (composed or decomposed characters)"
# Characters that are not shown although their category is that of accents: a joiner and the variation selectors.
_NOT_SHOWN = frozenset([0x34F, *range(0xFE00, 0xFE10)])
# Cyrillic letters that look like Latin ones, and the Greek omicron.
_CYRILLIC = "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u03bf"
_LATIN = "aeopcyxijso"
_TO_LATIN = str.maketrans(_CYRILLIC + _CYRILLIC.upper(), _LATIN + _LATIN.upper())


def nfc(name: str) -> str:
    """Return a name in Unicode's composed form (NFC). Names with the same result are the same text."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def one_form_each(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the form that stands for all names that are the same text: NFC if it occurs, else the first."""
    forms: dict[str, str] = {}
    names = sorted(set(names))
    for name in names:
        if name == nfc(name) or nfc(name) not in forms:
            forms[nfc(name)] = name
    return {name: forms[nfc(name)] for name in names}


def appearance(name: str) -> str:
    """Return a text that is the same for names that a reader could take for each other."""
    return _compared(name, ())


def difference(name: str, other: str) -> str:
    """Return how two names of the same appearance differ, such as "case"; "" if they differ in more than that."""
    if name == other or appearance(name) != appearance(other):
        return ""
    if nfc(name) == nfc(other):
        return _FORM
    kinds = ("case", "spaces", "characters that are not shown", "letters of another alphabet", "the width of letters")
    return ", ".join(kind for kind in kinds if _compared(name, (kind,)) != _compared(other, (kind,))) or _FORM


def _compared(name: str, kept: tuple[str, ...]) -> str:
    """The name without all kinds of differences but the kept ones."""
    if "characters that are not shown" not in kept:
        name = "".join(letter for letter in name if letter.isspace() or _is_shown(letter))
    if "spaces" not in kept:
        name = " ".join(name.split())
    if "the width of letters" not in kept:
        name = "".join(map(_of_usual_width, name))
    name = nfc(name)
    if "letters of another alphabet" not in kept:
        name = name.translate(_TO_LATIN)
    return name if "case" in kept else nfc(name.casefold())


def _is_shown(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cf") and ord(letter) not in _NOT_SHOWN


def _of_usual_width(letter: str) -> str:
    """The usual form of a full-width or half-width letter of East Asian fonts."""
    is_other = unicodedata.decomposition(letter).startswith(("<wide>", "<narrow>"))
    return unicodedata.normalize("NFKC", letter) if is_other else letter


def bytes_if_not_utf8(name: str) -> bytes | None:
    """Return the bytes of a file name that are not UTF-8; None if they are. Python keeps such bytes as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return None
