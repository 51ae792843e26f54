"""Python environments that cannot be shared with the project's own, each built once under `.venvs`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from ruamel.yaml import YAML

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VENVS = ROOT / ".venvs"
UV = Path(sys.executable).parent / "uv"


def find_python(version: str) -> Path | None:
    """A Python such as "3.9": `$PYTHON39`, `python3.9` on the path, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    name = f"python{version}"
    given = os.environ.get(f"PYTHON{version.replace('.', '')}")
    candidates = [given, shutil.which(name), *sorted(pyenv.glob(f"{version}.*/bin/{name}"))]
    wanted = tuple(map(int, version.split(".")))
    for candidate in candidates:
        if candidate is None:
            continue
        # pyenv's shim stands on the path even where no 3.9 is chosen, and fails when run.
        answer = subprocess.run(
            [candidate, "-c", f"import sys; print(sys.version_info[:2] == {wanted})"], capture_output=True, text=True
        )
        if answer.stdout.strip() == "True":
            return Path(candidate)
    return None


def require_python39() -> Path:
    """A Python 3.9, or the test is skipped; with `CI` set it fails instead."""
    return _require("3.9")


def require_python312() -> Path:
    """A Python 3.12, likewise."""
    return _require("3.12")


def _require(version: str) -> Path:
    python = find_python(version)
    if python is None:
        _give_up(f"no Python {version} was found: install one, or name it in PYTHON{version.replace('.', '')}")
    return python


def _give_up(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def retired() -> Path:
    """Python of an environment that holds the retired modules, Score Image Model among them."""
    return _synced("retired", require_python39())


def azure_ai_ml() -> Path:
    """Python of an environment that holds azure-ai-ml."""
    return _synced("azure_ai_ml", Path(sys.executable))


def azure_ml_component() -> Path:
    """Python of an environment that holds azure-ml-component, the designer's own SDK."""
    return _synced("azure_ml_component", require_python39())


def mldesigner() -> Path:
    """Python of an environment that holds mldesigner."""
    return _synced("mldesigner", Path(sys.executable))


def mlflow() -> Path:
    """Python of an environment that holds MLflow with its server."""
    return _synced("mlflow", Path(sys.executable))


def inference_server() -> Path:
    """Python of an environment that holds Azure's inference server, and the project's own torch behind it."""
    python = _synced("inference_server", Path(sys.executable))
    packages = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
    own = next((Path(sys.prefix) / "lib").glob("python*")) / "site-packages"
    # After the server's own packages, so that its pins hold.
    path, text = packages / "torch_of_the_project.pth", f"{own}\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:  # a server may be starting with it
        path.write_text(text, encoding="utf-8")
    return python


def fastai() -> Path:
    """Python of an environment that holds fastai, and the project's releases of torch, torchvision and timm."""
    return _synced("fastai", Path(sys.executable))


def browser() -> Path:
    """Python of an environment that drives a browser."""
    return _synced("browser", Path(sys.executable))


def docs() -> Path:
    """Python of an environment that holds MkDocs."""
    return _synced("docs", Path(sys.executable), ROOT / "requirements" / "docs.lock")


def audit() -> Path:
    """Python of an environment that holds pip-audit and cyclonedx-bom."""
    return _synced("audit", Path(sys.executable))


def require_program(name: str) -> str:
    """A program of the system, or the test is skipped; with `CI` set it fails instead."""
    found = shutil.which(name)
    if found is None:
        _give_up(f"{name} was not found: install it, on Debian with `apt-get install {name}`")
    return found


def conda() -> Path:
    """Python of an environment made from `conda_env.yaml`: its pip, then what plain pip makes of its pip section.

    uv puts the packages there (it links the gigabytes that other environments hold too); pip, which a user has, is then
    asked to install the same section and must find every requirement, of the packages' own too, satisfied.
    """
    conda_env = ROOT / "conda_env.yaml"
    python39 = require_python39()
    folder, fresh = _prepare("conda", conda_env.read_bytes())
    python = folder / "bin" / "python"
    if fresh:
        dependencies = YAML(typ="safe").load(conda_env.read_text(encoding="utf-8"))["dependencies"]
        pip = next(item for item in dependencies if isinstance(item, str) and item.startswith("pip="))
        packages = next(item["pip"] for item in dependencies if isinstance(item, dict))
        _run(python39, "-m", "venv", folder)
        _run(python, "-m", "pip", "install", "--quiet", pip.replace("=", "=="))
        requirements = folder / "requirements.txt"
        requirements.write_text("\n".join(packages), encoding="utf-8")
        _run(UV, "pip", "install", "--quiet", "--compile-bytecode", "--no-deps", "--python", python, "-r", requirements)
        asked = _run(python, "-m", "pip", "install", "--dry-run", "-r", requirements)
        assert "Would install" not in asked, asked
        _finish(folder, conda_env.read_bytes())
    return python


def installed(version: str) -> Path:
    """Python of a new environment that holds what `pip install .` brings, at the locked versions.

    Args:
        version: of Python, such as "3.12".
    """
    folder = VENVS / f"installed-{version}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    python = folder / "bin" / "python"
    _run(UV, "venv", "--quiet", "--python", _require(version), folder)
    # The command is `pip install .`; uv links the packages that other environments hold too.
    constraints = ("-c", ROOT / "requirements.lock")
    _run(UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *constraints, ROOT)
    return python


def _synced(name: str, base: Path, lock: Path | None = None) -> Path:
    lock = lock or HERE / f"{name}.lock"
    recipe = lock.read_bytes()
    if base == Path(sys.executable):  # which `make PYTHON=…` may change
        recipe += f"Python {sys.version_info.major}.{sys.version_info.minor}".encode()
    with _locked(name):
        folder, fresh = _prepare(name, recipe)
        python = folder / "bin" / "python"
        if fresh:
            _run(UV, "venv", "--quiet", "--python", base, folder)
            _run(UV, "pip", "sync", "--quiet", "--compile-bytecode", "--require-hashes", "--python", python, lock)
            _finish(folder, recipe)
    return python


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Let two workers that need one environment build it once."""
    VENVS.mkdir(exist_ok=True)
    with (VENVS / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _prepare(name: str, recipe: bytes) -> tuple[Path, bool]:
    """The folder, and whether it has to be built; what an earlier or broken build left is removed."""
    folder = VENVS / name
    stamp = folder / ".recipe"
    if stamp.is_file() and stamp.read_text(encoding="ascii") == hashlib.sha256(recipe).hexdigest():
        return folder, False
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(exist_ok=True)
    return folder, True


def _finish(folder: Path, recipe: bytes) -> None:
    (folder / ".recipe").write_text(hashlib.sha256(recipe).hexdigest(), encoding="ascii")


def _run(*command: object) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout
