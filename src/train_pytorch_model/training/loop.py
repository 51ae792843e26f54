"""The training loop."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

import torch

from train_pytorch_model.data.batches import derive_seed, training_shards
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
from train_pytorch_model.training.augmentation import plain
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping, value_of
from train_pytorch_model.training.epoch import train_epoch
from train_pytorch_model.training.final_validation import validate_best
from train_pytorch_model.training.finetuning import best_mixture, copied_weights, is_abandoned, start_from_head
from train_pytorch_model.training.freezing import Phases
from train_pytorch_model.training.graph import CapturedStep, side_stream
from train_pytorch_model.training.kept_features import FeatureKeeper
from train_pytorch_model.training.microbatches import run_with_advice, set_microbatch_size
from train_pytorch_model.training.rehearsal import make_repeatable, settle_buckets, use_graph
from train_pytorch_model.training.schedule import rate_of
from train_pytorch_model.training.state import TrainingState, load_weights
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.validation import evaluate

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.callbacks import Callback, Checkpointer
    from train_pytorch_model.training.finetuning import Weights
    from train_pytorch_model.training.metrics import Averages
    from train_pytorch_model.training.plan import Plan


logger = logging.getLogger(__name__)


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
        network: on the device. Afterwards, it has the weights of the last epoch, or those of the best epoch if epochs
            were not validated in float32.
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
        given = copied_weights(network) if plan.fits_head else {}
        plain_train = plain(train, plan.image_size)
        step = _make_step(network, plain_train, plan, world, checkpointer)
        state = TrainingState(step, best, EarlyStopping(plan.patience, plan.early_stopping_delay))
        if checkpointer.is_resuming:
            state.restore(checkpointer.resume_from, world)
            checkpointer.resume_from = None  # free the memory: it is as large as three models
            callback.training_resumed(state.records)

        def run() -> bool:
            is_captured = use_graph(step, plain_train, valid, plan, world)
            run_step = CapturedStep(step, plan.batch_size, world=world) if is_captured else step
            # Created inside the call, so that nothing keeps its tensors alive after it fails.
            phases = Phases(step, run_step, train, plan, world)
            return _Fit(step, phases, train, valid, plan, world, callback, checkpointer, state, given).run()

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
    settle_buckets(step, train, plan, world)
    return step


class _Fit:
    """A training in progress."""

    def __init__(
        self,
        step: TrainingStep,
        phases: Phases,
        train: ImageStore,
        valid: ImageStore,
        plan: Plan,
        world: World,
        callback: Callback,
        checkpointer: Checkpointer,
        state: TrainingState,
        given: Weights,
    ) -> None:
        self._given = given
        self._step = step
        self._phases = phases
        self._train = train
        self._valid = valid
        self._plan = plan
        self._world = world
        self._callback = callback
        self._checkpointer = checkpointer
        self._state = state

    def run(self) -> bool:
        state, plan = self._state, self._plan
        # Without records but with iterations, there is no head that can be fitted.
        if plan.fits_head and not (state.records or state.iteration):
            self._start_from_head()
        try:
            while state.epoch <= plan.epochs and not state.stopping.is_over and not self._is_abandoned():
                self._complete(*self._run_epoch())
        except DivergedError as error:
            if state.head is None:
                raise
            logger.warning("Fine-tuning is abandoned: the training loss is no longer a finite number (%s).", error)
        if plan.validation_precision != "float32" and state.best.epoch is not None:
            self._validate_best()
        return state.stopping.is_over and state.epoch <= plan.epochs

    def _complete(self, record: EpochRecord, timing: EpochTiming, valid_loss: float) -> None:
        """Record a completed epoch with the validation loss of its own weights; save a checkpoint if one is due."""
        state = self._state
        state.records.append((record, timing))
        state.epoch, state.iteration, state.seconds = record.epoch + 1, 0, 0.0
        state.stopping.update(record.epoch, valid_loss)
        self._callback.epoch_done(record, timing)
        if self._world.broadcast(self._checkpointer.is_due(at_epoch_end=True)):
            self._checkpointer.save(self._snapshot)

    def _start_from_head(self) -> None:
        """Fit the head, and record the network with it as epoch 0."""
        state, plan, world = self._state, self._plan, self._world
        keeper, network = FeatureKeeper(self._step.network, plan, world), self._step.network
        head = start_from_head(self._step, self._train, plan, world, lambda *batch: self._between_steps(), keeper.keep)
        if head is None:
            return
        started = time.perf_counter()
        with keeper.watching(len(self._valid)):
            validated = self._validate(network)
        valid_seconds = time.perf_counter() - started
        if keeper.features is not None:
            self._callback.features_kept(keeper.features)
        state.head = head
        record = self._record(0, 0.0, (head.fit_loss, head.fit_error), validated, None, network)
        timing = EpochTiming(0, head.seconds, valid_seconds, head.num_images / head.seconds)
        self._complete(record, timing, record.valid_loss)

    def _is_abandoned(self) -> bool:
        """Whether the last epoch has made the training loss worse than the fitted head alone has it."""
        return is_abandoned(
            *(self._state, self._given, self._train, self._plan, self._world),
            lambda *batch: self._between_steps(),
        )

    def _validate(self, network: nn.Module) -> Averages:
        batch_size = self._step.microbatch_size
        return evaluate(network, self._valid, self._plan, self._world, batch_size, self._between_validations)

    def _record(
        self,
        epoch: int,
        rate: float,
        trained: tuple[float, float],
        validated: Averages,
        interpolation: float | None,
        network: nn.Module,
    ) -> EpochRecord:
        """Make the record of an epoch with its training loss and error, and copy the network if it is the best."""
        return EpochRecord(
            epoch=epoch,
            learning_rate=rate,
            train_loss=trained[0],
            train_error=trained[1],
            is_best=self._state.best.update(epoch, validated, network if self._world.is_main else None),
            interpolation=interpolation,
            **validated.of_record(),
        )

    def _run_epoch(self) -> tuple[EpochRecord, EpochTiming, float]:
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
        run_step, images = self._phases.enter(epoch, lambda batch, num_batches: self._between_steps())
        trained = train_epoch(state, run_step, images, plan, world, self._callback, self._between_steps)
        # The running statistics of batch normalization differ between processes; the model has those of rank 0.
        world.broadcast_tensors(self._step.buffers())
        started = time.perf_counter()
        with self._step.weights(averaged=True):
            network, interpolation, validated = self._step.network, None, self._validate(self._step.network)
            valid_loss = validated.loss
            if state.head is not None and self._is_last(epoch, validated):
                interpolation, validated, network = best_mixture(
                    (network, validated),
                    {**self._given, **state.head.entries},
                    self._validate,
                    partial(value_of, plan.metric_for_best_model),
                )
            valid_seconds = time.perf_counter() - started
            losses = (trained.loss, 1 - trained.top1_acc)
            record = self._record(epoch, rate, losses, validated, interpolation, network)
        return record, EpochTiming(epoch, state.seconds, valid_seconds, trained.num_images / state.seconds), valid_loss

    def _is_last(self, epoch: int, validated: Averages) -> bool:
        """Whether training ends regularly with this epoch."""
        stopping = replace(self._state.stopping)
        return epoch == self._plan.epochs or stopping.update(epoch, validated.loss)

    def _validate_best(self) -> None:
        # A checkpoint has the last weights, which are overwritten here.
        snapshot = self._snapshot()

        def between(batch: int, num_batches: int) -> None:
            self._callback.validation_done(self._plan.epochs, batch, num_batches)
            self._between_steps(snapshot=lambda: snapshot)

        self._callback.best_validated(validate_best(self._state, self._valid, self._plan, self._world, between))

    def _between_validations(self, batch: int, num_batches: int) -> None:
        self._callback.validation_done(self._state.epoch, batch, num_batches)
        self._between_steps()

    def _between_steps(self, has_diverged: bool = False, snapshot: Callable[[], dict[str, Any]] | None = None) -> None:
        """Agree with the other processes on whether to save a checkpoint, stop or fail, and do it together."""
        state, checkpointer = self._state, self._checkpointer
        is_due, is_stop, diverged = self._world.any_of(
            (checkpointer.is_due(at_epoch_end=False), checkpointer.is_stop_requested, has_diverged)
        )
        # With several processes, the flags are those of the step before. After training, they no longer matter.
        if diverged and snapshot is None:
            raise DivergedError(state.epoch, state.iteration)
        if is_stop:
            checkpointer.save_and_stop(snapshot or self._snapshot)
        if is_due:
            checkpointer.save(snapshot or self._snapshot)

    def _snapshot(self) -> dict[str, Any]:
        return self._state.snapshot(self._world)
