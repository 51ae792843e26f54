"""Which images make which batch, a pure function of seed and epoch, and how their pixels become numbers."""

from __future__ import annotations

import hashlib

import torch


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


def normalised(
    pixels: torch.Tensor,
    memory_format: torch.memory_format,
    mean: float | torch.Tensor = 0.5,
    std: float | torch.Tensor = 0.5,
) -> torch.Tensor:
    """Bring pixels from 0 … 255 to [0, 1] and from there, with the usual mean and std, to [-1, 1], where they lie.

    By the same operations in the same order as torchvision's ToTensor and Normalize, so that they equal, to the bit,
    what Score Image Model sees.

    Args:
        pixels: uint8 of shape (B, 3, height, width).
        memory_format: that the network wants.
        mean: subtracted; of all channels, or float32 of shape (3, 1, 1).
        std: divided by; likewise.

    Returns:
        float32 of the same shape.
    """
    images = pixels.to(torch.float32, memory_format=memory_format)
    # By a number of the host, a GPU would multiply by 1/255, which is not the same in the last bit.
    return images.div_(images.new_full((), 255.0)).sub_(mean).div_(std)
