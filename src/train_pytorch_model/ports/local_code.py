"""Unpacks and imports the code that a model brings with it."""

from __future__ import annotations

import atexit
import logging
import lzma
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from train_pytorch_model.ports.named_files import is_inside
from train_pytorch_model.text.wording import bytes_in_words, shown

logger = logging.getLogger(__name__)

# Much larger than any real code.
_MAX_FILES = 10_000
_MAX_BYTES = 256 * 2**20
# The errors of zipfile for damaged archives, for all methods of compression.
_ARCHIVE_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
)


def import_local_code(archive: Path) -> tuple[str, ...]:
    """Unpack an archive into a private folder and make it importable. The folder is deleted when the process ends.

    Args:
        archive: `local_dependencies.zip`, which the user trusts.

    Returns:
        The folders in the archive.

    Raises:
        ValueError: if it cannot be unpacked, contains links or names that leave the folder, or is too large.
    """
    target = Path(tempfile.mkdtemp(prefix="model-code-"))  # with permissions for this user only
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            _check(archive.name, packed.infolist())
            packed.extractall(target)
    except _ARCHIVE_FAULTS as error:
        raise ValueError(f"{archive.name} cannot be unpacked: {error}") from error
    folders = tuple(str(entry) for entry in sorted(target.iterdir()) if entry.is_dir())
    # A model may name its class relative to a folder of the archive, or with the name of the folder.
    sys.path[:0] = [str(target), *folders]
    logger.warning("Importing code of the untrained model because of --trust-model-code: %s.", ", ".join(folders))
    return folders


def look_in_working_directory() -> None:
    """Let a model's code be imported from the working directory too, after every installed package."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def _check(name: str, entries: list[zipfile.ZipInfo]) -> None:
    for entry in entries:
        if not is_inside(entry.filename):
            raise ValueError(f"{name} contains {shown(entry.filename)}, which leaves the folder")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{name} contains {shown(entry.filename)}, which is a link or not a file")
    num_bytes = sum(entry.file_size for entry in entries)
    if len(entries) > _MAX_FILES or num_bytes > _MAX_BYTES:
        raise ValueError(
            f"{name} contains {len(entries)} files of {bytes_in_words(num_bytes)}, more than the limit for code"
        )
