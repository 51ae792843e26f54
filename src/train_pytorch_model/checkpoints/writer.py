"""Decides when to write checkpoints, and writes them in the background."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Callable

from train_pytorch_model.errors import InterruptedRunError, first_line

if TYPE_CHECKING:
    from train_pytorch_model.checkpoints.folder import CheckpointFolder
    from train_pytorch_model.distributed.interruption import Interruption

logger = logging.getLogger(__name__)

# The smallest interval between checkpoints, unless the user sets a smaller one.
_SMALLEST_INTERVAL_SECONDS = 30.0
# A checkpoint may block training for at most this fraction of the time since the previous one.
_LARGEST_FRACTION = 0.02


class CheckpointWriter:
    """Writes checkpoints in a thread while training continues; a `Checkpointer` of the training loop."""

    def __init__(
        self,
        folder: CheckpointFolder,
        minutes: float,
        header: dict[str, Any],
        interruption: Interruption,
        *,
        resume_from: dict[str, Any] | None = None,
        is_resuming: bool = False,
        is_main: bool = True,
    ) -> None:
        """Prepare to write checkpoints.

        Args:
            folder: the checkpoint folder.
            minutes: between two checkpoints within an epoch.
            header: entries to add to each checkpoint.
            interruption: requests the stop of the run.
            resume_from: the snapshot to resume from; only rank 0 needs to have it.
            is_resuming: whether training resumes from a snapshot; the same in all processes.
            is_main: whether this process has rank 0, which writes.
        """
        self.resume_from = resume_from
        """The snapshot to resume from. The training loop resets it to free the memory."""
        self.is_resuming = is_resuming
        self.blocked_seconds = 0.0
        """How long checkpoints have blocked training."""
        self._folder = folder
        self._interval = minutes * 60
        self._header = header
        self._interruption = interruption
        self._is_main = is_main
        self._last = time.monotonic()
        self._last_blocked = 0.0
        self._is_asked = False
        self._thread: threading.Thread | None = None

    @property
    def is_stop_requested(self) -> bool:
        """Whether to save a checkpoint and stop. The training loop asks between two steps."""
        return self._interruption.is_stop_requested()

    def is_due(self, *, at_epoch_end: bool) -> bool:
        """Return whether to save a checkpoint now; True only once for each checkpoint."""
        if not self._is_main or self._is_asked or (self._thread is not None and self._thread.is_alive()):
            return False
        interval = min(self._interval, _SMALLEST_INTERVAL_SECONDS) if at_epoch_end else self._interval
        if self._interval >= _SMALLEST_INTERVAL_SECONDS:
            interval = max(interval, self._last_blocked / _LARGEST_FRACTION)
        self._is_asked = time.monotonic() - self._last >= interval
        return self._is_asked

    def save(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Take a snapshot and write it in the background."""
        started = time.monotonic()
        state = snapshot()
        if not self._is_main:
            return
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(state,), name="checkpoint", daemon=True)
        self._thread.start()
        self._is_asked = False
        self._last = time.monotonic()
        self._last_blocked = self._last - started
        self.blocked_seconds += self._last_blocked

    def save_and_stop(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Take a snapshot, write it and end the run.

        Raises:
            InterruptedRunError: always.
        """
        self._interruption.extend()
        state = snapshot()
        last = ""
        if self._is_main:
            self.wait()
            last = self._write(state)
        raise InterruptedRunError(last, self._interruption.signal_name)

    def wait(self) -> None:
        """Wait until no checkpoint is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """Remove the checkpoints, because the trained model is written."""
        if self._is_main:
            self.wait()
            self._folder.clear()

    def _write(self, state: dict[str, Any]) -> str:
        try:
            path = self._folder.write({**self._header, **state})
        except OSError as error:
            logger.warning(
                "A checkpoint could not be written: %s. Training continues. The last valid checkpoint is kept in %s.",
                error,
                self._folder.path,
            )
            return f"The checkpoint could not be written ({first_line(error)}). The previous one is kept."
        logger.info("Checkpoint of epoch %d, iteration %d: %s", state["epoch"], state["iteration"], path)
        return f"Saved the checkpoint of epoch {state['epoch']}, iteration {state['iteration']} to {path}."
