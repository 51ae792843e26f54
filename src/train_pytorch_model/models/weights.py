"""Reads the weights of a model without running code and without using much more memory than the file has bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.models.state_dicts import has_nan
from train_pytorch_model.models.weight_archives import Stored, read_archive
from train_pytorch_model.models.weight_kinds import SAVE_WEIGHTS, check_kind, is_safetensors
from train_pytorch_model.models.weight_pickles import Foreign
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from pathlib import Path

# Weights may share their storage, as tied layers do. With more sharing than this, a small file could fill the memory.
_MAX_SHARING = 16
# Many layers may share one small block.
_MAX_SHARING_OF_SMALL, _MAX_SHARED_BYTES = 64, 4 * 2**30
# A buffer may repeat one number, as `expand` does.
_MAX_EXPANDED_BYTES = 2**30


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of weights. The numbers are read later, for the tensors that are wanted only."""

    path: Path
    content: Any
    """Dicts, lists and tensors; `Foreign` for objects of any other class."""
    storages: list[Stored]

    def check_shapes(self, state: dict[str, Any]) -> None:
        """Check that tensors are dense and not much larger than their file. No number is read.

        Raises:
            ValueError: if they are not; the message names the tensor.
        """
        name = self.path.name
        for key, value in state.items():
            is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested
            if not is_dense or value.is_quantized or value.device.type != "cpu":
                raise ValueError(f"{name}: {shown(key)} is not a dense tensor")
        _check_sizes(self.path, state)

    def read(self, state: dict[str, torch.Tensor]) -> None:
        """Read the numbers of tensors of the content, in place.

        They may contain infinity, because buffers such as masks do, and only the network knows which are buffers.

        Raises:
            ValueError: if a tensor cannot be read, is not dense, is much larger than the file, or contains NaN.
            MemoryError: if the weights do not fit in memory.
        """
        name = self.path.name
        self.check_shapes(state)
        try:
            self._fill({value.untyped_storage().data_ptr() for value in state.values()})
            for key, value in state.items():
                if has_nan(value):
                    raise ValueError(f"{name}: {shown(key)} contains numbers that are not finite (NaN)")
        except (ValueError, MemoryError):
            raise
        except OSError as error:
            raise ValueError(f"{name} cannot be read: {error}") from error
        except Exception as error:  # an operation that this kind of tensor does not support
            if is_out_of_memory(error):
                raise MemoryError(str(error)) from error
            raise ValueError(f"{name} contains a tensor that cannot be checked: {str(error)[:200]}") from error

    def _fill(self, places: set[int]) -> None:
        with self.path.open("rb") as opened:
            for storage in self.storages:
                if storage.data.data_ptr() in places and len(storage.data):
                    opened.seek(storage.offset)
                    if opened.readinto(storage.data.numpy().data) != len(storage.data):
                        raise ValueError(f"{self.path.name} is truncated: it has too little data for its tensors")


def open_weights(file: Path) -> WeightFile:
    """Read the names and shapes in a file of weights.

    Args:
        file: a file written by torch.save, in its zip format or the format from before PyTorch 1.6, or safetensors.

    Raises:
        ValueError: if the file is damaged or of another kind; the message says what it is.
        MemoryError: if the weights do not fit in memory.
    """
    try:
        if is_safetensors(file):
            return WeightFile(file, _read_safetensors(file), [])
        check_kind(file)
        archive = read_archive(file)
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    if isinstance(archive.content, Foreign):
        kind = "a whole pickled network" if archive.content.is_network else "a pickled object"
        raise ValueError(
            f"{file.name} has no weights that can be loaded safely: it is {kind} ({shown(archive.content.name)}), "
            f"which needs the code of its class; {SAVE_WEIGHTS}"
        )
    return WeightFile(file, archive.content, archive.storages)


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            f"{file.name} is a safetensors file, which needs the package safetensors: pip install safetensors"
        ) from error
    try:
        state: dict[str, torch.Tensor] = load_file(file)
    except Exception as error:  # the exceptions for damaged or hostile files are not documented
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise ValueError(
            f"{file.name} has no weights that can be loaded safely ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    return state


def _check_sizes(file: Path, state: dict[str, torch.Tensor]) -> None:
    size = file.stat().st_size
    num_bytes = num_expanded = 0
    for key, value in state.items():
        tensor_bytes = value.numel() * value.element_size()
        # A lenient check: a tensor may also begin at an offset in its storage.
        if tensor_bytes > value.untyped_storage().nbytes():
            num_expanded += tensor_bytes
            if 0 not in value.stride() or num_expanded > _MAX_EXPANDED_BYTES:
                shape = shown(tuple(value.shape))
                raise ValueError(f"{file.name}: {shown(key)} has shape {shape}, but too little data for it")
        else:
            num_bytes += tensor_bytes
    if num_bytes > max(_MAX_SHARING * size, min(_MAX_SHARING_OF_SMALL * size, _MAX_SHARED_BYTES)):
        raise ValueError(f"{file.name} expands from {size} to {num_bytes} bytes")
