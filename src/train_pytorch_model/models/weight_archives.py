"""Files of weights, in PyTorch's archive or in its form from before 1.6, looked through before PyTorch reads one.

PyTorch takes the sizes in such a file on trust: a tensor that claims more numbers than its file holds is read out of
whatever lies behind it in memory.
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

_FIRST_BYTES = b"PK\x03\x04"  # by which PyTorch tells its archives from its older files
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
_PICKLE = "data.pkl"
# Of names and shapes alone; those of the largest networks take some hundred kilobytes.
_MAX_PICKLE_BYTES = 2**22
# Operations that PyTorch does not write: sets and mappings of any keys, and room for whatever number a file names.
_UNWRITTEN = b"".join((pickle.DICT, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET, pickle.BYTEARRAY8))
# A magic number, a version, facts of the machine, the description and the order of the numbers that follow.
_NUM_PICKLES_OF_OLDER = 5
# The kinds of storage that PyTorch names; newer kinds of numbers lie in untyped ones.
_ITEM_BYTES = {
    **{f"{kind}Storage": 1 for kind in ("Untyped", "Char", "Byte", "Bool", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4")},
    **{f"{kind}Storage": 2 for kind in ("Half", "BFloat16", "Short")},
    **{f"{kind}Storage": 4 for kind in ("Float", "Int", "QInt32")},
    **{f"{kind}Storage": 8 for kind in ("Double", "Long", "ComplexFloat")},
    "ComplexDoubleStorage": 16,
}


def is_archive(file: Path) -> bool:
    """Whether PyTorch reads a file as an archive.

    Raises:
        OSError: when it cannot be read.
    """
    with file.open("rb") as opened:
        return opened.read(len(_FIRST_BYTES)) == _FIRST_BYTES


def check_archive(file: Path) -> None:
    """Refuse an archive that unfolds, that others would read otherwise, or whose tensors are larger than their numbers.

    Raises:
        ValueError: with what was found.
        OSError: when it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            _check_end(file.name, opened)
            with zipfile.ZipFile(opened) as archive:
                _check_entries(file, archive.infolist())
                _check_storages(file.name, archive)
    except (ValueError, OSError, MemoryError):
        raise
    except Exception as error:  # what a damaged or hostile file raises is not documented
        raise ValueError(f"{file.name} is a damaged archive: {type(error).__name__}: {str(error)[:200]}") from error


def check_older(file: Path) -> None:
    """Refuse a file in the form from before PyTorch 1.6 whose numbers are fewer than it claims.

    Raises:
        ValueError: with what was found.
        OSError: when it cannot be read.
    """
    with file.open("rb") as opened:
        pickles = io.BytesIO(opened.read(_MAX_PICKLE_BYTES))
    found: dict[str, int] = {}
    for _ in range(_NUM_PICKLES_OF_OLDER):
        for key, num_bytes in _claimed(file.name, pickles):
            found[key] = max(num_bytes, found.get(key, 0))
    if sum(found.values()) > file.stat().st_size:
        raise ValueError(f"{file.name} claims tensors of {sum(found.values())} bytes, and has {file.stat().st_size}")


def _check_end(name: str, opened: IO[bytes]) -> None:
    """The list of parts must end where its end says: readers of an archive with two lists would each find another."""
    size = opened.seek(0, os.SEEK_END)
    at = size - _END.size
    end = _END.unpack(_read_at(opened, at, _END.size))
    if end[0] != b"PK\x05\x06" or end[7]:
        raise ValueError(f"{name} is a damaged archive, or there is something behind it")
    list_bytes, list_at = end[5], end[6]
    if at >= _LOCATOR.size:
        locator = _LOCATOR.unpack(_read_at(opened, at - _LOCATOR.size, _LOCATOR.size))
        if locator[0] == b"PK\x06\x07":
            at -= _LOCATOR.size + _LARGE_END.size
            large = _LARGE_END.unpack(_read_at(opened, at, _LARGE_END.size))
            if large[0] != b"PK\x06\x06" or locator[2] != at:
                raise ValueError(f"{name} is a damaged archive: its end is not where it says")
            list_bytes, list_at = large[8], large[9]
    if list_at + list_bytes != at:
        raise ValueError(f"{name} is a damaged archive: its list of parts is not where it says")


def _read_at(opened: IO[bytes], at: int, num_bytes: int) -> bytes:
    if at < 0:
        raise ValueError("a file of weights is cut off")
    opened.seek(at)
    return opened.read(num_bytes)


