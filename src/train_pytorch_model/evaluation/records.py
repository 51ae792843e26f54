"""What one epoch came to, and how far one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Reading:
    """What is known within an epoch."""

    loss: float
    """Of the last batch of this process."""
    accuracy: float
    """Top-1, over this process's images of the epoch so far, while the weights were changing."""
    learning_rate: float
    images_per_second: float
    """Of all processes, over the epoch so far."""


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
    top5_acc: Optional[float]
    """None for five classes or fewer."""
    is_best: bool


@dataclass(frozen=True)
class EpochTiming:
    """How long one epoch took."""

    epoch: int
    train_seconds: float
    valid_seconds: float
    train_images_per_second: float
