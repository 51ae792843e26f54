"""The training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Protocol

import torch

from train_pytorch_model.data.batches import derive_seed, normalised, shuffled, training_batches
from train_pytorch_model.training.captured_step import CapturedStep
from train_pytorch_model.training.metrics import Averages, RunningSums
from train_pytorch_model.training.schedule import learning_rate
from train_pytorch_model.training.selection import BestModel, EarlyStopping
from train_pytorch_model.training.step import TrainingStep, logits_and_loss

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.training.precision import Precision

# Without gradients a batch takes less memory, and a GPU does more of them at once for the same time.
_VALIDATION_BATCHES_ON_GPU = 2


@dataclass(frozen=True)
class Plan:
    """What the loop needs to know beyond network and images."""

    num_classes: int
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: int
    patience: int
    seed: int
    print_frequency: int
    precision: Precision
    """Of training; validation is in float32, so that it says what Score Image Model will."""
    memory_format: torch.memory_format = torch.contiguous_format
    captured: bool = False
    """Whether steps run as a CUDA graph."""


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch came to."""

    epoch: int
    """From 1."""
    learning_rate: float
    train_loss: float
    """Mean over the images, in training mode, while the weights were changing."""
    train_error: float
    """1 - top-1 accuracy, likewise."""
    valid_loss: float
    top1_acc: float
    top5_acc: float | None
    """None for five classes or fewer."""
    is_best: bool


@dataclass(frozen=True)
class EpochTiming:
    """How long one epoch took."""

    epoch: int
    train_seconds: float
    valid_seconds: float
    train_images_per_second: float


class Listener(Protocol):
    """Who hears of progress."""

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """Epoch `epoch`, from 1, begins."""

    def iteration_done(self, epoch: int, iteration: int, loss: float | None) -> None:
        """Iteration `iteration`, from 1, is done; its loss is given every `print_frequency` iterations."""

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """An epoch is trained and validated."""


class DivergedError(Exception):
    """The training loss is no longer finite."""

    def __init__(self, epoch: int, iteration: int) -> None:
        super().__init__(f"epoch {epoch}, by iteration {iteration}")
        self.epoch = epoch
        self.iteration = iteration


def fit(
    network: nn.Module,
    train: ImageStore,
    valid: ImageStore,
    plan: Plan,
    device: torch.device,
    best: BestModel,
    listener: Listener,
) -> bool:
    """Train until the epochs are over or the validation loss stops falling.

    Args:
        network: on the device; left with the weights of the last epoch.
        train: images to learn from.
        valid: images to choose the best epoch by.
        plan: how.
        device: where.
        best: takes the best weights as they come, so that they are at hand whatever ends the training.
        listener: hears of progress.

    Returns:
        Whether training stopped early.

    Raises:
        DivergedError: when the training loss is not finite.
    """
    step = TrainingStep(network, plan.num_classes, device, plan.memory_format, plan.precision)
    run_step = CapturedStep(step, plan.batch_size) if plan.captured else step
    stopping = EarlyStopping(plan.patience)
    for epoch in range(1, plan.epochs + 1):
        rate = learning_rate(epoch - 1, peak=plan.learning_rate, epochs=plan.epochs, warmup_epochs=plan.warmup_epochs)
        # Dropout and its like draw from the global generator: seeded anew, an epoch depends on nothing before it.
        torch.manual_seed(derive_seed(plan.seed, "epoch", epoch))
        started = time.perf_counter()
        step.begin_epoch(rate)
        trained = train_epoch(step, run_step, train, plan, device, epoch, listener)
        trained_at = time.perf_counter()
        validated = evaluate(network, valid, plan, device)
        validated_at = time.perf_counter()
        record = EpochRecord(
            epoch=epoch,
            learning_rate=rate,
            train_loss=trained.loss,
            train_error=1 - trained.top1_acc,
            valid_loss=validated.loss,
            top1_acc=validated.top1_acc,
            top5_acc=validated.top5_acc,
            is_best=best.update(epoch, validated.top1_acc, validated.loss, network),
        )
        timing = EpochTiming(
            epoch=epoch,
            train_seconds=trained_at - started,
            valid_seconds=validated_at - trained_at,
            train_images_per_second=trained.num_images / (trained_at - started),
        )
        listener.epoch_done(record, timing)
        if stopping.update(validated.loss):
            return epoch < plan.epochs
    return False


def train_epoch(
    step: TrainingStep,
    run_step: Callable[[torch.Tensor, torch.Tensor], None],
    train: ImageStore,
    plan: Plan,
    device: torch.device,
    epoch: int,
    listener: Listener,
) -> Averages:
    """Learn from every image once.

    Args:
        step: holds the loss and the sums; its epoch has begun.
        run_step: does a step: `step` itself, or its replay.
        train: images to learn from.
        plan: how.
        device: where.
        epoch: from 1.
        listener: hears of progress.

    Raises:
        DivergedError: when the training loss is not finite.
    """
    batches = training_batches(shuffled(len(train), plan.seed, epoch), plan.batch_size)
    listener.epoch_started(epoch, len(batches))
    for iteration, (pixels, labels) in enumerate(train.batches(batches, device), start=1):
        run_step(pixels, labels)
        read = iteration % plan.print_frequency == 0
        shown = None
        if read or iteration == len(batches):
            # The one place within an epoch where the host waits for the device.
            shown, total = torch.stack((step.loss, step.sums.totals[0])).tolist()
            # A loss that was not finite once has left its mark on the sum.
            if not math.isfinite(total):
                raise DivergedError(epoch, iteration)
        listener.iteration_done(epoch, iteration, shown if read else None)
    return step.sums.read()


@torch.no_grad()
def evaluate(network: nn.Module, images: ImageStore, plan: Plan, device: torch.device) -> Averages:
    """Loss and accuracy over all images, each counted once, in float32 and evaluation mode."""
    network.eval()
    sums = RunningSums.zero(plan.num_classes, device)
    batch_size = plan.batch_size * (_VALIDATION_BATCHES_ON_GPU if device.type == "cuda" else 1)
    batches = torch.split(torch.arange(len(images)), batch_size)
    for pixels, labels in images.batches(batches, device):
        logits, loss = logits_and_loss(network(normalised(pixels, plan.memory_format)), labels)
        sums.add(loss, logits, labels)
    return sums.read()
