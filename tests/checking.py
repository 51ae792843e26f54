"""Runs the check command."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.making import Inputs
from train_pytorch_model.cli.main import main


def check(
    inputs: Inputs, capsys: pytest.CaptureFixture[str], *more: str, **flags: object
) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was printed for machines."""
    code = main(["check", *inputs.arguments(**flags)[1:], "--json", *more])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found
