"""Functions of state dicts, which map names to weights."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# The number of values that are checked at a time, because the check itself takes a few bytes per value.
_PIECE = 2**22


def with_entries(state: dict[str, torch.Tensor], entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with other entries and the same metadata.

    The metadata has the version of each layer, which networks that changed over the years (MNASNet) need for loading.
    """
    changed: OrderedDict[str, torch.Tensor] = OrderedDict(entries)
    changed._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return changed


def digest_of(state: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of all weights, with their names, types and shapes, as hexadecimal digits."""
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def has_nan(value: torch.Tensor) -> bool:
    """Whether a tensor contains NaN."""
    return any(bool(torch.isnan(piece).any()) for piece in _pieces(value))


def is_finite(value: torch.Tensor) -> bool:
    """Whether all values of a tensor are finite."""
    return all(bool(torch.isfinite(piece).all()) for piece in _pieces(value))


def _pieces(value: torch.Tensor) -> Iterator[torch.Tensor]:
    if not (value.is_floating_point() or value.is_complex()):
        return
    for dimension, stride in enumerate(value.stride()):
        if stride == 0 and value.shape[dimension] > 1:  # an expanded dimension repeats the same values
            value = value.narrow(dimension, 0, 1)
    # Flatten in memory order, such as channels last, so that nothing is copied.
    strides = value.stride()
    order = sorted(range(value.dim()), key=lambda dimension: -strides[dimension])
    flat = value.permute(order).reshape(-1)
    for piece in torch.split(flat, _PIECE):
        # isnan and isfinite do not support 8-bit types.
        yield piece.float() if piece.element_size() == 1 else piece
