"""When checkpoints are written, and by whom."""

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

# Closer together they are written only when asked for.
_CLOSEST_SECONDS = 30.0
# A checkpoint may hold up the training for a fiftieth of the time since the one before.
_LARGEST_SHARE = 0.02


class CheckpointWriter:
    """Writes checkpoints in a thread of its own, while training goes on."""

    def __init__(
        self,
        folder: CheckpointFolder,
        minutes: float,
        header: dict[str, Any],
        interruption: Interruption,
        *,
        is_main: bool = True,
    ) -> None:
        """Begin to keep.

        Args:
            folder: where to.
            minutes: between two checkpoints within an epoch.
            header: goes into every checkpoint.
            interruption: says when to stop.
            is_main: whether this process writes.
        """
        self.resume_from: dict[str, Any] | None = None
        """The checkpoint to go on from, in the process that writes, until the training has it."""
        self.is_resuming = False
        """Whether there is one; the same in all processes."""
        self.blocked_seconds = 0.0
        """That training has waited."""
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
        """Whether to stop after a checkpoint."""
        return self._interruption.is_requested

    def is_due(self, *, at_epoch_end: bool) -> bool:
        """Whether a checkpoint is wanted now; said once for each."""
        if not self._is_main or self._is_asked or (self._thread is not None and self._thread.is_alive()):
            return False
        interval = min(self._interval, _CLOSEST_SECONDS) if at_epoch_end else self._interval
        if self._interval >= _CLOSEST_SECONDS:
            interval = max(interval, self._last_blocked / _LARGEST_SHARE)
        self._is_asked = time.monotonic() - self._last >= interval
        return self._is_asked

    def save(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Write what `snapshot` gives while training goes on."""
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
        """Write what `snapshot` gives and end the run.

        Raises:
            InterruptedRunError: always.
        """
        self._interruption.extend()
        state = snapshot()
        last = ""
        if self._is_main:
            self.wait()
            last = self._write(state)
        raise InterruptedRunError(last)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def finish(self) -> None:
        """The training is done and its model written: there is nothing to go on from any more."""
        if self._is_main:
            self.wait()
            self._folder.clear()

    def _write(self, state: dict[str, Any]) -> str:
        try:
            path = self._folder.write({**self._header, **state})
        except OSError as error:
            logger.warning(
                "A checkpoint could not be written, and the training goes on: %s. The last good one stays in %s.",
                error,
                self._folder.path,
            )
            return f"Its checkpoint could not be written ({first_line(error)}); the one before stands."
        logger.info("Checkpoint of epoch %d, iteration %d: %s", state["epoch"], state["iteration"], path)
        return f"Epoch {state['epoch']}, iteration {state['iteration']} is kept in {path}."
