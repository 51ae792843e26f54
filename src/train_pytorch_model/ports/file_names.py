"""A list of many file names in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# JSON may contain lone surrogates, and Python uses them in file names that are not UTF-8.
_SURROGATES = "surrogatepass"


class FileNames(Sequence[str]):
    """A list of texts, stored as one UTF-8 buffer and the end of each text in it.

    A million names of 20 characters take 28 MB; a list of `str` would take 77 MB.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Append a name."""
        self._text += name.encode("utf-8", _SURROGATES)
        self._ends.append(len(self._text))

    def __bytes__(self) -> bytes:
        """Return the names and their ends; different lists have different bytes."""
        return self._ends.tobytes() + self._text

    def __len__(self) -> int:
        """Return the number of names."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        """Return the name at `index`, counted from 0."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", _SURROGATES)
