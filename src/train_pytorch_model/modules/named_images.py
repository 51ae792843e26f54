"""Finds the image that a file of labels names: by a path from elsewhere, a URL, or a name without an ending."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Optional
from urllib.parse import unquote

from train_pytorch_model.ports.image_names import IMAGE_ENDINGS
from train_pytorch_model.ports.split_names import splits_in
from train_pytorch_model.text.name_forms import nfc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]+://[^/]*/", re.IGNORECASE)
_LOCAL_FILE = re.compile(r"[?&]d=([^&]+)")  # Label Studio: /data/local-files/?d=folder/file
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-(?=.)")  # Label Studio: 1a2b3c4d-file
_MAX_CANDIDATES = 1000


class Found(NamedTuple):
    """The image that a name stands for."""

    number: Optional[int]
    """The number of the image; None if there is none, or if it could be one of several."""
    is_full: bool
    """Whether the name has the ending of the image."""
    others: tuple[int, ...] = ()
    """Several images that the name could stand for."""


_NOTHING = Found(None, False)


class NamedImages:
    """The names of all images, to be found by names in files of labels."""

    def __init__(self, names: Sequence[str]) -> None:
        """Keep the names: relative, with forward slashes."""
        self.names = names
        self._by_last = _index(names, lambda name: _last(nfc(name)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    @cached_property
    def _by_last_two(self) -> dict[str, list[int]]:
        return _index(self.names, lambda name: "/".join(nfc(name).split("/")[-2:]))

    @cached_property
    def _by_folded(self) -> dict[str, list[int]]:
        return _index(self.names, lambda name: _last(nfc(name)).casefold())

    @cached_property
    def _by_stem(self) -> dict[str, list[int]]:
        return _index(self.names, lambda name: _stem(_last(nfc(name)).casefold()))

    @cached_property
    def _folders(self) -> set[str]:
        return {folder for name in self.names for folder in nfc(name).split("/")[:-1]}

    def find(self, name: str, file: str) -> Found:
        """Find the image that a file of labels names.

        A name matches the image that has the longest end of its path; of several, the one in the folder of the file, or
        in the split that the file is called after. A name never matches an image in another of the folders than the one
        that it names.

        Args:
            name: a name, a path from any root, or a URL.
            file: the file of labels, relative to the input.
        """
        for parts in (_parts(name), _parts(unquote(name)) if "%" in name else []):
            for candidates, is_full in self._candidates(parts) if parts else ():
                found = self._choose(parts, candidates, file)
                if found:
                    return Found(found[0] if len(found) == 1 else None, is_full, tuple(found[1:] and found))
        return _NOTHING

    def _candidates(self, parts: list[str]) -> Iterable[tuple[Sequence[int], bool]]:
        last = parts[-1]
        if len(parts) > 1:
            yield self._by_last_two.get("/".join(parts[-2:]), ()), True
        yield self._by_last.get(last, ()), True
        folded = last.casefold()
        yield self._by_folded.get(folded, ()), True
        yield self._by_stem.get(_stem(folded), ()), _stem(folded) != folded
        without_prefix = _UPLOAD_PREFIX.sub("", last)
        if without_prefix != last:
            yield self._by_last.get(without_prefix, ()), True

    def _choose(self, parts: list[str], candidates: Sequence[int], file: str) -> list[int]:
        """The best of the candidates; several if none is better than the others."""
        if not candidates or len(candidates) > _MAX_CANDIDATES:
            return list(candidates)
        folder = file.rpartition("/")[0]
        best: tuple[int, bool, bool, bool] | None = None
        chosen: list[int] = []
        for number in candidates:
            own = nfc(self.names[number]).split("/")
            length = _common_end(parts, own)
            if length < len(parts) and length < len(own) and parts[-length - 1] in self._folders:
                continue
            key = (
                length,
                "/".join(own[:-1]) == "/".join([*filter(None, [nfc(folder)]), *parts[:-1]]),
                not folder or self.names[number].startswith(folder + "/"),
                bool(splits_in(file) & splits_in("/".join(own[:-1]))),
            )
            if best is None or key > best:
                best, chosen = key, []
            if key == best:
                chosen.append(number)
        return chosen


def _index(names: Sequence[str], key_of: Callable[[str], str]) -> dict[str, list[int]]:
    index: dict[str, list[int]] = {}
    for number in range(len(names)):
        index.setdefault(key_of(names[number]), []).append(number)
    return index


def _parts(name: str) -> list[str]:
    """The folders and the name of the file, in NFC; without the scheme and the server of a URL."""
    local = _LOCAL_FILE.search(name) if "?" in name else None
    if local:
        name = unquote(local[1])
    elif "://" in name:
        path = _SCHEME.sub("", name)
        name = unquote(re.split("[?#]", path)[0] if name.lower().startswith("http") else path)
    return [part for part in nfc(name).replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _common_end(parts: Sequence[str], own: Sequence[str]) -> int:
    """How many of the last folders are the same; the names of the files count as the same."""
    length = 1
    while length < min(len(parts), len(own)) and parts[-length - 1] == own[-length - 1]:
        length += 1
    return length


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _stem(last: str) -> str:
    stem, dot, ending = last.rpartition(".")
    return stem if dot and f".{ending}" in IMAGE_ENDINGS else last


def has_image_ending(name: str) -> bool:
    """Whether a name ends as image files do."""
    last = "".join(_parts(name)[-1:]).lower()
    return _stem(last) != last
