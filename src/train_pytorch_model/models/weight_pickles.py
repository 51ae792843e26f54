"""Reads the pickle inside a file of weights without importing, building or calling anything that it names.

Training scripts store their arguments, optimizer and callbacks beside the weights, as objects of any class. Only
tensors, dicts, lists and plain values are kept. Everything else becomes a `Foreign` object, which only has a name.
"""

from __future__ import annotations

import functools
import pickle
from collections import OrderedDict
from typing import IO, TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

# Opcodes that PyTorch does not write: mappings with any keys, and the allocation of any size that a file names.
_UNUSED_OPCODES = pickle.DICT + pickle.BYTEARRAY8
_LOAD: dict[int, Callable[[Any], None]] = pickle._Unpickler.dispatch
# The storage types of PyTorch. Newer data types use untyped storages.
_DTYPES = {
    **{"UntypedStorage": torch.uint8, "_UntypedStorage": torch.uint8},
    **{"CharStorage": torch.int8, "ByteStorage": torch.uint8},
    **{"BoolStorage": torch.bool, "ShortStorage": torch.int16, "IntStorage": torch.int32, "LongStorage": torch.int64},
    **{"HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32},
    **{"DoubleStorage": torch.float64, "ComplexFloatStorage": torch.complex64},
    **{"ComplexDoubleStorage": torch.complex128, "QInt8Storage": torch.int8, "QInt32Storage": torch.int32},
    **{f"{kind}Storage": torch.uint8 for kind in ("QUInt8", "QUInt4x2", "QUInt2x4")},
}
# Keys of dicts other than text: optimizers count their parameters. Larger numbers could be made to collide.
_MAX_KEY = 2**31
_TENSOR_FUNCTIONS = "torch._utils._rebuild_"


class RefusedError(ValueError):
    """The file has content that PyTorch never writes; the message is the predicate of a sentence about the file."""


class Foreign:
    """Stands for an object of a class that is not imported."""

    def __init__(self, name: str) -> None:
        self.name = name
        """The full name of the class or function that would have made the object."""
        self.is_network = False
        """Whether the object is a pickled `torch.nn.Module`."""

    @property
    def is_tensor(self) -> bool:
        """Whether the object is a tensor of another kind than a dense one, such as a sparse tensor."""
        return self.name.startswith(_TENSOR_FUNCTIONS)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore the entry."""

    def append(self, item: Any) -> None:
        """Ignore the item."""

    add = append

    def __setstate__(self, state: Any) -> None:
        """Ignore the state, except that it shows a network."""
        self.is_network = type(state) is dict and "_parameters" in state and "_modules" in state


class _ForeignClass:
    """Stands for a class or function that is not imported."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any, **__: Any) -> Foreign:
        """Return a stand-in for an object of the class, whatever the arguments."""
        return Foreign(self.name)


class _State(OrderedDict[str, Any]):
    """Stands for OrderedDict, with the versions of layers in `_metadata`, and for defaultdict."""

    def __init__(self, *arguments: Any) -> None:
        """Accept the entries as Python 2 wrote them, and the factory of a defaultdict."""
        entries = arguments[0] if arguments and type(arguments[0]) is list else []
        if not all(type(entry) in (list, tuple) and len(entry) == 2 and _is_key(entry[0]) for entry in entries):
            raise TypeError("entries that are not pairs of a name and a value")
        super().__init__(entries)

    def __setstate__(self, state: Any) -> None:
        """Take the metadata; attributes must be a plain dict."""
        if type(state) is not dict:
            raise pickle.UnpicklingError("attributes that are not a dict")
        if "_metadata" in state:
            self._metadata = state["_metadata"]


def _is_key(key: Any) -> bool:
    """Whether a key can be hashed and compared in little time; nested tuples, for one, cannot."""
    if type(key) is int:
        return -_MAX_KEY < key < _MAX_KEY
    return key is None or type(key) in (str, float, bool) or isinstance(key, (Foreign, _ForeignClass))


def _check_keys(keys: list[Any]) -> None:
    if not all(_is_key(key) for key in keys):
        raise RefusedError("has names of tensors that are not text")


def _check_type(target: Any, *types: type) -> None:
    if not isinstance(target, types):
        raise pickle.UnpicklingError("a change of an object that is not a dict")


# The Python implementation stores memoized objects in a dict; the C one allocates an array up to any index in the file.
class WeightUnpickler(pickle._Unpickler):
    """Reads one pickle; tensors are views of storages that are filled later."""

    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Any]] = {code: load for code, load in _LOAD.items() if code not in _UNUSED_OPCODES}

    def __init__(self, file: IO[bytes], new_storage: Callable[[str, int], torch.Tensor]) -> None:
        """Prepare to read.

        Args:
            file: where the pickle begins.
            new_storage: returns the bytes of a storage, given its key and its number of bytes, or raises.
        """
        super().__init__(file)
        self._new_storage = new_storage

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for what a name stands for."""
        full_name = f"{module}.{name}"
        if full_name in ("collections.OrderedDict", "collections.defaultdict"):
            return _State
        if module.partition(".")[0] == "torch":
            if name.endswith("Storage"):
                return _storage_class(name)
            if full_name in _FUNCTIONS:
                return _FUNCTIONS[full_name]
            dtype = vars(torch).get(name) if module == "torch" else None
            if isinstance(dtype, torch.dtype):
                return dtype
        return _ForeignClass(full_name)

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage, as bytes and data type."""
        kind, storage, key, _, numel, *view = pid  # the older format adds which storage it is a view of
        if kind != "storage" or type(key) is not str or type(numel) is not int or not 0 <= numel < 2**63 or any(view):
            raise pickle.UnpicklingError("not a storage")
        return _Stored(self._new_storage(key, numel * storage.dtype.itemsize), storage.dtype)

    def load_newobj(self) -> None:
        """Call the stand-in, as for any other opcode that makes an object."""
        arguments = self.stack.pop()
        self.stack[-1] = self.stack[-1](*arguments)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_empty_set(self) -> None:
        """Push a stand-in: the items of a set would have to be hashed."""
        self.stack.append(Foreign("builtins.set"))

    dispatch[pickle.EMPTY_SET[0]] = load_empty_set

    def load_frozenset(self) -> None:
        """Push a stand-in for the items that were pushed last."""
        self.stack = self.metastack.pop()
        self.append = self.stack.append
        self.load_empty_set()

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_build(self) -> None:
        """Set attributes of an object that may have some."""
        _check_type(self.stack[-2], _State, Foreign)
        _LOAD[pickle.BUILD[0]](self)

    dispatch[pickle.BUILD[0]] = load_build

    def load_setitem(self) -> None:
        """Set an entry of a dict."""
        _check_keys(self.stack[-2:-1])
        _check_type(self.stack[-3], dict, Foreign)
        _LOAD[pickle.SETITEM[0]](self)

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """Set entries of a dict."""
        _check_keys(self.stack[::2])
        _check_type(self.metastack[-1][-1], dict, Foreign)
        _LOAD[pickle.SETITEMS[0]](self)

    dispatch[pickle.SETITEMS[0]] = load_setitems


