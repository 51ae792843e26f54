"""Which images make which batch, a pure function of seed and epoch, and how their pixels become numbers."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A seed of 63 bits for one purpose, from any integer: the first bytes of a SHA-256 of the three."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled(count: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of `count` training images in an epoch, int64 of shape (count,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


class Shard(NamedTuple):
    """The images of one process in a batch of all processes."""

    indices: torch.Tensor
    """Indices of the images, int64 of shape (B,)."""
    weight: float
    """Weight of the shard in the mean over processes: its number of images relative to an average shard."""


def training_shards(order: torch.Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> list[Shard]:
    """Split an order into batches of `world_size` shards, and return the shards of one process.

    The last, partial batch is used too, and distributed as evenly as possible. Batch normalization may need two images,
    so a shard of a single image is avoided: one process skips such a batch. Several processes must all take part in
    every batch, so they fill it to two images per process (one, with a batch size of 1) from the start of the order.

    Args:
        order: of all images, int64 of shape (N,), N >= world_size.
        batch_size: images in one shard.
        rank: of the process.
        world_size: number of processes.
    """
    batches = list(torch.split(order, batch_size * world_size))
    fewest = world_size * min(2, batch_size)
    if len(batches[-1]) < fewest:
        if world_size > 1:
            batches[-1] = torch.cat((batches[-1], order[: fewest - len(batches[-1])]))
        elif len(batches) > 1:
            batches.pop()
    parts = [torch.tensor_split(batch, world_size)[rank] for batch in batches]
    return [Shard(part, len(part) * world_size / len(batch)) for part, batch in zip(parts, batches)]


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
