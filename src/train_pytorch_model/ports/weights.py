"""The weights of a model, read without running code, and without taking more room than their file."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

# Weights may share their storage, as tied layers do; more than this many times over, a small file would fill a memory.
_MAX_SHARING = 16


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Read a flat state dict.

    Args:
        file: what torch.save wrote, in PyTorch's archive or in the form from before 1.6.

    Returns:
        Dense tensors on the CPU, all of their numbers finite.

    Raises:
        ValueError: for anything else, with what was found.
    """
    _check_archive(file)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or hostile file raises is not documented
        raise ValueError(f"{file.name} holds no weights that can be loaded safely ({type(error).__name__})") from error
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{file.name} is no flat state_dict of tensors")
    if not all(isinstance(key, str) for key in state):
        raise ValueError(f"{file.name} names its tensors by something else than text")
    num_bytes = 0
    for key, value in state.items():
        _check_tensor(file.name, key, value)
        num_bytes += value.numel() * value.element_size()
    if num_bytes > _MAX_SHARING * file.stat().st_size:
        raise ValueError(f"{file.name} unfolds to {num_bytes} bytes, from {file.stat().st_size}")
    return state


def _check_archive(file: Path) -> None:
    """PyTorch stores its tensors as they are, so that what a file unfolds to is no more than the file."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file.name} is a damaged archive: {error}") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(f"{file.name} is a compressed archive, which PyTorch never writes")
    if sum(entry.file_size for entry in entries) > file.stat().st_size:
        raise ValueError(f"{file.name} is an archive whose parts are larger than itself")


def _check_tensor(name: str, key: str, value: torch.Tensor) -> None:
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ValueError(f"{name}: {key!r} is no dense tensor")
    # Checked with room to spare: a tensor may begin within its storage.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"{name}: {key!r} is of shape {tuple(value.shape)}, for which it has too few numbers")
    if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: {key!r} holds numbers that are not finite (NaN or infinity)")
