"""Opens archives of images by their content: zip, and tar with any compression. Others are named for what they are."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Callable, Optional

from train_pytorch_model.data.image_formats import kind_of
from train_pytorch_model.modules.archive_members import ArchivedFile, ArchiveError
from train_pytorch_model.modules.tar_archives import is_tar, tar_files
from train_pytorch_model.modules.zip_archives import zip_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARCHIVE_FAULTS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, NotImplementedError, UnicodeDecodeError),
)
_ENDINGS = (
    *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".tbz", ".xz", ".txz", ".lzma", ".zst", ".tzst", ".lz4", ".7z"),
    *(".rar", ".z", ".lz", ".cab", ".iso", ".cpio", ".ar", ".zipx", ".arj", ".lha", ".lzh", ".sitx", ".dmg"),
)
_PART = re.compile(
    r"\.(?:z\d\d|r\d\d|part\d+\.rar|(?:zip|tar|gz|tgz|bz2|xz|zst|7z|rar)\.?(?:part|-)?(?:(?![bglx]z$)[a-z]{2}|\d+))$"
)
_CHUNK_BYTES = 2**20
_JOIN = "Join the parts (cat NAME.001 NAME.002 > NAME, or for .z01: zip -s 0 NAME.zip --out WHOLE.zip)"


_Opener = Callable[["Path"], IO[bytes]]


class _Streams(io.RawIOBase):
    """Decompresses one or several streams of a file. `bz2` and `lzma` ignore other data that follows a stream."""

    def __init__(self, path: Path, make_decompressor: Callable[[], Any]) -> None:
        self._file = path.open("rb")
        self._make_decompressor = make_decompressor
        self._decompressor = make_decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data:
            rest = b""
            if self._decompressor.eof:
                rest = self._decompressor.unused_data.lstrip(b"\0")  # xz fills with zeros
                while not rest:
                    if not (chunk := self._file.read(_CHUNK_BYTES)):
                        return 0
                    rest = chunk.lstrip(b"\0")
                self._decompressor = self._make_decompressor()
            elif self._decompressor.needs_input and not (rest := self._file.read(_CHUNK_BYTES)):
                raise EOFError("it is truncated")
            data = self._decompressor.decompress(rest, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_bzip2(path: Path) -> IO[bytes]:
    return io.BufferedReader(_Streams(path, bz2.BZ2Decompressor))


def _open_xz(path: Path) -> IO[bytes]:
    return io.BufferedReader(_Streams(path, lzma.LZMADecompressor))


def _open_gzip(path: Path) -> IO[bytes]:
    return gzip.GzipFile(path, "rb")  # type: ignore[return-value]  # it has the methods of a file


def _open_with_pyarrow(compression: str) -> _Opener:
    def open_stream(path: Path) -> IO[bytes]:
        import pyarrow  # slow to import; the standard library has no Zstandard before Python 3.14, and no LZ4

        stream: IO[bytes] = pyarrow.input_stream(str(path), compression=compression)
        return stream

    return open_stream


_COMPRESSIONS: tuple[tuple[bytes, _Opener], ...] = (
    *((b"\x1f\x8b", _open_gzip), (b"BZh", _open_bzip2), (b"\xfd7zXZ\0", _open_xz), (b"\x5d\0\0", _open_xz)),
    *((b"\x28\xb5\x2f\xfd", _open_with_pyarrow("zstd")), (b"\x04\x22\x4d\x18", _open_with_pyarrow("lz4"))),
)
_STARTS = (b"PK\3\4", b"PK\5\6", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\7", *(start for start, _ in _COMPRESSIONS))


def is_archive_name(name: str) -> bool:
    """Return whether a file with this name should be an archive, or a part of one."""
    return name.lower().endswith(_ENDINGS) or _PART.search(name.lower()) is not None


def is_archive_file(path: Path) -> bool:
    """Return whether the content of a file is that of an archive or of a compressed file."""
    try:
        with path.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except OSError:  # reported when the file is read
        return False
    return head.startswith(_STARTS) or is_tar(head)


def archived_files(path: Path, encoding: Optional[str], where: str) -> Iterator[ArchivedFile]:
    """Iterate over the files of an archive, which its content identifies, whatever its name says.

    Args:
        path: the archive.
        encoding: of names that are neither marked as Unicode nor UTF-8; None if it is unknown.
        where: the archive, for warnings.

    Raises:
        ArchiveError: if it is not an archive that can be read, or is damaged.
    """
    try:
        yield from _files(path, encoding, where)
    except (ArchiveError, *ARCHIVE_FAULTS) as error:
        if _PART.search(path.name.lower()):
            raise ArchiveError("it is a part of a split archive", f"{_JOIN} and give the whole archive.") from error
        raise error if isinstance(error, ArchiveError) else damaged(error) from error


def damaged(error: BaseException) -> ArchiveError:
    """Return the error for an archive that cannot be read to its end."""
    reason = "the end of a zip archive is missing" if "not a zip file" in str(error) else error
    return ArchiveError(f"it cannot be read: {reason}", "Download or create the archive again.")


def _files(path: Path, encoding: Optional[str], where: str) -> Iterator[ArchivedFile]:
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    open_stream = next((opener for start, opener in _COMPRESSIONS if head.startswith(start)), None)
    if is_tar(head):
        yield from tar_files(lambda: path.open("rb"), encoding, where)
    elif open_stream is not None:
        with open_stream(path) as stream:
            start = stream.read(tarfile.BLOCKSIZE)
        if not is_tar(start):
            raise ArchiveError(
                f"it is {kind_of(head)} that contains no tar archive but {kind_of(start)}",
                "Decompress it, and give a folder of images, or a zip or tar archive of one.",
            )
        yield from tar_files(lambda: open_stream(path), encoding, where)
    elif head.startswith((b"PK\3\4", b"PK\5\6")) or zipfile.is_zipfile(path):  # it may begin with a program
        yield from zip_files(path, encoding, where)
    else:
        raise ArchiveError(
            f"it is not a zip or tar archive but {kind_of(head)}",
            "Give a folder of images, or a zip or tar archive of one. Unpack archives of other kinds.",
        )
