"""Decides whether a step can be reused: hashes of everything that its outputs depend on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.pipelines.snapshot import snapshot_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from train_pytorch_model.pipelines.definition import Component

logger = logging.getLogger(__name__)

_RECORD_FILE = "finished.json"


def fingerprint(path: Path) -> str:
    """Hash the names, sizes and modification times of the files of a folder, or of one file, which may be absent."""
    files = [path] if path.exists() else []
    if path.is_dir():
        # Links to folders are followed.
        walked = os.walk(path, followlinks=True)
        files = sorted(Path(folder) / name for folder, _, names in walked for name in names)
    digest = hashlib.sha256()
    for file in files:
        try:
            status = file.stat() if file.exists() else file.lstat()
        except FileNotFoundError:  # removed meanwhile
            continue
        digest.update(f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def step_key(
    component: Component, command: str, inputs: Mapping[str, str], variables: Mapping[str, str], run_folder: Path
) -> str:
    """Hash everything that a step's outputs depend on.

    Args:
        component: the component; the contents of its code and its includes are hashed.
        command: the command with all values filled in.
        inputs: fingerprint of each input folder.
        variables: environment variables of the job.
        run_folder: the folder of the pipeline's run, which is not part of the code.
    """
    processes = [component.num_nodes, component.num_processes]
    libraries = sorted(f"{item.metadata['Name']}=={item.version}" for item in distributions())
    parts = [command, dict(inputs), dict(variables), processes, sys.version, libraries]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for place, file in snapshot_files(component, run_folder).items():
        digest.update(str(place).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def is_finished(folder: Path, key: str, outputs: Mapping[str, Path]) -> bool:
    """Whether the step last succeeded with this key, and its outputs have not changed since."""
    try:
        record = json.loads((folder / _RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(record == _record(key, outputs))


def has_record(folder: Path) -> bool:
    """Whether the step has succeeded before."""
    return (folder / _RECORD_FILE).is_file()


def begin(folder: Path) -> None:
    """Remove the record of an earlier success."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _RECORD_FILE).unlink(missing_ok=True)


def finish(folder: Path, key: str, outputs: Mapping[str, Path]) -> None:
    """Record that the step succeeded. Without the record, the next run repeats the step."""
    try:
        (folder / _RECORD_FILE).write_text(json.dumps(_record(key, outputs), indent=2), encoding="utf-8")
    except OSError as error:
        logger.warning("%s could not be written: %s.", folder / _RECORD_FILE, error.strerror)


def _record(key: str, outputs: Mapping[str, Path]) -> dict[str, object]:
    return {"key": key, "outputs": {name: fingerprint(path) for name, path in outputs.items()}}
