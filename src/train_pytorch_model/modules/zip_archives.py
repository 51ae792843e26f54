"""Reads the files of a zip archive."""

from __future__ import annotations

import stat
import zipfile
import zlib
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.modules.archive_members import (
    FILE,
    LINK,
    SPECIAL,
    ArchivedFile,
    ArchiveError,
    Member,
    name_files,
)
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_IS_ENCRYPTED, _IS_UTF8 = 0x1, 0x800
_IS_DOS_FOLDER = 0x10
_UNICODE_PATH = 0x7075
# Numbers of APPNOTE.TXT, the specification of zip.
_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 94: "MP3", 95: "XZ", 96: "JPEG", 97: "WavPack"}
_METHODS |= {98: "PPMd"}
_READ_METHODS = {
    *(zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA),
    getattr(zipfile, "ZIP_ZSTANDARD", zipfile.ZIP_STORED),  # since Python 3.14
}
_UNPACK = "Unpack it with another program, such as 7-Zip, and give the folder."
_LOCAL_HEADER = b"PK\3\4"


def zip_files(path: Path, encoding: Optional[str], where: str) -> Iterator[ArchivedFile]:
    """Iterate over the files of a zip archive, in its order.

    Args:
        path: the archive.
        encoding: of names that are neither marked as Unicode nor UTF-8; None if it is unknown.
        where: the archive, for warnings.

    Raises:
        ArchiveError: if the archive or a needed file of it cannot be read.
        zipfile.BadZipFile: if it is damaged.
    """
    with zipfile.ZipFile(path) as packed:
        entries = packed.infolist()
        if any(entry.volume for entry in entries):
            raise ArchiveError(
                "it is the last part of a split zip archive",
                "Join the parts (zip -s 0 PARTS.zip --out WHOLE.zip) and give the whole archive.",
            )
        _check_start(path, entries)
        needed = name_files((_member(packed, entry) for entry in entries), encoding, where)
        _check([entries[index] for index in needed])
        for index, names in sorted(needed.items()):
            for name, original in names:
                yield ArchivedFile(name, lambda entry=entries[index]: packed.open(entry), original)  # type: ignore[misc]


def _check_start(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Check that no other archive is before this one. A program may be, as in a self-extracting archive."""
    if min((entry.header_offset for entry in entries), default=0) > 0:
        with path.open("rb") as file:
            if file.read(4) == _LOCAL_HEADER:
                raise ArchiveError(
                    "it consists of several zip archives, one after another",
                    "Only the last one would be read. Unpack each of them, and give the folder.",
                )


def _member(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Member:
    name, is_unicode = entry.orig_filename, bool(entry.flag_bits & _IS_UTF8)
    if not is_unicode:
        raw = name.encode("cp437")  # as which zipfile has decoded it
        unicode_name = _unicode_path(entry.extra, raw)
        name, is_unicode = unicode_name or raw.decode("utf-8", "surrogateescape"), unicode_name is not None
    mode = entry.external_attr >> 16
    if (
        name.endswith(("/", "\\"))
        or stat.S_ISDIR(mode)
        or (entry.external_attr & _IS_DOS_FOLDER and not entry.file_size)
    ):
        return Member("", is_unicode)
    if stat.S_ISLNK(mode):
        return Member(name, is_unicode, LINK, packed.read(entry)[:4096].decode("utf-8", "surrogateescape"))
    return Member(name, is_unicode, FILE if stat.S_IFMT(mode) in (0, stat.S_IFREG) else SPECIAL)


def _unicode_path(extra: bytes, raw: bytes) -> Optional[str]:
    """The name in Info-ZIP's Unicode Path Extra Field; None if there is none, or if it is of another name."""
    while len(extra) >= 4:
        kind, size = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        data, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and data[:1] == b"\1" and int.from_bytes(data[1:5], "little") == zlib.crc32(raw):
            try:
                return data[5:].decode()
            except UnicodeDecodeError:
                return None
    return None


def _check(entries: list[zipfile.ZipInfo]) -> None:
    """Check that all entries can be decompressed.

    Raises:
        ArchiveError: if not; the message names the first ones.
    """
    encrypted = [entry.filename for entry in entries if entry.flag_bits & _IS_ENCRYPTED]
    if encrypted:
        raise ArchiveError(
            f"{len(encrypted)} of its files are encrypted: {name_some(encrypted)}",
            "Unpack it with its password and give the folder.",
        )
    unknown = [entry for entry in entries if entry.compress_type not in _READ_METHODS]
    if unknown:
        method = unknown[0].compress_type
        raise ArchiveError(
            f"{len(unknown)} of its files are compressed with {_METHODS.get(method, f'method {method}')}, which is not "
            f"supported: {name_some([entry.filename for entry in unknown])}",
            _UNPACK,
        )
