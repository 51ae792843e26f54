"""No secret is printed or written, whatever happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.making import ROOT, Inputs, run_module
from train_pytorch_model.masking import masked

SECRET = "s3cr3t-Zq7xV2pL9wK4"
ENVIRONMENT = {
    "AZURE_CLIENT_SECRET": SECRET,
    "MLFLOW_TRACKING_TOKEN": SECRET,
    "AZUREML_STORAGE_CONNECTION_STRING": f"AccountName=x;AccountKey={SECRET}",
    "MY_PASSWORD": SECRET,
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
    (inputs.path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "from train_pytorch_model import training_run\n"
        "def train(*arguments):\n"
        "    raise RuntimeError('a request with ' + os.environ['MY_PASSWORD'] + ' failed')\n"
        "training_run.train = train\n"
    )
    path = f"{inputs.path}:{ROOT / 'src'}"
    finished = run_module(*inputs.arguments(), PYTHONPATH=path, **ENVIRONMENT)
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
