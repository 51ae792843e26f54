"""What a person sees while it runs: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.progress import TaskID

    from train_pytorch_model.training.records import EpochRecord, EpochTiming

logger = logging.getLogger(__name__)

_LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _ConsoleHandler(logging.Handler):
    """Prints log lines above a live bar instead of through it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line."""
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


def configure_logging(*, is_quiet: bool = False) -> Console:
    """Send log lines to stderr, and give the console that bars share with them.

    Args:
        is_quiet: let nothing through but errors: another process speaks for this one.
    """
    # By what it is, not by what FORCE_COLOR says, which notebooks set for all that they start.
    console = Console(stderr=True, force_terminal=sys.stderr.isatty() and not is_quiet)
    handler: logging.Handler = _ConsoleHandler(console) if console.is_terminal else logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_LINE_FORMAT))
    logging.basicConfig(level=logging.ERROR if is_quiet else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("train_pytorch_model").setLevel(logging.ERROR if is_quiet else logging.INFO)
    logging.captureWarnings(True)
    return console


class ProgressDisplay:
    """Shows decoding and training."""

    def __init__(self, console: Console, epochs: int = 0) -> None:
        """Make a display.

        Args:
            console: from `configure_logging`.
            epochs: that training will take at most.
        """
        self._console = console
        self._epochs = epochs
        self._num_iterations = 0
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._epoch_bar: TaskID | None = None
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
                if self._console.is_terminal:
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

    @contextmanager
    def training(self) -> Iterator[None]:
        """Show the training that happens inside the block."""
        with self._bars:
            yield

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Nothing to show: the log says where training goes on."""

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """A new bar for the epoch."""
        self._num_iterations = num_iterations
        self._epoch_bar = self._bars.add_task(f"Epoch {epoch}/{self._epochs}", total=num_iterations)

    def iteration_done(self, epoch: int, iteration: int, loss: float | None) -> None:
        """One more on the bar; elsewhere a line where there is a loss to tell."""
        if self._console.is_terminal:
            if self._epoch_bar is not None:
                text = {} if loss is None else {"description": f"Epoch {epoch}/{self._epochs}  loss {loss:.4f}"}
                self._bars.update(self._epoch_bar, completed=iteration, **text)  # type: ignore[arg-type]
        elif loss is not None:
            logger.info(
                "Epoch %d/%d, iteration %d/%d: loss %.6f", epoch, self._epochs, iteration, self._num_iterations, loss
            )

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """A line for the epoch."""
        if self._epoch_bar is not None:
            self._bars.remove_task(self._epoch_bar)
            self._epoch_bar = None
        top5 = "" if record.top5_acc is None else f", top5 acc {record.top5_acc:.5f}"
        logger.info(
            "Epoch %d/%d: lr %.3g, train_ips %.1f, train_loss %.6f, train_error %.5f, valid_loss %.6f, "
            "top1 acc %.5f%s%s",
            record.epoch, self._epochs, record.learning_rate, timing.train_images_per_second, record.train_loss,
            record.train_error, record.valid_loss, record.top1_acc, top5, " (best so far)" if record.is_best else "",
        )  # fmt: skip
