"""State dicts: weights by name, with the notes of the version that wrote them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch


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
