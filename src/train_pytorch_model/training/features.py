"""The features of images: what the frozen network gives to its head."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.data.batches import normalised
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.models.heads import evaluating, find_head, head_inputs
from train_pytorch_model.training.augmentation import plain
from train_pytorch_model.training.frozen_images import known_values
from train_pytorch_model.training.graph import free_cached_memory
from train_pytorch_model.training.validation import validation_batch_size

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.models.heads import Head
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.precision import Precision

logger = logging.getLogger(__name__)

BetweenBatches = Callable[[int, int], None]
"""Called with the number of a batch, counted from 1, and the number of batches."""


def agreed_head(network: nn.Module, size: tuple[int, int], world: World) -> Head | str:
    """Return what `find_head` returns in rank 0. All processes call this function.

    Processes on different hardware might judge differently, and would then wait for each other for ever.
    """
    found = world.broadcast(find_head(network, size) if world.is_main else None)
    assert found is not None
    return found


def head_values(
    network: nn.Module,
    head: Head,
    images: ImageStore,
    indices: torch.Tensor,
    values_of: Callable[[torch.Tensor], torch.Tensor],
    num_values: int,
    plan: Plan,
    world: World,
    precision: Precision,
    between_batches: BetweenBatches = lambda batch, num_batches: None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute values of each image from what the frozen network gives to its head.

    All processes call this function. Each computes every `world_size`-th batch, and all get the values of all images.

    Args:
        network: in any mode; it is left as it was.
        head: the head of the network.
        images: the dataset.
        indices: of the images, int64 of shape (N,), on the CPU.
        values_of: returns the values, float32 of shape (B, num_values), of the input of the head.
        num_values: the number of values of an image.
        plan: has the batch size, the memory format, the normalization and the size of images.
        world: the processes.
        precision: of the forward pass.
        between_batches: called after each batch, equally often in every process.

    Returns:
        The values, float32 of shape (N, num_values), and the labels, int64 of shape (N,) or bool of shape (N, C), both
        on the CPU.
    """
    known = known_values(images, head, indices, values_of, str(precision), world.device)
    if known is not None:
        return known, images.labels.cpu()[indices]
    at_once = validation_batch_size(plan, world, len(indices))
    positions = torch.split(torch.arange(len(indices)), at_once)
    own = positions[world.rank :: world.world_size]
    delivered = iter(plain(images, plan.image_size).batches([indices[batch] for batch in own], world.device))
    values = torch.zeros(len(indices), num_values)
    num_batches = math.ceil(len(positions) / world.world_size)
    mean, std = _normalisation(plan, world)
    with evaluating(network), head_inputs(network, head) as inputs:

        def compute(pixels: torch.Tensor) -> torch.Tensor:
            inputs.clear()
            with precision.context():
                network(normalised(pixels, plan.memory_format, mean, std))
            return values_of(inputs.pop()).cpu()

        for number in range(1, num_batches + 1):
            if number <= len(own):
                pixels, _ = next(delivered)
                parts, at_once = _in_parts(compute, pixels, at_once)
                values[own[number - 1]] = parts
            between_batches(number, num_batches)
    # All other processes have zeros where one has values, so that the sum is exact.
    return values if world.is_alone else world.sum(values), images.labels.cpu()[indices]


def _in_parts(
    compute: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, at_once: int
) -> tuple[torch.Tensor, int]:
    """Return the values of a batch, computed in parts that fit in memory, and the number of images that did."""
    parts: list[torch.Tensor] = []
    start = 0
    while start < len(pixels):
        part = _computed(compute, pixels[start : start + at_once], is_last_try=at_once == 1)
        if part is not None:
            parts.append(part)
            start += len(part)
            continue
        # Outside the handler: the error's traceback keeps the tensors of the forward pass alive.
        free_cached_memory(pixels.device)
        at_once = (min(at_once, len(pixels)) + 1) // 2
        logger.warning("A batch does not fit in memory. Computing the features of %d images at a time.", at_once)
    return torch.cat(parts), at_once


def _computed(
    compute: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor, *, is_last_try: bool
) -> torch.Tensor | None:
    """Return the values of images; None if they do not fit in memory."""
    try:
        return compute(pixels)
    except Exception as error:
        if is_last_try or not is_out_of_memory(error):
            raise
        return None


def _normalisation(plan: Plan, world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation, float32 of shape (3, 1, 1), on the device."""
    mean, std = (torch.tensor(values, device=world.device).reshape(3, 1, 1) for values in (plan.mean, plan.std))
    return mean, std
