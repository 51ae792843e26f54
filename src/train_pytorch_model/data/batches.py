"""The order of images, their division into batches, and the normalization of pixels."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """Return a seed of 63 bits for one purpose: the first bytes of the SHA-256 of seed, purpose and epoch."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled(count: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the order of `count` training images in an epoch, int64 of shape (count,)."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    return torch.randperm(count, generator=generator)


class Shard(NamedTuple):
    """One process's images of a global batch."""

    indices: torch.Tensor
    """Indices of the images, int64 of shape (B,)."""
    weight: float
    """The number of images relative to the mean over all processes; weights the shard in the mean of gradients."""


def training_shards(order: torch.Tensor, batch_size: int, rank: int = 0, world_size: int = 1) -> list[Shard]:
    """Split an order into global batches and return one process's shard of each.

    The last, partial batch is used too and divided as evenly as possible. A shard of one image is avoided, because
    batch normalization needs more than one. With one process, such a batch is dropped. With several, every process must
    have images in every batch, so the batch is filled from the beginning of the order to two images per process (one if
    the batch size is 1).

    Args:
        order: indices of all images, int64 of shape (N,), N >= world_size.
        batch_size: the number of images in a shard.
        rank: the rank of the process.
        world_size: the number of processes.
    """
    batches = list(torch.split(order, batch_size * world_size))
    fewest = world_size * min(2, batch_size)
    if len(batches[-1]) < fewest:
        if world_size > 1:
            batches[-1] = torch.cat((batches[-1], order[: fewest - len(batches[-1])]))
        elif len(batches) > 1:
            batches.pop()
    shards = [torch.tensor_split(batch, world_size)[rank] for batch in batches]
    return [Shard(shard, len(shard) * world_size / len(batch)) for shard, batch in zip(shards, batches)]


def sent(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a copy of a tensor of the host on a device. The host does not wait for a GPU."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def per_channel(values: tuple[float, ...], device: torch.device) -> float | torch.Tensor:
    """Return the mean or the standard deviation of each channel in the form that `normalised` takes.

    Args:
        values: three numbers.
        device: the device of the pixels.

    Returns:
        The number 0.5 if all of them are, otherwise float32 of shape (3, 1, 1). A GPU multiplies by the reciprocal of a
        number, which is exact for 0.5 only.
    """
    if set(values) == {0.5}:
        return 0.5
    # Filled on the device: the host would wait for a GPU while it copies a list to it.
    filled = [torch.full((), value, dtype=torch.float32, device=device) for value in values]
    return torch.stack(filled).view(-1, 1, 1)


def normalised(
    pixels: torch.Tensor,
    memory_format: torch.memory_format,
    mean: float | torch.Tensor = 0.5,
    std: float | torch.Tensor = 0.5,
) -> torch.Tensor:
    """Normalize pixels on their device: (pixels / 255 - mean) / std, which is in [-1, 1] for mean and std 0.5.

    The operations and their order are those of torchvision's ToTensor and Normalize, so the result is bit-identical to
    the input of the network in Score Image Model.

    Args:
        pixels: uint8 of shape (B, 3, height, width).
        memory_format: the memory format of the result.
        mean: the mean of all channels, or float32 of shape (3, 1, 1).
        std: the standard deviation of all channels, or float32 of shape (3, 1, 1).

    Returns:
        float32 of the same shape.
    """
    images = pixels.to(torch.float32, memory_format=memory_format)
    # Dividing by a Python number, a GPU would multiply by 1/255, which differs in the last bit.
    return images.div_(images.new_full((), 255.0)).sub_(mean).div_(std)
