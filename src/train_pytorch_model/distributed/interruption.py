"""SIGTERM, which a scheduler sends before it takes a node away: a checkpoint if there is time, and then the end."""

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

# What all processes get to come to the end of a step and agree.
_AGREEMENT_SECONDS = 3.0
# What writing that has begun gets; and the whole way to the end, of which schedulers give 10 s and more.
_END_SECONDS = 8.0
_LAST_SECONDS = 9.5


class Interruption:
    """Notices SIGTERM even while the main thread is inside a long operation, and sees to it that the process ends."""

    def __init__(self, report: Callable[[ModuleError | None], None]) -> None:
        """Prepare to notice.

        Args:
            report: tells the user when the process is ended from here; None is a success.
        """
        self.is_requested = False
        self._report = report
        self._is_extended = False
        self._fault: ModuleError | None = None
        self._finish: Callable[[], None] | None = None
        self._is_over = threading.Event()
        self._pipe: tuple[int, int] | None = None

    def extend(self) -> None:
        """The end has begun by itself: a checkpoint or the output is being written."""
        self._is_extended = True

    def complete(self, finish: Callable[[], None]) -> None:
        """What the run was for is written: SIGTERM ends it well from here on.

        Args:
            finish: drops what is still under way.
        """
        self._finish = finish

    def notice(self, fault: ModuleError) -> None:
        """A process has failed. Its launcher may end the others by SIGTERM, and then that fault is the one to tell."""
        self._fault = fault
        self._is_extended = True

    def __enter__(self) -> Interruption:
        """Notice from here on; outside the main thread, where signals cannot be taken, nothing is noticed."""
        if threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            # Python's own handler waits for the main thread; the pipe is written to at once.
            self._earlier = signal.signal(signal.SIGTERM, _ignore)
            self._earlier_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._wait, args=(self._pipe[0],), name="interruption", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave signals as they were; a process that was asked to end still does so in time."""
        if not self.is_requested:
            self._is_over.set()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._earlier_pipe)
            signal.signal(signal.SIGTERM, self._earlier)
            os.close(self._pipe[1])  # which ends the thread

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
            logger.warning("SIGTERM: writing a checkpoint, if all processes come to the end of a step in time.")
        while time.monotonic() < started + (_END_SECONDS if self._is_extended else _AGREEMENT_SECONDS):
            if self._is_over.wait(0.05):
                return
            if self._finish is not None:
                logger.warning("SIGTERM: the model is written, and the run ends without what was still under way.")
                self._finish()
                self._end(None, started)
        error = self._fault or InterruptedRunError("The last checkpoint, if there is one, stands.")
        self._end(error, started)

    def _end(self, error: ModuleError | None, started: float) -> None:
        # A tracking server that does not answer must not hold up the end.
        telling = threading.Thread(target=self._report, args=(error,), name="last words", daemon=True)
        telling.start()
        telling.join(max(0.5, started + _LAST_SECONDS - time.monotonic()))
        leave(0 if error is None else error.exit_code)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Let the main thread go on."""
