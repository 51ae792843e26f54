"""Reads the weights of a model without running code and without using much more memory than the file has bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from train_pytorch_model.errors import is_out_of_memory
from train_pytorch_model.models.state_dicts import has_nan
from train_pytorch_model.models.weight_archives import check_archive, check_older, is_archive
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from pathlib import Path

# Weights may share their storage, as tied layers do. With more sharing than this, a small file could fill the memory.
_MAX_SHARING = 16
# Many layers may share one small block.
_MAX_SHARING_OF_SMALL, _MAX_SHARED_BYTES = 64, 4 * 2**30
# A buffer may repeat one number, as `expand` does.
_MAX_EXPANDED_BYTES = 2**30


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict.

    Args:
        file: a file written by torch.save, in its zip format or the format from before PyTorch 1.6.

    Returns:
        Dense tensors on the CPU without NaN. They may contain infinity, because buffers such as masks do, and only the
        network knows which entries are buffers.

    Raises:
        ValueError: if the file contains anything else; the message says what.
        MemoryError: if the weights do not fit in memory.
    """
    try:
        check = check_archive if is_archive(file) else check_older
        check(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (ValueError, MemoryError):
        raise
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    except Exception as error:  # a damaged or hostile file can raise any exception
        if is_out_of_memory(error):  # the checks have shown that the file does not ask for too much
            raise MemoryError(str(error)) from error
        raise ValueError(f"{file.name} has no weights that can be loaded safely ({type(error).__name__})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{file.name} is not a flat state_dict of tensors")
    check_tensors(file, state)
    return state


def check_tensors(file: Path, state: dict[str, torch.Tensor]) -> None:
    """Check that tensors are dense, not much larger than their file, and free of NaN.

    Raises:
        ValueError: if they are not; the message names the tensor.
    """
    if not all(isinstance(key, str) for key in state):
        raise ValueError(f"{file.name} has names of tensors that are not text")
    try:
        for key, value in state.items():
            if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
                raise ValueError(f"{file.name}: {shown(key)} is not a dense tensor")
        _check_sizes(file, state)  # of all tensors, before any value is read
        for key, value in state.items():
            if has_nan(value):
                raise ValueError(f"{file.name}: {shown(key)} contains numbers that are not finite (NaN)")
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # an operation that this kind of tensor does not support
        raise ValueError(f"{file.name} contains a tensor that cannot be checked: {str(error)[:200]}") from error


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
