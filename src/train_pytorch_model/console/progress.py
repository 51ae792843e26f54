"""What a person sees of long work: a bar on a terminal, a plain line elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

logger = logging.getLogger(__name__)


class ProgressDisplay:
    """Shows work on images and steps of a pipeline."""

    def __init__(self, console: Console) -> None:
        """Show it on the console of `configure_logging`."""
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_interactive,
        )
        self._lock = threading.Lock()

    @contextmanager
    def images(self, name: str, done: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Show work on images; gives what to call once an image.

        Args:
            name: whose images.
            done: what happens to them, such as "decoded".
            total: how many there are, where that is known.
        """
        started = time.perf_counter()
        count = 0
        with self._bars as bars:
            task = bars.add_task(f"{name}: {done}", total=total)

            def advance() -> None:
                nonlocal count
                count += 1
                # A bar that nobody sees need not move a million times.
                if self._console.is_interactive:
                    bars.advance(task)

            yield advance
            bars.remove_task(task)
        logger.info("%s: %d images %s in %.1f s.", name, count, done, time.perf_counter() - started)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a step of a pipeline while it runs; several may run side by side."""
        with self._lock:
            self._bars.start()
            task = self._bars.add_task(name, total=None)
        try:
            yield
        finally:
            with self._lock:
                self._bars.remove_task(task)
                if not self._bars.tasks:
                    self._bars.stop()
