"""Decides which file of a directory a name may lead to. All readers of directories ask here, links included."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from pathlib import Path

# The number of folders whose real paths are cached. A list may name millions of files in few folders.
_MAX_FOLDERS = 2**16


def is_file_name(name: str) -> bool:
    """Whether a file can have this name. JSON and YAML can contain NUL bytes and lone surrogates; file names cannot."""
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        return False


def is_inside(name: str) -> bool:
    """Whether a name, read as a relative path of any operating system, stays within its folder. Ignores links."""
    path = name.replace("\\", "/")  # pathlib would be too slow for millions of names
    return "\0" not in path and not path.startswith("/") and ".." not in path.split("/")


def fault_of_name(name: str) -> str:
    """Return what is wrong with a name, such as "leaves the directory"; "" if nothing is. Ignores links."""
    if not is_file_name(name):
        return "is not a possible file name"
    return "" if is_inside(name) else "leaves the directory"


class Folder:
    """A folder whose files are named by its own content, which may come from a stranger."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # The folder itself may be reached through links, as mounted inputs are.
        self._real_path = os.path.realpath(path)
        self._real_folder = lru_cache(_MAX_FOLDERS)(os.path.realpath)
        self._names_in = lru_cache(_MAX_FOLDERS)(_names_beyond_ascii)

    def fault_of(self, name: str) -> str:
        """Return why a name may not be read, such as "leaves the directory"; "" if it may. A file may be missing."""
        if fault := fault_of_name(name):
            return fault
        if self.is_led_out(os.path.join(self._path, name)):
            return "leads out of the directory through a link"
        return ""

    def spelled(self, name: str) -> str:
        """Return a name as the disk spells it, where it differs only in the Unicode form; otherwise, the same name."""
        if name.isascii():
            return name
        path = ""
        for part in name.split("/"):
            present = {} if part.isascii() else self._names_in(os.path.join(self._path, path))
            path = os.path.join(path, present.get(part) or present.get(nfc(part), part))
        return path

    def is_led_out(self, path: str) -> bool:
        """Whether a path, which begins with the folder's, leads out of the folder through a link."""
        real = os.path.realpath(path) if os.path.islink(path) else self._real_folder(os.path.dirname(path))
        return real != self._real_path and not real.startswith(os.path.join(self._real_path, ""))


def _names_beyond_ascii(folder: str) -> dict[str, str]:
    """The names in a folder that are not ASCII, by themselves and in NFC; empty if the folder cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if not entry.name.isascii()]
    except OSError:
        return {}
    return {**{nfc(name): name for name in names}, **{name: name for name in names}}


def find_file(folder: Path, name: object, role: str = "") -> Path:
    """Return the path of the regular file inside a folder that a name leads to.

    Args:
        folder: the directory.
        name: the name that a file of the directory gives, which may be of any type.
        role: what the name stands for in messages, such as "the weights (key 'model_file')"; "" for a fixed name.

    Raises:
        ValueError: if there is no name, it leads out of the folder, or there is no regular file.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"{role}: {shown(name)} is not a file name")
    file = folder / name
    fault = Folder(folder).fault_of(name)
    if not fault and not os.path.isfile(file):
        fault = "is not a regular file" if os.path.exists(file) else "is missing"
    if fault:
        raise ValueError(f"{role}: {shown(name)} {fault}" if role else f"{name} {fault}")
    return file
