"""The watchdog, which ends all processes of a training soon after one of them has failed.

Every half second each process writes a heartbeat to a shared key-value store and looks for an error there. The first
error in the store is the one that all processes report. A collective operation that waits for a failed process cannot
be interrupted, so the watchdog's thread ends the process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from train_pytorch_model.error_report import describe, restore
from train_pytorch_model.errors import ModuleError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
# A process without a heartbeat for this long counts as lost.
LOST_AFTER_SECONDS = 15.0
# The time rank 0 has to fail by itself and save the best model before the watchdog ends it.
_GRACE_SECONDS = 8.0
_LONG_GRACE_SECONDS = 13.0
# The time a failed rank 0 keeps running, because it may serve the store from which the others read the error.
_STAY_SECONDS = 3.0

_FAULT = "fault"


class Watchdog:
    """Watches the other processes from one process; starts when it is created."""

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        report: Callable[[ModuleError], None],
        notice: Callable[[ModuleError], None],
    ) -> None:
        """Start the threads.

        Args:
            store: has the methods of `torch.distributed.Store`; not used by anything else.
            rank: of this process.
            world_size: number of processes.
            report: reports the error when this object ends the process.
            notice: called with an error as soon as it is known.
        """
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._report = report
        self._notice = notice
        self._grace = _GRACE_SECONDS
        self._is_over = threading.Event()
        self._is_settled = threading.Event()
        self._last_answer = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()
        threading.Thread(target=self._guard, name="guard", daemon=True).start()

    def expect_failure(self) -> None:
        """Give the main thread more time, because it has failed and saves the best model."""
        self._grace = _LONG_GRACE_SECONDS

    def settle(self, error: ModuleError) -> ModuleError:
        """Report the error of this process to the others; return the error reported first, which is the cause."""
        self._is_over.set()
        self._thread.join(_STAY_SECONDS)
        try:
            if error.is_common and self._rank:
                self._await_fault()
            first = _read(self._store.compare_set(_FAULT, "", _written(error)))
            is_known = self._await_readers()
        except RuntimeError:  # the process that serves the store is gone
            first, is_known = error, False
        self._is_settled.set()
        if self._rank and not is_known:
            logger.error("%s", first.message)  # rank 0 is lost and cannot log the error
        return error if first.message == error.message else first

    def stop(self) -> None:
        """Stop, because the work of all processes is done."""
        self._is_over.set()
        self._thread.join(_STAY_SECONDS)
        self._is_settled.set()

    def _await_fault(self) -> None:
        deadline = time.monotonic() + _GRACE_SECONDS
        while not self._store.check([_FAULT]) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _await_readers(self) -> bool:
        """Wait until rank 0, or in rank 0 all other ranks, have read the error; return whether they have."""
        self._store.set(f"seen/{self._rank}", "1")
        readers = [f"seen/{rank}" for rank in (range(1, self._world_size) if self._rank == 0 else (0,))]
        deadline = time.monotonic() + _STAY_SECONDS
        while not self._store.check(readers):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def _watch(self) -> None:
        others: Iterable[int] = range(1, self._world_size) if self._rank == 0 else (0,)
        last_heard = dict.fromkeys(others, (b"", time.monotonic()))
        count = 0
        while not self._is_over.wait(_POLL_SECONDS):
            count += 1
            try:
                self._store.set(f"alive/{self._rank}", str(count))
                fault = self._look(last_heard)
                self._last_answer = time.monotonic()
            except RuntimeError:
                # Rank 0 may have completed the work a moment before this process.
                if self._is_over.wait(_STAY_SECONDS):
                    return
                fault = _lost(0)
            if fault is not None:
                self._notice(fault)
                self._end(fault)

    def _guard(self) -> None:
        """End the process if the store does not respond, because rank 0, which may serve it, is gone."""
        while not self._is_settled.wait(1.0):
            if time.monotonic() - self._last_answer > LOST_AFTER_SECONDS:
                fault = _lost(0)
                if self._rank == 0:
                    self._report(fault)
                else:
                    logger.error("%s", fault.message)
                leave(fault.exit_code)

    def _look(self, last_heard: dict[int, tuple[bytes, float]]) -> ModuleError | None:
        if self._store.check([_FAULT]):
            return _read(self._store.get(_FAULT))
        now = time.monotonic()
        for rank, (value, since) in last_heard.items():
            key = f"alive/{rank}"
            heard = self._store.get(key) if self._store.check([key]) else b""
            if heard != value:
                last_heard[rank] = (heard, now)
            elif now - since > LOST_AFTER_SECONDS:
                return _read(self._store.compare_set(_FAULT, "", _written(_lost(rank))))
        return None

    def _end(self, fault: ModuleError) -> None:
        is_known = True
        try:
            self._store.set(f"seen/{self._rank}", "1")
        except RuntimeError:
            is_known = False
        if self._rank == 0:
            # The main thread may fail by itself, because the others are gone, and save the best model.
            noticed = time.monotonic()
            while time.monotonic() < noticed + self._grace:
                if self._is_over.wait(0.1):
                    return
            self._report(fault)
        elif not is_known:
            logger.error("%s", fault.message)  # see `settle`
        leave(fault.exit_code)


def leave(exit_code: int) -> NoReturn:
    """Exit at once; threads of a broken connection would prevent a normal exit."""
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):  # its reader may be gone
        sys.stdout.flush()
    if sys.stderr.isatty():  # a live display may have hidden the cursor
        os.write(sys.stderr.fileno(), b"\x1b[?25h")
    os._exit(exit_code)


def _lost(rank: int) -> ModuleError:
    return UserError(
        f"Process {rank} of this training was lost: it was killed, ran out of memory, or its node failed. "
        "Run the same command again to resume from the last checkpoint."
    )


def _written(error: ModuleError) -> str:
    return json.dumps({**describe(error), "ExitCode": error.exit_code})


def _read(text: bytes) -> ModuleError:
    return restore(json.loads(text))
