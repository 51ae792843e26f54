from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from tests.small_training import make_plan
from train_pytorch_model.training.schedule import learning_rate, rate_of


@pytest.mark.parametrize(
    ("epochs", "warmup_epochs", "expected"),
    [
        # Measured on the retired module.
        (3, 0, [0.01, 0.0044445, 0.0011112]),
        (5, 2, [0.0001, 0.00505, 0.01, 0.0044445, 0.0011112]),
        # There it divided by zero: as many epochs of warm-up as epochs.
        (2, 2, [0.0001, 0.00505]),
        (2, 4, [0.0001, 0.002575]),
    ],
)
def test_learning_rates_are_those_of_the_retired_module(epochs: int, warmup_epochs: int, expected: list[float]) -> None:
    rates = [learning_rate(e, peak=0.01, epochs=epochs, warmup_epochs=warmup_epochs) for e in range(epochs)]
    assert rates == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 20])
def test_the_cosine_schedule_is_that_of_pytorch(warmup_steps: int) -> None:
    plan = make_plan(epochs=4, learning_rate=0.05, lr_schedule="cosine", warmup_steps=warmup_steps)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    cosine = CosineAnnealingLR(optimizer, T_max=max(1, 20 - warmup_steps))
    scheduler: LRScheduler = cosine
    if warmup_steps:
        warmup = LinearLR(optimizer, start_factor=1 / (warmup_steps + 1), total_iters=warmup_steps)
        scheduler = SequentialLR(optimizer, [warmup, cosine], milestones=[warmup_steps])
    for number in range(20):
        assert rate_of(number, 20, plan) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        scheduler.step()


def test_polynomial_and_constant_schedules_of_steps() -> None:
    plan = make_plan(epochs=2, learning_rate=0.01, warmup_steps=2)
    rates = [rate_of(number, 6, plan) for number in range(6)]
    assert rates == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.005625, 0.0025, 0.000625], rel=1e-3)
    constant = [rate_of(number, 6, replace(plan, lr_schedule="constant")) for number in range(6)]
    assert constant == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01, 0.01, 0.01])


def test_warm_up_epochs_are_counted_in_steps_where_rates_change_each_step() -> None:
    plan = make_plan(epochs=4, learning_rate=0.01, lr_schedule="constant", warmup_epochs=1)
    rates = [rate_of(number, 12, plan) for number in range(5)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])


def test_the_default_schedule_changes_from_epoch_to_epoch() -> None:
    plan = make_plan(epochs=3, learning_rate=0.01, warmup_epochs=0)
    rates = [rate_of(number, 9, plan) for number in range(9)]
    assert rates == [learning_rate(epoch, peak=0.01, epochs=3, warmup_epochs=0) for epoch in (0, 1, 2) for _ in "abc"]
