"""Work on many things side by side, and what to do when one of them never ends."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable, TypeVar

from train_pytorch_model.errors import HungReadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# A file that takes so long to read is told of; one that takes so much longer will never come.
_LONG_SECONDS = 60.0
_ENDLESS_SECONDS = 300.0

# What each thread reads, and since when.
_reading: dict[int, tuple[Path, float]] = {}

is_hung = False
"""Whether a thread of this process reads without end, which nothing can stop."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say that this thread reads a file for as long as the block lasts."""
    thread = threading.get_ident()
    _reading[thread] = (path, time.monotonic())
    try:
        yield
    finally:
        _reading.pop(thread, None)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    work: Callable[[int], _Result], count: int, *, at_once: int = 64, num_threads: int | None = None
) -> Iterator[_Result]:
    """`work(0)`, `work(1)`, … `work(count - 1)`, done side by side, given in order.

    Decoders release the interpreter's lock, so threads use all cores and share one array.

    Args:
        work: what to do with each number.
        count: of numbers.
        at_once: numbers that a thread takes at a time.
        num_threads: the most that may be at work; one a core when left out.

    Raises:
        HungReadError: when a file is read without end.
    """
    cores = min(num_cores(), num_threads or num_cores())
    chunks = (range(start, min(start + at_once, count)) for start in range(0, count, at_once))
    with _pool(cores) as pool:
        # A bounded number of chunks under way: a million futures at once would be a gigabyte.
        under_way: deque[Future[list[_Result]]] = deque()
        for chunk in chunks:
            under_way.append(pool.submit(lambda numbers: [work(number) for number in numbers], chunk))
            if len(under_way) > 4 * cores:
                yield from _result(under_way.popleft())
        while under_way:
            yield from _result(under_way.popleft())


def ahead(work: Callable[[_Item], _Result], items: Iterable[_Item], *, by: int = 2) -> Iterator[_Result]:
    """`work(item)` for each item in order, done in a thread that is up to `by` items ahead of whoever asks.

    Raises:
        HungReadError: when a file is read without end.
    """
    with _pool(1) as pool:
        under_way: deque[Future[_Result]] = deque()
        for item in items:
            under_way.append(pool.submit(work, item))
            if len(under_way) > by:
                yield _result(under_way.popleft())
        while under_way:
            yield _result(under_way.popleft())


@contextmanager
def _pool(size: int) -> Iterator[futures.ThreadPoolExecutor]:
    """Threads that are waited for, but for those of which one hangs."""
    pool = futures.ThreadPoolExecutor(max_workers=size)
    try:
        yield pool
    except HungReadError:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _result(future: Future[_Result]) -> _Result:
    looks = _Looks()
    while True:
        try:
            return future.result(_LONG_SECONDS)
        except futures.TimeoutError:
            if future.done():  # just now, or by an error of this kind of its own
                return future.result()
            looks.look()


class _Looks:
    """Looks at what is being read, again and again; a machine that stood still meanwhile has not looked."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Path, float], int] = {}

    def look(self) -> None:
        """Tell of reads that take long; raise an error for one that was there in as many looks as make it endless."""
        global is_hung
        under_way = list(_reading.values())
        self._counts = {read: self._counts.get(read, 0) + 1 for read in under_way}
        for path, since in under_way:
            seconds = time.monotonic() - since
            if self._counts[path, since] * _LONG_SECONDS >= _ENDLESS_SECONDS:
                is_hung = True
                raise HungReadError(
                    f"{path} could not be read in {seconds:.0f} s: its disk or its mount does not answer. "
                    "Copy the images to a disk of this machine, or mend the mount, and start the run again."
                )
            if seconds > _LONG_SECONDS:
                logger.warning("%s has been read for %.0f s.", path, seconds)
