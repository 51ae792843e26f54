from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; OpenMP reads this when PyTorch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests import jobs
from tests.making import Inputs

for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    # Shells let background jobs ignore SIGINT, and nohup SIGHUP. The processes of the tests would inherit that.
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def made_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Inputs of a training, which tests must not change."""
    return Inputs(tmp_path_factory.mktemp("inputs")).make()


@pytest.fixture
def inputs(made_inputs: Inputs, tmp_path: Path) -> Inputs:
    """Inputs of a training, a copy that the test may change."""
    return made_inputs.copied(tmp_path)


@pytest.fixture
def unhurried_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have time for all their parts, also on a machine that is busy with other things."""
    monkeypatch.setattr("train_pytorch_model.job.report._MIN_SECONDS", 900.0)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    jobs.end_all()
