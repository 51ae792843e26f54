"""The learning rate schedules, pure functions of the epoch or the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from train_pytorch_model.training.plan import Plan

WARMUP_START = 1e-4
DECAY_END = 1e-7
DECAY_POWER = 2


def learning_rate(epoch: int, *, peak: float, epochs: int, warmup_epochs: float) -> float:
    """Return the learning rate of an epoch: linear warm-up, then polynomial decay of power 2.

    With e the epoch, L the peak, E the epochs and W the warm-up epochs:
    1e-4 + (L - 1e-4) e / W while e < W, then 1e-7 + (L - 1e-7) (1 - (e - W) / (E - W))^2.
    This equals the schedule of the retired module, measured there, to 1e-12.

    Args:
        epoch: counted from 0, less than `epochs`.
        peak: the learning rate at the end of the warm-up.
        epochs: the number of epochs of the training.
        warmup_epochs: the number of warm-up epochs. With `epochs` or more, the peak is never reached.
    """
    if epoch < warmup_epochs:
        return WARMUP_START + (peak - WARMUP_START) * epoch / warmup_epochs
    remaining = 1 - (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return float(DECAY_END + (peak - DECAY_END) * remaining**DECAY_POWER)


def changes_each_step(plan: Plan) -> bool:
    """Return whether the learning rate changes from step to step, and not from epoch to epoch as by default."""
    return plan.warmup_steps is not None or plan.lr_schedule != "polynomial"


def rate_of(step_number: int, total_steps: int, plan: Plan) -> float:
    """Return the learning rate of a step.

    With s the step, L the peak, T all steps, W the warm-up steps and p = (s - W) / (T - W): L (s + 1) / (W + 1) while
    s < W, then L (1 + cos(pi p)) / 2 for "cosine", 1e-7 + (L - 1e-7) (1 - p)^2 for "polynomial", L for "constant". The
    default schedule is that of `learning_rate`, which is constant within an epoch.

    Args:
        step_number: counted from 0 over all epochs, less than `total_steps`.
        total_steps: the number of steps of all epochs.
        plan: has the peak and the schedule.
    """
    if not changes_each_step(plan):
        epoch = step_number * plan.epochs // total_steps
        return learning_rate(epoch, peak=plan.learning_rate, epochs=plan.epochs, warmup_epochs=plan.warmup_epochs)
    peak, warmup_steps = plan.learning_rate, plan.warmup_steps
    if warmup_steps is None:
        warmup_steps = int(plan.warmup_epochs * total_steps // plan.epochs)
    if step_number < warmup_steps:
        return peak * (step_number + 1) / (warmup_steps + 1)
    progress = (step_number - warmup_steps) / (total_steps - warmup_steps)
    if plan.lr_schedule == "cosine":
        return peak * (1 + math.cos(math.pi * progress)) / 2
    if plan.lr_schedule == "polynomial":
        return float(DECAY_END + (peak - DECAY_END) * (1 - progress) ** DECAY_POWER)
    return peak
