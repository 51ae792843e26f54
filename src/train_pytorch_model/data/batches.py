"""Which images make which batch: a pure function of seed and epoch."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.image_store import ImageStore

if TYPE_CHECKING:
    from collections.abc import Iterator


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A seed of 63 bits for one purpose, from any integer: the first bytes of a SHA-256 of the three."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of `count` training images in an epoch, int64 of shape (count,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


def training_batches(order: torch.Tensor, batch_size: int) -> list[torch.Tensor]:
    """Cut an order into batches.

    The last, partial one is used too, unless it would hold a single image, over which nothing can be normalised.
    """
    batches = list(torch.split(order, batch_size))
    if batch_size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches.pop()
    return batches


def on_device(
    store: ImageStore, batches: list[torch.Tensor], device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Give each batch as (images, labels) on the device.

    Images are float32 of shape (B, 3, height, width) in [-1, 1], by the same operations in the same order as
    torchvision's ToTensor and Normalize(0.5, 0.5), so that they equal, to the bit, what Score Image Model sees.
    Labels are int64 of shape (B,).
    """
    for batch in batches:
        pixels, labels = store.pixels[batch], store.labels[batch]
        if device.type == "cuda":
            pixels, labels = pixels.pin_memory(), labels.pin_memory()
        images = pixels.to(device, non_blocking=True).float().div_(255).sub_(0.5).div_(0.5)
        yield images, labels.to(device, non_blocking=True)
