"""Validation: loss and accuracy of a network over a dataset."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.data.batches import normalised, per_channel
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.models.network import output_for
from train_pytorch_model.training.frozen_images import known_logits
from train_pytorch_model.training.graph import free_cached_memory
from train_pytorch_model.training.label_metrics import label_values
from train_pytorch_model.training.losses import logits_and_loss, validation_loss
from train_pytorch_model.training.metrics import Averages, RunningSums
from train_pytorch_model.training.precision import validating_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.plan import Plan

logger = logging.getLogger(__name__)

# Without gradients a batch needs less memory, and a GPU processes a larger one in about the same time.
_VALIDATION_BATCHES_ON_GPU = 2
_SMALLEST_BATCH_ON_GPU = 64


def validation_batch_size(plan: Plan, world: World, num_images: int, microbatch_size: int | None = None) -> int:
    """Return the number of images that a process evaluates at a time.

    Args:
        plan: has the batch size.
        world: the processes. On GPUs, all of them get about the same number of images.
        num_images: the number of images in the dataset.
        microbatch_size: the batch size when training uses microbatches.
    """
    if microbatch_size:
        return microbatch_size
    if world.device.type != "cuda":
        return plan.batch_size
    largest = max(_VALIDATION_BATCHES_ON_GPU * plan.batch_size, _SMALLEST_BATCH_ON_GPU)
    num_batches = world.world_size * math.ceil(num_images / (world.world_size * largest))
    return math.ceil(num_images / num_batches)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    images: ImageStore,
    plan: Plan,
    world: World,
    microbatch_size: int | None = None,
    between_batches: Callable[[int, int], None] = lambda batch, num_batches: None,
) -> Averages:
    """Compute loss and accuracy over all images in evaluation mode; each image counts once.

    Args:
        network: the same in all processes.
        images: the dataset. Each process evaluates every `world_size`-th batch of it.
        plan: has the batch size, the number of classes, the memory format and the precision of validation.
        world: the processes that evaluate together.
        microbatch_size: the batch size to use instead, when training uses microbatches.
        between_batches: called after each batch with its number, counted from 1, and the number of batches. It is
            called equally often in every process, so it may contain collective operations.
    """
    network.eval()
    is_multilabel = plan.task == MULTILABEL
    sums = RunningSums.zero(
        plan.num_classes,
        world.device,
        counts_classes=plan.metric_for_best_model in ("balanced_accuracy", "macro_f1") and not is_multilabel,
        task=plan.task,
        keeps_probabilities=is_multilabel,
    )
    at_once = validation_batch_size(plan, world, len(images), microbatch_size)
    batches = torch.split(torch.arange(len(images)), at_once)
    own = batches[world.rank :: world.world_size]
    is_known = _add_known(network, images, sums, plan, world)
    delivered = iter(images.batches(own, world.device))
    num_batches = 0 if is_known else math.ceil(len(batches) / world.world_size)
    for number in range(1, num_batches + 1):
        batch = next(delivered, None)
        if batch is not None:
            at_once = add_batch(network, *batch, sums, plan, at_once)
        between_batches(number, num_batches)
    averages = sums.read(world)
    return averages if sums.probabilities is None else _with_labels(averages, sums.probabilities, own, images, world)


def _add_known(network: nn.Module, images: ImageStore, sums: RunningSums, plan: Plan, world: World) -> bool:
    """Add all images to sums if their logits follow from what the head is given; return whether they do."""
    if plan.validation_precision != "float32" or plan.averages_mirrored or not world.is_alone:
        return False
    known = known_logits(network, images, torch.arange(len(images)), world.device)
    if known is None:
        return False
    logits, labels = known.to(world.device), images.labels.to(world.device)
    logits, loss = logits_and_loss(logits, labels.float() if labels.dim() == 2 else labels, validation_loss(plan))
    sums.add(loss, logits, labels)
    return True


def _with_labels(
    averages: Averages, probabilities: list[torch.Tensor], own: Sequence[torch.Tensor], images: ImageStore, world: World
) -> Averages:
    """Add the metrics of labels, which need the probabilities of all images.

    Args:
        averages: of all images.
        probabilities: of the images that this process has evaluated, in order.
        own: the indices of these images.
        images: the dataset.
        world: the processes.
    """
    truth = images.labels.cpu()
    whole = torch.zeros(truth.shape)
    if own:
        whole[torch.cat(list(own))] = torch.cat(probabilities)
    # All other processes have zeros where one has probabilities, so that the sum is exact.
    found = label_values(world.sum(whole).numpy(), truth.numpy())
    return averages._replace(**found._asdict())


def add_batch(
    network: nn.Module, pixels: torch.Tensor, labels: torch.Tensor, sums: RunningSums, plan: Plan, at_once: int
) -> int:
    """Add the loss and the accuracy of a batch to sums.

    Args:
        network: in evaluation mode.
        pixels: uint8 of shape (B, 3, height, width), on the device.
        labels: int64 of shape (B,), or float32 of shape (B, num_classes), on the device.
        sums: to add to.
        plan: has the memory format and the precision of validation.
        at_once: images in a forward pass.

    Returns:
        The number of images in a forward pass that fits in memory: `at_once`, or less if it did not fit.
    """
    start = 0
    while start < len(labels):
        part = slice(start, start + at_once)
        if _add_part(network, pixels[part], labels[part], sums, plan, is_last_try=at_once == 1):
            start += at_once
            continue
        # Outside the handler: the error's traceback keeps the tensors of the forward pass alive.
        free_cached_memory(pixels.device)
        at_once = (min(at_once, len(labels)) + 1) // 2
        logger.warning("A validation batch does not fit in memory. Validating %d images at a time.", at_once)
    return at_once


def _add_part(
    network: nn.Module,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    sums: RunningSums,
    plan: Plan,
    *,
    is_last_try: bool,
) -> bool:
    """Add a part of a batch to sums; return whether it fits in memory."""
    try:
        mean, std = (per_channel(values, pixels.device) for values in (plan.mean, plan.std))
        with validating_in(plan.validation_precision, pixels.device.type):
            output = output_for(
                network,
                normalised(pixels, plan.memory_format, mean, std),
                averages_mirrored=plan.averages_mirrored,
                is_multilabel=plan.task == MULTILABEL,
            )
        logits, loss = logits_and_loss(output, labels, validation_loss(plan))
    except Exception as error:
        if is_last_try or not is_out_of_memory(error):
            raise
        return False
    sums.add(loss, logits, labels)
    return True
