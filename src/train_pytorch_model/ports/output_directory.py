"""Writes an output folder completely or not at all.

A folder that does not exist is written under a temporary name and renamed, or copied where folders cannot be renamed.
Azure creates or mounts output folders beforehand, and a mount point cannot be renamed. So a folder that exists is
filled file by file, with `_meta.yaml` last (no reader accepts a directory without it), and emptied if that fails. A
marker file shows that the files in it are the incomplete output of a killed process, which the next run may replace.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.data.file_systems import PROBE_PREFIX, is_disk_full, locked, try_writing
from train_pytorch_model.errors import InvalidModelDirectoryError, ModuleError, ModuleOutOfMemoryError, UserError
from train_pytorch_model.ports.existing_folders import UNFINISHED_MARKER, copy_into, entries_of, filling
from train_pytorch_model.ports.small_files import META_FILE, read_meta
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from train_pytorch_model.ports.directory_kinds import Kind

logger = logging.getLogger(__name__)


class OutputDirectory:
    """A directory that a module writes."""

    def __init__(self, path: Path, argument: str, kind: Kind) -> None:
        """Create nothing yet.

        Args:
            path: the folder of the output.
            argument: the name of the port in messages.
            kind: the kind of directory. An earlier output of this kind may be replaced.
        """
        self.path = path
        self._argument = argument
        self._kind = kind
        self._stage_prefix = f".{path.name}.writing-"

    def check(self, inputs: Sequence[Path] = (), *reports: Path) -> None:
        """Check, before any work, that the folder may be written.

        Args:
            inputs: input folders. The output may not be one, contain one, or be inside one.
            reports: folders of metrics and checkpoints. The output may be inside one, but not be or contain one.

        Raises:
            ModuleError: if the folder overlaps with an input, is a file, contains anything other than an earlier output
                of the same kind, or cannot be written to.
        """
        try:
            self._check(inputs, reports)
        except OSError as error:  # such as a name that is too long
            raise self._fault(f"{self.path} cannot be used: {error.strerror}", "Give another folder.") from error

    def _check(self, inputs: Sequence[Path], reports: Sequence[Path]) -> None:
        resolved = real_path(self.path)
        if any("\ud800" <= letter <= "\udfff" for letter in str(resolved)):
            self._refuse(
                f"{str(resolved)!r} is not UTF-8, which some libraries need to write files", "Give another folder."
            )
        for other in map(real_path, inputs):
            if resolved == other or other in resolved.parents or resolved in other.parents:
                self._refuse(f"{self.path} is, contains or is inside the input {other}", "Give a separate folder.")
        for report in reports:
            if resolved in (real_path(report), *real_path(report).parents):
                self._refuse(f"{self.path} is or contains the folder of reports, {report}", "Give a separate folder.")
        if self.path.exists() and not self.path.is_dir():
            self._refuse(f"{self.path} is a file", "Give a folder.")
        if self.path.is_symlink() and not self.path.exists():
            self._refuse(f"{self.path} is a broken link", "Remove it, or give a folder.")
        if self.path.is_dir():
            self._refuse_foreign_files()
        folder = self.path if self.path.is_dir() else self._existing_parent()
        try:
            if self.path.is_dir():
                try_writing(self.path)
            else:
                self._try_stage(folder)
        except OSError as error:
            self._refuse(f"{folder} cannot be written to: {error.strerror}", "Give another folder.")

    def _try_stage(self, parent: Path) -> None:
        """Create a folder as `writing` does, write to it and remove it."""
        stage = self._new_stage(parent)  # with the real prefix, because the name may be too long
        try:
            try_writing(stage)
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Provide a folder to write into. If the block succeeds, its files are moved to `path`.

        Raises:
            ModuleError: if the files cannot be written or moved.
        """
        try:
            exists = self.path.is_dir()
            stage = None
            if not (exists and self._kind.is_large and not entries_of(self.path)):
                stage = self._make_stage(exists=exists)
            if stage is None:
                with filling(self.path):
                    yield self.path
                return
        except OSError as error:
            raise self._write_fault(error) from error
        try:
            with locked(stage):  # other processes that write this output do not remove it
                yield stage
                if exists or not self._renamed(stage):
                    self._fill_from(stage)
        except OSError as error:
            raise self._write_fault(error) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _make_stage(self, *, exists: bool) -> Path | None:
        """Create a temporary folder; None if there is no place for one, so that an existing folder is written itself.

        It is beside an output that does not exist yet, which allows renaming it.
        """
        if exists:
            try:
                return Path(tempfile.mkdtemp())
            except OSError as error:
                logger.debug("There is no folder for temporary files: %s", error)
                self._refuse_foreign_files()
                return None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._remove_remains()
        return self._new_stage(real_path(self.path).parent)

    def _new_stage(self, parent: Path) -> Path:
        # Unlike tempfile.mkdtemp, this gives the folder its permissions at once; some mounts cannot change them.
        stage = parent / f"{self._stage_prefix}{secrets.token_hex(4)}"
        stage.mkdir()
        return stage

    def _renamed(self, stage: Path) -> bool:
        """Rename the folder to the output's name; return whether that was possible."""
        try:
            os.replace(stage, self.path)
        except OSError as error:
            if is_disk_full(error):
                raise
            logger.debug("%s cannot be renamed to %s (%s); it is copied.", stage, self.path, error.strerror)
            return False
        return True

    def _remove_remains(self) -> None:
        """Remove temporary folders of processes that were killed while they wrote this output."""
        with contextlib.suppress(OSError):  # they take space, but are in nobody's way
            for remains in real_path(self.path).parent.glob(f"{glob.escape(self._stage_prefix)}*"):
                with contextlib.suppress(BlockingIOError), locked(remains):
                    shutil.rmtree(remains, ignore_errors=True)

    def _fill_from(self, stage: Path) -> None:
        """Copy the content of a folder to the output, which need not exist."""
        is_new = not self.path.is_dir()
        try:
            self.path.mkdir(exist_ok=True)
            self._refuse_foreign_files()  # again: files may have been added since the check
            with filling(self.path):
                copy_into(self.path, stage)
        except BaseException:
            if is_new:
                with contextlib.suppress(OSError):  # if it is not empty, it is not this function's
                    self.path.rmdir()
            raise

    def _refuse_foreign_files(self) -> None:
        foreign = self._foreign_files()
        if foreign:
            self._refuse(
                f"{self.path} contains files that are not an earlier output: {name_some(foreign)}",
                "Give an empty or a new folder.",
            )

    def _foreign_files(self) -> list[str]:
        names = sorted(entry.name for entry in entries_of(self.path) if not entry.name.startswith(PROBE_PREFIX))
        kind = self._kind
        foreign = [
            name
            for name in names
            if not ((name in kind.files and (self.path / name).is_file()) or name in kind.folders)
        ]
        if UNFINISHED_MARKER in names and (self.path / UNFINISHED_MARKER).is_file():
            return [name for name in foreign if name != UNFINISHED_MARKER]
        if names and not foreign and META_FILE in names:
            try:
                is_of_type = read_meta(self.path).get("type") == kind.type_name
            except ValueError:
                is_of_type = False
            if not is_of_type or kind.lacks in names or (kind.has and kind.has not in names):
                return names
        return foreign if META_FILE in names or foreign else names

    def _existing_parent(self) -> Path:
        parent = real_path(self.path).parent
        while not parent.is_dir():
            if parent.exists():
                self._refuse(f"{parent} is a file", "Give a folder.")
            parent = parent.parent
        return parent

    def _write_fault(self, error: OSError) -> ModuleError:
        if is_disk_full(error):
            return ModuleOutOfMemoryError(f"The disk is full: {error.filename or self.path} cannot be written.")
        return self._fault(f"{self.path} could not be written: {error}", "No incomplete output remains.")

    def _refuse(self, reason: str, hint: str) -> None:
        raise self._fault(reason, hint)

    def _fault(self, reason: str, hint: str) -> ModuleError:
        if self._kind.is_model:
            return InvalidModelDirectoryError(self._argument, reason, hint)
        return UserError(f'The output "{self._argument}" cannot be written: {reason}. {hint}')


def real_path(path: Path) -> Path:
    """Resolve links. Unlike `Path.resolve`, this returns the path of a link to itself instead of raising an error."""
    return Path(os.path.realpath(path))


def make_outputs_folder(path: Path, flag: str = "--outputs-path") -> None:
    """Create a folder of reports or checkpoints, and check before any work that it can be written to.

    Args:
        path: the folder.
        flag: the flag that sets the folder, for messages.

    Raises:
        UserError: if it cannot be created or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        try_writing(path)
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written to: {error.strerror}. Give another folder.") from error
