"""The interfaces through which the training loop reports progress and saves checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming, Reading
    from train_pytorch_model.training.kept_features import KeptFeatures


class Callback:
    """Receives the events of a training; subclasses override the methods that they need."""

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Called once when training resumes, with the epochs that an earlier run completed."""

    def features_kept(self, features: KeptFeatures) -> None:
        """Called in rank 0 after the head is fitted, with features of the frozen network."""

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """Called when epoch `epoch`, counted from 1, starts or resumes."""

    def iteration_done(self, epoch: int, iteration: int, reading: Reading | None) -> None:
        """Called after each iteration, counted from 1; every `print_frequency` iterations with a reading."""

    def validation_done(self, epoch: int, batch: int, num_batches: int) -> None:
        """Called after each validation batch of this process, counted from 1."""

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Called after an epoch has been trained and validated."""

    def best_validated(self, record: EpochRecord) -> None:
        """Called after training with the results of the best epoch in float32, if epochs were validated otherwise."""

    def best_calibrated(self, record: EpochRecord) -> None:
        """Called after training with the results of the best epoch and the validation loss after calibration."""


class CallbackList(Callback):
    """Passes each event to several callbacks, in order."""

    def __init__(self, *callbacks: Callback) -> None:
        self._callbacks = callbacks

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.training_resumed(records)

    def features_kept(self, features: KeptFeatures) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.features_kept(features)

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.epoch_started(epoch, num_iterations)

    def iteration_done(self, epoch: int, iteration: int, reading: Reading | None) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.iteration_done(epoch, iteration, reading)

    def validation_done(self, epoch: int, batch: int, num_batches: int) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.validation_done(epoch, batch, num_batches)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.epoch_done(record, timing)

    def best_validated(self, record: EpochRecord) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.best_validated(record)

    def best_calibrated(self, record: EpochRecord) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.best_calibrated(record)


class Checkpointer(Protocol):
    """Decides when to save a checkpoint, and saves it.

    A `snapshot` function copies the state of the training and returns the copy; see `TrainingState.snapshot`.
    """

    resume_from: Optional[dict[str, Any]]
    """The snapshot to resume from. Only rank 0 needs to have it."""
    is_resuming: bool
    """Whether training resumes from a snapshot; the same in all processes."""

    @property
    def is_stop_requested(self) -> bool:
        """Whether to save a checkpoint and stop. When one process is asked to stop, all processes do."""

    def is_due(self, *, at_epoch_end: bool) -> bool:
        """Return whether to save a checkpoint now; only rank 0's answer counts."""

    def save(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Save a checkpoint while training continues. All processes call it; rank 0 writes the file."""

    def save_and_stop(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Save a checkpoint and raise the error that ends the run. All processes call it; rank 0 writes the file."""


class NoCheckpointer:
    """Saves no checkpoints."""

    resume_from: Optional[dict[str, Any]] = None
    is_resuming = False
    is_stop_requested = False

    def is_due(self, *, at_epoch_end: bool) -> bool:
        """Return False."""
        return False

    def save(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Do nothing; never called, because no checkpoint is ever due."""

    def save_and_stop(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Do nothing; never called, because no stop is ever requested."""
