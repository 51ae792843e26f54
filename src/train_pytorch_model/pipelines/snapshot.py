"""Copies the code of a step, without the files that are not uploaded to the cloud either."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

_NEVER = ("__pycache__", "*.pyc", "*.egg-info", ".git")
_IGNORE_FILE = ".amlignore"


def snapshot_files(code: Path, run_folder: Path) -> list[Path]:
    """List the files of a component's code, relative to it, in a fixed order.

    Args:
        code: the folder of code. Names that match a line of its `.amlignore` are ignored.
        run_folder: the folder of the pipeline's run, which is ignored too.
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
    """Copy the code into a new folder.

    Args:
        code: the folder of code.
        run_folder: the folder of the pipeline's run, which is not copied.
        target: a folder that does not exist yet.
    """
    target.mkdir(parents=True)
    for file in snapshot_files(code, run_folder):
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(code / file, target / file)
