"""Ends every process of a training soon after one of them has failed, whatever the others wait for.

Each process says every half second that it is alive, in a key-value store that all reach, and looks for a fault there.
The first fault that is told is the one that all report. A process that is blocked in a collective operation, which
nothing can interrupt, is ended from its watching thread.
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

from train_pytorch_model.error_report import describe, told
from train_pytorch_model.errors import ModuleError, UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
# A process that has not been heard of for so long is taken for lost.
LOST_AFTER_SECONDS = 15.0
# What the first process gets to end by itself, keeping the best model, before it is ended.
_GRACE_SECONDS = 8.0
_LONG_GRACE_SECONDS = 13.0
# What a failing first process, at whom the others may look for the fault, stays for.
_STAY_SECONDS = 3.0

_FAULT = "fault"


class Watch:
    """One process's view of all the others."""

    def __init__(
        self,
        store: Any,
        rank: int,
        world_size: int,
        report: Callable[[ModuleError], None],
        notice: Callable[[ModuleError], None],
    ) -> None:
        """Begin to watch.

        Args:
            store: with the methods of `torch.distributed.Store`; used by this object alone.
            rank: of this process.
            world_size: of all.
            report: tells the user of the fault when the process is ended from here.
            notice: hears of a fault as soon as it is known.
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
        """The main thread is failing, and keeping the best model: it gets the time for that."""
        self._grace = _LONG_GRACE_SECONDS

    def settle(self, error: ModuleError) -> ModuleError:
        """Tell the others of this process's fault; gives the fault that was told first, which is the cause."""
        self._is_over.set()
        self._thread.join(_STAY_SECONDS)
        try:
            if error.is_common and self._rank:
                self._await_fault()
            first = _read(self._store.compare_set(_FAULT, "", _written(error)))
            is_known = self._await_readers()
        except RuntimeError:  # the store is gone with its process
            first, is_known = error, False
        self._is_settled.set()
        if self._rank and not is_known:
            logger.error("%s", first.message)  # process 0 is lost, and nobody but this one can say so
        return error if first.message == error.message else first

    def stop(self) -> None:
        """Watch no more: the work that all share is done."""
        self._is_over.set()
        self._thread.join(_STAY_SECONDS)
        self._is_settled.set()

    def _await_fault(self) -> None:
        deadline = time.monotonic() + _GRACE_SECONDS
        while not self._store.check([_FAULT]) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _await_readers(self) -> bool:
        """Stay until process 0, or in process 0 all others, know of the fault; say whether they do."""
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
                # Process 0 may have come to the end of the common work a moment before this one.
                if self._is_over.wait(_STAY_SECONDS):
                    return
                fault = _lost(0)
            if fault is not None:
                self._notice(fault)
                self._end(fault)

    def _guard(self) -> None:
        """End the process when the store does not answer: process 0, which may hold it, has fallen silent."""
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
            # Its main thread may be failing by itself, for want of the others, and keeping the best model.
            noticed = time.monotonic()
            while time.monotonic() < noticed + self._grace:
                if self._is_over.wait(0.1):
                    return
            self._report(fault)
        elif not is_known:
            logger.error("%s", fault.message)  # as above
        leave(fault.exit_code)


def leave(exit_code: int) -> NoReturn:
    """End the process at once: threads of a broken connection would keep it."""
    logging.shutdown()
    with contextlib.suppress(OSError, ValueError):  # whoever read it may be gone
        sys.stdout.flush()
    if sys.stderr.isatty():  # a live display may have hidden the cursor
        os.write(sys.stderr.fileno(), b"\x1b[?25h")
    os._exit(exit_code)


def _lost(rank: int) -> ModuleError:
    return UserError(
        f"Process {rank} of this training is lost: it was ended from outside, its memory ran out or its node is gone. "
        "Run the same command again: it goes on from the last checkpoint."
    )


def _written(error: ModuleError) -> str:
    return json.dumps({**describe(error), "ExitCode": error.exit_code})


def _read(text: bytes) -> ModuleError:
    return told(json.loads(text))
