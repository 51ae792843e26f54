"""One epoch of training."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.data.batches import Shard, shuffled, training_shards
from train_pytorch_model.evaluation.records import Reading
from train_pytorch_model.training.augmentation import augmented
from train_pytorch_model.training.mixing import mixed
from train_pytorch_model.training.schedule import changes_each_step, rate_of

if TYPE_CHECKING:
    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.callbacks import Callback
    from train_pytorch_model.training.metrics import Averages
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.state import TrainingState

RunStep = Callable[[torch.Tensor, torch.Tensor, float], None]
"""Runs one training step on pixels, labels and the weight of the shard."""


def train_epoch(
    state: TrainingState,
    run_step: RunStep,
    train: ImageStore,
    plan: Plan,
    world: World,
    callback: Callback,
    between_steps: Callable[[bool], None] = lambda has_diverged: None,
) -> Averages:
    """Train on every image once, or on the rest of an epoch that is resumed.

    Args:
        state: has the epoch and the number of completed iterations; `begin_epoch` of its step has been called.
        run_step: runs one training step: the step of `state`, or its replay as a CUDA graph.
        train: the training images.
        plan: the hyperparameters.
        world: the processes and the device.
        callback: receives the progress.
        between_steps: called after each step, with whether the loss is no longer finite.

    Returns:
        Loss and accuracy in training mode, averaged over the images of all processes.
    """
    step = state.step
    train = augmented(train, plan, state.epoch)
    order = shuffled(len(train), plan.seed, state.epoch)
    shards = training_shards(order, plan.batch_size, world.rank, world.world_size)
    callback.epoch_started(state.epoch, len(shards))
    remaining: list[Shard] = shards[state.iteration :]
    batches = train.batches([shard.indices for shard in remaining], world.device)
    batches = mixed(batches, plan, len(shards), state.epoch, world.rank, first=state.iteration)
    started, before = time.perf_counter(), state.seconds
    for iteration, (shard, (pixels, labels)) in enumerate(zip(remaining, batches), start=state.iteration + 1):
        if changes_each_step(plan):
            number = (state.epoch - 1) * len(shards) + iteration - 1
            step.set_learning_rate(rate_of(number, plan.epochs * len(shards), plan))
        run_step(pixels, labels, shard.weight)
        is_read = iteration % plan.print_frequency == 0
        has_diverged, numbers = False, None
        if is_read or iteration == len(shards):
            # The only place within an epoch where the host waits for the device.
            numbers = torch.cat((step.loss[None], step.sums.totals)).tolist()
            # The sum of the losses stays non-finite after one loss was.
            has_diverged = not math.isfinite(numbers[1])
        state.iteration, state.seconds = iteration, before + time.perf_counter() - started
        if not has_diverged:
            reading = None
            if numbers and is_read:
                loss, _, num_right, _, num_images = numbers
                rate = num_images * world.world_size / state.seconds
                reading = Reading(loss, num_right / num_images, step.learning_rate, rate)
            callback.iteration_done(state.epoch, iteration, reading)
        between_steps(has_diverged)
    return step.sums.read(world)
