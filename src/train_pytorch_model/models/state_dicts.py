"""State dicts: weights by name, with the notes of the version that wrote them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tensors are looked at in pieces of so many numbers, as each takes some bytes more while it is.
_PIECE = 2**22


def with_entries(state: dict[str, torch.Tensor], entries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Other entries under the version notes of a state dict.

    Networks whose layers have changed over the years (MNASNet) read there which of their forms the weights are of.
    """
    changed: OrderedDict[str, torch.Tensor] = OrderedDict(entries)
    changed._metadata = getattr(state, "_metadata", None)  # type: ignore[attr-defined]
    return changed


def digest_of(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all weights, names and shapes included."""
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def has_nan(value: torch.Tensor) -> bool:
    """Whether a number is none."""
    return any(bool(torch.isnan(piece).any()) for piece in _pieces(value))


def is_finite(value: torch.Tensor) -> bool:
    """Whether all numbers are."""
    return all(bool(torch.isfinite(piece).all()) for piece in _pieces(value))


def _pieces(value: torch.Tensor) -> Iterator[torch.Tensor]:
    if not (value.is_floating_point() or value.is_complex()):
        return
    for dimension, stride in enumerate(value.stride()):
        if stride == 0 and value.shape[dimension] > 1:  # the same numbers again
            value = value.narrow(dimension, 0, 1)
    # Whatever their order in memory, such as channels last, in the order that takes no copy.
    strides = value.stride()
    order = sorted(range(value.dim()), key=lambda dimension: -strides[dimension])
    flat = value.permute(order).reshape(-1)
    for piece in torch.split(flat, _PIECE):
        # 8-bit numbers have no operations of their own.
        yield piece.float() if piece.element_size() == 1 else piece
