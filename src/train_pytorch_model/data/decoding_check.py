"""Checks in several threads whether images can be decoded, in bounded memory."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from train_pytorch_model.data.decoding import UnreadableImageError, decode, read_size
from train_pytorch_model.data.free_memory import DECODING_BYTES_PER_PIXEL, MEMORY_FRACTION, available_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class DecodingCheck:
    """Decodes images to see whether they are readable; large ones wait until memory is free. Threads share it."""

    def __init__(self) -> None:
        """Measure the free memory, part of which images may take."""
        self._limit = self._free = MEMORY_FRACTION * available_memory_bytes()
        self._changed = threading.Condition()

    def fault_of(self, path: Path) -> str:
        """Return why an image cannot be decoded; "" if it can."""
        try:
            height, width = read_size(path)
            with self._reserved(DECODING_BYTES_PER_PIXEL * height * width):
                decode(path)
        except UnreadableImageError as error:
            return str(error)
        return ""

    @contextmanager
    def _reserved(self, num_bytes: float) -> Iterator[None]:
        """Wait until so much memory is free, or all of it for an image that needs more, and take it for the block."""
        taken = min(num_bytes, self._limit)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= taken)
            self._free -= taken
        try:
            yield
        finally:
            with self._changed:
                self._free += taken
                self._changed.notify_all()
