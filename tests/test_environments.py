"""The environments that users get: conda_env.yaml on Python 3.9 and requirements.lock on 3.11 to 3.13."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from tests import environments
from tests.making import ROOT, Inputs, run_module

DESIGNER_CORES_PINS = "azureml-designer-core 0.0.86 has requirement"


def locked(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^\s;\\]+)", path.read_text(), flags=re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_the_development_lock_holds_the_users_lock() -> None:
    runtime, development = locked(ROOT / "requirements.lock"), locked(ROOT / "requirements-dev.lock")
    assert {name: development.get(name) for name in runtime} == runtime
    assert (runtime["torch"], runtime["torchvision"]) == ({"2.10.0"}, {"0.25.0"})
    assert runtime["azureml-designer-core"] == {"0.0.86"}


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_package_has_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(packages) > 50
    assert all("--hash=sha256:" in package for package in packages)


@pytest.mark.parametrize("unwanted", ["azureml-designer-internal", "mpi4py"])
def test_neither_environment_needs_what_is_not_for_public_use(unwanted: str) -> None:
    assert unwanted not in (ROOT / "requirements.lock").read_text()
    assert unwanted not in (ROOT / "conda_env.yaml").read_text()


def pip_check(python: Path | str) -> list[str]:
    finished = subprocess.run([str(python), "-m", "pip", "check"], capture_output=True, text=True)
    return [line for line in finished.stdout.splitlines() if line != "No broken requirements found."]


def test_pip_check_complains_of_designer_cores_pins_alone() -> None:
    assert [line for line in pip_check(sys.executable) if not line.startswith(DESIGNER_CORES_PINS)] == []


def test_conda_env_lists_its_whole_tree_with_exact_versions() -> None:
    dependencies = YAML(typ="safe").load(ROOT / "conda_env.yaml")["dependencies"]
    packages = next(item["pip"] for item in dependencies if isinstance(item, dict))
    assert all(re.fullmatch(r"[a-z0-9.-]+==[^=\s]+", package) for package in packages)
    for package in ("azureml-designer-core==0.0.86", "torch==2.8.0", "torchvision==0.23.0"):
        assert package in packages
    assert {package.split("==")[0] for package in packages} >= {"azureml-core", "pillow"}


@pytest.mark.environment
def test_the_module_trains_in_the_conda_environment(inputs: Inputs, tmp_path: Path) -> None:
    python = environments.conda()
    assert pip_check(python) == []
    initialised = run_module(
        *("initialize-model", "--model-name", "resnet18", "--untrained-model-path", tmp_path / "untrained39"),
        *("--outputs-path", inputs.outputs),
        python=python,
        PYTHONPATH=str(ROOT / "src"),
    )
    assert initialised.returncode == 0, initialised.stderr
    inputs.untrained = tmp_path / "untrained39"
    finished = run_module(*inputs.arguments(epochs=2), python=python, PYTHONPATH=str(ROOT / "src"))
    assert finished.returncode == 0, finished.stderr
    assert len(inputs.metrics()) == 2
    state = torch.load(inputs.trained / "model", weights_only=True)
    assert state["fc.weight"].shape == (3, 512)
    failed = run_module(*inputs.arguments(epochs=0), python=python, PYTHONPATH=str(ROOT / "src"))
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
