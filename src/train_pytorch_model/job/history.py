"""Callbacks that keep the results of the epochs: in memory, in files and in the tracked run."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from train_pytorch_model.text.wording import finite
from train_pytorch_model.tracking import Metric
from train_pytorch_model.training.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
    from train_pytorch_model.tracking import Tracking

METRICS_FILE = "metrics.jsonl"
TIMINGS_FILE = "timings.jsonl"


class History(Callback):
    """Keeps the results of all epochs, including those before a resume."""

    def __init__(self) -> None:
        self.records: list[EpochRecord] = []
        self.timings: list[EpochTiming] = []

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """See `Callback`."""
        for record, timing in records:
            self.epoch_done(record, timing)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """See `Callback`."""
        self.records.append(record)
        self.timings.append(timing)


class MetricsLog(Callback):
    """Writes the results of each epoch to files, and sends them to the tracked run."""

    def __init__(self, outputs_path: Path, tracking: Tracking) -> None:
        """Create empty files.

        Args:
            outputs_path: an existing folder, for `metrics.jsonl` and `timings.jsonl`.
            tracking: the tracked run.
        """
        self._outputs_path = outputs_path
        self._tracking = tracking
        for name in (METRICS_FILE, TIMINGS_FILE):
            (outputs_path / name).write_text("", encoding="utf-8")

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Write the lines of the earlier epochs. The tracked run has their metrics already."""
        for record, timing in records:
            self._append(METRICS_FILE, asdict(record))
            self._append(TIMINGS_FILE, asdict(timing))

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Write a line to each file, and send the metrics to the tracked run."""
        self._append(METRICS_FILE, asdict(record))
        self._append(TIMINGS_FILE, asdict(timing))
        metrics = [
            Metric("learning rate", "lr", record.learning_rate),
            Metric("Train images per second", "train_ips", timing.train_images_per_second),
            Metric("Train loss", "train_loss", record.train_loss),
            Metric("Train error", "train_error", record.train_error),
            Metric("Valid loss", "valid_loss", record.valid_loss),
            Metric("Top-1 validation accuracy", "top1_acc", record.top1_acc),
        ]
        if record.top5_acc is not None:
            metrics.append(Metric("Top-5 validation accuracy", "top5_acc", record.top5_acc))
        self._tracking.log_metrics(record.epoch, metrics)

    def _append(self, name: str, values: dict[str, Any]) -> None:
        with (self._outputs_path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(values)) + "\n")
