"""Checkpoint files: written atomically, and verified by a checksum when they are read.

A file has a magic number of 8 bytes, which identifies the format and its version, the SHA-256 of the rest, and a
dictionary in the format of `torch.save`.
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

from train_pytorch_model.data.file_systems import flush, move_file
from train_pytorch_model.errors import UserError

logger = logging.getLogger(__name__)

_MAGIC = b"TPMCKPT1"
_DIGEST_BYTES = hashlib.sha256().digest_size
_NAME = re.compile(r"checkpoint-(\d{8})\.pt")
_NUM_KEPT = 2


class DamagedCheckpointError(Exception):
    """A checkpoint cannot be used, for the reason in the message."""


class CheckpointFolder:
    """A folder that keeps the last two checkpoints of a run."""

    def __init__(self, path: Path) -> None:
        """Use a folder, which need not exist yet."""
        self.path = path
        self._own: set[str] = set()

    def adopt(self) -> None:
        """Treat the existing checkpoints as those of this run, because it resumes from one of them."""
        self._own.update(path.name for path in self._files())

    def newest(self) -> dict[str, Any] | None:
        """Return the newest valid checkpoint, None if there is none; log a warning for each invalid one.

        Raises:
            UserError: when the folder cannot be read.
        """
        try:
            files = self._files()
        except OSError as error:
            raise UserError(
                f"The checkpoint folder {self.path} cannot be read: {error.strerror}. "
                "Set another folder with --checkpoint-path."
            ) from error
        for path in reversed(files):
            try:
                return read_checkpoint(path)
            except (DamagedCheckpointError, OSError) as error:
                logger.warning("The checkpoint %s cannot be used: %s. Trying the previous one.", path, error)
        return None

    def write(self, content: dict[str, Any]) -> Path:
        """Write a checkpoint and remove all but the last two; return its path.

        If the process is killed meanwhile, the other checkpoints stay valid. Where files cannot be renamed, the new one
        is copied; its checksum shows whether it is complete.

        Raises:
            OSError: when the disk is full or not writable; the folder is unchanged.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        files = self._files()
        number = _number_of(files[-1]) + 1 if files else 1
        path = self.path / f"checkpoint-{number:08d}.pt"
        temporary = path.with_suffix(".writing")
        payload = io.BytesIO()
        torch.save(content, payload)
        try:
            with temporary.open("wb") as file:
                file.write(_MAGIC + hashlib.sha256(payload.getbuffer()).digest())
                file.write(payload.getbuffer())
                file.flush()
                flush(file.fileno())
            move_file(temporary, path)
            _flush_folder(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        self._own.add(path.name)
        with contextlib.suppress(OSError):  # the new checkpoint is complete
            for old in [*files[: 1 - _NUM_KEPT], *self._unfinished()]:
                old.unlink(missing_ok=True)
        return path

    def clear(self) -> None:
        """Remove the checkpoints of this run, because it has finished."""
        with contextlib.suppress(OSError):
            own = [path for path in self._files() if path.name in self._own]
            for path in [*own, *self._unfinished()]:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        if not os.path.isdir(self.path):  # unlike pathlib, it accepts names that are too long
            return []
        return sorted(path for path in self.path.iterdir() if _NAME.fullmatch(path.name))

    def _unfinished(self) -> list[Path]:
        return [path for path in self.path.glob("checkpoint-*.writing") if _NAME.fullmatch(f"{path.stem}.pt")]


def _number_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file; code in the file is never executed.

    Raises:
        DamagedCheckpointError: when the file is truncated, modified, or has another version.
        OSError: when the file cannot be read.
    """
    text = path.read_bytes()
    start = len(_MAGIC) + _DIGEST_BYTES
    if text[: len(_MAGIC)] != _MAGIC:
        raise DamagedCheckpointError("it is not a checkpoint of this version")
    payload = memoryview(text)[start:]
    if hashlib.sha256(payload).digest() != text[len(_MAGIC) : start]:
        raise DamagedCheckpointError("its checksum is wrong, so the file was truncated or modified")
    try:
        content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise DamagedCheckpointError(f"it does not contain a training: {error}") from error
    if not isinstance(content, dict):
        raise DamagedCheckpointError("it does not contain a training")
    return content


def _flush_folder(path: Path) -> None:
    """Write the folder's entries to disk, which makes a rename durable."""
    with contextlib.suppress(OSError):  # not supported by some mounts
        descriptor = os.open(path, os.O_RDONLY)
        try:
            flush(descriptor)
        finally:
            os.close(descriptor)
