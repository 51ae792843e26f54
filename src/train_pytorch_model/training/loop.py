"""The training loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Union

import torch

from train_pytorch_model.data.batches import Share, derive_seed, normalised, shuffled, training_shares
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming, Reading
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.graph import CapturedStep
from train_pytorch_model.training.metrics import Averages, RunningSums
from train_pytorch_model.training.microbatches import fit_to_memory, run_with_advice
from train_pytorch_model.training.schedule import learning_rate
from train_pytorch_model.training.state import TrainingState, load_weights
from train_pytorch_model.training.step import TrainingStep, logits_and_loss

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.callbacks import Callback, Checkpointer
    from train_pytorch_model.training.precision import Precision

# Without gradients a batch takes less memory, and a GPU does more of them at once for the same time.
_VALIDATION_BATCHES_ON_GPU = 2


@dataclass(frozen=True)
class Plan:
    """What the loop needs to know beyond network and images."""

    num_classes: int
    epochs: int
    batch_size: int
    """Of each process."""
    learning_rate: float
    """At its highest, whatever the number of processes."""
    warmup_epochs: int
    patience: int
    seed: int
    print_frequency: int
    precision: Precision
    """Of training; validation is in float32, so that it says what Score Image Model will."""
    memory_format: torch.memory_format = torch.contiguous_format
    cuda_graph: bool = False
    """Whether steps run as a CUDA graph."""
    sync_batch_norm: bool = False
    """Whether batch normalisation is over the batches of all processes."""
    has_unused: bool = False
    """Whether a step may leave out some of the weights."""
    microbatch_size: Union[int, str] = "off"
    """"off": a batch must fit in memory. "auto": split batches into the largest microbatches that fit, and accumulate
    their gradients. N: split every batch into microbatches of at most N images."""


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
    """Train until the epochs are over or the validation loss stops falling.

    Every process that calls it comes to the same weights and takes the same decisions.

    Args:
        network: on the device; left with the weights of the last epoch.
        train: images to learn from, all of them in every process.
        valid: images to choose the best epoch by, likewise.
        plan: how.
        world: who trains, and where.
        best: takes the best weights, in process 0, as they come, so that they are at hand whatever ends the training.
        callback: hears of progress.
        checkpointer: keeps checkpoints, and has the one to go on from.

    Returns:
        Whether training stopped early.

    Raises:
        DivergedError: when the training loss is not finite.
        BatchTooLargeError: when a step takes more memory than there is.
    """
    if checkpointer.resume_from is not None:
        load_weights(network, checkpointer.resume_from["network"])
    step = TrainingStep(
        network,
        plan.num_classes,
        world.device,
        plan.memory_format,
        plan.precision,
        lambda network: world.parallel(network, sync_batch_norm=plan.sync_batch_norm, has_unused=plan.has_unused),
    )
    # Nothing can be tried any more once processes wait for each other, nor alone where all normalise together.
    if plan.microbatch_size == "auto" or not (world.is_alone or plan.sync_batch_norm):
        fit_to_memory(step, train, plan.batch_size, world, in_parts=plan.microbatch_size == "auto")
    if not world.is_alone:
        share = training_shares(shuffled(len(train), 0, 0), plan.batch_size, world.rank, world.world_size)[0]
        step.rehearse(*next(iter(train.batches([share.indices], world.device))))
    state = TrainingState(step, best, EarlyStopping(plan.patience))
    if checkpointer.is_resuming:
        state.restore(checkpointer.resume_from, world)
        checkpointer.resume_from = None  # as large as three models
        callback.training_resumed(state.records)
    return run_with_advice(
        # Made where nothing outlives its failure.
        lambda: _Fit(step, train, valid, plan, world, callback, checkpointer, state).run(),
        step,
        train,
        plan.batch_size,
        world,
    )


class _Fit:
    """One training under way."""

    def __init__(
        self,
        step: TrainingStep,
        train: ImageStore,
        valid: ImageStore,
        plan: Plan,
        world: World,
        callback: Callback,
        checkpointer: Checkpointer,
        state: TrainingState,
    ) -> None:
        self._step = step
        self._run_step = CapturedStep(step, plan.batch_size) if plan.cuda_graph else step
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
        rate = learning_rate(epoch - 1, peak=plan.learning_rate, epochs=plan.epochs, warmup_epochs=plan.warmup_epochs)
        self._step.begin_epoch(rate)
        if state.iteration:
            state.resume_epoch(world.device)
        else:
            # Dropout and its like draw from the global generator: seeded anew, an epoch depends on nothing before it.
            torch.manual_seed(derive_seed(plan.seed, f"epoch of {world.rank}" if world.rank else "epoch", epoch))
        trained = train_epoch(state, self._run_step, self._train, plan, world, self._callback, self._between_steps)
        # What batch normalisation has seen differs between processes; the model is process 0's.
        world.copy_from_main(self._step.network.buffers())
        started = time.perf_counter()
        validated = evaluate(
            self._step.network, self._valid, plan, world, self._step.microbatch_size, self._between_validations
        )
        valid_seconds = time.perf_counter() - started
        network = self._step.network if world.is_main else None
        record = EpochRecord(
            epoch=epoch,
            learning_rate=rate,
            train_loss=trained.loss,
            train_error=1 - trained.top1_acc,
            valid_loss=validated.loss,
            top1_acc=validated.top1_acc,
            top5_acc=validated.top5_acc,
            is_best=state.best.update(epoch, validated.top1_acc, validated.loss, network),
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
        """Do what all processes must do together."""
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
    run_step: Callable[[torch.Tensor, torch.Tensor, float], None],
    train: ImageStore,
    plan: Plan,
    world: World,
    callback: Callback,
    between_steps: Callable[[bool], None] = lambda has_diverged: None,
) -> Averages:
    """Learn from every image once, or from those that are left of the epoch.

    Args:
        state: says which epoch, and how far it is; its step's epoch has begun.
        run_step: does a step: the state's own, or its replay.
        train: images to learn from.
        plan: how.
        world: who trains, and where.
        callback: hears of progress.
        between_steps: called after each step with whether the loss is no longer finite.
    """
    step = state.step
    order = shuffled(len(train), plan.seed, state.epoch)
    shares = training_shares(order, plan.batch_size, world.rank, world.world_size)
    callback.epoch_started(state.epoch, len(shares))
    left: list[Share] = shares[state.iteration :]
    batches = train.batches([share.indices for share in left], world.device)
    started, before = time.perf_counter(), state.seconds
    for iteration, (share, (pixels, labels)) in enumerate(zip(left, batches), start=state.iteration + 1):
        run_step(pixels, labels, share.weight)
        is_read = iteration % plan.print_frequency == 0
        has_diverged, numbers = False, None
        if is_read or iteration == len(shares):
            # The one place within an epoch where the host waits for the device.
            numbers = torch.cat((step.loss[None], step.sums.totals)).tolist()
            # A loss that was not finite once has left its mark on the sum.
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


@torch.no_grad()
def evaluate(
    network: nn.Module,
    images: ImageStore,
    plan: Plan,
    world: World,
    microbatch_size: int | None = None,
    between_batches: Callable[[int, int], None] = lambda batch, num_batches: None,
) -> Averages:
    """Loss and accuracy over all images, each counted once, in float32 and evaluation mode.

    Args:
        network: the same in all processes.
        images: of which each process takes every `world_size`-th batch.
        plan: how.
        world: who does it.
        microbatch_size: images that the memory holds in training, where it holds no whole batch.
        between_batches: called after each batch, as often in every process, with its number from 1 and how many
            there are.
    """
    network.eval()
    sums = RunningSums.zero(plan.num_classes, world.device)
    batch_size = microbatch_size or plan.batch_size * (_VALIDATION_BATCHES_ON_GPU if world.device.type == "cuda" else 1)
    batches = torch.split(torch.arange(len(images)), batch_size)
    delivered = iter(images.batches(batches[world.rank :: world.world_size], world.device))
    num_batches = math.ceil(len(batches) / world.world_size)
    for number in range(1, num_batches + 1):
        batch = next(delivered, None)
        if batch is not None:
            pixels, labels = batch
            logits, loss = logits_and_loss(network(normalised(pixels, plan.memory_format)), labels)
            sums.add(loss, logits, labels)
        between_batches(number, num_batches)
    return sums.read(world)
