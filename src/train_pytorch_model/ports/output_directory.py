"""An output folder that is either whole or as it was: nothing half-written stays behind.

Azure makes or mounts output folders beforehand, and a mount point cannot be renamed. So a folder that is absent is
written beside and renamed into place; one that exists is filled file by file, `_meta.yaml` last (no reader takes a
directory without it), and emptied again when that fails. A process killed on the way leaves its mark there, by which
the next one knows the remains as its own.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.errors import InvalidModelDirectoryError, ModuleError, ModuleOutOfMemoryError, UserError
from train_pytorch_model.ports.small_files import META_FILE, read_meta
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_UNFINISHED_MARK = ".unfinished-model"


@dataclass(frozen=True)
class Kind:
    """A kind of directory: one that is to be written may take the place of an earlier one of its kind."""

    type_name: str
    """What `_meta.yaml` says of it."""
    files: frozenset[str]
    """All that it may hold."""
    folders: frozenset[str] = frozenset()
    """Likewise."""
    has: str = ""
    """A file that tells it from another kind of the same type."""
    lacks: str = ""
    """A file that the other kind has."""

    is_large: bool = False
    """Whether it is as large as the data, so that it had better be written once."""

    @property
    def is_model(self) -> bool:
        """Whether it is one of the two kinds of model."""
        return self.type_name == "ModelDirectory"


_LABEL_MAP = "index_to_label.csv"
TRAINED = Kind(
    "ModelDirectory",
    frozenset(
        [
            *(META_FILE, "model_spec.yaml", "model", _LABEL_MAP, "_schema.json", "_samples.json"),
            *("score.py", "served_model.py", "conda_env.yaml", "conda.yaml", "local_dependencies.zip", "model.onnx"),
        ]
    ),
    frozenset(("mlflow_model",)),
    has=_LABEL_MAP,
)
UNTRAINED = Kind("ModelDirectory", frozenset((META_FILE, "model_spec.yaml", "model")), lacks=_LABEL_MAP)
TRANSFORMATION = Kind("TransformationDirectory", frozenset((META_FILE, "_transforms.json")))
TABLE = Kind(
    "DataFrameDirectory",
    frozenset((META_FILE, "_data.parquet", "_data.visualization", "_samples.json", "_data.csv")),
    frozenset(("schema",)),
)
EVALUATION = Kind(
    "AnyDirectory",
    frozenset(
        [
            *(META_FILE, "metrics.json", "per_class.csv"),
            *("confusion_matrix.csv", "confusion_matrix.png", "reliability.png"),
        ]
    ),
    has="metrics.json",
)
IMAGES = Kind(
    "ImageDirectory",
    frozenset((META_FILE, "images.lst", "_schema.json", "_samples.json")),
    frozenset(("image",)),
    is_large=True,
)


class OutputDirectory:
    """A directory about to be written."""

    def __init__(self, path: Path, argument: str, kind: Kind) -> None:
        """Name the folder.

        Args:
            path: where the output is to lie.
            argument: the port's name in messages.
            kind: of directory; an earlier one of it may be replaced.
        """
        self.path = path
        self._argument = argument
        self._kind = kind
        self._stage_prefix = f".{path.name}.writing-"

    def check(self, inputs: Sequence[Path] = (), *reports: Path) -> None:
        """Make sure, before any work, that the folder may be written.

        Args:
            inputs: folders that are read; none may be, hold or lie in this one.
            reports: folders of metrics and checkpoints; this one may lie in them, but not be or hold one.

        Raises:
            ModuleError: when it is an input or lies in one, is a file, holds anything but an earlier output of its
                kind, or cannot be written to.
        """
        try:
            self._check(inputs, reports)
        except OSError as error:  # such as a name that is too long
            raise self._fault(f"{self.path} cannot be used: {error.strerror}", "Give another folder.") from error

    def _check(self, inputs: Sequence[Path], reports: Sequence[Path]) -> None:
        resolved = real_path(self.path)
        if any("\ud800" <= letter <= "\udfff" for letter in str(resolved)):
            self._refuse(f"{str(resolved)!r} is no UTF-8, which libraries write files by", "Give another folder.")
        for other in map(real_path, inputs):
            if resolved == other or other in resolved.parents or resolved in other.parents:
                self._refuse(f"{self.path} is, holds or lies in the input {other}", "Give a folder of its own.")
        for report in reports:
            if resolved in (real_path(report), *real_path(report).parents):
                self._refuse(f"{self.path} is or holds the folder of reports, {report}", "Give a folder of its own.")
        if self.path.exists() and not self.path.is_dir():
            self._refuse(f"{self.path} is a file", "Give a folder.")
        if self.path.is_symlink() and not self.path.exists():
            self._refuse(f"{self.path} is a link that leads nowhere", "Remove it, or give a folder.")
        if self.path.is_dir():
            self._refuse_foreign_files()
        parent = self.path if self.path.is_dir() else self._existing_parent()
        try:  # by the name that will be written, which may be too long
            prefix = ".writable-" if self.path.is_dir() else self._stage_prefix
            handle, name = tempfile.mkstemp(prefix=prefix, dir=parent)
            os.close(handle)
            os.unlink(name)
        except OSError as error:
            self._refuse(f"{parent} cannot be written to: {error.strerror}", "Give another folder.")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Give a folder to write into; when the block ends well, its files stand at `path`.

        Raises:
            ModuleError: when the files cannot be put into place.
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
            # A folder from mkdtemp is its owner's alone; the output is for whoever reads the folder above.
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
        """Remove what processes have left beside the output that were killed while they wrote it."""
        for remains in real_path(self.path).parent.glob(f"{glob.escape(self._stage_prefix)}*"):
            shutil.rmtree(remains, ignore_errors=True)

    @contextmanager
    def _writing_in_place(self) -> Iterator[None]:
        """Write a large directory once: an empty folder that is given, as Azure's are, is filled as it stands."""
        mark = self.path / _UNFINISHED_MARK
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
        self._refuse_foreign_files()  # they may have come since the check, and what is here is about to be removed
        (self.path / _UNFINISHED_MARK).touch()
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
            (self.path / _UNFINISHED_MARK).unlink()

    def _clear(self) -> None:
        """Remove an earlier output, `_meta.yaml` first, so that what is left at any moment is none."""
        files = [file for file in self.path.iterdir() if file.name != _UNFINISHED_MARK]
        for file in sorted(files, key=lambda file: file.name != META_FILE):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def _refuse_foreign_files(self) -> None:
        foreign = self._foreign_files()
        if foreign:
            self._refuse(
                f"{self.path} holds files that are no earlier output: {name_some(foreign)}",
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
        if _UNFINISHED_MARK in names and (self.path / _UNFINISHED_MARK).is_file():
            return [name for name in foreign if name != _UNFINISHED_MARK]
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
        return self._fault(f"{self.path} could not be written: {error}", "Nothing was left there.")

    def _refuse(self, reason: str, hint: str) -> None:
        raise self._fault(reason, hint)

    def _fault(self, reason: str, hint: str) -> ModuleError:
        if self._kind.is_model:
            return InvalidModelDirectoryError(self._argument, reason, hint)
        return UserError(f'The output "{self._argument}" cannot be written: {reason}. {hint}')


def real_path(path: Path) -> Path:
    """Where links lead; for one that leads to itself, what pathlib raises an error for, the path as it is."""
    return Path(os.path.realpath(path))


def make_outputs_folder(path: Path, flag: str = "--outputs-path") -> None:
    """Make sure, before any work, that a folder of reports or checkpoints is there and can be written to.

    Args:
        path: the folder.
        flag: that names it.

    Raises:
        UserError: when it cannot.
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
