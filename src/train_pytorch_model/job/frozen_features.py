"""Computes what the frozen network gives to its head, once for runs that fit the head on parts of the same images."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Callable

import numpy as np
import torch

from train_pytorch_model.data.free_memory import MEMORY_FRACTION, available_memory_bytes
from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.distributed.world import World
from train_pytorch_model.job.known_datasets import FrozenFeatures
from train_pytorch_model.job.plan import make_plan
from train_pytorch_model.job.prepare import prepare
from train_pytorch_model.models.heads import evaluating, features_of, head_inputs
from train_pytorch_model.text.wording import bytes_in_words
from train_pytorch_model.training.features import agreed_head, head_values
from train_pytorch_model.training.frozen_images import HeadInputs
from train_pytorch_model.training.precision import Precision

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.job.settings import Settings
    from train_pytorch_model.models.heads import Head
    from train_pytorch_model.session import Session
    from train_pytorch_model.training.plan import Plan

logger = logging.getLogger(__name__)

# All features, as float32. They take at most a quarter of the free memory, too.
_MAX_BYTES = 2 * 2**30


def compute_features(settings: Settings, session: Session) -> FrozenFeatures | None:
    """Compute what the frozen network gives to its head for all images of a dataset.

    Args:
        settings: of a run with `held_out` and `head_only`.
        session: the console.

    Returns:
        The features; None if the head cannot be fitted, or if they need too much memory.

    Raises:
        ModuleError: for every fault of an input.
    """
    if settings.held_out is None:
        raise AssertionError("no images are held out")
    world = World(device=choose_device())
    prepared = prepare(settings, world, session.display)
    plan, network = make_plan(prepared, world), prepared.network.to(world.device)
    head = agreed_head(network, prepared.geometry.size, world)
    if isinstance(head, str):
        return None  # training says so
    shape = _shape_of_inputs(network, head, prepared.geometry.size, world.device)
    # The head is fitted in the precision of training, and validated in float32, with mirror images on the network.
    in_validation = [] if plan.averages_mirrored else [Precision(torch.float32, plan.precision.device_type)]
    precisions = dict.fromkeys((plan.precision, *in_validation))
    num_bytes = 4 * math.prod(shape) * len(settings.held_out) * len(precisions)
    # Files are written from memory, too.
    if num_bytes > min(_MAX_BYTES, MEMORY_FRACTION / 2 * available_memory_bytes()):
        logger.info(
            "What the network gives to its head needs %s, which is too much to keep. Each fold computes it.",
            bytes_in_words(num_bytes),
        )
        return None
    rows = np.flatnonzero(~settings.held_out), np.flatnonzero(settings.held_out)
    datasets = prepared.train_data, prepared.valid_data
    parts = [
        (store, torch.from_numpy(of_part[scanned.kept]))
        for store, scanned, of_part in zip((prepared.train, prepared.valid), datasets, rows)
    ]
    by_precision = {}
    for precision in precisions:
        values = torch.zeros(len(settings.held_out), *shape)
        with session.display.images(f"Features in {precision}", "computed", sum(map(len, rows))) as advance:
            for store, places in parts:
                values[places] = _inputs(network, head, shape, store, plan, world, precision, advance)
        narrow = values.to(precision.dtype)
        by_precision[str(precision)] = narrow if torch.equal(narrow.float(), values) else values
    unreadable = {
        int(of_part[number]): reason
        for scanned, of_part in zip(datasets, rows)
        for number, reason in scanned.unreadable.items()
    }
    return FrozenFeatures(HeadInputs(head, by_precision), unreadable, prepared.geometry)


def _shape_of_inputs(network: nn.Module, head: Head, size: tuple[int, int], device: torch.device) -> tuple[int, ...]:
    """The shape of what is kept of one image."""
    if not head.is_rectified:
        return (head.num_features,)
    with evaluating(network), head_inputs(network, head) as inputs:
        network(torch.zeros(1, 3, *size, device=device))
    return tuple(inputs[0].shape[1:])


def _inputs(
    network: nn.Module,
    head: Head,
    shape: tuple[int, ...],
    images: ImageStore,
    plan: Plan,
    world: World,
    precision: Precision,
    advance: Callable[[], None],
) -> torch.Tensor:
    """What is kept of N images, float32 of shape (N, *shape)."""
    count = len(images)

    def between(batch: int, num_batches: int) -> None:
        for _ in range(count * (batch - 1) // num_batches, count * batch // num_batches):
            advance()

    values_of = _flat if len(shape) > 1 else features_of
    computed, _ = head_values(
        *(network, head, images, torch.arange(count), values_of, math.prod(shape)),
        *(plan, world, precision, between),
    )
    return computed.view(count, *shape)


def _flat(given: torch.Tensor) -> torch.Tensor:
    """The input of a head as float32 of shape (B, features * height * width)."""
    return given.float().flatten(1)
