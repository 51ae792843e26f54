"""Reads the files of a folder or an archive one by one. Archives are not unpacked; names in them are never paths."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Callable

from train_pytorch_model.data.decoding import UnreadableImageError
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.folder_files import files_below
from train_pytorch_model.ports.image_names import is_hidden
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterator

ARCHIVE_ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".gz", ".bz2")
DATASET = "Input"
_CHUNK_BYTES = 2**20
_ARCHIVE_FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, NotImplementedError),
)
_KINDS_BY_FIRST_BYTES = ((b"\x1f\x8b", gzip.GzipFile), (b"BZh", bz2.BZ2File), (b"\xfd7zXZ\x00", lzma.LZMAFile))


class SourceFile:
    """A file in a folder or an archive."""

    original = ""
    """The name of the same file without links, if a link in a folder leads to it."""

    def __init__(self, name: str, open_file: Callable[[], IO[bytes]], archive: str | None = None) -> None:
        """Keep the name of a file and how to open it.

        Args:
            name: relative name, with forward slashes, without `.` and `..`.
            open_file: opens the file for reading. A file in an archive must be read before the next one.
            archive: the name of its archive in messages; None for a file in a folder.
        """
        self.name = name
        self._open = open_file
        self._archive = archive

    def chunks(self) -> Iterator[bytes]:
        """Read the content, piece by piece.

        Raises:
            InvalidDatasetError: if the archive is damaged.
            UnreadableImageError: if a file in a folder cannot be read.
        """
        try:
            with self._open() as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
        except _ARCHIVE_FAULTS as error:
            if self._archive is None:
                raise UnreadableImageError(str(error)) from error
            raise _archive_error(self._archive, error) from error


def files_of(path: Path, *, follow_links: bool = False) -> Iterator[SourceFile]:
    """Iterate over the files of a folder, of an archive, or of the only archive in a folder.

    Hidden files and folders and metadata of operating systems are skipped. `files_below` describes links in a folder.

    Args:
        path: a folder or an archive.
        follow_links: whether to follow links that lead out of the folder.

    Raises:
        InvalidDatasetError: if the input does not exist, is a damaged archive, or is a folder that contains an archive
            and other files.
    """
    where = f"{DATASET} {path}"
    if not path.exists():
        raise InvalidDatasetError(where, "the input path does not exist", "Give a folder or an archive of images.")
    if not path.is_dir():
        if not path.is_file():
            raise InvalidDatasetError(where, "it is not a regular file", "Give a folder or an archive of images.")
        yield from _archive(path, where)
        return
    visible = sorted(entry for entry in path.iterdir() if not is_hidden(entry.name))
    archives = [entry for entry in visible if _is_archive(entry)]
    if not archives:
        yield from _folder(path, where, follow_links=follow_links)
    elif len(visible) > 1:
        names = [entry.name for entry in visible]
        raise InvalidDatasetError(
            where, f"it contains an archive and other files: {name_some(names)}", "Give one of them."
        )
    else:
        yield from _archive(archives[0], where)


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.lower().endswith(ARCHIVE_ENDINGS)


def _folder(path: Path, where: str, *, follow_links: bool) -> Iterator[SourceFile]:
    for file in files_below(path, where, follow_links=follow_links):
        source = SourceFile(file.name, lambda path=file.path: path.open("rb"))  # type: ignore[misc]
        source.original = file.original
        yield source


def _archive(path: Path, where: str) -> Iterator[SourceFile]:
    archive = f"{where}: the archive {path.name}"
    try:
        if path.name.lower().endswith(".zip"):
            yield from _zip(path, archive)
        else:
            yield from _tar(path, archive)
    except _ARCHIVE_FAULTS as error:
        raise _archive_error(archive, error) from error


def _archive_error(archive: str, error: BaseException) -> InvalidDatasetError:
    return InvalidDatasetError(archive, f"it cannot be read: {error}", "Create the archive again.")


def _plain_name(name: str) -> str | None:
    """`a/b.jpg` for `./a/b.jpg` and `/a/b.jpg`; None for a hidden file or a name with `..`."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part != "/"]
    return None if not parts or any(is_hidden(part) for part in parts) else "/".join(parts)


def _zip(path: Path, archive: str) -> Iterator[SourceFile]:
    with zipfile.ZipFile(path) as packed:
        for info in packed.infolist():
            name = None if info.is_dir() else _plain_name(info.filename)
            if name is not None:
                yield SourceFile(name, lambda info=info: packed.open(info), archive)  # type: ignore[misc]


def _tar(path: Path, archive: str) -> Iterator[SourceFile]:
    with path.open("rb") as file:
        first = file.read(8)
    kind: Any = next((kind for start, kind in _KINDS_BY_FIRST_BYTES if first.startswith(start)), open)
    with kind(path, "rb") as raw:
        stream = _KeepsEnd(raw)
        with tarfile.open(fileobj=stream, mode="r|") as packed:  # type: ignore[call-overload]
            while (member := packed.next()) is not None:
                name = _plain_name(member.name) if member.isreg() else None
                if name is not None:
                    yield SourceFile(name, lambda member=member: packed.extractfile(member), archive)  # type: ignore[misc]
                packed.members.clear()  # otherwise, the list of all members stays in memory
        # Read to the end, where a compressed file has its checksum. tarfile stops at the end of the tar data, and does
        # not report a truncated file.
        while stream.read(_CHUNK_BYTES):
            pass
        if stream.end.strip(b"\0"):
            raise tarfile.ReadError("it is truncated")


class _KeepsEnd:
    """A file that keeps the last block read from it: a complete tar archive ends in blocks of zeros."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.end = b""

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        if data:
            self.end = data[-tarfile.BLOCKSIZE :]
        return data
