"""The progress of a training run: a live display on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from train_pytorch_model.console.live import LiveDisplay
from train_pytorch_model.console.logs import log_progress
from train_pytorch_model.data.model_task import MULTICLASS
from train_pytorch_model.distributed.device import gpu_memory
from train_pytorch_model.job.epoch_words import epoch_in_words, figures_in_words, headline_in_words, loss_in_words
from train_pytorch_model.training.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from rich.console import Console, RenderableType

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming, Reading
    from train_pytorch_model.training.early_stopping import EarlyStopping

logger = logging.getLogger(__name__)

# Seconds between two updates of the display; more updates would be unreadable.
_INTERVAL = 0.1
# The fraction of an epoch's time that training takes, until the first epoch is complete.
_USUAL_TRAINING_FRACTION = 0.85
_UNKNOWN = "-:--:-- left"


class TrainingDisplay(Callback):
    """Shows the progress and the metrics of a training run.

    The live display is visible inside a `with` block.
    """

    def __init__(
        self,
        console: Console,
        epochs: int,
        stopping: EarlyStopping,
        device: torch.device,
        task: str = MULTICLASS,
        metric: str | None = None,
    ) -> None:
        """Prepare the display.

        Args:
            console: the console of the log lines.
            epochs: the maximum number of epochs.
            stopping: the rule by which training stops early, before the first epoch.
            device: the device that trains.
            task: of the training.
            metric: that decides which epoch is the best; None for the usual one of the task.
        """
        self._epochs = epochs
        self._accuracy = "accuracy" if task == MULTICLASS else "subset accuracy"
        self._metric = metric
        self._device = device
        self._num_iterations = 0
        self._is_live = console.is_interactive
        self._reading: Reading | None = None
        self._best: EpochRecord | None = None
        self._stopping = stopping
        self._clock = _Clock(epochs)
        self._shown = 0.0
        self._batches_began: tuple[float, int] | None = None
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[left]}"),
            expand=True,
        )
        self._epoch_bar = self._bars.add_task("Epochs", total=epochs, count="", left=_UNKNOWN)
        self._batch_bar = self._bars.add_task("Batches", total=None, count="", left=_UNKNOWN)
        self._live = LiveDisplay(console, self.render)

    def __enter__(self) -> TrainingDisplay:
        """Start the live display."""
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the live display; the log lines stay."""
        if self._is_live:
            self._live.stop()

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Count the epochs of the earlier run."""
        for record, timing in records:
            self._take(record, timing)

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """Reset the bar of batches."""
        self._num_iterations = num_iterations
        self._clock.begin(epoch)
        self._begin_batches("Training", num_iterations)

    def iteration_done(self, epoch: int, iteration: int, reading: Reading | None) -> None:
        """Advance the bars, or log a line if there is a reading."""
        if self._is_live:
            self._reading = reading or self._reading
            self._advance(iteration, self._num_iterations, is_training=True)
        elif reading is not None:
            memory = gpu_memory(self._device)
            log_progress(
                logger,
                "iteration",
                f"Epoch {epoch}/{self._epochs}, iteration {iteration}/{self._num_iterations}: loss {reading.loss:.6f}, "
                f"{self._accuracy} {reading.accuracy:.4f}, {reading.images_per_second:.1f} images/s"
                + (f", GPU memory {_memory_in_words(memory)}" if memory else ""),
                epoch=epoch,
                iteration=iteration,
                num_iterations=self._num_iterations,
                loss=reading.loss,
                accuracy=reading.accuracy,
                learning_rate=reading.learning_rate,
                images_per_second=reading.images_per_second,
                **({"gpu_memory_bytes": memory[0]} if memory else {}),
            )

    def validation_done(self, epoch: int, batch: int, num_batches: int) -> None:
        """Advance the bars."""
        if self._is_live:
            if batch == 1:
                self._begin_batches("Validation", num_batches)
            self._advance(batch, num_batches, is_training=False)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Log a line for the epoch."""
        self._take(record, timing)
        message = epoch_in_words(record, timing, self._epochs, is_short=self._is_live, metric=self._metric)
        log_progress(logger, "epoch", message, **{**vars(timing), **record.written()})

    def best_validated(self, record: EpochRecord) -> None:
        """Log a line for the best epoch, which is the trained model."""
        self._best = record
        message = (
            f"Epoch {record.epoch}, the best, validated again in float32: valid_loss {record.valid_loss:.6f}, "
            f"{figures_in_words(record)}"
        )
        log_progress(logger, "best", message, **record.written())

    def _take(self, record: EpochRecord, timing: EpochTiming) -> None:
        self._stopping.update(record.epoch, record.valid_loss)
        if record.epoch:
            self._clock.end(timing)
        if record.is_best:
            self._best = record

    def _begin_batches(self, name: str, total: int) -> None:
        self._batches_began = None
        self._bars.reset(self._batch_bar, description=name, total=total, count=f"0/{total}", left=_UNKNOWN)

    def _advance(self, done: int, total: int, *, is_training: bool) -> None:
        now = time.monotonic()
        if self._batches_began is None:
            self._batches_began = (now, done)
        if now < self._shown + _INTERVAL and done < total:
            return
        self._shown = now
        epochs = self._clock.advance(done / total, is_training=is_training)
        began, first = self._batches_began
        left = (now - began) / (done - first) * (total - done) if done > first else None
        self._bars.update(self._batch_bar, completed=done, count=f"{done}/{total}", left=_left(left))
        count = f"{min(self._epochs, int(epochs) + 1)}/{self._epochs}"
        left = self._clock.seconds_left(epochs)
        self._bars.update(self._epoch_bar, completed=epochs, count=count, left=_left(left))

    def render(self) -> RenderableType:
        """Return the bars and the numbers that a terminal shows now."""
        return Group(self._bars, *self._lines())

    def _lines(self) -> list[Text]:
        """The numbers, each line short enough for 80 columns."""
        lines = []
        if self._reading is not None:
            memory = gpu_memory(self._device)
            parts = [
                f"loss {loss_in_words(self._reading.loss)}",
                f"{self._accuracy} {self._reading.accuracy:.4f}",
                f"{self._reading.images_per_second:,.0f} images/s",
                f"lr {self._reading.learning_rate:.3g}",
                *([f"GPU {_memory_in_words(memory)}"] if memory else []),
            ]
            lines.append(Text("  ".join(parts), no_wrap=True, overflow="ellipsis"))
        patience = self._stopping.patience
        left = f"patience {patience - self._stopping.num_bad_epochs} of {patience} epochs"
        if self._best is not None:
            best = self._best
            headline = headline_in_words(best, self._metric)
            left = f"best: epoch {best.epoch}, {headline}, loss {loss_in_words(best.valid_loss)}  {left}"
        return [*lines, Text(left, style="dim", no_wrap=True, overflow="ellipsis")]


