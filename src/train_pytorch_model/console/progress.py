"""Progress bars for work on images and for pipeline steps; log lines where there is no terminal or notebook."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from train_pytorch_model.console.live import LiveDisplay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

logger = logging.getLogger(__name__)


class ProgressDisplay:
    """Shows the progress of work on images and of pipeline steps."""

    def __init__(self, console: Console) -> None:
        """Prepare to show progress on a console from `make_console`."""
        self._is_live = console.is_interactive
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._display = LiveDisplay(console, self._bars.get_renderable)
        self._lock = threading.Lock()

    @contextmanager
    def images(self, name: str, done: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Show progress on images; yields a function to call after each image.

        Args:
            name: of the dataset.
            done: the past participle of the work, such as "decoded".
            total: the number of images, if it is known.
        """
        started = time.perf_counter()
        count = 0
        task = self._bars.add_task(f"{name}: {done}", total=total)

        def advance() -> None:
            nonlocal count
            count += 1
            # For millions of images, updating a bar that is not shown takes noticeable time.
            if self._is_live:
                self._bars.advance(task)

        try:
            with self._display:
                yield advance
        finally:
            self._bars.remove_task(task)
        logger.info("%s: %d images %s in %.1f s.", name, count, done, time.perf_counter() - started)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Show a pipeline step while it runs; several steps may run at the same time."""
        with self._lock:
            is_first = not self._bars.tasks
            task = self._bars.add_task(name, total=None)
            if is_first:
                self._display.start()
        try:
            yield
        finally:
            with self._lock:
                self._bars.remove_task(task)
                if not self._bars.tasks:
                    self._display.stop()
