"""Preemption: SIGTERM, which a scheduler sends shortly before it stops a node."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Callable

from train_pytorch_model.distributed.watchdog import leave
from train_pytorch_model.errors import InterruptedRunError, ModuleError

if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger(__name__)

# Seconds from SIGTERM in which all processes must finish a step and agree to save a checkpoint.
_AGREEMENT_SECONDS = 3.0
# Seconds from SIGTERM in which a write that has started must finish.
_END_SECONDS = 8.0
# Seconds from SIGTERM in which the process exits. Schedulers allow 10 s or more.
_LAST_SECONDS = 9.5


class Interruption:
    """Handles SIGTERM inside a `with` block: requests a checkpoint, and ends the process if it takes too long.

    A thread of its own receives the signal, so that it works while the main thread is in a long operation.
    """

    def __init__(self, report: Callable[[ModuleError | None], None], *, handles_sigterm: bool = True) -> None:
        """Prepare; the signal handler is installed by `__enter__`.

        Args:
            report: reports the result of the run when this object ends the process; None means success.
            handles_sigterm: install a handler for SIGTERM. Without it, nothing is ever requested.
        """
        self.is_requested = False
        """Whether SIGTERM has been received."""
        self._report = report
        self._handles_sigterm = handles_sigterm
        self._is_extended = False
        self._fault: ModuleError | None = None
        self._finish: Callable[[], None] | None = None
        self._is_over = threading.Event()
        self._pipe: tuple[int, int] | None = None

    def extend(self) -> None:
        """Allow more time after SIGTERM: a checkpoint or the output is being written."""
        self._is_extended = True

    def complete(self, finish: Callable[[], None]) -> None:
        """Make SIGTERM end the run successfully from now on, because the trained model is written.

        Args:
            finish: removes unfinished files.
        """
        self._finish = finish

    def notice(self, fault: ModuleError) -> None:
        """Record the error of another process, to report it if the launcher then ends this process with SIGTERM."""
        self._fault = fault
        self._is_extended = True

    def __enter__(self) -> Interruption:
        """Install the signal handler, if this is the main thread; Python allows handlers in no other."""
        if self._handles_sigterm and threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            # Python runs signal handlers in the main thread, when it is not busy; the pipe is written at once.
            self._earlier = signal.signal(signal.SIGTERM, _ignore)
            self._earlier_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._wait, args=(self._pipe[0],), name="interruption", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handler. After SIGTERM, the process still ends in time."""
        if not self.is_requested:
            self._is_over.set()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._earlier_pipe)
            # None stands for a handler that was not installed from Python and cannot be restored from it.
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._earlier is None else self._earlier)
            os.close(self._pipe[1])  # ends the thread

    def _wait(self, descriptor: int) -> None:
        while True:
            received = os.read(descriptor, 1)
            if not received:
                os.close(descriptor)
                return
            if received[0] == signal.SIGTERM and not self.is_requested:
                break
        started = time.monotonic()
        self.is_requested = True
        if self._finish is None:
            logger.warning("Received SIGTERM: saving a checkpoint if all processes finish the current step in time.")
        while time.monotonic() < started + (_END_SECONDS if self._is_extended else _AGREEMENT_SECONDS):
            if self._is_over.wait(0.05):
                return
            if self._finish is not None:
                logger.warning("Received SIGTERM: the model is saved, and the run ends without the rest of its output.")
                self._finish()
                self._end(None, started)
        error = self._fault or InterruptedRunError("The last checkpoint, if there is one, is unchanged.")
        self._end(error, started)

    def _end(self, error: ModuleError | None, started: float) -> None:
        # In a thread, because a tracking server may not respond.
        reporting = threading.Thread(target=self._report, args=(error,), name="last report", daemon=True)
        reporting.start()
        reporting.join(max(0.5, started + _LAST_SECONDS - time.monotonic()))
        leave(0 if error is None else error.exit_code)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the pipe has been written, and the thread handles the signal."""
