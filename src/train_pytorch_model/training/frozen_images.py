"""Images that need not pass through the frozen network again, because it is known what it gives to its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import nn

    from train_pytorch_model.data.decoding import Size
    from train_pytorch_model.data.image_store import Batch, ImageStore
    from train_pytorch_model.models.heads import Head

# Inputs of the head that are computed with at a time, as float32.
_BYTES_AT_ONCE = 64 * 2**20


@dataclass(frozen=True)
class HeadInputs:
    """What the frozen network gives to its head, for all images of a dataset."""

    head: Head
    by_precision: Mapping[str, torch.Tensor]
    """By the precision of the forward pass, such as "float32": the features of N images, of shape (N, features). If the
    head is rectified, its inputs, of shape (N, features, height, width). On the CPU."""


@dataclass(frozen=True)
class FrozenImages:
    """Images with what the frozen network gives to its head. An `ImageStore`."""

    images: ImageStore
    inputs: HeadInputs
    rows: torch.Tensor
    """The index of each image in `inputs`, int64 of shape (N,)."""

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.images.size

    @property
    def labels(self) -> torch.Tensor:
        """The labels of the images; see `ImageStore`."""
        return self.images.labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        """Iterate over batches; see `ImageStore`."""
        return self.images.batches(batches, device)


def known_values(
    images: ImageStore,
    head: Head,
    indices: torch.Tensor,
    values_of: Callable[[torch.Tensor], torch.Tensor],
    precision: str,
    device: torch.device,
) -> torch.Tensor | None:
    """Return values of images that follow from what the frozen network gives to its head; None if that is not known.

    Args:
        images: the dataset.
        head: the head of the network.
        indices: of the images, int64 of shape (N,), on the CPU.
        values_of: returns the values, of shape (B, …), of `HeadInputs` of B images, which are float32.
        precision: of the forward pass.
        device: the device to compute on.

    Returns:
        The values, of shape (N, …), on the CPU.
    """
    if not isinstance(images, FrozenImages) or images.inputs.head != head:
        return None
    return _values(images.inputs, images.rows[indices], values_of, precision, device)


def known_logits(
    network: nn.Module, images: ImageStore, indices: torch.Tensor, device: torch.device
) -> torch.Tensor | None:
    """Return the logits of images if `head_logits` can compute them; None otherwise.

    Args:
        network: on the device, frozen but for its head.
        images: the dataset.
        indices: of the images, int64 of shape (N,), on the CPU.
        device: the device to compute on.
    """
    if not isinstance(images, FrozenImages):
        return None
    return head_logits(network, images.inputs, images.rows[indices], device)


def head_logits(
    network: nn.Module, inputs: HeadInputs, rows: torch.Tensor, device: torch.device
) -> torch.Tensor | None:
    """Return the logits of images, float32 of shape (N, C) on the CPU; None if what the head is given is not known.

    They are those of the network in evaluation mode and in float32, except for rounding.

    Args:
        network: on the device, frozen but for its head.
        inputs: of the head.
        rows: the indices of the images in `inputs`, int64 of shape (N,).
        device: the device to compute on.
    """
    head, layer = inputs.head, network.get_submodule(inputs.head.name)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor)
    assert bias is None or isinstance(bias, torch.Tensor)
    return _values(inputs, rows, lambda given: head.logits(given, weight, bias), "float32", device)


@torch.no_grad()
def _values(
    inputs: HeadInputs,
    rows: torch.Tensor,
    values_of: Callable[[torch.Tensor], torch.Tensor],
    precision: str,
    device: torch.device,
) -> torch.Tensor | None:
    """The values of rows of the inputs, computed in parts of bounded size; None for an unknown precision."""
    given = inputs.by_precision.get(precision)
    if given is None:
        return None
    at_once = max(1, _BYTES_AT_ONCE // (4 * given[0].numel()))
    # The order in memory is that of the network, so that sums round as there.
    order = torch.channels_last if given.dim() == 4 else torch.contiguous_format
    parts = (given[some].to(device, torch.float32, memory_format=order) for some in torch.split(rows, at_once))
    return torch.cat([values_of(part).cpu() for part in parts])
