"""Every image decoded once, into one array."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.data.decoding import Size, UnreadableImageError, decode, in_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)

# Share of the free memory that decoded images may take; the rest is the network's.
_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class ImageStore:
    """Decoded images with their labels."""

    pixels: torch.Tensor
    """uint8 of shape (N, 3, height, width), on the host."""
    labels: torch.Tensor
    """int64 of shape (N,)."""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]


def decode_all(
    paths: Sequence[Path],
    labels: Sequence[int],
    size: Size,
    advance: Callable[[], None] = lambda: None,
) -> tuple[ImageStore, dict[int, str]]:
    """Decode images, all of the size `size`, side by side into one array.

    Args:
        paths: of N image files.
        labels: of each.
        size: (height, width) in pixels.
        advance: called once an image.

    Returns:
        The images that could be read, in order, and for each of the others its index and the reason.
    """
    pixels = _allocate((len(paths), 3, *size))
    unreadable: dict[int, str] = {}

    def work(index: int) -> str | None:
        try:
            image = decode(paths[index])
        except UnreadableImageError as error:
            return str(error)
        if image.shape[:2] != size:
            return f"it is {image.shape[1]}x{image.shape[0]}, though its header says {size[1]}x{size[0]}"
        pixels[index].copy_(torch.from_numpy(image.copy()).permute(2, 0, 1))
        return None

    for index, reason in enumerate(in_threads(work, len(paths))):
        if isinstance(reason, str):
            unreadable[index] = reason
        advance()
    kept_labels = torch.tensor(labels, dtype=torch.int64)
    if unreadable:
        kept = [index for index in range(len(paths)) if index not in unreadable]
        # Close the gaps in place: an advanced index would copy the whole array.
        for position, index in enumerate(kept):
            if position != index:
                pixels[position].copy_(pixels[index])
        pixels, kept_labels = pixels[: len(kept)], kept_labels[kept]
    return ImageStore(pixels, kept_labels), unreadable


def _allocate(shape: tuple[int, ...]) -> torch.Tensor:
    num_bytes = 1
    for length in shape:
        num_bytes *= length
    available = _available_memory_bytes()
    if num_bytes <= _MEMORY_SHARE * available:
        return torch.empty(shape, dtype=torch.uint8)
    logger.info(
        "%.1f GiB of images do not fit into memory (%.1f GiB free): they lie in a file under %s.",
        num_bytes / 2**30, available / 2**30, tempfile.gettempdir(),
    )  # fmt: skip
    with tempfile.NamedTemporaryFile(prefix="images-") as file:
        file.truncate(num_bytes)
        # The mapping outlives the name: the space comes back when the process ends, however it ends.
        return torch.from_file(file.name, shared=True, size=num_bytes, dtype=torch.uint8).view(shape)


def _available_memory_bytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")  # no Linux: let the allocation itself say
