from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.metrics import Averages


def stops_after(losses: list[float], patience: int, delay: int = 0) -> int | None:
    stopping = EarlyStopping(patience, delay)
    return next((epoch for epoch, loss in enumerate(losses, start=1) if stopping.update(epoch, loss)), None)


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
    losses = [(0.5, 1.0), (0.9, 0.8), (0.9, 0.7), (0.9, 0.7), (0.8, 0.1), (1.0, math.nan), (1.0, math.inf)]
    epochs = [Averages(loss, accuracy, None, 10) for accuracy, loss in losses]
    chosen = [best.update(epoch, values, network) for epoch, values in enumerate(epochs, start=1)]
    assert chosen == [True, True, True, False, False, False, False]
    assert best.epoch == 3


@pytest.mark.parametrize(
    ("metric", "best_epoch"), [("accuracy", 1), ("balanced_accuracy", 2), ("macro_f1", 3), ("loss", 4)]
)
def test_the_metric_decides_which_epoch_is_the_best(metric: str, best_epoch: int) -> None:
    epochs = [
        Averages(1.0, 0.9, None, 10, balanced_accuracy=0.5, macro_f1=0.5),
        Averages(1.1, 0.8, None, 10, balanced_accuracy=0.8, macro_f1=0.6),
        Averages(1.2, 0.7, None, 10, balanced_accuracy=0.7, macro_f1=0.7),
        Averages(0.9, 0.6, None, 10, balanced_accuracy=0.6, macro_f1=0.4),
    ]
    best = BestModel(metric)
    for epoch, values in enumerate(epochs, start=1):
        best.update(epoch, values, nn.Linear(1, 1))
    assert best.epoch == best_epoch
    assert best.top1_acc == epochs[best_epoch - 1].top1_acc


@pytest.mark.parametrize(("metric", "best_epoch"), [("average_precision", 1), ("micro_f1", 2), ("macro_f1", 3)])
def test_the_best_epoch_of_several_labels_has_its_thresholds(metric: str, best_epoch: int) -> None:
    values = {"average_precision": (0.9, 0.8, 0.7), "micro_f1": (0.4, 0.6, 0.5), "macro_f1": (0.1, 0.2, 0.3)}
    best = BestModel(metric)
    for number in range(3):
        of_epoch = {name: each[number] for name, each in values.items()}
        best.update(number + 1, Averages(1.0, 0.5, None, 10, thresholds=(number / 10,), **of_epoch), nn.Linear(1, 1))
    assert best.epoch == best_epoch
    assert best.thresholds == ((best_epoch - 1) / 10,)


@pytest.mark.parametrize(("delay", "epoch"), [(0, 3), (1, 3), (2, 4), (3, 5), (9, None)])
def test_patience_does_not_count_the_epochs_of_the_delay(delay: int, epoch: int | None) -> None:
    assert stops_after([1, 2, 3, 4, 5], 2, delay) == epoch


def test_the_best_weights_do_not_change_with_the_network() -> None:
    network = nn.Linear(1, 1)
    best = BestModel()
    best.update(1, Averages(1.0, 0.5, None, 10), network)
    before = network.weight.detach().clone()
    with torch.no_grad():
        network.weight += 1
    assert torch.equal(best.state["weight"], before)
