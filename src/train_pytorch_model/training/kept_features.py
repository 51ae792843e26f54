"""Keeps features that fine-tuning computes anyway, for what is said about the labels after training."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

import torch

from train_pytorch_model.models.heads import features_of
from train_pytorch_model.training.stratification import strata_of, stratified_sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.models.heads import Head
    from train_pytorch_model.training.plan import Plan

# The memory for the features of a dataset.
_MAX_BYTES = 2**28


@dataclass(frozen=True)
class KeptFeatures:
    """The features of images by the weights before training."""

    images: torch.Tensor
    """Indices of the training images, all or a stratified sample: int64 of shape (N,)."""
    train: torch.Tensor
    """Of these: float32 of shape (N, features), on the CPU."""
    valid: Optional[torch.Tensor] = None
    """Of all validation images, in order; None if they are not known."""


class FeatureKeeper:
    """Receives the features of the training images, and watches the validation of the fitted head for the others."""

    def __init__(self, network: nn.Module, plan: Plan, world: World) -> None:
        """Begin without features.

        Args:
            network: on the device.
            plan: the hyperparameters.
            world: the processes. Those of validation images are kept if there is only one.
        """
        self.features: KeptFeatures | None = None
        self._head: Head | None = None
        self._network = network
        self._seed = plan.seed
        self._sees_all = world.is_alone and not plan.averages_mirrored

    def keep(self, head: Head, images: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Copy the features of training images, or those of a sample if all need too much memory.

        Args:
            head: the head of the network.
            images: their indices, int64 of shape (N,).
            features: float32 of shape (N, features), on the CPU.
            labels: int64 of shape (N,), or bool of shape (N, C), on the CPU.
        """
        rows = stratified_sample(strata_of(labels), _MAX_BYTES // (4 * head.num_features), self._seed)
        self._head, self.features = head, KeptFeatures(images[rows], features[rows])

    @contextmanager
    def watching(self, num_images: int) -> Iterator[None]:
        """Keep the features of the validation images that pass through the network inside the block.

        Args:
            num_images: the number of all validation images.
        """
        head, kept = self._head, self.features
        if head is None or kept is None or not self._sees_all or 4 * head.num_features * num_images > _MAX_BYTES:
            yield
            return
        parts: list[torch.Tensor] = []

        def look(layer: nn.Module, given: tuple[Any, ...]) -> None:
            parts.append(features_of(given[0]).cpu())

        handle = self._network.get_submodule(head.name).register_forward_pre_hook(look)
        try:
            yield
        finally:
            handle.remove()
        if sum(map(len, parts)) == num_images:  # a batch that did not fit in memory may have been here twice
            self.features = KeptFeatures(kept.images, kept.train, torch.cat(parts))
