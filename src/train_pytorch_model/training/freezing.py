"""The epochs at the start that train the head alone, on features that are computed once where that is possible."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from train_pytorch_model.data.batches import sent
from train_pytorch_model.models.heads import evaluating, features_of, head_inputs
from train_pytorch_model.models.network import logits_of
from train_pytorch_model.training.augmentation import plain
from train_pytorch_model.training.features import agreed_head, head_values
from train_pytorch_model.training.rehearsal import settle_buckets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from train_pytorch_model.data.decoding import Size
    from train_pytorch_model.data.image_store import Batch, ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.models.heads import Head
    from train_pytorch_model.training.epoch import RunStep
    from train_pytorch_model.training.features import BetweenBatches
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.step import TrainingStep

logger = logging.getLogger(__name__)

# The memory for the features of all images. With more, the network computes them again in each epoch.
_MAX_FEATURE_BYTES = 2**30
# The largest difference of logits relative to the largest logit: far above rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class FeatureStore:
    """The features of images, which its batches have instead of pixels. An `ImageStore`."""

    features: torch.Tensor
    """float32 of shape (N, features)."""
    labels: torch.Tensor
    """See `ImageStore`; on the device of the features."""
    size: Size
    """(height, width), in pixels, of the images."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        """Iterate over batches of features and labels; see `ImageStore`."""
        if not batches:
            return
        # All indices at once, so that nothing later waits for the host.
        indices = sent(torch.cat(list(batches)), self.features.device)
        for batch in torch.split(indices, [len(batch) for batch in batches]):
            yield self.features[batch].to(device), self.labels[batch].to(device)


class Phases:
    """What is trained in an epoch: the head alone in the first epochs if the plan says so, and all layers later."""

    def __init__(self, step: TrainingStep, run_step: RunStep, train: ImageStore, plan: Plan, world: World) -> None:
        """Begin with all layers.

        Args:
            step: the training step.
            run_step: the step, or its replay as a CUDA graph.
            train: the training images.
            plan: the hyperparameters.
            world: the processes.
        """
        self._step = step
        self._run_step = run_step
        self._images = self._train = train
        self._plan = plan
        self._world = world
        self._is_head_alone = False

    def enter(self, epoch: int, between_batches: BetweenBatches) -> tuple[RunStep, ImageStore]:
        """Return what runs a step of an epoch, and what the epoch trains on. All processes call this method.

        Random number generators and the sums of the epoch stay as they are.

        Args:
            epoch: counted from 1.
            between_batches: called after each batch of features, equally often in every process.
        """
        alone = epoch <= self._plan.freeze_epochs
        if alone != self._is_head_alone:
            self._is_head_alone = alone
            self._step.train_head_alone(alone)
            self._images = (self._features(between_batches) if alone else None) or self._train
            settle_buckets(self._step, plain(self._images, self._plan.image_size), self._plan, self._world)
        # A graph has the layers that are trained after these epochs.
        return (self._step if alone else self._run_step), self._images

    def _features(self, between_batches: BetweenBatches) -> FeatureStore | None:
        """Let the step train on features, and return them; None if it must compute them in each epoch."""
        step, plan, world = self._step, self._plan, self._world
        epochs = min(plan.freeze_epochs, plan.epochs)
        head = self._head_of_features()
        if head is None:
            logger.info("Training the head alone until epoch %d.", epochs)
            return None
        logger.info("Training the head alone until epoch %d, on features that are computed once.", epochs)
        features, _ = head_values(
            *(step.network, head, self._train, torch.arange(len(self._train)), features_of, head.num_features),
            *(plan, world, plan.precision, between_batches),
        )
        step.train_head_alone(True, self._from_features(head))
        size = plan.image_size or self._train.size
        labels = self._train.labels.to(world.device)
        return FeatureStore(features.to(world.device), labels if labels.dim() == 1 else labels.float(), size)

    def _head_of_features(self) -> Head | None:
        """Return the head if its training needs the features of the images alone; None otherwise."""
        plan, network = self._plan, self._step.network
        if plan.augmentation is not None or plan.mixing is not None:
            return None
        size = plan.image_size or self._train.size
        head = agreed_head(network, size, self._world)
        if isinstance(head, str) or len(head.shape) != 2 or head.parameter_names != self._step.layers.head_names:
            return None
        if any(True for module in self._step.layers.head_modules() for _ in module.buffers()):
            return None  # statistics of batches, which a trial would change
        fits = 4 * head.num_features * len(self._train) <= _MAX_FEATURE_BYTES
        return head if fits and self._world.broadcast(self._is_exact(head, size)) else None

    def _from_features(self, head: Head) -> nn.Module:
        """Return the part of the network that computes logits from features, with its dropout."""
        dropouts = [module for module in self._step.layers.head_modules() if isinstance(module, nn.Dropout)]
        return nn.Sequential(*dropouts, self._step.network.get_submodule(head.name))

    @torch.no_grad()
    def _is_exact(self, head: Head, size: Size) -> bool:
        """Return whether the network in training mode computes the same logits as its part after the features."""
        step, device = self._step, self._world.device
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
        with evaluating(step.network), head_inputs(step.network, head) as inputs:
            step.network(images)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            wanted = logits_of(step.network(images))
            torch.manual_seed(0)
            given = self._from_features(head)(features_of(inputs[0]))
        return bool((given - wanted).abs().max() <= _TOLERANCE * wanted.abs().max())
