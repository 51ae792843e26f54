"""The weights of a model, read without running code, and without taking more room than their file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from train_pytorch_model.errors import is_out_of_memory
from train_pytorch_model.models.state_dicts import has_nan
from train_pytorch_model.models.weight_archives import check_archive, check_older, is_archive
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from pathlib import Path

# Weights may share their storage, as tied layers do; more than this many times over, a small file would fill a memory.
_MAX_SHARING = 16
# A block that many layers share, as far as any memory has room for it.
_MAX_SHARING_OF_SMALL, _MAX_SHARED_BYTES = 64, 4 * 2**30
# A buffer may be one number that stands for many, as `expand` makes it.
_MAX_EXPANDED_BYTES = 2**30


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict.

    Args:
        file: what torch.save wrote, in PyTorch's archive or in the form from before 1.6.

    Returns:
        Dense tensors on the CPU without NaN. Infinity may stand in a buffer, such as a mask: which entries are
        buffers, only the network knows.

    Raises:
        ValueError: for anything else, with what was found.
        MemoryError: when the memory does not hold them.
    """
    try:
        check = check_archive if is_archive(file) else check_older
        check(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (ValueError, MemoryError):
        raise
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    except Exception as error:  # what a damaged or hostile file raises is not documented
        if is_out_of_memory(error):  # of which it has been seen to take no more than its file has
            raise MemoryError(str(error)) from error
        raise ValueError(f"{file.name} holds no weights that can be loaded safely ({type(error).__name__})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{file.name} is no flat state_dict of tensors")
    check_tensors(file, state)
    return state


def check_tensors(file: Path, state: dict[str, torch.Tensor]) -> None:
    """Refuse tensors that claim more than their file holds, and NaN.

    Raises:
        ValueError: with what was found.
    """
    if not all(isinstance(key, str) for key in state):
        raise ValueError(f"{file.name} names its tensors by something else than text")
    try:
        for key, value in state.items():
            if value.layout != torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
                raise ValueError(f"{file.name}: {shown(key)} is no dense tensor")
        _check_sizes(file, state)  # of all, before a number of any is looked at
        for key, value in state.items():
            if has_nan(value):
                raise ValueError(f"{file.name}: {shown(key)} holds numbers that are not finite (NaN)")
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # a kind of tensor that has no such operation
        raise ValueError(f"{file.name} holds a tensor that cannot be looked at: {str(error)[:200]}") from error


def _check_sizes(file: Path, state: dict[str, torch.Tensor]) -> None:
    size = file.stat().st_size
    num_bytes = num_expanded = 0
    for key, value in state.items():
        of_this = value.numel() * value.element_size()
        # Checked with room to spare: a tensor may begin within its storage.
        if of_this > value.untyped_storage().nbytes():
            num_expanded += of_this
            if 0 not in value.stride() or num_expanded > _MAX_EXPANDED_BYTES:
                shape = shown(tuple(value.shape))
                raise ValueError(f"{file.name}: {shown(key)} is of shape {shape}, for which it has too few numbers")
        else:
            num_bytes += of_this
    if num_bytes > max(_MAX_SHARING * size, min(_MAX_SHARING_OF_SMALL * size, _MAX_SHARED_BYTES)):
        raise ValueError(f"{file.name} unfolds to {num_bytes} bytes, from {size}")
