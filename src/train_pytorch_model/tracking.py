"""The one door to MLflow and azureml-core: the tracked run, if there is one.

The run is MLflow's if a tracking URI is set, as in every Azure Machine Learning job, and azureml-core's if only a run
of azureml-core is set. Errors of tracking never end the work: each is logged, and after several in a row nothing more
is sent.
"""

from __future__ import annotations

import logging
import math
import os
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)

MODEL_FOLDER = "trained_model_outputs"
"""The folder from which the designer registers the model."""
# A server that does not answer must not delay the work for minutes.
_MLFLOW_SETTINGS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
CLIENT_VARIABLES = tuple(_MLFLOW_SETTINGS)
"""Environment variables that opening a tracked run may set."""
_ALLOW_FOLDER = "MLFLOW_ALLOW_FILE_STORE"
# After so many faults in a row, nothing more is sent.
_MAX_FAULTS = 3


class Metric(NamedTuple):
    """One metric, with the two names that the designer has for it."""

    title: str
    """The name in the studio and in MLflow."""
    column: str
    """The column in a row of azureml-core."""
    value: float


class Logged(NamedTuple):
    """One value of a metric that a run has logged."""

    step: int
    value: float


def has_mlflow() -> bool:
    """Whether this Python has MLflow."""
    return find_spec("mlflow") is not None


class LocalRuns:
    """Runs of MLflow in a folder of this machine, into which processes log and from which their values are read."""

    def __init__(self, folder: Path, experiment: str) -> None:
        """Open or create the folder and the experiment."""
        # Releases from 3.11 on refuse a folder without this variable.
        os.environ[_ALLOW_FOLDER] = "true"
        from mlflow import MlflowClient  # takes a second, so only when needed

        # MLflow opens a folder once in a process, and does not see that it has been removed since.
        (folder / ".trash").mkdir(parents=True, exist_ok=True)
        self._uri = folder.absolute().as_uri()
        self._name = experiment
        self._client: Any = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(experiment)
        self._experiment = str(found.experiment_id if found else self._client.create_experiment(experiment))

    def start(self, name: str) -> str:
        """Create a run and return its id."""
        return str(self._client.create_run(self._experiment, run_name=name).info.run_id)

    def variables(self, run_id: str) -> dict[str, str]:
        """Return the environment variables with which a process logs into a run."""
        return {
            _ALLOW_FOLDER: "true",
            "MLFLOW_TRACKING_URI": self._uri,
            "MLFLOW_EXPERIMENT_ID": self._experiment,
            "MLFLOW_EXPERIMENT_NAME": self._name,
            "MLFLOW_RUN_ID": run_id,
        }

    def values(self, run_id: str, metric: str) -> list[Logged] | None:
        """Return the finite values of a metric in the order of logging; None if they cannot be read at the moment."""
        try:
            history = self._client.get_metric_history(run_id, metric)
        except Exception:  # A line that is being written has not all of its parts.
            return None
        return [Logged(int(point.step), float(point.value)) for point in history if math.isfinite(point.value)]

    def names(self, run_id: str) -> list[str]:
        """Return the names of the metrics that a run has logged."""
        try:
            return sorted(self._client.get_run(run_id).data.metrics)
        except Exception:
            return []

    def end(self, run_id: str, *, is_success: bool) -> None:
        """Set how a run ended."""
        try:
            self._client.set_terminated(run_id, "FINISHED" if is_success else "KILLED")
        except Exception as error:  # The values have been read.
            logger.debug("The run %s could not be ended: %s", run_id, error)


class _Sink(Protocol):
    """A tracked run."""

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        """Send the metrics of an epoch."""

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """Send the parameters of the run."""

    def log_file(self, path: Path, folder: str) -> None:
        """Send a file."""

    def log_folder(self, path: Path, folder: str) -> None:
        """Send a folder of files."""

    def end(self, *, is_success: bool) -> None:
        """Set how the run ended, if this process started it."""


class _MlflowSink:
    """A run of MLflow: the run that the environment names, or a new one."""

    def __init__(self) -> None:
        for name, value in _MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # takes a second, so only when needed
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
        """See `_Sink`. Only the designer's service registers models from there."""
        if "AZUREML_RUN_ID" in os.environ:
            self._client.log_artifacts(self._run_id, str(path), folder)

    def end(self, *, is_success: bool) -> None:
        if self._is_own:  # the service ends the run of a job
            self._client.set_terminated(self._run_id, "FINISHED" if is_success else "FAILED")


class AzureRunSink:
    """A run of azureml-core: the given run, or the run of this process."""

    def __init__(self, run: Any | None = None) -> None:
        """Use the given run, or the run of this process."""
        if run is None:
            from azureml.core import Run  # takes a second too

            run = Run.get_context(allow_offline=False)
        self._run: Any = run

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        """See `_Sink`."""
        for metric in metrics:
            self._run.log_row(metric.title, epoch=step, **{metric.column: metric.value})

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """Do nothing: the designer shows the parameters of a module by itself."""

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
        """Send to `sink`, or nowhere if it is None."""
        self._sink = sink
        self._num_faults = 0

    @property
    def is_on(self) -> bool:
        """Whether there is a tracked run."""
        return self._sink is not None

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        """Send the metrics of an epoch that are finite."""
        known = [metric for metric in metrics if math.isfinite(metric.value)]
        self._try(lambda sink: sink.log_metrics(step, known))

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """Send the parameters of the run."""
        self._try(lambda sink: sink.log_parameters(parameters))

    def log_file(self, path: Path, folder: str = "") -> None:
        """Send a file if it exists."""
        if os.path.isfile(path):  # unlike pathlib, it accepts names that are too long
            self._try(lambda sink: sink.log_file(path, folder))

    def log_model(self, path: Path) -> None:
        """Send a trained model to the folder from which the designer registers it."""
        self._try(lambda sink: sink.log_folder(path, MODEL_FOLDER))

    def end(self, *, is_success: bool) -> None:
        """Set how the run ended."""
        self._num_faults = 0  # always tried, so that the run does not stay open
        self._try(lambda sink: sink.end(is_success=is_success))

    def _try(self, send: Callable[[_Sink], None]) -> None:
        if self._sink is None or self._num_faults >= _MAX_FAULTS:
            return
        try:
            send(self._sink)
            self._num_faults = 0
        except Exception as error:  # errors of tracking never end the work
            self._num_faults += 1
            more = ". Nothing more will be sent" if self._num_faults == _MAX_FAULTS else ""
            logger.warning("The tracked run could not be updated: %s: %s%s.", type(error).__name__, error, more)


def open_tracking() -> Tracking:
    """Open the tracked run that the environment of this process names."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        make: Callable[[], _Sink] = _MlflowSink
    elif "AZUREML_RUN_ID" in os.environ:
        make = AzureRunSink
    else:  # without a run, azureml-core would only print what it cannot do
        return Tracking()
    try:
        return Tracking(make())
    except Exception as error:  # as above
        logger.warning("The tracked run cannot be used: %s: %s", type(error).__name__, error)
        return Tracking()
