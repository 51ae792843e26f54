"""Computes the probabilities of images with one network, in batches of equal image size."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Callable

import numpy as np
import torch

from train_pytorch_model.data.batches import normalised
from train_pytorch_model.data.decoding import Size, UnreadableImageError, decode, read_header
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.data.placement import decoders_at_once
from train_pytorch_model.data.threads import ahead, in_threads
from train_pytorch_model.errors import InvalidDatasetError, first_line
from train_pytorch_model.errors.library_faults import is_device_fault, is_out_of_memory
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.models.memory_format import preferred_memory_format
from train_pytorch_model.models.network import check_image_size, logits_of, output_for
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.text.wording import join_some
from train_pytorch_model.training.predictions import probabilities_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn

    from train_pytorch_model.ports.file_names import FileNames
    from train_pytorch_model.training.precision import Precision

# Bytes of pixels decoded at once: enough to keep all cores busy, and a bounded amount of memory.
_BLOCK_BYTES = 16 * 2**20


def _read_sizes(path: Path, files: FileNames, *, orients: bool) -> tuple[np.ndarray, dict[int, str]]:
    """Height and width of each image from its header, int32 of shape (N, 2), and the reasons for unreadable ones."""

    def work(index: int) -> Size | str:
        try:
            header = read_header(path / files[index])
        except UnreadableImageError as error:
            return str(error)
        return header.oriented_size if orients else header.size

    sizes = np.zeros((len(files), 2), dtype=np.int32)
    unreadable = {}
    for index, result in enumerate(in_threads(work, len(files))):
        if isinstance(result, str):
            unreadable[index] = result
        else:
            sizes[index] = result
    return sizes, unreadable


def _group(sizes: np.ndarray) -> dict[Size, np.ndarray]:
    """Indices of the images of each size, the most frequent size first, without those whose size is unknown."""
    readable = np.flatnonzero(sizes.any(axis=1))
    distinct, which, counts = np.unique(sizes[readable], axis=0, return_inverse=True, return_counts=True)
    parts = np.split(readable[np.argsort(which.ravel(), kind="stable")], np.cumsum(counts)[:-1])
    order = np.argsort(-counts, kind="stable")
    return {(int(distinct[index][0]), int(distinct[index][1])): parts[index] for index in order}


class ImageScorer:
    """Computes the probabilities of images, in batches of equal size of what the network sees."""

    def __init__(
        self,
        network: nn.Module,
        description: NetworkDescription,
        device: torch.device,
        precision: Precision,
        normalisation: tuple[list[float], list[float]] | None,
        geometry: Geometry | None,
        *,
        batch_size: int,
        task: str = MULTICLASS,
    ) -> None:
        """Keep the network.

        Args:
            network: in evaluation mode, on the device.
            description: the description that the network was built from.
            device: the device to compute on.
            precision: the precision to compute in.
            normalisation: mean and standard deviation of each channel, for pixels in [0, 1]; None for no normalisation.
            geometry: how images become what the network sees; None if it sees them as they are.
            batch_size: the largest number of images in a batch.
            task: MULTICLASS for the softmax of all classes, MULTILABEL for a sigmoid of each label.
        """
        self._network = network
        self._description = description
        self._memory_format: torch.memory_format | None = None
        self._device = device
        self._precision = precision
        self._geometry = geometry
        self._batch_size = batch_size
        self._task = task
        mean, std = normalisation or ([0.0] * 3, [1.0] * 3)
        self._mean, self._std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (mean, std))

    def score(
        self, path: Path, files: FileNames, where: str, advance: Callable[[], None], *, skip_unreadable: bool
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Score all images.

        Args:
            path: the folder of the dataset.
            files: names of the N images, relative to it.
            where: the dataset, for messages.
            advance: called once per image.
            skip_unreadable: whether to skip unreadable images instead of failing.

        Returns:
            Probabilities, float64 of shape (N, classes), NaN for unreadable images; and the reason for each of those,
            by index.

        Raises:
            InvalidDatasetError: if an image is unreadable and must not be skipped, if all images are unreadable, or if
                the network does not support their size.
        """
        geometry = self._geometry
        sizes, unreadable = _read_sizes(path, files, orients=geometry is not None and geometry.orients)
        if not skip_unreadable:
            _refuse(unreadable, files, where)
        by_size = _group(sizes)
        if by_size and geometry is not None and geometry.resize != "none":
            by_size = {geometry.size: np.flatnonzero(sizes.any(axis=1))}
        probabilities: np.ndarray | None = None
        try:
            self._check_sizes(list(by_size))
            for size, of_size in by_size.items():
                for indices, chunk, reasons in self._score_size(path, files, of_size, size, sizes):
                    if probabilities is None:
                        probabilities = np.full((len(files), chunk.shape[1]), np.nan)
                    probabilities[indices] = chunk
                    unreadable.update(reasons)
                    for _ in indices:
                        advance()
        except NetworkError as error:
            hint = "Transform them to the size of the training images."
            raise InvalidDatasetError(where, f"the network does not support {error}", hint) from error
        if probabilities is None or len(unreadable) == len(files) or not skip_unreadable:
            _refuse(unreadable, files, where)
        assert probabilities is not None  # there is at least one readable image
        probabilities[list(unreadable)] = np.nan
        return probabilities, unreadable

    @property
    def network(self) -> nn.Module:
        """The network."""
        return self._network

    @property
    def averages_mirrored(self) -> bool:
        """Whether the probabilities of an image are the mean of its own and those of its mirror image."""
        return self._geometry is not None and self._geometry.averages_mirrored

    def seen(self, path: Path, file: str, where: str) -> tuple[np.ndarray, torch.Tensor]:
        """Return an image as the network sees it.

        Args:
            path: the folder of the dataset.
            file: the name of the image, relative to it.
            where: the dataset, for messages.

        Returns:
            Its pixels, uint8 of shape (height, width, 3), and these normalized, float32 of shape (1, 3, height, width),
            on the device.

        Raises:
            InvalidDatasetError: if it cannot be read.
        """
        try:
            header = read_header(path / file)
            geometry = self._geometry or Geometry(header.size)
            if geometry.resize == "none":
                geometry = replace(geometry, size=header.oriented_size if geometry.orients else header.size)
            pixels = np.array(decode(path / file, geometry))
        except UnreadableImageError as error:
            raise InvalidDatasetError(where, f"{file!r} cannot be read any more: {error}") from error
        rows = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2).to(self._device)
        return pixels, normalised(rows, self._memory_format or torch.contiguous_format, self._mean, self._std)

    def _check_sizes(self, sizes: list[Size]) -> None:
        """Check the most frequent, the smallest and the largest size with the network on the meta device."""
        for size in dict.fromkeys([*sizes[:1], *([min(sizes), max(sizes)] if sizes else [])]):
            try:
                check_image_size(self._description, size, 1, None, torch.nn.Module.eval)
            except NetworkError as error:
                raise _wrong_size(size, error) from error

    @torch.no_grad()
    def _score_size(
        self, path: Path, files: FileNames, of_size: np.ndarray, size: Size, sizes: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray, dict[int, str]]]:
        """Indices, probabilities and the reasons for unreadable images, batch by batch."""
        if self._memory_format is None:
            self._memory_format = preferred_memory_format(self._network, size, self._device)
        num_images = max(1, _BLOCK_BYTES // (size[0] * size[1] * 3))
        geometry = replace(self._geometry or Geometry(size), size=size)
        blocks = np.split(of_size, range(num_images, len(of_size), num_images))

        def decode_block(block: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
            height, width = max(sizes[block].tolist(), key=math.prod)
            return _decode(path, files, block, geometry, num_threads=decoders_at_once((height, width)))

        # Decoding overlaps with a GPU's computation; on a CPU, both would compete for the same cores.
        decoded = ahead(decode_block, blocks, by=1) if self._device.type == "cuda" else map(decode_block, blocks)
        for block, (rows, reasons) in zip(blocks, decoded):
            for start in range(0, len(block), self._batch_size):
                batch = slice(start, start + self._batch_size)
                yield block[batch], self._probabilities(rows[batch], size, self._memory_format), reasons

    def _probabilities(self, rows: np.ndarray, size: Size, memory_format: torch.memory_format) -> np.ndarray:
        pixels = torch.from_numpy(rows).permute(0, 3, 1, 2).to(self._device)
        try:
            with self._precision.context():
                output = output_for(
                    self._network,
                    normalised(pixels, memory_format, self._mean, self._std),
                    averages_mirrored=self.averages_mirrored,
                    is_multilabel=self._task == MULTILABEL,
                )
        except Exception as error:
            if not is_out_of_memory(error) and not is_device_fault(error):
                self._check_sizes([size])  # raises if shapes alone explain the error
            raise
        probabilities: np.ndarray = probabilities_of(logits_of(output), self._task).double().cpu().numpy()
        return probabilities


def _decode(
    path: Path, files: FileNames, indices: np.ndarray, geometry: Geometry, *, num_threads: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Pixels, uint8 of shape (B, height, width, 3), and the reasons for unreadable images."""
    rows = np.zeros((len(indices), *geometry.size, 3), dtype=np.uint8)

    def work(position: int) -> str | None:
        try:
            rows[position] = decode(path / files[indices[position]], geometry)
        except UnreadableImageError as error:
            return str(error)
        return None

    results = enumerate(in_threads(work, len(indices), at_once=16, num_threads=num_threads))
    return rows, {int(indices[position]): reason for position, reason in results if reason is not None}


def _wrong_size(size: Size, error: Exception) -> NetworkError:
    return NetworkError(f"images of {size[1]}x{size[0]}: {first_line(error)}")


def _refuse(unreadable: dict[int, str], files: FileNames, where: str) -> None:
    if unreadable:
        listed = join_some([f"{files[index]!r}: {reason}" for index, reason in sorted(unreadable.items())])
        raise InvalidDatasetError(
            where,
            f"{len(unreadable)} of {len(files)} images cannot be read: {listed}",
            "Repair or remove them, or use --skip-unreadable-images to get rows with an error instead.",
        )
