"""The code that a step runs in a copy of, without what the cloud would not get either."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

_NEVER = ("__pycache__", "*.pyc", "*.egg-info", ".git")
_IGNORE_FILE = ".amlignore"


def snapshot_files(code: Path, run_folder: Path) -> list[Path]:
    """The files of a component's code, relative to it, in order.

    Args:
        code: the folder. Names and patterns of names in its `.amlignore` are left out.
        run_folder: of the pipeline's run, which is left out where it lies in the code.
    """
    ignored = list(_NEVER)
    if (code / _IGNORE_FILE).is_file():
        lines = (code / _IGNORE_FILE).read_text(encoding="utf-8").splitlines()
        ignored += [line.strip().strip("/") for line in lines if line.strip() and not line.startswith("#")]
    files = []
    for folder, folders, names in os.walk(code):
        here = Path(folder)
        folders[:] = sorted(
            name for name in folders if not _is_ignored(name, ignored) and (here / name).resolve() != run_folder
        )
        files += [(here / name).relative_to(code) for name in sorted(names) if not _is_ignored(name, ignored)]
    return files


def _is_ignored(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def copy_snapshot(code: Path, run_folder: Path, target: Path) -> None:
    """Copy the code into a folder that is not there yet."""
    target.mkdir(parents=True)
    for file in snapshot_files(code, run_folder):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(code / file, target / file)
