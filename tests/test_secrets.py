"""No secret is printed or written, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.making import Inputs, run_module
from train_pytorch_model.text.masking import masked

SECRET = "s3cr3t-Zq7xV2pL9wK4"
ENVIRONMENT = {
    "AZURE_CLIENT_SECRET": SECRET,
    "MLFLOW_TRACKING_TOKEN": SECRET,
    "AZUREML_STORAGE_CONNECTION_STRING": f"AccountName=x;AccountKey={SECRET}",
    "MY_PASSWORD": SECRET,
    # The address that no server listens at is asked once.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


def everything_written(path: Path) -> bytes:
    return b"".join(item.read_bytes() for item in sorted(path.rglob("*")) if item.is_file())


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_training_says_no_secret(log_format: str, inputs: Inputs) -> None:
    address = f"http://user:{SECRET}@127.0.0.1:9/?sig={SECRET}"
    printed = ""
    for flags in (
        {"report": "full"},
        {"batch_size": 1000},
        # A person may put one where a path is expected.
        {"train_data_path": f"https://x.blob.core.windows.net/data?sig={SECRET}"},
        {"trained_model_path": inputs.path / SECRET},
    ):
        finished = run_module(
            *inputs.arguments(**flags), "--log-format", log_format, MLFLOW_TRACKING_URI=address, **ENVIRONMENT
        )
        assert finished.stderr
        printed += finished.stdout + finished.stderr
    assert "tracked run" in printed  # which cannot be reached, and whose address is told
    assert SECRET not in printed
    assert SECRET.encode() not in everything_written(inputs.path)


def test_a_fault_of_the_module_says_no_secret(inputs: Inputs) -> None:
    failing = (
        "import os\n"
        "from train_pytorch_model.job import run\n"
        "def fit(*arguments):\n"
        "    raise RuntimeError('a request with ' + os.environ['MY_PASSWORD'] + ' failed')\n"
        "run.fit = fit\n"
    )
    finished = run_module(*inputs.arguments(), first=failing, **ENVIRONMENT)
    assert finished.returncode == 1
    assert "a request with *** failed" in finished.stderr
    assert "Traceback" in finished.stderr
    assert SECRET not in finished.stderr
    assert SECRET.encode() not in everything_written(inputs.outputs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://example.com/a?x=1&sig=abc%3D&y=2", "see https://example.com/a?x=1&sig=***&y=2"),
        ("http://me:word@host/path", "http://***@host/path"),
        ("mail me@example.com, 3 keys", "mail me@example.com, 3 keys"),
        ("learning rate 0.001 of /data/token/images", "learning rate 0.001 of /data/token/images"),
    ],
)
def test_addresses_lose_what_signs_them_and_nothing_else_changes(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_secrets_of_all_forms_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST_TOKEN", "abcdefgh")
    monkeypatch.setenv("SECOND_TOKEN", "abcdefgh12345678")
    monkeypatch.setenv("MY_PASSWORD", 'a"quoted\\secret')
    monkeypatch.setenv("DB_PWD", "p/w d=1&2")
    monkeypatch.setenv("AZURE_DEVOPS_EXT_PAT", "patpatpat1")
    monkeypatch.setenv("PWD", "/home/somebody")
    text = json.dumps({"token": "abcdefgh12345678", "password": 'a"quoted\\secret'})
    assert masked(text) == '{"token": "***", "password": "***"}'
    assert masked(repr('a"quoted\\secret')) == "'***'"
    assert (
        masked("https://x/?d=p%2Fw%20d%3D1%262 in /home/somebody by patpatpat1")
        == "https://x/?d=*** in /home/somebody by ***"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://me:w@rd@host/path", "ftp://***@host/path"),
        ("AccountName=x;AccountKey=abc+/=;EndpointSuffix=y", "AccountName=x;AccountKey=***;EndpointSuffix=y"),
        ("Authorization: Bearer eyJhbGciOi.abc-_", "Authorization: Bearer ***"),
        ("Bearer of news", "Bearer of news"),
    ],
)
def test_what_proves_a_request_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_check_says_no_secret(more: tuple[str, ...], inputs: Inputs) -> None:
    folder = inputs.path / SECRET
    inputs.train.rename(folder)
    finished = run_module("check", *inputs.arguments(train_data_path=folder)[1:], *more, **ENVIRONMENT)
    assert finished.returncode == 0, finished.stdout
    assert "***" in finished.stdout
    assert SECRET not in finished.stdout + finished.stderr
    finished = run_module("check", *inputs.arguments(train_data_path=folder / "x")[1:], *more, **ENVIRONMENT)
    assert finished.returncode == 1
    assert "".join(finished.stdout.split()).count("***")
    assert SECRET not in finished.stdout + finished.stderr


@pytest.mark.parametrize("more", [("--tracking-token", SECRET), ("--epochs", SECRET), (f"--sas={SECRET}",)])
def test_arguments_that_are_refused_say_no_secret(more: tuple[str, ...], inputs: Inputs) -> None:
    finished = run_module(*inputs.arguments(), *more, **ENVIRONMENT)
    assert finished.returncode == 2
    assert "***" in finished.stderr
    assert SECRET not in finished.stdout + finished.stderr


def test_a_thread_that_fails_says_no_secret(inputs: Inputs) -> None:
    code = (
        "import os, threading\n"
        "from train_pytorch_model.console.logs import configure_logging\n"
        "configure_logging()\n"
        "def fail():\n"
        "    raise RuntimeError('with ' + os.environ['MY_PASSWORD'])\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
    )
    environment = {**os.environ, **ENVIRONMENT}
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "RuntimeError: with ***" in finished.stderr
    assert SECRET not in finished.stderr
