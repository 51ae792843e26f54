"""Python environments that cannot be shared with the project's own, each built once under `.venvs`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VENVS = ROOT / ".venvs"


def find_python39() -> Path | None:
    """A Python 3.9: `$PYTHON39`, `python3.9` on the path, or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [os.environ.get("PYTHON39"), shutil.which("python3.9"), *sorted(pyenv.glob("3.9.*/bin/python3.9"))]
    for candidate in candidates:
        if candidate is None:
            continue
        # pyenv's shim stands on the path even where no 3.9 is chosen, and fails when run.
        version = subprocess.run(
            [candidate, "-c", "import sys; print(sys.version_info[:2] == (3, 9))"], capture_output=True, text=True
        )
        if version.stdout.strip() == "True":
            return Path(candidate)
    return None


def require_python39() -> Path:
    """A Python 3.9, or the test is skipped; with `CI` set it fails instead."""
    python = find_python39()
    if python is None:
        message = "no Python 3.9 was found: install one, or name it in PYTHON39"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return python


def retired() -> Path:
    """Python of an environment that holds the retired modules, Score Image Model among them."""
    return _synced("retired", require_python39())


def azure_ai_ml() -> Path:
    """Python of an environment that holds azure-ai-ml."""
    return _synced("azure_ai_ml", Path(sys.executable))


def conda() -> Path:
    """Python of an environment made from `conda_env.yaml`: its pip, then its pip section by plain pip."""
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
        _run(python, "-m", "pip", "install", "--quiet", "-r", requirements)
        _finish(folder, conda_env.read_bytes())
    return python


def _synced(name: str, base: Path) -> Path:
    lock = HERE / f"{name}.lock"
    folder, fresh = _prepare(name, lock.read_bytes())
    python = folder / "bin" / "python"
    if fresh:
        uv = Path(sys.executable).parent / "uv"
        _run(uv, "venv", "--quiet", "--python", base, folder)
        _run(uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, lock)
        _finish(folder, lock.read_bytes())
    return python


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


def _run(*command: object) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
