"""Image stores: the images of a dataset, decoded once into one array or decoded again in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Protocol

import numpy as np
import torch

from train_pytorch_model.data.batches import sent
from train_pytorch_model.data.decoding import Size, UnreadableImageError, decode
from train_pytorch_model.data.placement import allocate, decoders_at_once
from train_pytorch_model.data.threads import ahead, in_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from train_pytorch_model.data.image_geometry import Geometry

Batch = tuple[torch.Tensor, torch.Tensor]
"""Pixels, uint8 of shape (B, 3, height, width), and labels: int64 of shape (B,), or float32 of shape (B, C)."""

_CPU = torch.device("cpu")
# The size of the host buffer in which images are decoded before they are copied to a GPU.
_STAGING_BYTES = 64 * 2**20


class ImageStore(Protocol):
    """Images and their labels."""

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""

    @property
    def labels(self) -> torch.Tensor:
        """int64 of shape (N,), or bool of shape (N, C), on the device of the images or the CPU."""

    def __len__(self) -> int:
        """Return the number of images."""

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        """Iterate over batches.

        Args:
            batches: the indices of the images of each batch, int64 of shape (B,), on the CPU.
            device: the device of the returned batches.
        """


@dataclass(frozen=True)
class DecodedImages:
    """Images that were decoded once, into host memory, a mapped file or GPU memory."""

    pixels: torch.Tensor
    """uint8 of shape (N, 3, height, width), in channels-last order if `decode_all` created it."""
    labels: torch.Tensor
    """int64 of shape (N,), or bool of shape (N, C), on the same device."""
    is_mapped: bool = False
    """Whether the pixels are in a mapped file, from which reading may be slow."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        """Iterate over batches; see `ImageStore`."""
        if self.pixels.is_cuda:
            return self._resident(batches)
        return _deliver(self._gather, batches, device, read_ahead=self.is_mapped)

    def to(self, device: torch.device) -> DecodedImages:
        """Return the same images on a device."""
        return DecodedImages(self.pixels.to(device), self.labels.to(device))

    def _resident(self, batches: Sequence[torch.Tensor]) -> Iterator[Batch]:
        """Gather batches on the GPU: all indices are copied at once, and nothing later waits for the host."""
        if not batches:  # a process may have none of a small dataset's batches
            return
        indices = sent(torch.cat(list(batches)), self.pixels.device)
        rows = self.pixels.permute(0, 2, 3, 1)
        for batch in torch.split(indices, [len(batch) for batch in batches]):
            yield rows.index_select(0, batch).permute(0, 3, 1, 2), _as_batch(self.labels.index_select(0, batch))

    def _gather(self, batch: torch.Tensor) -> Batch:
        # NumPy copies in this thread; torch would start a second OpenMP thread team here.
        rows = self.pixels.permute(0, 2, 3, 1).numpy()[batch.numpy()]
        return torch.from_numpy(rows).permute(0, 3, 1, 2), _as_batch(self.labels[batch])


@dataclass(frozen=True)
class EncodedImages:
    """Images that stay in their files and are decoded for every batch."""

    path_of: Callable[[int], Path]
    """Returns the file of the image at an index."""
    labels: torch.Tensor
    """int64 of shape (N,), or bool of shape (N, C), on the CPU."""
    geometry: Geometry
    """How an image becomes pixels of one size."""
    largest: Size
    """(height, width) of the largest image in its file, which bounds the memory for decoding."""

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.geometry.size

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        """Iterate over batches; see `ImageStore`.

        Raises:
            UnreadableImageError: if a file has changed since it was checked; the message names it.
        """
        return _deliver(self._decode, batches, device, read_ahead=True)

    def _decode(self, batch: torch.Tensor) -> Batch:
        rows = np.empty((len(batch), *self.size, 3), dtype=np.uint8)

        def work(position: int) -> None:
            path = self.path_of(int(batch[position]))
            try:
                rows[position] = decode(path, self.geometry)
            except UnreadableImageError as error:
                raise UnreadableImageError(f"{path}: {error}") from error

        for _ in in_threads(work, len(batch), at_once=1, num_threads=decoders_at_once(self.largest)):
            pass
        return torch.from_numpy(rows).permute(0, 3, 1, 2), _as_batch(self.labels[batch])


@dataclass(frozen=True)
class FilesAt:
    """Returns some of the files of a dataset. Unlike a closure, it can be pickled and sent to another process."""

    path_of: Callable[[int], Path]
    indices: np.ndarray

    def __call__(self, index: int) -> Path:
        """Return the file of the image at `index` among these files."""
        return self.path_of(int(self.indices[index]))


def _as_batch(labels: torch.Tensor) -> torch.Tensor:
    """Return labels as a batch has them: indices as they are, and whether an image has each label as float32."""
    return labels.float() if labels.dtype == torch.bool else labels


def _deliver(
    make: Callable[[torch.Tensor], Batch], batches: Sequence[torch.Tensor], device: torch.device, *, read_ahead: bool
) -> Iterator[Batch]:
    """Iterate over batches that are made on the host, in a thread ahead of the consumer if making them takes time."""
    if device.type != "cuda":
        return ahead(make, batches) if read_ahead else map(make, batches)

    def pinned(batch: torch.Tensor) -> Batch:
        # From pinned memory, the copy to the GPU is asynchronous.
        pixels, labels = make(batch)
        return pixels.pin_memory(), labels.pin_memory()

    return (
        (pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True))
        for pixels, labels in ahead(pinned, batches)
    )


def decode_all(
    path_of: Callable[[int], Path],
    labels: np.ndarray,
    geometry: Geometry,
    *,
    largest: Size | None = None,
    place: str = "memory",
    device: torch.device = _CPU,
    advance: Callable[[], None] = lambda: None,
    rows: torch.Tensor | None = None,
) -> tuple[ImageStore, dict[int, str]]:
    """Decode images in parallel into one array.

    Args:
        path_of: returns the file of the image at an index.
        labels: the labels, int64 of shape (N,), or bool of shape (N, C).
        geometry: how each image becomes pixels of one size.
        largest: (height, width) of the largest image in its file, which bounds the memory for decoding; None for the
            size of the geometry.
        place: "device", "memory" or "disk"; "none" decodes each image only to check it.
        device: the device that trains.
        advance: called once per image.
        rows: uint8 of shape (N, height, width, 3) on the CPU to decode into; allocated if None.

    Returns:
        The images that could be read, in order, and the index of each other image with the reason.

    Raises:
        PlacementError: if the disk is full.
    """
    unreadable: dict[int, str] = {}
    size, largest = geometry.size, largest or geometry.size
    at_once = decoders_at_once(largest)
    if rows is None:
        rows = allocate(place, (0 if place == "none" else len(labels), *size, 3), device)
    staging_images = max(1, _STAGING_BYTES // (size[0] * size[1] * 3)) if rows.is_cuda else len(labels)
    for start in range(0, len(labels), max(1, staging_images)):
        count = min(staging_images, len(labels) - start)
        if place == "none":
            target = None
        elif rows.is_cuda:
            target = torch.empty((count, *size, 3), dtype=torch.uint8, pin_memory=True).numpy()
        else:
            target = rows.numpy()
        for index, reason in enumerate(_decode_block(path_of, start, count, geometry, target, at_once), start):
            if reason is not None:
                unreadable[index] = reason
            advance()
        if rows.is_cuda and target is not None:
            rows[start : start + count].copy_(torch.from_numpy(target))
    kept = np.setdiff1d(np.arange(len(labels)), list(unreadable))
    kept_labels = torch.from_numpy(labels[kept])
    if place == "none":
        return EncodedImages(FilesAt(path_of, kept), kept_labels, geometry, largest), unreadable
    # Close the gaps in place; advanced indexing would copy the whole array.
    for position, index in enumerate(kept.tolist() if unreadable else ()):
        if position != index:
            rows[position].copy_(rows[index])
    pixels = rows[: len(kept)].permute(0, 3, 1, 2)
    return DecodedImages(pixels, kept_labels.to(rows.device), is_mapped=place == "disk"), unreadable


def _decode_block(
    path_of: Callable[[int], Path],
    start: int,
    count: int,
    geometry: Geometry,
    target: np.ndarray | None,
    at_once: int,
) -> Iterator[str | None]:
    """Decode `count` images from `start` into the first rows of `target`; yield None or why the image is unreadable."""

    def work(number: int) -> str | None:
        try:
            image = decode(path_of(start + number), geometry)
        except UnreadableImageError as error:
            return str(error)
        if target is not None:
            target[number] = image
        return None

    return in_threads(work, count, num_threads=at_once)
