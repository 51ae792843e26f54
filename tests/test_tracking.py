"""Tracking against a real MLflow server and azureml-core's offline run; a fault of tracking ends nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import environments
from tests.jobs import free_port
from tests.making import Inputs, run_here, run_module, write_class_folders
from tests.scored_tables import write_scored
from train_pytorch_model.cli import main as entry
from train_pytorch_model.tracking import AzureRunSink, Metric, Tracking, open_tracking

TITLES = {
    "learning rate": "learning_rate",
    "Train loss": "train_loss",
    "Train error": "train_error",
    "Valid loss": "valid_loss",
    "Top-1 validation accuracy": "top1_acc",
}
UNHURRIED = "from train_pytorch_model.job import report; report._MIN_SECONDS = 900.0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on loopback, with its database."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    command = [
        str(environments.mlflow()),
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--backend-store-uri",
        f"sqlite:///{folder}/runs.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
        "--workers",
        "1",
    ]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=1).read()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log.txt").read_text()
                    time.sleep(0.2)
            yield address
        finally:
            subprocess.run(["pkill", "-g", str(process.pid)], check=False)
            process.wait(60)


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/api/2.0/mlflow/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())
    return found


@pytest.mark.environment
def test_a_training_is_found_again_on_the_server(server: str, inputs: Inputs) -> None:
    started = ask(server, "runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]["run_id"]
    job = {"MLFLOW_TRACKING_URI": server, "MLFLOW_RUN_ID": started, "AZUREML_RUN_ID": started}
    finished = run_module(*inputs.arguments(epochs=3, report=None), first=UNHURRIED, **job)
    assert finished.returncode == 0, finished.stderr
    assert "WARNING" not in finished.stderr
    records = inputs.metrics()
    data = ask(server, f"runs/get?run_id={started}")["run"]["data"]
    names = {metric["key"] for metric in data["metrics"]}
    assert len(names) <= 50
    for title, key in TITLES.items():
        query = f"metrics/get-history?run_id={started}&metric_key={title.replace(' ', '%20')}"
        history = ask(server, query)["metrics"]
        assert [(point["step"], point["value"]) for point in history] == [
            (record["epoch"], pytest.approx(record[key])) for record in records
        ]
    assert "Train images per second" in names
    assert {"key": "epochs", "value": "3"} in data["params"]
    files = {item["path"] for item in ask(server, f"artifacts/list?run_id={started}")["files"]}
    assert {"metrics.jsonl", "module_statistics", "report", "trained_model_outputs"} <= files
    report = {item["path"] for item in ask(server, f"artifacts/list?run_id={started}&path=report")["files"]}
    assert report == {"report/learning_curves.png", "report/confusion_matrix.png", "report/report.html"}
    assert b"data:image/jpeg" not in (inputs.outputs / "report" / "report.html").read_bytes()
    # A job's own run is ended by the service.
    assert ask(server, f"runs/get?run_id={started}")["run"]["info"]["status"] == "RUNNING"


@pytest.mark.environment
def test_outside_a_job_a_new_tracked_run_is_created_and_ended(server: str, inputs: Inputs) -> None:
    place = {"MLFLOW_TRACKING_URI": server, "MLFLOW_EXPERIMENT_NAME": "mine"}
    assert run_module(*inputs.arguments(), **place).returncode == 0
    assert run_module(*inputs.arguments(train_data_path=inputs.path / "nowhere"), **place).returncode == 1
    number = ask(server, "experiments/get-by-name?experiment_name=mine")["experiment"]["experiment_id"]
    runs = ask(server, "runs/search", {"experiment_ids": [number]})["runs"]
    assert sorted(run["info"]["status"] for run in runs) == ["FAILED", "FINISHED"]


@pytest.mark.environment
def test_an_unreachable_server_warns_and_training_continues(inputs: Inputs) -> None:
    nowhere = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    finished = run_module(*inputs.arguments(epochs=2), **nowhere)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("The tracked run cannot be used: ") == 1
    assert len(inputs.metrics()) == 2


class RecordingSink:
    """Stands for a run."""

    def __init__(self, faults: int = 0) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.faults = faults

    def log_metrics(self, step: int, metrics: list[Metric]) -> None:
        if self.faults:
            self.faults -= 1
            raise OSError("gone")
        self.calls.append(("metrics", (step, metrics)))

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        self.calls.append(("parameters", parameters))

    def log_file(self, path: Path, folder: str) -> None:
        self.calls.append(("file", (path.name, folder)))

    def log_folder(self, path: Path, folder: str) -> None:
        self.calls.append(("folder", folder))

    def end(self, *, is_success: bool) -> None:
        self.calls.append(("end", is_success))


def test_numbers_that_are_not_finite_are_not_sent() -> None:
    sink = RecordingSink()
    Tracking(sink).log_metrics(1, [Metric("a", "a", float("nan")), Metric("b", "b", 1.0)])
    assert sink.calls == [("metrics", (1, [Metric("b", "b", 1.0)]))]


def test_after_three_faults_in_a_row_nothing_more_is_sent_but_the_end(caplog: pytest.LogCaptureFixture) -> None:
    sink = RecordingSink(faults=4)
    tracking = Tracking(sink)
    for step in range(5):
        tracking.log_metrics(step, [Metric("a", "a", 1.0)])
    tracking.end(is_success=True)
    assert sink.calls == [("end", True)]
    assert len(caplog.records) == 3
    assert caplog.records[-1].message.endswith("OSError: gone. Nothing more will be sent.")


def test_one_fault_loses_one_number() -> None:
    sink = RecordingSink(faults=1)
    tracking = Tracking(sink)
    for step in range(3):
        tracking.log_metrics(step, [Metric("a", "a", 1.0)])
    assert [step for _, (step, _) in sink.calls] == [1, 2]


def test_outside_a_run_nothing_is_tracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MLFLOW_TRACKING_URI", "AZUREML_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    tracking = open_tracking()
    tracking.log_file(write_class_folders(tmp_path / "x") / "nothing")
    tracking.end(is_success=True)


class RecordingRun:
    """Stands for a run of azureml-core."""

    def __init__(self, *, fails: bool = False) -> None:
        self.rows: list[tuple[str, dict[str, object]]] = []
        self.uploads: list[str] = []
        self.fails = fails

    def log_row(self, name: str, **columns: object) -> None:
        if self.fails:
            raise ConnectionError("no service")
        self.rows.append((name, columns))

    def upload_file(self, name: str, path: str) -> None:
        assert Path(path).is_file()
        self.uploads.append(name)

    def upload_folder(self, name: str, path: str) -> None:
        assert (Path(path) / "model_spec.yaml").is_file()
        self.uploads.append(name)

    def flush(self, timeout_seconds: int) -> None:
        pass


def test_the_azure_run_gets_the_documented_names_and_the_model(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RecordingRun()
    monkeypatch.setattr(entry, "open_tracking", lambda: Tracking(AzureRunSink(run)))
    assert inputs.fit(epochs=2) == 0
    assert [(name, list(columns)) for name, columns in run.rows[: len(run.rows) // 2]] == [
        ("learning rate", ["epoch", "lr"]),
        ("Train images per second", ["epoch", "train_ips"]),
        ("Train loss", ["epoch", "train_loss"]),
        ("Train error", ["epoch", "train_error"]),
        ("Valid loss", ["epoch", "valid_loss"]),
        ("Top-1 validation accuracy", ["epoch", "top1_acc"]),
    ]
    assert [columns["epoch"] for _, columns in run.rows] == [1] * 6 + [2] * 6
    assert run.uploads == ["metrics.jsonl", "trained_model_outputs", "module_statistics/error_info.json"]


def test_a_fault_of_tracking_never_ends_a_training(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(entry, "open_tracking", lambda: Tracking(AzureRunSink(RecordingRun(fails=True))))
    assert inputs.fit(epochs=2) == 0
    assert capfd.readouterr().err.count("The tracked run could not be updated: ConnectionError: no service") == 2


def test_azureml_cores_own_offline_run_takes_what_is_logged(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from azureml.core import Run\n"
        "from train_pytorch_model.job.history import MetricsLog\n"
        "from train_pytorch_model.tracking import AzureRunSink, Tracking\n"
        "from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming\n"
        "log = MetricsLog(Path(sys.argv[1]), Tracking(AzureRunSink(Run.get_context())))\n"
        "log.epoch_done(EpochRecord(1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, True), EpochTiming(1, 1.0, 1.0, 9.0))\n"
    )
    finished = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert finished.stdout.count("Attempted to log row metric") == 7
    assert "Top-5 validation accuracy:\n{'epoch': 1, 'top5_acc': 0.6}" in finished.stdout


def test_a_job_without_the_variables_of_its_run_trains_all_the_same(inputs: Inputs) -> None:
    # The SDK itself refuses a run id that comes alone.
    finished = run_module(*inputs.arguments(), AZUREML_RUN_ID="run")
    assert finished.returncode == 0
    assert "The tracked run cannot be used: RunEnvironmentException" in finished.stderr


def test_an_evaluation_sends_its_numbers_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = RecordingSink()
    monkeypatch.setattr(entry, "open_tracking", lambda: Tracking(sink))
    truth = ["cat", "dog"] * 10
    probabilities = np.array([[0.9, 0.1] if label == "cat" else [0.4, 0.6] for label in truth])
    write_scored(tmp_path / "scored", probabilities, list(truth), ["cat", "dog"])
    ports = {"scored_dataset": tmp_path / "scored", "evaluation_path": tmp_path / "evaluation"}
    assert run_here("evaluate-model", **ports, outputs_path=tmp_path / "outputs") == 0
    (_, (_, metrics)), *files, end = sink.calls
    assert ("Accuracy", "accuracy", 1.0) in metrics
    assert len(metrics) <= 50
    assert files == [
        ("file", ("metrics.json", "evaluation")),
        ("file", ("confusion_matrix.png", "evaluation")),
        ("file", ("reliability.png", "evaluation")),
        ("file", ("error_info.json", "module_statistics")),
    ]
    assert end == ("end", True)
