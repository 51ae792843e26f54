"""Where the numbers go: files under the outputs folder, and the tracked run where there is one.

A run is MLflow's where a tracking address is set, as it is in every job of Azure Machine Learning, and azureml-core's
where only that is there. Whatever tracking does, the work goes on: a fault is told once, and then nothing more is sent.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from train_pytorch_model.text.wording import finite
from train_pytorch_model.training.callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TIMINGS_FILE = "timings.jsonl"
MODEL_FOLDER = "trained_model_outputs"
"""What the designer registers the model from."""
# An address that does not answer must not hold up the work for minutes.
_MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


# In a row, after which nothing more is tried.
_MAX_FAULTS = 3


class Metric(NamedTuple):
    """One number, by the two names that the designer has for it."""

    title: str
    """In the studio and in MLflow."""
    column: str
    """Of a row of azureml-core's."""
    value: float


class _Sink(Protocol):
    """A tracked run."""

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        """Send the numbers of an epoch."""

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """Send what the run was given."""

    def log_file(self, path: Path, folder: str) -> None:
        """Send a file."""

    def log_folder(self, path: Path, folder: str) -> None:
        """Send a folder of files."""

    def end(self, *, is_success: bool) -> None:
        """Say how the run ended, where it is this process's to say."""


class _MlflowSink:
    """A run of MLflow: the one that the environment names, or a new one."""

    def __init__(self) -> None:
        for name, value in _MLFLOW_PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # costs a second, so only where it is of use
        from mlflow.entities import Metric as MlflowMetric
        from mlflow.entities import Param

        self._metric: Any = MlflowMetric
        self._parameter: Any = Param
        self._client: Any = MlflowClient()
        run_id = os.environ.get("MLFLOW_RUN_ID")
        self._is_own = run_id is None
        self._run_id = run_id or self._new_run()

    def _new_run(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        return str(self._client.create_run(number).info.run_id)

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(
            self._run_id, metrics=[self._metric(metric.title, metric.value, now, step) for metric in metrics]
        )

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        self._client.log_batch(
            self._run_id, params=[self._parameter(name, str(value)) for name, value in parameters.items()]
        )

    def log_file(self, path: Path, folder: str) -> None:
        self._client.log_artifact(self._run_id, str(path), folder or None)

    def log_folder(self, path: Path, folder: str) -> None:
        """See `_Sink`; only the designer's service takes a model from there."""
        if "AZUREML_RUN_ID" in os.environ:
            self._client.log_artifacts(self._run_id, str(path), folder)

    def end(self, *, is_success: bool) -> None:
        if self._is_own:  # a job's own run is ended by the service
            self._client.set_terminated(self._run_id, "FINISHED" if is_success else "FAILED")


class AzureRunSink:
    """A run of azureml-core: the one given, or the one that this process belongs to."""

    def __init__(self, run: Any | None = None) -> None:
        """Send to a run."""
        if run is None:
            from azureml.core import Run  # costs a second too

            run = Run.get_context(allow_offline=False)
        self._run: Any = run

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        """See `_Sink`."""
        for metric in metrics:
            self._run.log_row(metric.title, epoch=step, **{metric.column: metric.value})

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """The designer shows what a module was given by itself."""

    def log_file(self, path: Path, folder: str) -> None:
        """See `_Sink`."""
        self._run.upload_file(f"{folder}/{path.name}" if folder else path.name, str(path))

    def log_folder(self, path: Path, folder: str) -> None:
        """See `_Sink`."""
        self._run.upload_folder(folder, str(path))

    def end(self, *, is_success: bool) -> None:
        """See `_Sink`."""
        self._run.flush(timeout_seconds=20)


class Tracking:
    """The tracked run, or none."""

    def __init__(self, sink: _Sink | None = None) -> None:
        """Track into `sink`; into nothing when it is None."""
        self._sink = sink
        self._num_faults = 0

    @property
    def is_on(self) -> bool:
        """Whether there is a run."""
        return self._sink is not None

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        """Send the numbers of an epoch, those that are finite."""
        known = [metric for metric in metrics if math.isfinite(metric.value)]
        self._try(lambda sink: sink.log_metrics(step, known))

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """Send what the run was given."""
        self._try(lambda sink: sink.log_parameters(parameters))

    def log_file(self, path: Path, folder: str = "") -> None:
        """Send a file, when it is there."""
        if os.path.isfile(path):  # which, unlike pathlib, takes a name that is too long
            self._try(lambda sink: sink.log_file(path, folder))

    def log_model(self, path: Path) -> None:
        """Send a trained model where the designer registers it from."""
        self._try(lambda sink: sink.log_folder(path, MODEL_FOLDER))

    def end(self, *, is_success: bool) -> None:
        """Say how the run ended."""
        self._num_faults = 0  # the last that is sent, and what keeps a run from standing open
        self._try(lambda sink: sink.end(is_success=is_success))

    def _try(self, send: Callable[[_Sink], None]) -> None:
        if self._sink is None or self._num_faults >= _MAX_FAULTS:
            return
        try:
            send(self._sink)
            self._num_faults = 0
        except Exception as error:  # whatever tracking does, the work goes on
            self._num_faults += 1
            more = "; nothing more is sent" if self._num_faults == _MAX_FAULTS else ""
            logger.warning("The tracked run did not take something: %s: %s%s.", type(error).__name__, error, more)


def open_tracking() -> Tracking:
    """The run that this process belongs to by its environment."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        make: Callable[[], _Sink] = _MlflowSink
    elif "AZUREML_RUN_ID" in os.environ:
        make = AzureRunSink
    else:  # outside of both, azureml-core would only print what it cannot do
        return Tracking()
    try:
        return Tracking(make())
    except Exception as error:  # as above
        logger.warning("Nothing is sent to the tracked run: %s: %s", type(error).__name__, error)
        return Tracking()


class MetricsLog(Callback):
    """Hears of epochs and writes them down."""

    def __init__(self, outputs_path: Path, tracking: Tracking) -> None:
        """Begin new files.

        Args:
            outputs_path: an existing folder; gets `metrics.jsonl` and `timings.jsonl`.
            tracking: the tracked run.
        """
        self._outputs_path = outputs_path
        self._tracking = tracking
        for name in (METRICS_FILE, TIMINGS_FILE):
            (outputs_path / name).write_text("", encoding="utf-8")

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        """Write the lines of the epochs before, whose numbers the run was sent when they were done."""
        for record, timing in records:
            self._append(METRICS_FILE, asdict(record))
            self._append(TIMINGS_FILE, asdict(timing))

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        """Write a line to each file and send the numbers to the run."""
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
