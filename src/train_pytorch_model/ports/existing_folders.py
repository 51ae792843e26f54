"""Fills a folder that exists, such as a mount point, so that an incomplete output is never taken for a complete one."""

from __future__ import annotations

import contextlib
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from train_pytorch_model.data.file_systems import copy_folder, is_system_name
from train_pytorch_model.ports.small_files import META_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UNFINISHED_MARKER = ".unfinished-model"
"""A file with this name shows that the other files of an output are those of a process that has not completed it."""


def entries_of(folder: Path) -> list[Path]:
    """Return everything in a folder but what the file system itself keeps there."""
    return [entry for entry in folder.iterdir() if not is_system_name(entry.name)]


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Mark a folder as incomplete while the block fills it. It is emptied before the block, and if the block fails."""
    mark = folder / UNFINISHED_MARKER
    mark.touch()
    try:
        _clear(folder)
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # then the mark stays, and the next run may remove the files
            _clear(folder)
            mark.unlink()
        raise
    with contextlib.suppress(OSError):  # `_meta.yaml` is there, so the output is complete
        mark.unlink()


def copy_into(folder: Path, source: Path) -> None:
    """Copy the content of another folder, with `_meta.yaml` last."""
    for entry in sorted(source.iterdir(), key=lambda entry: entry.name == META_FILE):
        if entry.is_dir():
            copy_folder(entry, folder / entry.name)
        else:
            shutil.copyfile(entry, folder / entry.name)


def _clear(folder: Path) -> None:
    """Remove an earlier output, `_meta.yaml` first, so that an incomplete one is never read."""
    entries = [entry for entry in entries_of(folder) if entry.name != UNFINISHED_MARKER]
    for entry in sorted(entries, key=lambda entry: entry.name != META_FILE):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
