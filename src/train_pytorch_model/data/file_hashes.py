"""SHA-256 of files."""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK_BYTES = 2**20


class DeadlineError(Exception):
    """The deadline passed before the whole file was read."""


def sha256_of(path: Path, *, deadline: float = math.inf) -> bytes:
    """Compute the SHA-256 of a file.

    Args:
        path: the file, which may be larger than the memory.
        deadline: the value of `time.monotonic()` at which to give up.

    Raises:
        DeadlineError: if the deadline passes first.
        OSError: if the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while time.monotonic() < deadline:
            chunk = file.read(_CHUNK_BYTES)
            if not chunk:
                return digest.digest()
            digest.update(chunk)
    raise DeadlineError