def _check_entries(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise ValueError(f"{file.name} is a compressed archive, which PyTorch never writes")
    if sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise ValueError(f"{file.name} is an archive whose parts are larger than itself")
    if any(entry.file_size != entry.compress_size for entry in entries):
        raise ValueError(f"{file.name} is a damaged archive: its parts are of two sizes")
    # PyTorch finds a part by its name in letters of any case.
    if len({entry.filename.casefold() for entry in entries}) < len(entries):
        raise ValueError(f"{file.name} is an archive with parts of one name")
    if min((entry.header_offset for entry in entries), default=1) != 0:
        raise ValueError(f"{file.name} is an archive with something before its first part")


def _check_storages(name: str, archive: zipfile.ZipFile) -> None:
    sizes = {entry.filename.casefold(): entry.file_size for entry in archive.infolist()}
    folder = archive.infolist()[0].filename.partition("/")[0]
    description = f"{folder}/{_PICKLE}"
    if sizes.get(description.casefold(), 0) > _MAX_PICKLE_BYTES:
        raise ValueError(f"{name} describes its tensors in more bytes than any network takes")
    try:
        pickled = archive.read(description)
    except KeyError as error:
        raise ValueError(f"{name} describes no tensors") from error
    for key, num_bytes in _claimed(name, io.BytesIO(pickled)):
        if num_bytes > sizes.get(f"{folder}/data/{key}".casefold(), -1):
            raise ValueError(f"{name} has too few numbers for a tensor of {num_bytes} bytes")


def _claimed(name: str, opened: IO[bytes]) -> list[tuple[str, int]]:
    """The storages that the next description names, and the bytes of each."""
    unpickler = _Storages(opened)
    try:
        unpickler.load()
    except (OSError, MemoryError):
        raise
    except _RefusedError as error:
        raise ValueError(f"{name} {error}") from error
    except Exception as error:
        raise ValueError(f"{name} holds no weights that can be loaded safely ({type(error).__name__})") from error
    return unpickler.found


class _RefusedError(ValueError):
    """What no writer of weights writes; the text says what, of the file."""


class _Nothing:
    """Stands for whatever of PyTorch a description names: nothing of it is imported or called."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take what the named thing would take."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Hold nothing."""

    def __setstate__(self, state: Any) -> None:
        """Hold nothing."""


class _Mapping(_Nothing):
    """Stands for OrderedDict, which is filled entry by entry."""

    def __init__(self) -> None:
        """Take nothing."""

    def __setstate__(self, state: Any) -> None:
        """Take attributes by their names."""
        if type(state) is not dict:
            raise pickle.UnpicklingError("attributes that are none")


@functools.cache
def _storage_kind(name: str) -> type[_Nothing]:
    return type(name, (_Nothing,), {"item_bytes": _ITEM_BYTES[name]})


def _with_names(code: bytes, keys: slice) -> Callable[[Any], None]:
    """An operation that takes text alone for keys, of those on the stack: other keys may take endless time to look up.

    So do tuples of tuples, and numbers of one hash.
    """
    load = pickle._Unpickler.dispatch[code[0]]

    def check_and_load(unpickler: Any) -> None:
        if not all(type(key) is str for key in unpickler.stack[keys]):
            raise _RefusedError("names its tensors by something else than text")
        load(unpickler)

    return check_and_load


# In Python, whose memory of parts is a dictionary: the one in C makes room for whatever number a file names.
class _Storages(pickle._Unpickler):
    """Reads which storages a description claims, and how large they are."""

    dispatch: ClassVar[dict[int, Any]] = {
        **{code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _UNWRITTEN},
        pickle.SETITEM[0]: _with_names(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _with_names(pickle.SETITEMS, slice(None, None, 2)),
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.found: list[tuple[str, int]] = []

    def find_class(self, module: str, name: str) -> type[_Nothing]:
        """Give a stand-in for what PyTorch writes."""
        if (module, name) == ("collections", "OrderedDict"):
            return _Mapping
        if module.partition(".")[0] != "torch":
            raise pickle.UnpicklingError("a name that PyTorch does not write")
        return _storage_kind(name) if name.endswith("Storage") else _Nothing

    def persistent_load(self, pid: Any) -> Any:
        """Note a storage."""
        kind, storage_type, key, _, numel, *_ = pid  # and in the older form, of which other it is a part
        if kind != "storage" or type(key) is not str or type(numel) is not int or not 0 <= numel < 2**63:
            raise pickle.UnpicklingError("a storage that is none")
        self.found.append((key, numel * storage_type.item_bytes))
        return _Nothing()
