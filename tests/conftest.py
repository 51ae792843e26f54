from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import jobs
from tests.making import Inputs


@pytest.fixture(scope="session")
def _made_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs")).make()


@pytest.fixture
def inputs(_made_inputs: Inputs, tmp_path: Path) -> Inputs:
    """Inputs of a training, a copy that the test may change."""
    copied = Inputs(tmp_path)
    for name in ("untrained", "train", "valid"):
        shutil.copytree(_made_inputs.path / name, tmp_path / name)
    return copied


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    jobs.end_all()
