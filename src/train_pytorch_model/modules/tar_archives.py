"""Reads the files of a tar archive, compressed or not, also of several archives appended to one another."""

from __future__ import annotations

import shutil
import tarfile
from functools import partial
from typing import IO, TYPE_CHECKING, Callable, Optional

from train_pytorch_model.data.file_systems import temporary_folder
from train_pytorch_model.modules.archive_members import (
    FILE,
    HARD_LINK,
    LINK,
    SPECIAL,
    ArchivedFile,
    ArchiveError,
    Member,
    name_files,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = tarfile.BLOCKSIZE
_GNU_MAGIC = b"ustar  \0"
_GNU_FOLDER = b"D"
_CHUNK_BYTES = 2**20


def is_tar(block: bytes) -> bool:
    """Return whether a file whose first 512 bytes are `block` is a tar archive."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def tar_files(open_archive: Callable[[], IO[bytes]], encoding: Optional[str], where: str) -> Iterator[ArchivedFile]:
    """Iterate over the files of a tar archive, in its order. The archive is read twice.

    Args:
        open_archive: opens the archive, decompressed, at its start.
        encoding: of names that are neither marked as Unicode nor UTF-8; None if it is unknown.
        where: the archive, for warnings.

    Raises:
        ArchiveError: if the archive cannot be used.
        tarfile.TarError: if it is damaged or truncated.
    """
    with open_archive() as file:
        needed = name_files((_member(member) for member, _ in _members(file)), encoding, where)
    with open_archive() as file, temporary_folder("archive-") as folder:
        for index, (member, archive) in enumerate(_members(file)):
            names = needed.get(index, [])
            if len(names) == 1:
                yield ArchivedFile(names[0][0], partial(_open, archive, member), names[0][1])
            elif names:  # a compressed archive cannot be read again from here
                copy = folder / "file"
                with _open(archive, member) as source, copy.open("wb") as target:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
                for name, original in names:
                    yield ArchivedFile(name, lambda copy=copy: copy.open("rb"), original)  # type: ignore[misc]


def _open(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None  # only files are opened
    return content


def _member(member: tarfile.TarInfo) -> Member:
    is_unicode = "path" in member.pax_headers
    if member.isdir() or member.type == _GNU_FOLDER:
        return Member("", is_unicode)
    kind = FILE if member.isreg() else HARD_LINK if member.islnk() else LINK if member.issym() else SPECIAL
    return Member(member.name, is_unicode, kind, member.linkname)


def _members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Iterate over the members of all archives in a file, each with its archive.

    Raises:
        ArchiveError: if something else than an archive follows.
        tarfile.TarError: if an archive is damaged or truncated.
    """
    stream = _Blocks(file)
    while (block := stream.next_archive()) is not None:
        if not is_tar(block):
            raise ArchiveError(
                f"at byte {stream.tell()}, other data follows than a file or another tar archive",
                "Download or create the archive again; or unpack what can be read of it, and give the folder.",
            )
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header, encoding="utf-8") as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                yield member, archive
                archive.members.clear()  # otherwise, the list of all members stays in memory


class _Header(tarfile.TarInfo):
    """The header of a file. In GNU's format, times may be where the POSIX format has the folder of the name."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Read a header; see the base class."""
        header = super().frombuf(buf, encoding, errors)
        if buf[257:265] == _GNU_MAGIC:
            header.name = header.name.removeprefix(bytes(buf[345:500]).split(b"\0")[0].decode(encoding, errors) + "/")
        return header


class _Blocks:
    """A file that is read from its start to its end, and in which the next archive can be found."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0
        self._last: bytes | None = None
        self._ahead = b""

    def tell(self) -> int:
        """Return the number of bytes before the next one."""
        return self._position

    def seek(self, position: int) -> int:
        """Move to a position, which for most compressed files must not be before the current one."""
        if self._file.seekable():
            self._ahead = b""
            self._position = self._file.seek(position)
        while self._position < position and self.read(min(position - self._position, _CHUNK_BYTES)):
            pass
        return self._position

    def read(self, count: int) -> bytes:
        """Read this many bytes, or fewer at the end of the file."""
        parts = [self._ahead[:count]]
        self._ahead = self._ahead[count:]
        missing = count - len(parts[0])
        while missing and (part := self._file.read(missing)):
            parts.append(part)
            missing -= len(part)
        self._last = b"".join(parts)
        self._position += len(self._last)
        return self._last

    def next_archive(self) -> bytes | None:
        """Move to the next archive; `tarfile` has read the one before.

        Returns:
            The first block of what follows, which may be anything; None at the end of the file.

        Raises:
            tarfile.ReadError: if the end of the archive before is missing.
        """
        block = self.read(_BLOCK) if self._last is None else self._last  # where tarfile has found no further file
        if len(block) < _BLOCK:
            raise tarfile.ReadError("it is truncated")
        while not block.strip(b"\0"):  # an archive ends in blocks of zeros
            block = self.read(_BLOCK)
            if not block:
                return None
        self._ahead = block
        self._position -= len(block)
        return block
