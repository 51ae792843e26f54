"""The best epoch and early stopping."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from train_pytorch_model.models.state_dicts import with_entries

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class BestModel:
    """The weights of the best epoch: highest top-1 validation accuracy, then lowest validation loss."""

    epoch: int = 0
    """Counted from 1; 0 before the first best epoch."""
    top1_acc: float = -math.inf
    valid_loss: float = math.inf
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    """The state dict of the network, on the CPU."""

    def update(self, epoch: int, top1_acc: float, valid_loss: float, network: nn.Module | None) -> bool:
        """Copy the network's weights if this epoch is the best so far; return whether it is.

        An epoch whose validation loss is not finite is never the best.

        Args:
            epoch: counted from 1.
            top1_acc: validation accuracy of the epoch.
            valid_loss: validation loss of the epoch.
            network: the network to copy; None in a process that does not write the model.
        """
        if not math.isfinite(valid_loss) or (top1_acc, -valid_loss) <= (self.top1_acc, -self.valid_loss):
            return False
        self.epoch, self.top1_acc, self.valid_loss = epoch, top1_acc, valid_loss
        if network is None:
            return True
        state = network.state_dict()
        self.state = with_entries(state, {key: value.detach().to("cpu", copy=True) for key, value in state.items()})
        return True


@dataclass
class EarlyStopping:
    """Counts consecutive epochs without a new lowest validation loss."""

    patience: int
    lowest_loss: float = math.inf
    num_bad_epochs: int = 0

    @property
    def is_over(self) -> bool:
        """Whether training should stop."""
        return self.num_bad_epochs >= self.patience

    def update(self, valid_loss: float) -> bool:
        """Record the validation loss of an epoch and return whether to stop. NaN is not an improvement."""
        if valid_loss < self.lowest_loss:
            self.lowest_loss, self.num_bad_epochs = valid_loss, 0
        else:
            self.num_bad_epochs += 1
        return self.is_over
