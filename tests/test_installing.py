"""`pip install .` in a fresh environment, plus designer-core without its pins, gives a working command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

from tests import environments
from tests.making import ROOT, write_class_folders
from train_pytorch_model.designer_core import INSTALL_COMMAND

LOCKS = ("requirements.lock", "conda_env.yaml")


def test_the_declared_ranges_hold_the_locked_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [Requirement(line) for line in project["dependencies"]]
    assert len(declared) > 15
    for lock in LOCKS:
        locked = dict(
            re.findall(r"^\s*(?:- )?([a-z0-9.-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", (ROOT / lock).read_text(), re.M)
        )
        names = {re.sub(r"[-_.]+", "-", name): version for name, version in locked.items()}
        for requirement in declared:
            name = re.sub(r"[-_.]+", "-", requirement.name)
            assert requirement.specifier.contains(names[name]), (lock, str(requirement), names[name])


@pytest.mark.thorough
@pytest.mark.environment
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_installed_command_works(version: str, tmp_path: Path) -> None:
    python = environments.installed(version)
    command = python.parent / "train-pytorch-model"
    raw = write_class_folders(tmp_path / "raw", per_class=2)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in (command, *words)], capture_output=True, text=True, cwd=tmp_path, timeout=300
        )

    without = run("initialize-model", "--model-name", "resnet18", "--untrained-model-path", tmp_path / "early")
    assert without.returncode == 1
    assert INSTALL_COMMAND in without.stderr
    assert "Traceback" not in without.stderr
    assert "error_info.json" in [path.name for path in tmp_path.rglob("*.json")]
    _install_designer_core(python)
    assert run("--version").stdout.strip() == "0.2.0"
    made = run("initialize-model", "--model-name", "squeezenet1_1", "--untrained-model-path", tmp_path / "untrained")
    assert made.returncode == 0, made.stderr
    data = ("--train-data-path", raw, "--valid-data-path", raw)
    model = ("--untrained-model-path", tmp_path / "untrained", "--trained-model-path", tmp_path / "trained")
    trained = run("train", *model, *data, "--epochs", "1", "--batch-size", "2")
    assert trained.returncode == 0, trained.stderr
    assert len(json.loads((tmp_path / "outputs" / "metrics.jsonl").read_text().splitlines()[0])) > 5


def _install_designer_core(python: Path) -> None:
    """Run the documented command, with uv in the place of pip, which the environment does not hold."""
    words = INSTALL_COMMAND.split()[3:]
    uv = Path(sys.executable).parent / "uv"
    subprocess.run([uv, "pip", *words, "--quiet", "--python", python], check=True)
