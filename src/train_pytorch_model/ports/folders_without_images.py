"""Checks the folders beside the class folders: a class is never left out because its images cannot be read."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_names import could_be_image, is_hidden
from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import join_some

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


_MAX_PATH_BYTES = 1024
_ARCHIVE_ENDINGS = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")


def check_folders_without_images(
    where: str, path: Path, root: str, classes: Collection[str], others: Iterable[str]
) -> None:
    """Check the folders beside the class folders.

    Folders of texts, such as annotations, are no classes. Empty folders, folders of other files and archives could be,
    unless the archive is called as a class.

    Args:
        where: the dataset, for messages.
        path: the folder of the dataset, or an archive, whose empty folders are not checked.
        root: the folder of the class folders, relative to the dataset.
        classes: the names of the classes.
        others: the names of all files that are not images, relative to the dataset.

    Raises:
        InvalidDatasetError: if a folder could be a class without images; the message names it and what it has.
    """
    known = {nfc(name) for name in classes}
    start = f"{root}/" if root else ""
    endings: dict[str, Counter[str]] = {}
    files = []
    for name in others:
        folder, slash, file = name[len(start) :].partition("/")
        if not name.startswith(start):
            continue
        if not slash and folder.lower().endswith(_ARCHIVE_ENDINGS) and nfc(folder.partition(".")[0]) not in known:
            files.append(f"{folder!r} is an archive")
        elif not slash and _is_text_of_link(path / name):
            files.append(f"{folder!r} is a text with a path, which git writes in place of a link")
        elif slash and nfc(folder) not in known:
            endings.setdefault(folder, Counter())[PurePosixPath(file).suffix.lower()] += 1
    faults = [
        f"{folder!r} has {_counted(found)}"
        for folder, found in sorted(endings.items())
        if any(could_be_image(f"x{ending}") for ending in found)
    ]
    faults += [f"{name!r} is empty" for name in _empty_folders(path / root) if nfc(name) not in known]
    faults += files
    if faults:
        raise InvalidDatasetError(
            where,
            f"beside the class folders, something could be a class but has no images: {join_some(faults)}",
            "Put images into the folder of each class, and remove what is no class.",
        )


def _is_text_of_link(file: Path) -> bool:
    if file.suffix or not file.is_file() or file.stat().st_size > _MAX_PATH_BYTES:
        return False
    return re.fullmatch(rb"[^\s\0]*/[^\s\0/]+", file.read_bytes()) is not None


def _empty_folders(path: Path) -> list[str]:
    """The folders in a folder that have only hidden files at any depth."""
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        folders = [entry for entry in entries if entry.is_dir() and not is_hidden(entry.name)]
    return sorted(folder.name for folder in folders if not _has_files(folder.path))


def _has_files(folder: str) -> bool:
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if not all(map(is_hidden, files)):
            return True
    return False


def _counted(endings: Counter[str]) -> str:
    """For example: `3 .heic, 1 .zip`."""
    return ", ".join(f"{count} {ending or 'without an extension'}" for ending, count in endings.most_common(5))
