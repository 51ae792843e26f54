"""Many file names in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# JSON may hold lone surrogates, and so do names of files that are no UTF-8.
_SURROGATES = "surrogatepass"


class FileNames(Sequence[str]):
    """A list of texts as one run of UTF-8 and the places where each ends.

    A million names of 20 letters take 28 MB; as a list of `str` they would take 77 MB.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._text = bytearray()
        self._ends = array("q", [0])
        for name in names:
            self.append(name)

    def append(self, name: str) -> None:
        """Add one more name."""
        self._text += name.encode("utf-8", _SURROGATES)
        self._ends.append(len(self._text))

    def __bytes__(self) -> bytes:
        """All names and where each ends; equal for equal lists alone."""
        return self._ends.tobytes() + self._text

    def __len__(self) -> int:
        """The number of names."""
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # no slices: nobody needs them
        """The name at `index`, from 0."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", _SURROGATES)
