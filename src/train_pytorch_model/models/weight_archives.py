"""Finds the parts of a weight file, in PyTorch's zip format and its format from before 1.6.

PyTorch trusts the sizes in such a file: older releases fill a tensor that claims more numbers than the file contains
from adjacent memory. Here every size is checked before memory is taken for it.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import torch

from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.models.weight_kinds import SAVE_WEIGHTS
from train_pytorch_model.models.weight_pickles import Foreign, RefusedError, WeightUnpickler
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FIRST_BYTES = b"PK\x03\x04"  # PyTorch recognizes its zip format by these bytes
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
# The header before each part: two lengths of 2 bytes at 26, of the name and of an extra field.
_PART_BYTES, _LENGTHS = 30, struct.Struct("<26x2H")
_PICKLE = "data.pkl"
# It contains names and shapes only. Those of the largest networks need a few hundred kilobytes.
_MAX_PICKLE_BYTES = 2**22
# The number that the format from before 1.6 begins with, and the number of bytes before each of its storages.
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_COUNT_BYTES = 8


@dataclass(frozen=True)
class Stored:
    """A storage of a file: memory of its size, and where its bytes are."""

    data: torch.Tensor
    offset: int


@dataclass(frozen=True)
class Archive:
    """The content of a weight file. The numbers of its tensors have not been read yet."""

    content: Any
    storages: list[Stored]


def read_archive(file: Path) -> Archive:
    """Read everything but the numbers from a file that torch.save wrote.

    It must not be compressed, no reader may see other parts than PyTorch, and no tensor may be larger than its data.

    Raises:
        ValueError: if it fails a check; the message says which.
        OSError: if the file cannot be read.
    """
    with file.open("rb") as opened:
        is_archive = opened.read(len(_FIRST_BYTES)) == _FIRST_BYTES
        opened.seek(0)
        return _read_zip(file, opened) if is_archive else _read_older(file, opened)


def _read_zip(file: Path, opened: IO[bytes]) -> Archive:
    try:
        _check_end(file.name, opened)
        with zipfile.ZipFile(opened) as archive:
            _check_entries(file, archive.infolist())
            return _read_parts(file.name, archive, opened)
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged or hostile file can raise any exception
        raise ValueError(f"{file.name} is a damaged archive: {type(error).__name__}: {str(error)[:200]}") from error


def _read_older(file: Path, opened: IO[bytes]) -> Archive:
    """Five pickles (magic number, version, system, content, keys of storages), then the storages in this order."""
    size = file.stat().st_size
    pickles = io.BytesIO(opened.read(_MAX_PICKLE_BYTES))
    found: dict[str, torch.Tensor] = {}
    num_bytes = 0

    def new_storage(key: str, wanted: int) -> torch.Tensor:
        nonlocal num_bytes
        num_bytes += wanted if key not in found else 0
        if num_bytes > size or (key in found and len(found[key]) != wanted):
            raise RefusedError(f"claims tensors of {num_bytes} bytes but has {size} bytes")
        return found.setdefault(key, torch.empty(wanted, dtype=torch.uint8))

    magic = _unpickled(file.name, pickles, new_storage)
    if type(magic) is not int or magic != _MAGIC_NUMBER:
        of = f" of {shown(magic.name)}" if isinstance(magic, Foreign) else ""
        raise ValueError(
            f"{file.name} has no weights that can be loaded safely: it is a pickle{of} that torch.save did not write; "
            f"{SAVE_WEIGHTS}"
        )
    _, system, content, keys = (_unpickled(file.name, pickles, new_storage) for _ in range(4))
    _check_order(file.name, is_little=type(system) is not dict or system.get("little_endian", True))
    at, storages = pickles.tell(), []
    for key in keys if type(keys) is list else ():
        if type(key) is not str or key not in found:
            raise ValueError(f"{file.name} is a damaged file of weights: it has data that no tensor uses")
        storages.append(Stored(found.pop(key), at + _COUNT_BYTES))
        count = int.from_bytes(_read_at(opened, at, _COUNT_BYTES), "little")
        if count not in {len(storages[-1].data) // item_bytes for item_bytes in (1, 2, 4, 8, 16)}:
            raise ValueError(f"{file.name} is a damaged file of weights: a tensor has two different sizes")
        at += _COUNT_BYTES + len(storages[-1].data)
    if found or at > size:
        raise ValueError(f"{file.name} is truncated: it has too little data for its tensors")
    return Archive(content, storages)


def _check_order(name: str, *, is_little: bool) -> None:
    if not is_little:
        raise ValueError(f"{name} was written on a big-endian machine, whose numbers are not read")


def _check_end(name: str, opened: IO[bytes]) -> None:
    """Check that the only directory of the archive is at its end. Two readers of an archive with two could differ."""
    size = opened.seek(0, os.SEEK_END)
    at = size - _END.size
    end = _END.unpack(_read_at(opened, at, _END.size))
    if end[0] != b"PK\x05\x06" or end[7]:
        raise ValueError(f"{name} is a damaged archive, or is followed by other data")
    list_bytes, list_at = end[5], end[6]
    if at >= _LOCATOR.size:
        locator = _LOCATOR.unpack(_read_at(opened, at - _LOCATOR.size, _LOCATOR.size))
        if locator[0] == b"PK\x06\x07":
            at -= _LOCATOR.size + _LARGE_END.size
            large = _LARGE_END.unpack(_read_at(opened, at, _LARGE_END.size))
            if large[0] != b"PK\x06\x06" or locator[2] != at:
                raise ValueError(f"{name} is a damaged archive: its end record is in the wrong place")
            list_bytes, list_at = large[8], large[9]
    if list_at + list_bytes != at:
        raise ValueError(f"{name} is a damaged archive: its directory is in the wrong place")


def _read_at(opened: IO[bytes], at: int, num_bytes: int) -> bytes:
    if at < 0:
        raise ValueError("the file of weights is truncated")
    opened.seek(at)
    return opened.read(num_bytes)


def _check_entries(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise ValueError(f"{file.name} is a compressed archive, which PyTorch never writes")
    if sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise ValueError(f"{file.name} is an archive whose parts are larger than the archive")
    if any(entry.file_size != entry.compress_size for entry in entries):
        raise ValueError(f"{file.name} is a damaged archive: a part has two different sizes")
    # PyTorch ignores case when it looks up a part.
    if len({entry.filename.casefold() for entry in entries}) < len(entries):
        raise ValueError(f"{file.name} is an archive with several parts of the same name")
    if min((entry.header_offset for entry in entries), default=1) != 0:
        raise ValueError(f"{file.name} is an archive with data before its first part")


def _read_parts(name: str, archive: zipfile.ZipFile, opened: IO[bytes]) -> Archive:
    parts = {entry.filename.casefold(): entry for entry in archive.infolist()}
    folder = archive.infolist()[0].filename.partition("/")[0]
    storages: dict[str, Stored] = {}

    def part_of(path: str) -> bytes | None:
        entry = parts.get(f"{folder}/{path}".casefold())
        if entry is None:
            return None
        if entry.file_size > _MAX_PICKLE_BYTES:
            raise ValueError(f"{name} has a description of its tensors of more than {_MAX_PICKLE_BYTES} bytes")
        return _read_at(opened, _start_of(opened, entry), entry.file_size)

    def new_storage(key: str, num_bytes: int) -> torch.Tensor:
        key = key.casefold()
        entry = parts.get(f"{folder}/data/{key}".casefold())
        if entry is None or num_bytes > entry.file_size:
            raise RefusedError(f"has too little data for a tensor of {num_bytes} bytes")
        if key not in storages:
            data = torch.empty(entry.file_size, dtype=torch.uint8)
            storages[key] = Stored(data, _start_of(opened, entry))
        return storages[key].data[:num_bytes]

    pickled = part_of(_PICKLE)
    if pickled is None:
        raise ValueError(f"{name} has no description of its tensors")
    _check_order(name, is_little=part_of("byteorder") != b"big")
    content = _unpickled(name, io.BytesIO(pickled), new_storage)
    return Archive(content, list(storages.values()))


def _start_of(opened: IO[bytes], entry: zipfile.ZipInfo) -> int:
    """Where the bytes of a part begin. The checksums of parts are not compared: PyTorch may leave them out."""
    name_bytes, extra_bytes = _LENGTHS.unpack(_read_at(opened, entry.header_offset, _PART_BYTES))
    return int(entry.header_offset + _PART_BYTES + name_bytes + extra_bytes)


def _unpickled(name: str, opened: IO[bytes], new_storage: Callable[[str, int], torch.Tensor]) -> Any:
    try:
        return WeightUnpickler(opened, new_storage).load()
    except (OSError, MemoryError):
        raise
    except RefusedError as error:
        raise ValueError(f"{name} {error}") from error
    except Exception as error:  # a damaged or hostile file can raise any exception
        if is_out_of_memory(error):  # the file does not ask for more than it contains
            raise MemoryError(str(error)) from error
        raise ValueError(f"{name} has no weights that can be loaded safely ({type(error).__name__})") from error
