"""Validation: loss and accuracy of a network over a dataset."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.data.batches import normalised
from train_pytorch_model.training.metrics import Averages, RunningSums
from train_pytorch_model.training.step import logits_and_loss

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.plan import Plan

# Without gradients a batch needs less memory, and a GPU processes a larger one in about the same time.
_VALIDATION_BATCHES_ON_GPU = 2


@torch.no_grad()
def evaluate(
    network: nn.Module,
    images: ImageStore,
    plan: Plan,
    world: World,
    microbatch_size: int | None = None,
    between_batches: Callable[[int, int], None] = lambda batch, num_batches: None,
) -> Averages:
    """Compute loss and accuracy over all images in float32 and evaluation mode; each image counts once.

    Args:
        network: the same in all processes.
        images: the dataset. Each process evaluates every `world_size`-th batch of it.
        plan: has the batch size, the number of classes and the memory format.
        world: the processes that evaluate together.
        microbatch_size: the batch size to use instead, when training uses microbatches.
        between_batches: called after each batch with its number, counted from 1, and the number of batches. It is
            called equally often in every process, so it may contain collective operations.
    """
    network.eval()
    sums = RunningSums.zero(plan.num_classes, world.device)
    batch_size = microbatch_size or plan.batch_size * (_VALIDATION_BATCHES_ON_GPU if world.device.type == "cuda" else 1)
    batches = torch.split(torch.arange(len(images)), batch_size)
    delivered = iter(images.batches(batches[world.rank :: world.world_size], world.device))
    num_batches = math.ceil(len(batches) / world.world_size)
    for number in range(1, num_batches + 1):
        batch = next(delivered, None)
        if batch is not None:
            pixels, labels = batch
            logits, loss = logits_and_loss(network(normalised(pixels, plan.memory_format)), labels)
            sums.add(loss, logits, labels)
        between_batches(number, num_batches)
    return sums.read(world)
