"""Which epoch's model is kept, and when to stop."""

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
    """The weights of the best epoch so far: highest validation top-1 accuracy, ties by lower validation loss."""

    epoch: int = 0
    """From 1; 0 while there is none."""
    top1_acc: float = -math.inf
    valid_loss: float = math.inf
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    """On the CPU."""

    def update(self, epoch: int, top1_acc: float, valid_loss: float, network: nn.Module | None) -> bool:
        """Keep the network's weights when this epoch is better; say whether it was. NaN and infinity never are.

        Args:
            epoch: from 1.
            top1_acc: its validation accuracy.
            valid_loss: its validation loss.
            network: whose weights to keep; None in a process that will not write them.
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
    """Counts the epochs in a row whose validation loss is no new lowest."""

    patience: int
    lowest_loss: float = math.inf
    num_bad_epochs: int = 0

    @property
    def is_over(self) -> bool:
        """Whether to stop."""
        return self.num_bad_epochs >= self.patience

    def update(self, valid_loss: float) -> bool:
        """Take an epoch's validation loss; say whether to stop. NaN is no improvement."""
        if valid_loss < self.lowest_loss:
            self.lowest_loss, self.num_bad_epochs = valid_loss, 0
        else:
            self.num_bad_epochs += 1
        return self.is_over