def _left(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else f"{timedelta(seconds=round(seconds))} left"


def _memory_in_words(memory: tuple[int, int]) -> str:
    return f"{memory[0] / 2**30:.1f}/{memory[1] / 2**30:.0f} GiB"


class _Clock:
    """Estimates the remaining time from the complete epochs, or from the first while it runs."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._seconds: list[float] = []
        self._training_fraction = _USUAL_TRAINING_FRACTION
        self._epoch = 1
        self._began: tuple[float, float] | None = None

    def begin(self, epoch: int) -> None:
        """Start or resume an epoch."""
        self._epoch = epoch
        self._began = None

    def end(self, timing: EpochTiming) -> None:
        """Record the duration of a complete epoch."""
        self._seconds.append(timing.train_seconds + timing.valid_seconds)
        self._training_fraction = timing.train_seconds / max(self._seconds[-1], 1e-9)

    def advance(self, fraction: float, *, is_training: bool) -> float:
        """Return the number of epochs done, including a fraction of the current one.

        Args:
            fraction: of the training or the validation of the current epoch that is done, in [0, 1].
            is_training: whether the fraction is of training.
        """
        first, second = self._training_fraction, 1 - self._training_fraction
        within = fraction * first if is_training else first + fraction * second
        if self._began is None:  # the first step is slow, and a resumed epoch is partly done
            self._began = (time.monotonic(), within)
        return self._epoch - 1 + within

    def seconds_left(self, epochs: float) -> float | None:
        """Return the seconds until all epochs are done; None while unknown.

        Args:
            epochs: the number of epochs done, from `advance`.
        """
        if self._seconds:
            an_epoch = sum(self._seconds) / len(self._seconds)
        else:
            began, within = self._began or (time.monotonic(), 0.0)
            done = epochs - (self._epoch - 1) - within
            if done <= 0:
                return None
            an_epoch = (time.monotonic() - began) / done
        return (self._epochs - epochs) * an_epoch
