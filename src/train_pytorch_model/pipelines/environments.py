"""Checks the environments of jobs, which are all taken as the environment of this Python."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from train_pytorch_model.pipelines.definition import PipelineError, local_path
from train_pytorch_model.pipelines.yaml_files import is_remote, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_PACKAGE = re.compile(r"[A-Za-z0-9][\w.-]*(?=\s*([\[;=<>!~]|$))")


def environment_notes(environment: object, where: str, folder: Path) -> list[str]:
    """Name the packages of an environment's conda file that this Python does not have.

    Args:
        environment: the environment of a job or a component; None if there is none.
        where: where it is, for messages.
        folder: what its paths are relative to.

    Raises:
        PipelineError: if a file that it names does not exist or is not YAML.
    """
    if isinstance(environment, str) and environment.startswith("file:"):
        file = _existing(environment, where, folder)
        return environment_notes(read_yaml(file), where, file.parent)
    if not isinstance(environment, dict):
        return []
    build, conda = environment.get("build"), environment.get("conda_file")
    if isinstance(build, dict) and isinstance(build.get("path"), str) and not is_remote(build["path"]):
        _existing(build["path"], where, folder)
    if isinstance(conda, str) and not is_remote(conda):
        conda = read_yaml(_existing(conda, where, folder))
    missing = [name for name in _pip_packages(conda) if not _is_installed(name)] if isinstance(conda, dict) else []
    return [f"its conda file names packages that this Python does not have: {', '.join(missing)}"] if missing else []


def _existing(path: str, where: str, folder: Path) -> Path:
    found = folder / local_path(path)
    if not found.exists():
        raise PipelineError(f"{where}: environment: {found} does not exist")
    return found


def _pip_packages(conda: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the packages that pip installs; those of conda packages differ from Python's."""
    entries = conda.get("dependencies")
    for entry in entries if isinstance(entries, list) else ():
        for package in (entry.get("pip") or ()) if isinstance(entry, dict) else ():
            if isinstance(package, str) and (found := _PACKAGE.match(package)):
                yield found[0]


def _is_installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
