"""The training loop."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Callable

import torch

from train_pytorch_model.data.batches import Shard, derive_seed, shuffled, training_shards
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming, Reading
from train_pytorch_model.training.augmentation import augmented, plain
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.graph import CapturedStep, side_stream
from train_pytorch_model.training.microbatches import run_with_advice, set_microbatch_size
from train_pytorch_model.training.rehearsal import make_repeatable, use_graph
from train_pytorch_model.training.schedule import changes_each_step, rate_of
from train_pytorch_model.training.state import TrainingState, load_weights
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.validation import evaluate

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.callbacks import Callback, Checkpointer
    from train_pytorch_model.training.metrics import Averages
    from train_pytorch_model.training.plan import Plan


RunStep = Callable[[torch.Tensor, torch.Tensor, float], None]
"""Runs one training step on pixels, labels and the weight of the shard."""


class DivergedError(Exception):
    """The training loss is no longer finite."""

    def __init__(self, epoch: int, iteration: int) -> None:
        super().__init__(f"epoch {epoch}, by iteration {iteration}")
        self.epoch = epoch
        self.iteration = iteration


def fit(
    network: nn.Module,
    train: ImageStore,
    valid: ImageStore,
    plan: Plan,
    world: World,
    best: BestModel,
    callback: Callback,
    checkpointer: Checkpointer,
) -> bool:
    """Train until all epochs are done or the validation loss stops improving.

    All processes call this function, make the same decisions and end with the same weights.

    Args:
        network: on the device. It has the weights of the last epoch afterwards.
        train: the training images; every process has all of them.
        valid: the images by which the best epoch is chosen; every process has all of them.
        plan: the hyperparameters.
        world: the processes and the device.
        best: receives the weights of the best epoch so far, in rank 0. They stay available when this function raises.
        callback: receives the progress.
        checkpointer: saves checkpoints, and has the one to resume from.

    Returns:
        Whether training stopped early.

    Raises:
        DivergedError: when the training loss is not finite.
        BatchTooLargeError: when a training step needs more memory than there is.
    """
    with side_stream(world.device):
        plain_train = plain(train, plan.image_size)
        step = _make_step(network, plain_train, plan, world, checkpointer)
        state = TrainingState(step, best, EarlyStopping(plan.patience))
        if checkpointer.is_resuming:
            state.restore(checkpointer.resume_from, world)
            checkpointer.resume_from = None  # free the memory: it is as large as three models
            callback.training_resumed(state.records)

        def run() -> bool:
            is_captured = use_graph(step, plain_train, valid, plan, world)
            run_step = CapturedStep(step, plan.batch_size, world=world) if is_captured else step
            # Created inside the call, so that nothing keeps its tensors alive after it fails.
            return _Fit(step, run_step, train, valid, plan, world, callback, checkpointer, state).run()

        return run_with_advice(run, step, plain_train, plan, world)


def _make_step(
    network: nn.Module, train: ImageStore, plan: Plan, world: World, checkpointer: Checkpointer
) -> TrainingStep:
    """Return the training step, with the weights of the checkpoint and the microbatch size that fits."""
    if checkpointer.resume_from is not None:
        load_weights(network, checkpointer.resume_from["network"])
    step = TrainingStep(
        network,
        plan,
        world.device,
        lambda network: world.parallel(network, sync_batch_norm=plan.sync_batch_norm, has_unused=plan.has_unused),
    )
    make_repeatable(step, train, world)
    # With several processes, memory must be tried before they wait for each other in a step. Synchronized batch
    # normalization makes them wait in any forward pass.
    is_tried = not (world.is_alone or plan.sync_batch_norm)
    set_microbatch_size(step, train, plan, world, is_tried=is_tried)
    if not world.is_alone:
        shard = training_shards(shuffled(len(train), 0, 0), plan.batch_size, world.rank, world.world_size)[0]
        step.dry_run(*next(iter(train.batches([shard.indices], world.device))))
    return step


class _Fit:
    """A training in progress."""

    def __init__(
        self,
        step: TrainingStep,
        run_step: RunStep,
        train: ImageStore,
        valid: ImageStore,
        plan: Plan,
        world: World,
        callback: Callback,
        checkpointer: Checkpointer,
        state: TrainingState,
    ) -> None:
        self._step = step
        self._run_step = run_step
        self._train = train
        self._valid = valid
        self._plan = plan
        self._world = world
        self._callback = callback
        self._checkpointer = checkpointer
        self._state = state

    def run(self) -> bool:
        state, plan = self._state, self._plan
        while state.epoch <= plan.epochs and not state.stopping.is_over:
            record, timing = self._run_epoch()
            state.records.append((record, timing))
            state.epoch, state.iteration, state.seconds = record.epoch + 1, 0, 0.0
            state.stopping.update(record.valid_loss)
            self._callback.epoch_done(record, timing)
            if self._world.broadcast(self._checkpointer.is_due(at_epoch_end=True)):
                self._checkpointer.save(self._snapshot)
        return state.stopping.is_over and state.epoch <= plan.epochs

    def _run_epoch(self) -> tuple[EpochRecord, EpochTiming]:
        state, plan, world, epoch = self._state, self._plan, self._world, self._state.epoch
        num_steps = len(training_shards(torch.arange(len(self._train)), plan.batch_size, 0, world.world_size))
        rate = rate_of(epoch * num_steps - 1, plan.epochs * num_steps, plan)
        self._step.begin_epoch(rate)
        if state.iteration:
            state.resume_epoch(world.device)
        else:
            # Dropout and similar layers draw from the global generator. With a seed of its own, an epoch does not
            # depend on the epochs before it.
            torch.manual_seed(derive_seed(plan.seed, f"epoch of {world.rank}" if world.rank else "epoch", epoch))
        trained = train_epoch(state, self._run_step, self._train, plan, world, self._callback, self._between_steps)
        # The running statistics of batch normalization differ between processes; the model has those of rank 0.
        world.broadcast_tensors(self._step.buffers())
        started = time.perf_counter()
        with self._step.weights(averaged=True):
            validated = evaluate(
                self._step.network, self._valid, plan, world, self._step.microbatch_size, self._between_validations
            )
            valid_seconds = time.perf_counter() - started
            network = self._step.network if world.is_main else None
            is_best = state.best.update(epoch, validated.top1_acc, validated.loss, network)
        record = EpochRecord(
            epoch=epoch,
            learning_rate=rate,
            train_loss=trained.loss,
            train_error=1 - trained.top1_acc,
            valid_loss=validated.loss,
            top1_acc=validated.top1_acc,
            top5_acc=validated.top5_acc,
            is_best=is_best,
        )
        timing = EpochTiming(
            epoch=epoch,
            train_seconds=state.seconds,
            valid_seconds=valid_seconds,
            train_images_per_second=trained.num_images / state.seconds,
        )
        return record, timing

    def _between_validations(self, batch: int, num_batches: int) -> None:
        self._callback.validation_done(self._state.epoch, batch, num_batches)
        self._between_steps()

    def _between_steps(self, has_diverged: bool = False) -> None:
        """Agree with the other processes on whether to save a checkpoint, stop or fail, and do it together."""
        state, checkpointer = self._state, self._checkpointer
        is_due, is_stop, diverged = self._world.any_of(
            (checkpointer.is_due(at_epoch_end=False), checkpointer.is_stop_requested, has_diverged)
        )
        if diverged:
            raise DivergedError(state.epoch, state.iteration)
        if is_stop:
            checkpointer.save_and_stop(self._snapshot)
        if is_due:
            checkpointer.save(self._snapshot)

    def _snapshot(self) -> dict[str, Any]:
        return self._state.snapshot(self._world)


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