class _Stored:
    """A storage and the data type of its numbers."""

    def __init__(self, data: torch.Tensor, dtype: torch.dtype) -> None:
        self.data = data
        self.dtype = dtype


@functools.cache
def _storage_class(name: str) -> Any:
    return type(name, (), {"dtype": _DTYPES[name]})


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Any:
    """`torch._utils._rebuild_tensor_v2`."""
    if any(more[2:]):  # numbers that are conjugated or negated when they are read
        return Foreign(_TENSOR_FUNCTIONS)
    return storage.data.view(storage.dtype).as_strided(size, stride, offset)


def _tensor_of_type(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, __: Any, dtype: Any, *__more: Any
) -> Any:
    """`torch._utils._rebuild_tensor_v3`."""
    return storage.data.view(dtype).as_strided(size, stride, offset)


def _parameter(data: Any, *_: Any) -> Any:
    """`torch._utils._rebuild_parameter`."""
    return data


def _with_attributes(function: Any, _: Any, arguments: Any, __: Any) -> Any:
    """`torch._tensor._rebuild_from_type_v2`, for tensors with attributes."""
    is_known = any(function is known for known in _FUNCTIONS.values())
    return function(*arguments) if is_known else Foreign(_TENSOR_FUNCTIONS)


def _size(sizes: Any) -> tuple[Any, ...]:
    """`torch.Size`."""
    return tuple(sizes)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{_TENSOR_FUNCTIONS}tensor": _tensor,
    f"{_TENSOR_FUNCTIONS}tensor_v2": _tensor,
    f"{_TENSOR_FUNCTIONS}tensor_v3": _tensor_of_type,
    f"{_TENSOR_FUNCTIONS}parameter": _parameter,
    f"{_TENSOR_FUNCTIONS}parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.Size": _size,
}
