"""An output folder that is either whole or as it was: nothing half-written stays behind.

Azure makes or mounts output folders beforehand, and a mount point cannot be renamed. So a folder that is absent is
written beside and renamed into place; one that exists is filled file by file, `_meta.yaml` last (no reader takes a
directory without it), and emptied again when that fails. A process killed on the way leaves its mark there, by which
the next one knows the remains as its own.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from train_pytorch_model.errors import InvalidModelDirectoryError
from train_pytorch_model.messages import name_some
from train_pytorch_model.ports.image_list import META_FILE, read_meta

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TRAINED_MODEL_FILES = frozenset(
    [
        *(META_FILE, "model_spec.yaml", "model", "index_to_label.csv", "_schema.json", "_samples.json"),
        *("score.py", "conda_env.yaml", "conda.yaml", "local_dependencies.zip"),
    ]
)
_UNFINISHED_MARK = ".unfinished-model"
_UNTRAINED_MODEL_FILES = frozenset((META_FILE, "model_spec.yaml", "model"))


class OutputDirectory:
    """A model directory about to be written."""

    def __init__(self, path: Path, argument: str, *, trained: bool) -> None:
        """Name the folder.

        Args:
            path: where the model is to lie.
            argument: the port's name in messages.
            trained: whether an earlier trained model may be replaced, or an earlier untrained one.
        """
        self.path = path
        self._argument = argument
        self._trained = trained

    def check(self, inputs: Sequence[Path] = (), outputs_path: Path | None = None) -> None:
        """Make sure, before any work, that the folder may be written.

        Args:
            inputs: folders that are read; none may be, hold or lie in this one.
            outputs_path: the folder of metrics and reports; this one may lie in it, but not be or hold it.

        Raises:
            InvalidModelDirectoryError: when it is an input or lies in one, is a file, holds anything but an earlier
                model, or cannot be written to.
        """
        resolved = self.path.resolve()
        for other in (path.resolve() for path in inputs):
            if resolved == other or other in resolved.parents or resolved in other.parents:
                self._refuse(f"{self.path} is, holds or lies in the input {other}", "Give a folder of its own.")
        if outputs_path is not None and resolved in (outputs_path.resolve(), *outputs_path.resolve().parents):
            self._refuse(f"{self.path} is or holds the folder of metrics, {outputs_path}", "Give a folder of its own.")
        if self.path.exists() and not self.path.is_dir():
            self._refuse(f"{self.path} is a file", "Give a folder.")
        if self.path.is_dir():
            self._refuse_foreign_files()
        parent = self.path if self.path.is_dir() else self._existing_parent()
        try:
            handle, name = tempfile.mkstemp(prefix=".writable-", dir=parent)
            os.close(handle)
            os.unlink(name)
        except OSError as error:
            self._refuse(f"{parent} cannot be written to: {error.strerror}", "Give a folder that can be written.")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Give a folder to write into; when the block ends well, its files stand at `path`.

        Raises:
            InvalidModelDirectoryError: when the files cannot be put into place.
        """
        exists = self.path.is_dir()
        if not exists:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = None if exists else str(self.path.resolve().parent)
        stage = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.writing-", dir=beside))
        try:
            yield stage
            # A folder from mkdtemp is its owner's alone; the model is for whoever reads the output folder.
            stage.chmod(0o777 & ~_umask())
            if exists:
                self._fill_from(stage)
            else:
                os.replace(stage, self.path)
        except OSError as error:
            raise InvalidModelDirectoryError(
                self._argument, f"{self.path} could not be written: {error}", "Nothing was left there."
            ) from error
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def _fill_from(self, stage: Path) -> None:
        self._refuse_foreign_files()  # they may have come since the check, and what is here is about to be removed
        (self.path / _UNFINISHED_MARK).touch()
        self._clear()
        try:
            for file in sorted(stage.iterdir(), key=lambda file: file.name == META_FILE):
                shutil.copyfile(file, self.path / file.name)
        except BaseException:
            self._clear()
            raise
        finally:
            (self.path / _UNFINISHED_MARK).unlink()

    def _clear(self) -> None:
        """Remove an earlier model, `_meta.yaml` first, so that what is left at any moment is no model."""
        files = [file for file in self.path.iterdir() if file.name != _UNFINISHED_MARK]
        for file in sorted(files, key=lambda file: file.name != META_FILE):
            file.unlink()

    def _refuse_foreign_files(self) -> None:
        foreign = self._foreign_files()
        if foreign:
            self._refuse(
                f"{self.path} holds files that are no earlier model: {name_some(foreign)}",
                "Give an empty or a new folder.",
            )

    def _foreign_files(self) -> list[str]:
        names = sorted(entry.name for entry in self.path.iterdir())
        known = _TRAINED_MODEL_FILES if self._trained else _UNTRAINED_MODEL_FILES
        foreign = [name for name in names if name not in known or not (self.path / name).is_file()]
        if _UNFINISHED_MARK in names:
            return [name for name in foreign if name != _UNFINISHED_MARK]
        if names and not foreign and META_FILE in names:
            try:
                is_model = read_meta(self.path).get("type") == "ModelDirectory"
            except ValueError:
                is_model = False
            # The label map is what a trained model has and an untrained one has not.
            if not is_model or ("index_to_label.csv" in names) != self._trained:
                return names
        return foreign if META_FILE in names or foreign else names

    def _existing_parent(self) -> Path:
        parent = self.path.resolve().parent
        while not parent.is_dir():
            if parent.exists():
                self._refuse(f"{parent} is a file", "Give a folder.")
            parent = parent.parent
        return parent

    def _refuse(self, reason: str, hint: str) -> None:
        raise InvalidModelDirectoryError(self._argument, reason, hint)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
