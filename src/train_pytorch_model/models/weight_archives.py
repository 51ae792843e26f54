"""Checks the structure of weight files before PyTorch reads them, in its zip format and its format from before 1.6.

PyTorch trusts the sizes in such a file: older releases fill a tensor that claims more numbers than the file contains
from adjacent memory.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import struct
import zipfile
from typing import IO, TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_FIRST_BYTES = b"PK\x03\x04"  # PyTorch recognizes its zip format by these bytes
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
_PICKLE = "data.pkl"
# It contains names and shapes only. Those of the largest networks need a few hundred kilobytes.
_MAX_PICKLE_BYTES = 2**22
# Opcodes that PyTorch does not write: sets, mappings with any keys, and the allocation of any size that a file names.
_UNUSED_OPCODES = b"".join((pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8))
# Magic number, version, system information, description, and the keys of the storages that follow.
_NUM_OLD_PICKLES = 5
# The storage types of PyTorch. Newer data types use untyped storages.
_ITEM_BYTES = {
    **{f"{kind}Storage": 1 for kind in ("Untyped", "Char", "Byte", "Bool", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4")},
    **{f"{kind}Storage": 2 for kind in ("Half", "BFloat16", "Short")},
    **{f"{kind}Storage": 4 for kind in ("Float", "Int", "QInt32")},
    **{f"{kind}Storage": 8 for kind in ("Double", "Long", "ComplexFloat")},
    "ComplexDoubleStorage": 16,
}


def is_archive(file: Path) -> bool:
    """Whether PyTorch reads a file as its zip format.

    Raises:
        OSError: if the file cannot be read.
    """
    with file.open("rb") as opened:
        return opened.read(len(_FIRST_BYTES)) == _FIRST_BYTES


def check_archive(file: Path) -> None:
    """Check a file in PyTorch's zip format.

    It must not be compressed, no reader may see other parts than PyTorch, and no tensor may be larger than its data.

    Raises:
        ValueError: if it fails a check; the message says which.
        OSError: if the file cannot be read.
    """
    try:
        with file.open("rb") as opened:
            _check_end(file.name, opened)
            with zipfile.ZipFile(opened) as archive:
                _check_entries(file, archive.infolist())
                _check_storages(file.name, archive)
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # a damaged or hostile file can raise any exception
        raise ValueError(f"{file.name} is a damaged archive: {type(error).__name__}: {str(error)[:200]}") from error


def check_older(file: Path) -> None:
    """Check that a file in the format from before PyTorch 1.6 is as large as its tensors.

    Raises:
        ValueError: if it is not, or is damaged.
        OSError: if the file cannot be read.
    """
    with file.open("rb") as opened:
        pickles = io.BytesIO(opened.read(_MAX_PICKLE_BYTES))
    found: dict[str, int] = {}
    for _ in range(_NUM_OLD_PICKLES):
        for key, num_bytes in _claimed(file.name, pickles):
            found[key] = max(num_bytes, found.get(key, 0))
    if sum(found.values()) > file.stat().st_size:
        raise ValueError(
            f"{file.name} claims tensors of {sum(found.values())} bytes but has {file.stat().st_size} bytes"
        )


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


def _check_storages(name: str, archive: zipfile.ZipFile) -> None:
    sizes = {entry.filename.casefold(): entry.file_size for entry in archive.infolist()}
    folder = archive.infolist()[0].filename.partition("/")[0]
    description = f"{folder}/{_PICKLE}"
    if sizes.get(description.casefold(), 0) > _MAX_PICKLE_BYTES:
        raise ValueError(f"{name} has a description of its tensors of more than {_MAX_PICKLE_BYTES} bytes")
    try:
        pickled = archive.read(description)
    except KeyError as error:
        raise ValueError(f"{name} has no description of its tensors") from error
    for key, num_bytes in _claimed(name, io.BytesIO(pickled)):
        if num_bytes > sizes.get(f"{folder}/data/{key}".casefold(), -1):
            raise ValueError(f"{name} has too little data for a tensor of {num_bytes} bytes")


def _claimed(name: str, opened: IO[bytes]) -> list[tuple[str, int]]:
    """Read the next description; return the key and the size in bytes of each storage in it."""
    unpickler = _Storages(opened)
    try:
        unpickler.load()
    except (OSError, MemoryError):
        raise
    except _RefusedError as error:
        raise ValueError(f"{name} {error}") from error
    except Exception as error:
        raise ValueError(f"{name} has no weights that can be loaded safely ({type(error).__name__})") from error
    return unpickler.found


class _RefusedError(ValueError):
    """The file has content that PyTorch never writes; the message is the predicate of a sentence about the file."""


class _Nothing:
    """Stands for anything of PyTorch that a description names, so that nothing is imported or called."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Accept any arguments."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore the entry."""

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""


class _Mapping(_Nothing):
    """Stands for OrderedDict."""

    def __init__(self) -> None:
        """Accept no arguments, not even entries."""

    def __setstate__(self, state: Any) -> None:
        """Ignore attributes, which must be a plain dict."""
        if type(state) is not dict:
            raise pickle.UnpicklingError("attributes that are not a dict")


@functools.cache
def _storage_kind(name: str) -> type[_Nothing]:
    return type(name, (_Nothing,), {"item_bytes": _ITEM_BYTES[name]})


def _with_names(code: bytes, keys: slice) -> Callable[[Any], None]:
    """Return the handler of an opcode that accepts only text as keys.

    Hashing or comparing other keys, such as nested tuples or numbers with the same hash, can take unlimited time.
    """
    load = pickle._Unpickler.dispatch[code[0]]

    def check_and_load(unpickler: Any) -> None:
        if not all(type(key) is str for key in unpickler.stack[keys]):
            raise _RefusedError("has names of tensors that are not text")
        load(unpickler)

    return check_and_load


# The Python implementation stores memoized objects in a dict; the C one allocates an array up to any index in the file.
class _Storages(pickle._Unpickler):
    """Reads a description and collects the storages in it and their sizes."""

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _UNUSED_OPCODES},
        pickle.SETITEM[0]: _with_names(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _with_names(pickle.SETITEMS, slice(None, None, 2)),
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.found: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> type[_Nothing]:
        """Return a stand-in for a name that PyTorch writes."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Mapping
        if module.partition(".")[0] != "torch":
            raise pickle.UnpicklingError("a name that PyTorch does not write")
        return _storage_kind(name) if name.endswith("Storage") else _Nothing

    def persistent_load(self, pid: Any) -> Any:
        """Record a storage."""
        kind, storage_type, key, _, numel, *_ = pid  # the older format adds which storage it is a view of
        if kind != "storage" or type(key) is not str or type(numel) is not int or not 0 <= numel < 2**63:
            raise pickle.UnpicklingError("not a storage")
        self.found.append((key, numel * storage_type.item_bytes))
        return _Nothing()
