"""Parallel work in threads, and the detection of file reads that never return."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from concurrent import futures
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Callable, Optional, TypeVar

from train_pytorch_model.errors import HungReadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# A read that takes longer than this is reported; one that takes longer than the second number counts as hung.
_LONG_SECONDS = 60.0
_ENDLESS_SECONDS = 300.0
# How long the end of the process waits for threads when one of them hangs.
_ABANDONED_SECONDS = 5.0

# The file that each thread reads, and the time at which the read began.
_reading: dict[int, tuple[Path, float]] = {}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Register that this thread reads a file inside the block, so that a hung read can be named."""
    thread = threading.get_ident()
    _reading[thread] = (path, time.monotonic())
    try:
        yield
    finally:
        _reading.pop(thread, None)


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    work: Callable[[int], _Result], count: int, *, at_once: int = 64, num_threads: int | None = None
) -> Iterator[_Result]:
    """Compute `work(0)`, `work(1)`, … `work(count - 1)` in parallel and yield the results in order.

    Decoders release the interpreter's lock, so threads use all cores and can write to one array.

    Args:
        work: the function to call with each number.
        count: how many numbers there are.
        at_once: how many numbers form one task of a thread.
        num_threads: the maximum number of threads; one per core by default.

    Raises:
        HungReadError: if reading a file does not return.
    """
    cores = min(num_cores(), num_threads or num_cores())
    chunks = (range(start, min(start + at_once, count)) for start in range(0, count, at_once))
    with _threads(cores) as threads:
        # The number of pending chunks is bounded: a million futures would take a gigabyte.
        pending: deque[Future[list[_Result]]] = deque()
        for chunk in chunks:
            pending.append(threads.submit(lambda numbers: [work(number) for number in numbers], chunk))
            if len(pending) > 4 * cores:
                yield from _result(pending.popleft())
        while pending:
            yield from _result(pending.popleft())


def ahead(work: Callable[[_Item], _Result], items: Iterable[_Item], *, by: int = 2) -> Iterator[_Result]:
    """Yield `work(item)` for each item in order, computed in a thread that is up to `by` items ahead of the consumer.

    Raises:
        HungReadError: if reading a file does not return.
    """
    with _threads(1) as threads:
        pending: deque[Future[_Result]] = deque()
        for item in items:
            pending.append(threads.submit(work, item))
            if len(pending) > by:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())


class _DaemonThreads:
    """A thread pool that cannot keep the process alive: nothing can stop a thread that hangs in a read.

    The threads of `concurrent.futures.ThreadPoolExecutor` are joined when the interpreter exits.
    """

    def __init__(self, max_threads: int) -> None:
        self._max_threads = max_threads
        self._threads: list[threading.Thread] = []
        self._tasks: SimpleQueue[Optional[Callable[[], None]]] = SimpleQueue()
        self._is_cancelled = False
        self.is_abandoned = False
        """Whether a thread may hang in a read, so that nothing waits long for the threads."""

    def submit(self, work: Callable[[_Item], _Result], item: _Item) -> Future[_Result]:
        """Compute `work(item)` in one of the threads."""
        future: Future[_Result] = futures.Future()

        def run() -> None:
            try:
                future.set_result(work(item))
            except BaseException as error:
                future.set_exception(error)

        self._tasks.put(run)
        if len(self._threads) < self._max_threads:
            thread = threading.Thread(target=self._run_tasks, daemon=True)
            thread.start()
            self._threads.append(thread)
        return future

    def _run_tasks(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_cancelled:
            task()
            del task  # its result and its arrays are not needed while the thread waits for the next task

    def cancel(self) -> None:
        """Tell the threads to end after the tasks that they are running; drop all others."""
        self._is_cancelled = True
        for _ in self._threads:
            self._tasks.put(None)

    def abandon(self) -> None:
        """Cancel, and wait no longer for threads that hang."""
        self.is_abandoned = True
        self.cancel()

    def close(self) -> None:
        """Drop the tasks that have not begun, and wait until all threads have ended, briefly if one may hang."""
        self.cancel()
        deadline = None
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.1)
                if self.is_abandoned:
                    deadline = deadline or time.monotonic() + _ABANDONED_SECONDS
                    if time.monotonic() >= deadline:
                        break


_open: set[_DaemonThreads] = set()
"""The threads of all blocks that are open."""


@contextmanager
def _threads(max_threads: int) -> Iterator[_DaemonThreads]:
    """Provide threads, and wait for them at the end of the block unless one of them hangs."""
    threads = _DaemonThreads(max_threads)
    _open.add(threads)
    # A traceback can keep the block open until the interpreter exits, which must not happen during a task.
    atexit.register(threads.close)
    try:
        yield threads
    except HungReadError:
        threads.abandon()
        raise
    except BaseException:
        threads.close()
        raise
    else:
        threads.close()
    finally:
        _open.discard(threads)
        if not threads.is_abandoned:  # the others end before the interpreter does, if they can
            atexit.unregister(threads.close)


def _result(future: Future[_Result]) -> _Result:
    detector = _HangDetector()
    while True:
        try:
            return future.result(_LONG_SECONDS)
        except futures.TimeoutError:
            if future.done():  # completed just now, or failed with a TimeoutError of its own
                return future.result()
            detector.check()


class _HangDetector:
    """Finds hung reads by the number of checks that saw them, which a suspended machine does not increase."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Path, float], int] = {}

    def check(self) -> None:
        """Log reads that take long; raise an error for one that has been seen in too many checks."""
        reads = list(_reading.values())
        self._counts = {read: self._counts.get(read, 0) + 1 for read in reads}
        for path, since in reads:
            seconds = time.monotonic() - since
            if self._counts[path, since] * _LONG_SECONDS >= _ENDLESS_SECONDS:
                # A thread that waits for this read may have threads of its own.
                for threads in list(_open):
                    threads.abandon()
                raise HungReadError(
                    f"{path} could not be read in {seconds:.0f} s: its disk or mount does not respond. "
                    "Copy the images to a disk of this machine, or repair the mount, and start the run again."
                )
            if seconds > _LONG_SECONDS:
                logger.warning("Reading %s has taken %.0f s so far.", path, seconds)
