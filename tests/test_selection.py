from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping


def stops_after(losses: list[float], patience: int) -> int | None:
    stopping = EarlyStopping(patience)
    return next((epoch for epoch, loss in enumerate(losses, start=1) if stopping.update(loss)), None)


@pytest.mark.parametrize(
    ("losses", "patience", "epoch"),
    [
        ([1, 5, 4.9, 4.8, 4.7], 2, 3),  # falling, but never below the best: the retired module ran on
        ([1, 1], 1, 2),
        ([5, 4, 3, 2, 1], 1, None),
        ([1, 2, 0.5, 2, 2], 2, 5),
        ([math.nan, math.nan, math.nan], 3, 3),
        ([1, math.nan, 0.5, math.inf, math.nan], 2, 5),
    ],
)
def test_training_stops_when_the_loss_has_not_gone_below_its_best(
    losses: list[float], patience: int, epoch: int | None
) -> None:
    assert stops_after(losses, patience) == epoch


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss() -> None:
    network = nn.Linear(1, 1)
    best = BestModel()
    epochs = [(0.5, 1.0), (0.9, 0.8), (0.9, 0.7), (0.9, 0.7), (0.8, 0.1), (1.0, math.nan), (1.0, math.inf)]
    chosen = [best.update(epoch, *values, network) for epoch, values in enumerate(epochs, start=1)]
    assert chosen == [True, True, True, False, False, False, False]
    assert best.epoch == 3


def test_the_best_weights_do_not_change_with_the_network() -> None:
    network = nn.Linear(1, 1)
    best = BestModel()
    best.update(1, 0.5, 1.0, network)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    assert torch.equal(best.state["weight"], before)
