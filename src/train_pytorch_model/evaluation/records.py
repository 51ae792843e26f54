"""Results of epochs, and the progress within one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Reading:
    """Progress within an epoch."""

    loss: float
    """Loss of the last batch of this process."""
    accuracy: float
    """Top-1 accuracy over this process's images of the epoch so far, while the weights change."""
    learning_rate: float
    images_per_second: float
    """Throughput of all processes, averaged over the epoch so far."""


@dataclass(frozen=True)
class EpochRecord:
    """Results of one epoch."""

    epoch: int
    """From 1."""
    learning_rate: float
    """Of the last step of the epoch, for the layers before the head."""
    train_loss: float
    """Mean over the images, in training mode, while the weights change."""
    train_error: float
    """1 - top-1 accuracy, computed in the same way."""
    valid_loss: float
    top1_acc: float
    top5_acc: Optional[float]
    """None for five classes or fewer."""
    is_best: bool


@dataclass(frozen=True)
class EpochTiming:
    """Duration of one epoch."""

    epoch: int
    train_seconds: float
    valid_seconds: float
    train_images_per_second: float
