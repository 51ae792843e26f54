"""Lists the files of a folder at any depth, without metadata files of operating systems and tools."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.errors import InvalidDatasetError

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)


def is_hidden(name: str) -> bool:
    """Whether a file or a folder of this name is metadata, which nobody would call a part of the dataset."""
    return name.startswith(".") or name == "__MACOSX"


def files_below(path: Path, where: str) -> Iterator[tuple[str, Path]]:
    """Iterate over the names, with forward slashes, and the paths of all files that are not hidden.

    Links and special files are skipped with a warning.

    Raises:
        InvalidDatasetError: if a folder cannot be read.
    """
    num_links = 0

    def refuse(error: OSError) -> None:
        raise InvalidDatasetError(where, f"a folder cannot be read: {error}") from error

    for folder, folders, files in os.walk(path, onerror=refuse):
        num_links += sum(os.path.islink(os.path.join(folder, name)) for name in (*folders, *files))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in files if not is_hidden(name)):
            file = Path(folder) / name
            if not os.path.islink(file) and _is_regular(file, where):
                yield file.relative_to(path).as_posix(), file
    if num_links:
        logger.warning("%s: skipped %d links to files or folders.", where, num_links)


def _is_regular(file: Path, where: str) -> bool:
    if os.path.isfile(file) or not os.path.exists(file):  # an inaccessible file is reported when it is opened
        return True
    logger.warning("%s: skipped %s, which is not a regular file.", where, file)  # reading a pipe would block
    return False
