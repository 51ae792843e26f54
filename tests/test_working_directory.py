"""Files and folders of the working directory that have the names of packages are never imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import environments
from tests.jobs import TORCHRUN, free_port
from tests.making import ROOT, Inputs
from tests.untrained_models import CODE, edit_spec, write_model_with_code

# Folders without __init__.py are imported only if no package of the name is installed, as av is not.
FOLDERS = ("av", "accimage", "onnx", "mlflow", "outputs", "train_pytorch_model")
PACKAGES = ("PIL", "numpy", "torch", "torchvision", "yaml", "rich", "timm", "azureml")
MODULES = ("json", "random", "typing", "tempfile", "logging", "copy", "string", "platform", "secrets", "argparse")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory in which everything has the name of a package, and stops the process if it is imported."""
    folder = tmp_path / "work"
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    for name in PACKAGES:
        (folder / name).mkdir()
    for file in (*(f"{name}/__init__.py" for name in PACKAGES), *(f"{name}.py" for name in MODULES)):
        (folder / file).write_text(f"raise SystemExit('{file} was imported')\n")
    return folder


def run(folder: Path, *words: object, **environment: str) -> None:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    finished = subprocess.run(
        list(map(str, words)), cwd=folder, env={**own, **environment}, capture_output=True, text=True, timeout=300
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "was imported" not in finished.stdout + finished.stderr


def initialize_words(folder: Path) -> list[object]:
    return ["initialize-model", "--model-name", "squeezenet1_1", "--untrained-model-path", folder / "untrained"]


@pytest.mark.parametrize("path", [None, "$UNSET:/code", "/code:"])
def test_python_m_imports_nothing_from_the_working_directory(path: str | None, folder: Path) -> None:
    variables = {} if path is None else {"PYTHONPATH": path.replace("$UNSET", "")}
    if path is not None:
        # Python itself imports typing and others before the package can change the path; see docs/installing.md.
        for name in MODULES:
            (folder / f"{name}.py").unlink()
    run(folder, sys.executable, "-m", "train_pytorch_model", *initialize_words(folder), **variables)
    assert (folder / "untrained" / "_meta.yaml").is_file()


def test_a_snapshot_that_contains_the_package_is_no_exception(folder: Path, tmp_path: Path) -> None:
    (folder / "train_pytorch_model").rmdir()
    (folder / "train_pytorch_model").symlink_to(ROOT / "src" / "train_pytorch_model")
    run(folder, sys.executable, "-m", "train_pytorch_model", *initialize_words(folder))
    assert (folder / "untrained" / "_meta.yaml").is_file()


def test_python_3_9_starts_there_too(folder: Path) -> None:
    # This Python imports typing before any package.
    (folder / "typing.py").unlink()
    run(
        folder,
        *(environments.require_python39(), "-m", "train_pytorch_model", "train", "--help"),
        PYTHONPATH=str(ROOT / "src"),
    )


def test_the_processes_of_torchrun_import_nothing_from_there(folder: Path, inputs: Inputs) -> None:
    words = inputs.arguments(epochs=1)
    # -P keeps the launcher itself from importing from there; the processes that it starts do not inherit it.
    launch = (
        sys.executable,
        "-P",
        "-m",
        TORCHRUN,
        "--nproc-per-node=2",
        f"--master-port={free_port()}",
        "-m",
        "train_pytorch_model",
    )
    run(folder, *launch, *words, OMP_NUM_THREADS="1")
    assert (inputs.trained / "_meta.yaml").is_file()


def test_code_of_a_trusted_model_may_lie_in_the_working_directory(folder: Path, inputs: Inputs) -> None:
    model = write_model_with_code(folder / "model")
    edit_spec(model, local_dependencies=None)
    (folder / "tiny_net.py").write_text(CODE)
    arguments = inputs.arguments(untrained_model_path=model, trust_model_code=True, epochs=1)
    run(folder, sys.executable, "-m", "train_pytorch_model", *arguments)
    assert (inputs.trained / "_meta.yaml").is_file()
