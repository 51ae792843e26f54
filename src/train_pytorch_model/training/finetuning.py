"""Fine-tuning: it starts from a fitted head, is compared with it, and its weights are mixed with it.

Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution": the head comes
before other layers. Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT): weights between
those before and those after fine-tuning can be better than either.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Callable

import torch

from train_pytorch_model.data.batches import shuffled, training_shards
from train_pytorch_model.training.augmentation import augmented
from train_pytorch_model.training.features import agreed_head
from train_pytorch_model.training.head_fit import FeaturesNotFiniteError, fit_head
from train_pytorch_model.training.metrics import RunningSums
from train_pytorch_model.training.mixing import mixed

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.evaluation.records import EpochRecord
    from train_pytorch_model.training.head_fit import KeepFeatures
    from train_pytorch_model.training.metrics import Averages
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.state import TrainingState
    from train_pytorch_model.training.step import TrainingStep

logger = logging.getLogger(__name__)

INTERPOLATION = 0.5
"""How far the mixed weights that are tried lie from those with the fitted head alone towards the fine-tuned ones."""
# Batches of a process on which the training loss with the fitted head is measured.
_NUM_BATCHES = 8
# A training loss that is this much higher than with the fitted head alone is worse, and not only noisy: by a factor,
# and by a difference, which matters where the loss is near zero.
_TOLERANCE = 1.1
_SLACK = 0.05

Weights = dict[str, torch.Tensor]
"""Parameters by name, on the CPU."""


@dataclass(frozen=True)
class FittedHead:
    """The network with a fitted head, from which fine-tuning starts."""

    entries: Weights
    """The parameters of the head; empty if the network has the head of a trained model."""
    train_loss: float
    """Training loss, with augmentation, of this network on a part of the training images, or on all of them once an
    epoch seemed to be worse; NaN if no epoch follows."""
    fit_loss: float
    """Training loss of the fit, on images without augmentation."""
    fit_error: float
    """1 - accuracy of the fit."""
    seconds: float
    """Duration of the fit."""
    num_images: int
    """Training images that were used in that time."""

    def saved(self) -> dict[str, Any]:
        """Return the values for a checkpoint."""
        return {**asdict(self), "entries": dict(self.entries)}

    @classmethod
    def restored(cls, values: dict[str, Any]) -> FittedHead:
        """Return what was saved."""
        return cls(**values)

    def is_better_than(self, record: EpochRecord) -> bool:
        """Return whether an epoch, after the one with the warm-up, has made the training loss worse."""
        if record.epoch <= 1 or not math.isfinite(self.train_loss):
            return False
        return not record.train_loss <= _TOLERANCE * self.train_loss + _SLACK


def copied_weights(network: nn.Module) -> Weights:
    """Return a copy of the parameters of a network."""
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in network.named_parameters()}


def start_from_head(
    step: TrainingStep,
    train: ImageStore,
    plan: Plan,
    world: World,
    between_batches: Callable[[int, int], None] = lambda batch, num_batches: None,
    keep: KeepFeatures = lambda head, images, features, labels: None,
) -> FittedHead | None:
    """Fit the head of the network, unless it is that of a trained model with the same classes.

    All processes call this function, and their networks have the same weights afterwards.

    Args:
        step: has the network.
        train: the training images.
        plan: the hyperparameters.
        world: the processes.
        between_batches: called after each batch, equally often in every process.
        keep: see `fit_head`.

    Returns:
        The fitted head; None if the head is of a kind that cannot be fitted, which the log says.
    """
    started = time.perf_counter()
    entries: Weights = {}
    fitted = None
    if not plan.keeps_head:
        head = agreed_head(step.network, plan.image_size or train.size, world)
        if isinstance(head, str):
            logger.warning("The head is not fitted before fine-tuning: %s.", head)
            return None
        try:
            fitted = fit_head(step.network, head, train, plan, world, between_batches, keep)
        except FeaturesNotFiniteError as fault:
            logger.warning("The head is not fitted before fine-tuning: %s.", fault)
            return None
        entries = fitted.state
        load_parameters(step.network, entries)
        if step.average is not None:
            step.average.restart()
    step.layers.set_training_mode()
    if fitted is not None:
        # Later epochs are compared with it.
        loss = _training_loss(step, step.network, train, plan, world).loss if plan.epochs else math.nan
        return FittedHead(entries, loss, fitted.train_loss, fitted.train_error, fitted.seconds, len(train))
    found = _training_loss(step, step.network, train, plan, world)
    seconds = time.perf_counter() - started
    return FittedHead(entries, found.loss, found.loss, 1 - found.top1_acc, seconds, found.num_images)


@torch.no_grad()
def load_parameters(network: nn.Module, weights: Weights) -> None:
    """Copy weights into parameters of a network, which keep their addresses."""
    parameters = dict(network.named_parameters())
    for name, values in weights.items():
        parameters[name].copy_(values)


@torch.no_grad()
def _training_loss(
    step: TrainingStep,
    network: nn.Module,
    train: ImageStore,
    plan: Plan,
    world: World,
    epoch: int = 1,
    num_batches: int | None = _NUM_BATCHES,
    between_batches: Callable[[int, int], None] = lambda batch, num_batches: None,
) -> Averages:
    """Loss and accuracy of a network, in the mode it has, on the first batches of an epoch; None for all of them."""
    shards = training_shards(shuffled(len(train), plan.seed, epoch), plan.batch_size, world.rank, world.world_size)
    sums = RunningSums.zero(plan.num_classes, world.device, task=plan.task)
    indices = [shard.indices for shard in shards[:num_batches]]
    batches = augmented(train, plan, epoch).batches(indices, world.device)
    for number, (pixels, labels) in enumerate(mixed(batches, plan, len(shards), epoch, world.rank), start=1):
        step.add_training_loss(network, pixels, labels, sums)
        between_batches(number, len(indices))
    return sums.read(world)


def is_abandoned(
    state: TrainingState,
    given: Weights,
    train: ImageStore,
    plan: Plan,
    world: World,
    between_batches: Callable[[int, int], None],
) -> bool:
    """Return whether the last epoch has made the training loss worse than it is with the fitted head alone, and log it.

    The loss with the fitted head is known for a part of the images, which may have few of a rare class. Before
    fine-tuning is abandoned, it is measured on the images of the epoch, as they were in it.

    Args:
        state: of the training, after an epoch.
        given: the weights before the head was fitted.
        train: the training images.
        plan: the hyperparameters.
        world: the processes. All of them call this function.
        between_batches: called after each batch, equally often in every process.
    """
    if state.head is None:
        return False
    record, _ = state.records[-1]
    if state.head.is_better_than(record):
        state.step.layers.set_training_mode()
        start = copy.deepcopy(state.step.network)
        load_parameters(start, {**given, **state.head.entries})
        found = _training_loss(state.step, start, train, plan, world, record.epoch, None, between_batches)
        state.head = replace(state.head, train_loss=found.loss)
    if not state.head.is_better_than(record):
        return False
    logger.warning(
        "Fine-tuning is abandoned: the training loss is %.4g, but %.4g with the fitted head alone.",
        *(record.train_loss, state.head.train_loss),
    )
    return True


def best_mixture(
    whole: tuple[nn.Module, Averages],
    start: Weights,
    validate: Callable[[nn.Module], Averages],
    value_of: Callable[[Averages], float],
) -> tuple[float | None, Averages, nn.Module]:
    """Validate a network whose weights are half those at the start and half those of the fine-tuned network.

    Args:
        whole: the fine-tuned network, which is not changed, and its values on the validation images.
        start: the weights before fine-tuning.
        validate: computes loss and accuracy of a network on the validation images. It may save a checkpoint.
        value_of: the value of the metric, of which more is better.

    Returns:
        The interpolation, None for the fine-tuned network itself; the values of the best network; and that network.
    """
    network, best = whole
    mixed = copy.deepcopy(network)
    _mix(mixed, network, start, INTERPOLATION)
    validated = validate(mixed)
    if (value_of(validated), -validated.loss) > (value_of(best), -best.loss):
        return INTERPOLATION, validated, mixed
    return None, best, network


@torch.no_grad()
def _mix(mixed: nn.Module, network: nn.Module, start: Weights, interpolation: float) -> None:
    """Give a copy of a network weights between those at the start (0) and those of the network (1)."""
    for (name, parameter), (_, tuned) in zip(mixed.named_parameters(), network.named_parameters()):
        parameter.copy_(torch.lerp(start[name].to(tuned.device), tuned, interpolation))
