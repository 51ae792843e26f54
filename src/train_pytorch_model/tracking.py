"""Where the numbers go: files under the outputs folder, and the Azure run where there is one."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.training.loop import EpochRecord, EpochTiming

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TIMINGS_FILE = "timings.jsonl"


def current_run() -> Any | None:
    """The Azure ML run that this process is, None outside Azure (where the SDK would only print what it cannot do)."""
    if "AZUREML_RUN_ID" not in os.environ:
        return None
    try:
        from azureml.core import Run  # costs a second, so only where it is of use

        return Run.get_context(allow_offline=False)
    except Exception as error:  # whatever tracking does, training goes on
        logger.warning("Metrics are not sent to the Azure run: %s: %s", type(error).__name__, error)
        return None


class MetricsLog:
    """Hears of epochs and writes them down."""

    def __init__(self, outputs_path: Path, run: Any | None = None) -> None:
        """Begin new files.

        Args:
            outputs_path: an existing folder; gets `metrics.jsonl` and `timings.jsonl`.
            run: an azureml-core run, or None.
        """
        self._outputs_path = outputs_path
        self._run = run
        for name in (METRICS_FILE, TIMINGS_FILE):
            (outputs_path / name).write_text("", encoding="utf-8")

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """Nothing to write."""

    def iteration_done(self, epoch: int, iteration: int, loss: float | None) -> None:
        """Nothing to write."""

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Write a line to each file and a row of each metric to the run."""
        self._append(METRICS_FILE, asdict(record))
        self._append(TIMINGS_FILE, asdict(timing))
        if self._run is not None:
            self._log_rows(record, timing)

    def _append(self, name: str, values: dict[str, Any]) -> None:
        # JSON has no NaN and no infinity.
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        with (self._outputs_path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")

    def _log_rows(self, record: EpochRecord, timing: EpochTiming) -> None:
        rows = {
            "learning rate": ("lr", record.learning_rate),
            "Train images per second": ("train_ips", timing.train_images_per_second),
            "Train loss": ("train_loss", record.train_loss),
            "Train error": ("train_error", record.train_error),
            "Valid loss": ("valid_loss", record.valid_loss),
            "Top-1 validation accuracy": ("top1_acc", record.top1_acc),
            "Top-5 validation accuracy": ("top5_acc", record.top5_acc),
        }
        try:
            for name, (column, value) in rows.items():
                if value is not None:
                    self._run.log_row(name, epoch=record.epoch, **{column: value})  # type: ignore[union-attr]
        except Exception as error:  # as above
            logger.warning("Metrics are no longer sent to the Azure run: %s: %s", type(error).__name__, error)
            self._run = None


class Listeners:
    """Several listeners as one."""

    def __init__(self, *listeners: Any) -> None:
        self._listeners = listeners

    def epoch_started(self, epoch: int, num_iterations: int) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.epoch_started(epoch, num_iterations)

    def iteration_done(self, epoch: int, iteration: int, loss: float | None) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.iteration_done(epoch, iteration, loss)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Pass it on."""
        for listener in self._listeners:
            listener.epoch_done(record, timing)
