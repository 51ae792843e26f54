"""Copies the code of a step, without the files that azure-ai-ml does not upload either."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import pathspec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.pipelines.definition import Component

_NEVER = ("__pycache__", "*.pyc", "*.egg-info", ".git")
_IGNORE_FILES = (".amlignore", ".gitignore")


@dataclass(frozen=True)
class _Ignored:
    """The patterns of an ignore file."""

    spec: pathspec.PathSpec
    folder: Path
    """The folder of the file, as a path in the snapshot."""

    def contains(self, file: Path) -> bool:
        """Whether a path in the snapshot is ignored: the last pattern that matches it, or a part of it, decides."""
        return self.folder in file.parents and self.spec.match_file(file.relative_to(self.folder).as_posix())


def snapshot_files(component: Component, run_folder: Path) -> dict[Path, Path]:
    """List the files of a component's code and of what is copied beside it. Links to files and folders are followed.

    The files that are ignored are those that azure-ai-ml does not upload: the `.amlignore` at the top of the code
    counts, or else its `.gitignore`. Those of its folders count only if the component has `additional_includes`.

    Args:
        component: the component.
        run_folder: the folder of the pipeline's run, which is ignored too.

    Returns:
        The absolute path of each file, by its path in the snapshot, in a fixed order.

    Raises:
        ValueError: if an ignore file is not UTF-8, contains a pattern that is not valid, or leaves out all code, or if
            a file is a device or the like; the message names it.
    """
    code, files = component.code, {}
    ignored = _ignored_of(component.folder if code is None else code, Path())
    is_nested = bool(component.includes)
    if is_nested and code is not None and any(entry.spec.match_file(".") for entry in ignored):
        raise ValueError(
            f"the ignore file of {code} has a pattern such as *, with which Azure uploads no code at all,"
            " because the component has additional_includes"
        )
    for source in (() if code is None else (code,)) + component.includes:
        if source.is_file():
            place = Path(source.name)
            is_left_out = source != code and any(entry.contains(place) for entry in ignored)
            files.update({} if is_left_out else {place: source})
        elif source == code or not any(entry.contains(Path(source.name)) for entry in ignored):
            place = Path() if source == code else Path(source.name)
            own = ignored if source == code else ignored + _ignored_of(source, place)
            files.update(_files(source, place, own, run_folder, (Path(os.path.realpath(source)),), is_nested=is_nested))
    return dict(sorted(files.items()))


def _ignored_of(folder: Path, place: Path) -> tuple[_Ignored, ...]:
    file: Optional[Path] = next((folder / name for name in _IGNORE_FILES if (folder / name).is_file()), None)
    if file is None:
        return ()
    try:
        lines = [line.rstrip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
        return (_Ignored(pathspec.PathSpec.from_lines("gitwildmatch", lines), place),)
    except ValueError as error:
        raise ValueError(f"{file} cannot be read as a list of patterns: {error}") from error


def _files(
    folder: Path,
    place: Path,
    ignored: tuple[_Ignored, ...],
    run_folder: Path,
    above: tuple[Path, ...],
    *,
    is_nested: bool,
) -> Iterator[tuple[Path, Path]]:
    """Yield the path in the snapshot and the absolute path of the files of a folder."""
    for name in os.listdir(folder):
        source, target = folder / name, place / name
        if any(fnmatch(name, pattern) for pattern in _NEVER):
            continue
        is_ignored = any(entry.contains(target) for entry in ignored)
        if not source.is_dir():
            if not is_ignored:
                if source.exists() and not source.is_file():
                    raise ValueError(f"{source} is a device, a pipe or a socket, which is no code; remove or ignore it")
                yield target, source
            continue
        real = source.resolve()
        if real == run_folder or real in above or (is_nested and is_ignored):
            continue
        own = ignored + _ignored_of(source, target) if is_nested else ignored
        yield from _files(source, target, own, run_folder, (*above, real), is_nested=is_nested)


def copy_snapshot(component: Component, run_folder: Path, target: Path) -> None:
    """Copy the code into a folder.

    Args:
        component: the component.
        run_folder: the folder of the pipeline's run, which is not copied.
        target: a folder that is empty, but for what the system keeps there (.nfs…), or does not exist.
    """
    target.mkdir(parents=True, exist_ok=True)
    for place, source in snapshot_files(component, run_folder).items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / place)
