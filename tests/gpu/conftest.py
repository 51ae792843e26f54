from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from train_pytorch_model.distributed.device import choose_device, torch_settings_restored

# `make gpu` reads one line of JSON per test from this file, also after a crash of the process.
_RECORD = os.environ.get("GPU_TESTS_RECORD")


@pytest.fixture(name="device")
def _device() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.cuda.empty_cache()
    with torch_settings_restored():
        yield choose_device()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _RECORD and (report.when == "call" or report.outcome != "passed"):
        reason = ""
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = str(crash.message if crash else report.longrepr).strip().splitlines()[0]
        elif report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
        row = {"test": report.nodeid, "outcome": report.outcome, "reason": reason, "seconds": report.duration}
        with Path(_RECORD).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
