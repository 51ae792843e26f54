"""Whom the training loop speaks with while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming, Reading


class Listener:
    """Who hears of progress; whoever wants to hear of something takes the method of it."""

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Training goes on after epochs that an earlier run has done."""

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """Epoch `epoch`, from 1, begins or goes on."""

    def iteration_done(self, epoch: int, iteration: int, reading: Reading | None) -> None:
        """Iteration `iteration`, from 1, is done; there is a reading every `print_frequency` iterations."""

    def validation_done(self, epoch: int, batch: int, num_batches: int) -> None:
        """Batch `batch`, from 1, of this process's validation batches is done."""

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """An epoch is trained and validated."""


class Keeper(Protocol):
    """Who keeps checkpoints."""

    start: Optional[dict[str, Any]]
    """The checkpoint to go on from; of process 0, the others may have none."""
    has_start: bool
    """Whether there is one; the same in all processes."""

    @property
    def is_stop_requested(self) -> bool:
        """Whether to stop after a checkpoint; all processes do when one is asked to."""

    def is_due(self, *, at_epoch_end: bool) -> bool:
        """Whether a checkpoint is wanted now; process 0's answer counts."""

    def keep(self, capture: Callable[[], dict[str, Any]]) -> None:
        """Write a checkpoint while training goes on. All processes call it, and process 0 writes."""

    def stop(self, capture: Callable[[], dict[str, Any]]) -> None:
        """Write a checkpoint, likewise, and raise what ends the run."""


class NoKeeper:
    """Keeps nothing."""

    start: Optional[dict[str, Any]] = None
    has_start = False
    is_stop_requested = False

    def is_due(self, *, at_epoch_end: bool) -> bool:
        """Never."""
        return False

    def keep(self, capture: Callable[[], dict[str, Any]]) -> None:
        """Not called."""

    def stop(self, capture: Callable[[], dict[str, Any]]) -> None:
        """Not called."""
