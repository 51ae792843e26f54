"""Callbacks that keep the results of the epochs: in memory, in files and in the tracked run."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Callable

from train_pytorch_model.data.file_systems import move_file
from train_pytorch_model.text.wording import finite
from train_pytorch_model.tracking import Metric
from train_pytorch_model.training.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
    from train_pytorch_model.tracking import Tracking
    from train_pytorch_model.training.kept_features import KeptFeatures

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TIMINGS_FILE = "timings.jsonl"


class History(Callback):
    """Keeps the results of all epochs, including those before a resume."""

    def __init__(self) -> None:
        self.records: list[EpochRecord] = []
        self.timings: list[EpochTiming] = []
        self.features: KeptFeatures | None = None
        """Features by the weights before training; None if the head was not fitted in this process."""
        self.lowest: EpochRecord | None = None
        """The epoch with the lowest validation loss, from which early stopping counts. None if no loss is finite."""

    def features_kept(self, features: KeptFeatures) -> None:
        """See `Callback`."""
        self.features = features

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """See `Callback`."""
        for record, timing in records:
            self.epoch_done(record, timing)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """See `Callback`."""
        self.records.append(record)
        self.timings.append(timing)
        # Mixed weights decide nothing: their epoch is the last one.
        is_mixed = record.interpolation is not None
        if not is_mixed and record.valid_loss < (self.lowest.valid_loss if self.lowest else math.inf):
            self.lowest = record

    def best_validated(self, record: EpochRecord) -> None:
        """See `Callback`."""
        self.records = [record if record.epoch == each.epoch else each for each in self.records]

    def best_calibrated(self, record: EpochRecord) -> None:
        """See `Callback`."""
        self.best_validated(record)


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
        self._lines: dict[str, list[str]] = {METRICS_FILE: [], TIMINGS_FILE: []}
        self._incomplete: set[str] = set()
        for name in self._lines:
            (outputs_path / name).write_text("", encoding="utf-8")

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Write the lines of the earlier epochs. The tracked run has their metrics already."""
        for record, timing in records:
            self._append(METRICS_FILE, record.written())
            self._append(TIMINGS_FILE, asdict(timing))

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Write a line to each file, and send the metrics to the tracked run."""
        self._append(METRICS_FILE, record.written())
        self._append(TIMINGS_FILE, asdict(timing))
        metrics = [
            Metric("learning rate", "lr", record.learning_rate),
            Metric("Train images per second", "train_ips", timing.train_images_per_second),
            Metric("Train loss", "train_loss", record.train_loss),
            Metric("Train error", "train_error", record.train_error),
        ]
        self._tracking.log_metrics(record.epoch, [*metrics, *_validation_metrics(record)])

    def best_validated(self, record: EpochRecord) -> None:
        """Replace the line of the epoch, and send its metrics again to the tracked run."""
        self._replace_line(record)
        self._tracking.log_metrics(record.epoch, _validation_metrics(record))

    def best_calibrated(self, record: EpochRecord) -> None:
        """Replace the line of the epoch, and send its loss after calibration to the tracked run."""
        self._replace_line(record)
        if record.calibrated_valid_loss is not None:
            metric = Metric("Valid loss after calibration", "calibrated_valid_loss", record.calibrated_valid_loss)
            self._tracking.log_metrics(record.epoch, [metric])

    def _replace_line(self, record: EpochRecord) -> None:
        lines = self._lines[METRICS_FILE]
        self._lines[METRICS_FILE] = [
            _line(record.written()) if json.loads(line)["epoch"] == record.epoch else line for line in lines
        ]
        self._write(METRICS_FILE, lambda: self._replace(METRICS_FILE))

    def _append(self, name: str, values: dict[str, Any]) -> None:
        """Append a line. Where that is impossible, replace the file, now or after a later epoch."""
        self._lines[name].append(_line(values))

        def append() -> None:
            if name in self._incomplete:
                self._replace(name)
            else:
                with (self._outputs_path / name).open("a", encoding="utf-8") as file:
                    file.write(self._lines[name][-1])

        self._write(name, append)

    def _write(self, name: str, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self._incomplete.add(name)
            logger.debug("%s cannot be appended to: %s", name, error)
            with contextlib.suppress(OSError):
                self._replace(name)
            if name in self._incomplete:
                logger.warning(
                    "%s could not be written: %s. Training continues, and the file is written after the next epoch.",
                    self._outputs_path / name,
                    error.strerror,
                )

    def _replace(self, name: str) -> None:
        path = self._outputs_path / name
        temporary = path.with_suffix(".writing")
        temporary.write_text("".join(self._lines[name]), encoding="utf-8")
        move_file(temporary, path)
        self._incomplete.discard(name)


def _line(values: dict[str, Any]) -> str:
    return json.dumps(finite(values)) + "\n"


def _validation_metrics(record: EpochRecord) -> list[Metric]:
    is_multilabel = record.average_precision is not None
    metrics = [
        Metric("Valid loss", "valid_loss", record.valid_loss),
        Metric(
            "Subset accuracy of validation" if is_multilabel else "Top-1 validation accuracy",
            "top1_acc",
            record.top1_acc,
        ),
    ]
    if record.top5_acc is not None:
        metrics.append(Metric("Top-5 validation accuracy", "top5_acc", record.top5_acc))
    if record.balanced_accuracy is not None:
        metrics.append(Metric("Balanced validation accuracy", "balanced_accuracy", record.balanced_accuracy))
    if record.average_precision is not None:
        metrics.append(Metric("Average precision of validation", "average_precision", record.average_precision))
    if record.micro_f1 is not None:
        metrics.append(Metric("Micro F1 of validation", "micro_f1", record.micro_f1))
    if record.macro_f1 is not None:
        metrics.append(Metric("Macro F1 of validation", "macro_f1", record.macro_f1))
    return metrics
