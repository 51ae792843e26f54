"""Writes an output folder completely or not at all.

A folder that does not exist is written under a temporary name and renamed. Azure creates or mounts output folders
beforehand, and a mount point cannot be renamed. So a folder that exists is filled file by file, with `_meta.yaml` last
(no reader accepts a directory without it), and emptied if that fails. A marker file shows that the files in it are the
incomplete output of a killed process, which the next run may replace.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.errors import InvalidModelDirectoryError, ModuleError, ModuleOutOfMemoryError, UserError
from train_pytorch_model.ports.small_files import META_FILE, read_meta
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from train_pytorch_model.ports.directory_kinds import Kind

_UNFINISHED_MARKER = ".unfinished-model"


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
        parent = self.path if self.path.is_dir() else self._existing_parent()
        try:  # with the real prefix, because the name may be too long
            prefix = ".writable-" if self.path.is_dir() else self._stage_prefix
            handle, name = tempfile.mkstemp(prefix=prefix, dir=parent)
            os.close(handle)
            os.unlink(name)
        except OSError as error:
            self._refuse(f"{parent} cannot be written to: {error.strerror}", "Give another folder.")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Provide a folder to write into. If the block succeeds, its files are moved to `path`.

        Raises:
            ModuleError: if the files cannot be written or moved.
        """
        exists = self.path.is_dir()
        if exists and self._kind.is_large and not any(self.path.iterdir()):
            with self._writing_in_place():
                yield self.path
            return
        beside = None if exists else str(real_path(self.path).parent)
        try:
            if not exists:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._remove_remains()
            stage = Path(tempfile.mkdtemp(prefix=None if exists else self._stage_prefix, dir=beside))
        except OSError as error:
            raise self._write_fault(error) from error
        try:
            yield stage
            # mkdtemp creates a folder for its owner only; the output gets the usual permissions.
            stage.chmod(0o777 & ~_umask())
            if exists:
                self._fill_from(stage)
            else:
                os.replace(stage, self.path)
        except OSError as error:
            raise self._write_fault(error) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _remove_remains(self) -> None:
        """Remove temporary folders of processes that were killed while they wrote this output."""
        for remains in real_path(self.path).parent.glob(f"{glob.escape(self._stage_prefix)}*"):
            shutil.rmtree(remains, ignore_errors=True)

    @contextmanager
    def _writing_in_place(self) -> Iterator[None]:
        """Write a large directory directly into an existing, empty folder, so that it is written only once."""
        mark = self.path / _UNFINISHED_MARKER
        mark.touch()
        try:
            yield
        except BaseException as error:
            self._clear()
            if isinstance(error, OSError):
                raise self._write_fault(error) from error
            raise
        finally:
            mark.unlink()

    def _fill_from(self, stage: Path) -> None:
        self._refuse_foreign_files()  # again: files may have been added since the check
        (self.path / _UNFINISHED_MARKER).touch()
        self._clear()
        try:
            for file in sorted(stage.iterdir(), key=lambda file: file.name == META_FILE):
                if file.is_dir():
                    shutil.copytree(file, self.path / file.name, copy_function=shutil.copyfile)
                else:
                    shutil.copyfile(file, self.path / file.name)
        except BaseException:
            self._clear()
            raise
        finally:
            (self.path / _UNFINISHED_MARKER).unlink()

    def _clear(self) -> None:
        """Remove an earlier output, `_meta.yaml` first, so that an incomplete one is never read."""
        files = [file for file in self.path.iterdir() if file.name != _UNFINISHED_MARKER]
        for file in sorted(files, key=lambda file: file.name != META_FILE):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def _refuse_foreign_files(self) -> None:
        foreign = self._foreign_files()
        if foreign:
            self._refuse(
                f"{self.path} contains files that are not an earlier output: {name_some(foreign)}",
                "Give an empty or a new folder.",
            )

    def _foreign_files(self) -> list[str]:
        names = sorted(entry.name for entry in self.path.iterdir())
        kind = self._kind
        foreign = [
            name
            for name in names
            if not ((name in kind.files and (self.path / name).is_file()) or name in kind.folders)
        ]
        if _UNFINISHED_MARKER in names and (self.path / _UNFINISHED_MARKER).is_file():
            return [name for name in foreign if name != _UNFINISHED_MARKER]
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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
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
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{flag} {path} cannot be written to: {error.strerror}. Give another folder.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
