"""Checkpoints as files: written aside and moved into place, found again, and held against their checksum.

A file is a mark of 8 bytes, which names the format and its version, the SHA-256 of all that follows, and what
`torch.save` makes of a dictionary.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from train_pytorch_model.errors import UserError

logger = logging.getLogger(__name__)

_MARK = b"TPMCKPT1"
_DIGEST_BYTES = hashlib.sha256().digest_size
_NAME = re.compile(r"checkpoint-(\d{8})\.pt")
_NUM_KEPT = 2


class DamagedCheckpointError(Exception):
    """A checkpoint cannot be used; the text says why."""


class CheckpointFolder:
    """The checkpoints of one training, the last of which are kept."""

    def __init__(self, path: Path) -> None:
        """Name the folder, which need not be there yet."""
        self.path = path
        self._own: set[str] = set()

    def adopt(self) -> None:
        """Take what lies there for this training's own: it goes on from it."""
        self._own.update(path.name for path in self._files())

    def newest(self) -> dict[str, Any] | None:
        """Read the newest checkpoint that is whole; None when there is none. Warns of those that are not.

        Raises:
            UserError: when the folder cannot be looked into.
        """
        try:
            files = self._files()
        except OSError as error:
            raise UserError(
                f"The folder of checkpoints {self.path} cannot be read: {error.strerror}. "
                "Give another with --checkpoint-path."
            ) from error
        for path in reversed(files):
            try:
                return read_checkpoint(path)
            except (DamagedCheckpointError, OSError) as error:
                logger.warning("The checkpoint %s cannot be used: %s. The one before it is tried.", path, error)
        return None

    def write(self, content: dict[str, Any]) -> Path:
        """Add a checkpoint, and remove those before the last two. A process killed on the way leaves the others whole.

        Raises:
            OSError: when the disk is full or cannot be written; nothing has changed then.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        files = self._files()
        number = _number_of(files[-1]) + 1 if files else 1
        path = self.path / f"checkpoint-{number:08d}.pt"
        aside = path.with_suffix(".writing")
        payload = io.BytesIO()
        torch.save(content, payload)
        try:
            with aside.open("wb") as file:
                file.write(_MARK + hashlib.sha256(payload.getbuffer()).digest())
                file.write(payload.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            _flush_folder(self.path)
        except OSError:
            aside.unlink(missing_ok=True)
            raise
        self._own.add(path.name)
        with contextlib.suppress(OSError):  # the new one is in place
            for old in [*files[: 1 - _NUM_KEPT], *self._unfinished()]:
                old.unlink(missing_ok=True)
        return path

    def clear(self) -> None:
        """Remove this training's checkpoints: it is finished."""
        with contextlib.suppress(OSError):
            own = [path for path in self._files() if path.name in self._own]
            for path in [*own, *self._unfinished()]:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        if not os.path.isdir(self.path):  # which, unlike pathlib, takes a name that is too long
            return []
        return sorted(path for path in self.path.iterdir() if _NAME.fullmatch(path.name))

    def _unfinished(self) -> list[Path]:
        return [path for path in self.path.glob("checkpoint-*.writing") if _NAME.fullmatch(f"{path.stem}.pt")]


def _number_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read one file, without running any code that it may hold.

    Raises:
        DamagedCheckpointError: when it is cut, changed, or of another version.
        OSError: when it cannot be read.
    """
    text = path.read_bytes()
    start = len(_MARK) + _DIGEST_BYTES
    if text[: len(_MARK)] != _MARK:
        raise DamagedCheckpointError("it is no checkpoint of this version")
    payload = memoryview(text)[start:]
    if hashlib.sha256(payload).digest() != text[len(_MARK) : start]:
        raise DamagedCheckpointError("its checksum is wrong, so it was cut or changed")
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise DamagedCheckpointError(f"it holds no training: {error}") from error
    if not isinstance(content, dict):
        raise DamagedCheckpointError("it holds no training")
    return content


def _flush_folder(path: Path) -> None:
    """Make a renaming last: the name lies in the folder, which has its own place on the disk."""
    with contextlib.suppress(OSError):  # some mounts cannot
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
