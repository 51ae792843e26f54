"""The best epoch and early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.models.state_dicts import with_entries

if TYPE_CHECKING:
    import torch
    from torch import nn

    from train_pytorch_model.training.metrics import Averages


@dataclass
class BestModel:
    """The weights of the best epoch: highest value of the metric on the validation images, then lowest loss there."""

    metric: str = "accuracy"
    """"accuracy", "balanced_accuracy", "average_precision", "micro_f1", "macro_f1" or "loss"."""
    epoch: Optional[int] = None
    """Counted from 1, 0 for the fitted head; None before the first best epoch."""
    top1_acc: float = -math.inf
    valid_loss: float = math.inf
    value: float = -math.inf
    """Of the metric; the negative loss for "loss"."""
    thresholds: Optional[tuple[float, ...]] = None
    """Of the labels, if an image may have several: with the best F1 scores on the validation images."""
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    """The state dict of the network, on the CPU."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"epoch {self.epoch}" if self.epoch else "epoch 0, before fine-tuning"

    def update(self, epoch: int, validated: Averages, network: nn.Module | None) -> bool:
        """Copy the network's weights if this epoch is the best so far; return whether it is.

        An epoch whose validation loss is not finite is never the best.

        Args:
            epoch: counted from 1; 0 for the fitted head.
            validated: loss and accuracy on the validation images.
            network: the network to copy; None in a process that does not write the model.
        """
        value = value_of(self.metric, validated)
        if not math.isfinite(validated.loss) or (value, -validated.loss) <= (self.value, -self.valid_loss):
            return False
        self.epoch, self.value = epoch, value
        self.top1_acc, self.valid_loss, self.thresholds = validated.top1_acc, validated.loss, validated.thresholds
        if network is None:
            return True
        state = network.state_dict()
        self.state = with_entries(state, {key: value.detach().to("cpu", copy=True) for key, value in state.items()})
        return True


def value_of(metric: str, validated: Averages) -> float:
    """Return the value of a metric, of which more is better.

    Args:
        metric: "accuracy", "balanced_accuracy", "average_precision", "micro_f1", "macro_f1" or "loss".
        validated: has the metric.
    """
    value = {
        "accuracy": validated.top1_acc,
        "balanced_accuracy": validated.balanced_accuracy,
        "average_precision": validated.average_precision,
        "micro_f1": validated.micro_f1,
        "macro_f1": validated.macro_f1,
        "loss": -validated.loss,
    }[metric]
    assert value is not None
    return value


@dataclass
class EarlyStopping:
    """Counts consecutive epochs without a new lowest validation loss."""

    patience: int
    delay: int = 0
    """Epochs at the start that are not counted."""
    lowest_loss: float = math.inf
    num_bad_epochs: int = 0

    @property
    def is_over(self) -> bool:
        """Whether training should stop."""
        return self.num_bad_epochs >= self.patience

    def update(self, epoch: int, valid_loss: float) -> bool:
        """Record the validation loss of an epoch and return whether to stop. NaN is not an improvement.

        Args:
            epoch: counted from 1; 0 for the fitted head.
            valid_loss: validation loss of the epoch.
        """
        if valid_loss < self.lowest_loss:
            self.lowest_loss, self.num_bad_epochs = valid_loss, 0
        elif epoch > self.delay:
            self.num_bad_epochs += 1
        return self.is_over
