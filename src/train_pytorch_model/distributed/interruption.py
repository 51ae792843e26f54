"""Preemption and interruption: signals that ask a training run to save a checkpoint and end.

A scheduler sends SIGTERM shortly before it stops a node, and SIGUSR1 some time before (Slurm's `--signal`). A terminal
sends SIGHUP when it is closed, and SIGINT on Ctrl-C.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from typing import IO, TYPE_CHECKING, Any, Callable

from train_pytorch_model.distributed.watchdog import leave
from train_pytorch_model.errors import InterruptedRunError, ModuleError

if TYPE_CHECKING:
    from types import FrameType

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
# Seconds from SIGTERM in which all processes must finish a step and agree to save a checkpoint.
_AGREEMENT_SECONDS = 3.0
# The same after another signal, which nothing stronger follows. torchrun waits 30 s after it.
_PATIENT_AGREEMENT_SECONDS = 25.0
# Seconds from SIGTERM in which a write that has started must finish.
_END_SECONDS = 8.0
# Seconds from SIGTERM in which the process exits. Schedulers allow 10 s or more.
_LAST_SECONDS = 9.5
# A second SIGINT ends the process. Launchers repeat the first one at once, which must not.
_REPEAT_SECONDS = 1.0
# Seconds for the last report when there was no SIGTERM.
_REPORT_SECONDS = 2.0


class Interruption:
    """Handles signals inside a `with` block: requests a checkpoint, and ends the process if it takes too long.

    A thread of its own receives the signals, so that it works while the main thread is in a long operation.
    """

    def __init__(self, report: Callable[[ModuleError | None], None], *, handles_signals: bool = True) -> None:
        """Prepare; the signal handlers are installed by `__enter__`.

        Args:
            report: reports the result of the run when this object ends the process; None means success.
            handles_signals: install handlers. Without them, nothing is ever requested.
        """
        self.is_requested = False
        """Whether a signal has been received."""
        self.signal_name = "SIGTERM"
        """The name of the signal. With several processes, launchers send SIGTERM to those that received none."""
        self._report = report
        self._handles_signals = handles_signals
        self._earlier: dict[signal.Signals, Any] = {}
        self._is_training = False
        self._is_extended = False
        self._left = math.inf  # the time at which the block ended
        self._fault: ModuleError | None = None
        self._finish: Callable[[], None] | None = None
        self._is_over = threading.Event()
        self._pipe: tuple[int, int] | None = None

    def is_stop_requested(self) -> bool:
        """Return whether to save a checkpoint and stop, between two steps of training."""
        self._is_training = True
        return self.is_requested

    def extend(self) -> None:
        """Allow more time after a signal: a checkpoint or the output is being written."""
        self._is_extended = True

    def complete(self, finish: Callable[[], None]) -> None:
        """Make a signal end the run successfully from now on, because the trained model is written.

        Args:
            finish: removes unfinished files.
        """
        self._finish = finish

    def notice(self, fault: ModuleError) -> None:
        """Record the error of another process, to report it if the launcher then ends this process with SIGTERM."""
        self._fault = fault
        self._is_extended = True

    def __enter__(self) -> Interruption:
        """Install the signal handlers, if this is the main thread; Python allows handlers in no other."""
        if self._handles_signals and threading.current_thread() is threading.main_thread():
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            # Python runs signal handlers in the main thread, when it is not busy; the pipe is written at once.
            for number in _SIGNALS:
                # nohup and shells set the signals to be ignored that must not end a background process.
                if number is signal.SIGTERM or signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._earlier[number] = signal.signal(number, _ignore)
            self._earlier_pipe = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
            threading.Thread(target=self._wait, args=(self._pipe[0],), name="interruption", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous signal handlers. After a signal, the process still ends in time."""
        self._left = time.monotonic()
        if not self.is_requested:
            self._is_over.set()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._earlier_pipe)
            for number, earlier in self._earlier.items():
                # None stands for a handler that was not installed from Python and cannot be restored from it.
                signal.signal(number, signal.SIG_DFL if earlier is None else earlier)
            os.close(self._pipe[1])  # ends the thread

    def _wait(self, descriptor: int) -> None:
        """Wait for a signal; then end the process when its time is over."""
        with os.fdopen(descriptor, "rb", buffering=0) as pipe:
            first = self._received(pipe)
            if first is None:
                return
            asked = time.monotonic()
            self.signal_name = first.name
            self.is_requested = True
            if self._finish is None:
                logger.warning(
                    "Received %s: saving a checkpoint if all processes finish the current step in time.%s",
                    first.name,
                    " Press Ctrl-C again to end at once." if first is signal.SIGINT else "",
                )
            os.set_blocking(descriptor, False)
            self._count_down(pipe, asked, asked if first is signal.SIGTERM else None)

    def _received(self, pipe: IO[bytes]) -> signal.Signals | None:
        """Return the next signal that is handled; None if the pipe is closed, or if it is empty and does not block."""
        while content := pipe.read(1):
            if content[0] in self._earlier:
                return signal.Signals(content[0])
        return None

    def _count_down(self, pipe: IO[bytes], asked: float, terminated: float | None) -> None:
        """End the process when the time is over that the signals allow.

        Args:
            pipe: gives further signals, without blocking.
            asked: the time of the first signal.
            terminated: the time of SIGTERM, if it was the first.
        """
        is_repeated = False
        while not is_repeated and time.monotonic() < self._deadline(asked, terminated):
            if self._is_over.wait(0.05):
                return
            if self._finish is not None:
                logger.warning(
                    "Received %s: the model is saved, and the run ends without the rest of its output.",
                    self.signal_name,
                )
                self._finish()
                self._end(None, terminated)
            number = self._received(pipe)
            if number is signal.SIGTERM and terminated is None:
                terminated = time.monotonic()
            is_repeated = number is signal.SIGINT and time.monotonic() > asked + _REPEAT_SECONDS
        error = self._fault or InterruptedRunError(
            "The last checkpoint, if there is one, is unchanged.", self.signal_name
        )
        self._end(error, terminated)

    def _deadline(self, asked: float, terminated: float | None) -> float:
        if terminated is not None:
            return terminated + (_END_SECONDS if self._is_extended else _AGREEMENT_SECONDS)
        if self._is_extended:  # nothing stronger follows, so what is being written may be completed
            return self._left + _END_SECONDS
        return asked + (_PATIENT_AGREEMENT_SECONDS if self._is_training else _AGREEMENT_SECONDS)

    def _end(self, error: ModuleError | None, terminated: float | None) -> None:
        # In a thread, because a tracking server may not respond.
        reporting = threading.Thread(target=self._report, args=(error,), name="last report", daemon=True)
        reporting.start()
        seconds = _REPORT_SECONDS if terminated is None else terminated + _LAST_SECONDS - time.monotonic()
        reporting.join(max(0.5, seconds))
        leave(0 if error is None else error.exit_code)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing: the pipe has been written, and the thread handles the signal."""
