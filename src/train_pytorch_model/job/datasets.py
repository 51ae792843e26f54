"""Reads the headers of a dataset, decodes its images, and reports those that cannot be read."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from train_pytorch_model.data.decoding import Header, Size, UnreadableImageError, read_header
from train_pytorch_model.data.findings import Files
from train_pytorch_model.data.image_store import FilesAt, ImageStore, decode_all
from train_pytorch_model.data.threads import in_threads
from train_pytorch_model.data.unreadable_images import write_unreadable_images
from train_pytorch_model.errors import TRAINING_DATASET, InvalidDatasetError, as_module_error
from train_pytorch_model.ports.labelled_images import count_labels
from train_pytorch_model.text.wording import FirstFew

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.data.image_geometry import Geometry
    from train_pytorch_model.ports.labelled_images import LabelledImages

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scanned:
    """A dataset whose headers have been read."""

    images: LabelledImages
    kept: np.ndarray
    """Indices of the images that can be read: int64 of shape (K,)."""
    unreadable: dict[int, str]
    """Index of each image that cannot be read, and the reason."""
    sizes: np.ndarray
    """(height, width) of each image in its file: int32 of shape (N, 2); 0 for a file that cannot be read."""
    oriented_sizes: np.ndarray
    """The same in the orientation that the EXIF metadata name."""
    has_wide_values: np.ndarray
    """Whether the values of each image may need more than 8 bits: bool of shape (N,)."""
    file_bytes: np.ndarray
    """Size of each file: int64 of shape (N,); 0 for a file that cannot be read."""
    digest: str
    """SHA-256 of the files, their sizes in bytes, and their labels."""
    geometry: Geometry | None = None
    """How images become the pixels that the network sees in evaluation; None before it is chosen, or if no image can be
    read."""
    has_margin: bool = False
    """Whether the decoded images have the margin of the geometry around them, for random crops."""

    @property
    def stored_geometry(self) -> Geometry | None:
        """How images become the pixels that are stored."""
        return self.geometry.with_margin() if self.geometry and self.has_margin else self.geometry

    @property
    def size(self) -> Size | None:
        """(height, width) of the stored images in pixels."""
        geometry = self.stored_geometry
        return geometry.size if geometry else None

    def sizes_of_kept(self, *, orients: bool) -> np.ndarray:
        """Return (height, width) of each kept image in its file, in its EXIF orientation if `orients`."""
        kept: np.ndarray = (self.oriented_sizes if orients else self.sizes)[self.kept]
        return kept

    @property
    def num_bytes(self) -> int:
        """Size of the decoded images."""
        return 0 if self.size is None else len(self.kept) * self.size[0] * self.size[1] * 3

    def counts(self) -> np.ndarray:
        """Return the number of kept images of each class or label: int64 of shape (number of classes,)."""
        return count_labels(self.images.labels[self.kept], len(self.images.classes))

    def name_of(self, number: int) -> str:
        """Return the file of an image by its index among the kept images."""
        return self.images.files[int(self.kept[number])]

    def files(self) -> Files:
        """Return the files of the kept images."""
        return Files(FilesAt(self.images.path_of, self.kept), self.file_bytes[self.kept])


def scan(images: LabelledImages) -> Scanned:
    """Read every header. Files that are missing or are no images are listed in `Scanned.unreadable`."""
    num_bytes = np.zeros(len(images), dtype=np.int64)

    def work(index: int) -> Header | str:
        path = images.path_of(index)
        try:
            header = read_header(path)
            num_bytes[index] = path.stat().st_size
        except (UnreadableImageError, OSError) as error:
            return str(error)
        return header

    sizes, oriented = np.zeros((2, len(images), 2), dtype=np.int32)
    has_wide_values = np.zeros(len(images), dtype=bool)
    unreadable: dict[int, str] = {}
    for index, result in enumerate(in_threads(work, len(images))):
        if isinstance(result, str):
            unreadable[index] = result
        else:
            sizes[index], oriented[index] = result.size, result.oriented_size
            has_wide_values[index] = result.has_wide_values
    kept = np.flatnonzero(sizes.all(axis=1))
    digest = digest_of(images, num_bytes)
    return Scanned(images, kept, unreadable, sizes, oriented, has_wide_values, num_bytes, digest)


def digest_of(images: LabelledImages, num_bytes: np.ndarray) -> str:
    """Return the SHA-256 of the files, their sizes in bytes (int64 of shape (N,)), and their labels."""
    digest = hashlib.sha256(json.dumps(images.classes).encode())
    for part in (bytes(images.files), num_bytes.tobytes(), images.labels.tobytes()):
        digest.update(part)
    return digest.hexdigest()


def decode(
    scanned: Scanned, place: str, device: torch.device, display: ProgressDisplay, rows: torch.Tensor | None = None
) -> tuple[ImageStore, Scanned]:
    """Decode the images of a scanned dataset.

    Args:
        scanned: a dataset with a geometry.
        place: where to keep the images, from `choose_place`.
        device: the device that trains.
        display: shows the progress.
        rows: memory to decode into: uint8 of shape (K, height, width, 3); allocated at the place if None.

    Returns:
        The images that could be read, and the dataset without the others.
    """
    images, kept = scanned.images, scanned.kept
    geometry = scanned.stored_geometry
    if geometry is None:
        raise AssertionError("no geometry was chosen")
    sizes = scanned.sizes_of_kept(orients=False)
    height, width = sizes[sizes.prod(axis=1, dtype=np.int64).argmax()].tolist()
    with display.images(images.port, "decoded", len(kept)) as advance:
        store, failed = decode_all(
            FilesAt(images.path_of, kept),
            images.labels[kept],
            geometry,
            largest=(height, width),
            place=place,
            device=device,
            advance=advance,
            rows=rows,
        )
    unreadable = {int(kept[index]): reason for index, reason in failed.items()}
    readable = np.setdiff1d(kept, list(unreadable))
    return store, replace(scanned, kept=readable, unreadable={**scanned.unreadable, **unreadable})


def report_unreadable(
    images: LabelledImages, unreadable: dict[int, str], outputs_path: Path | None, *, skip: bool
) -> None:
    """Report images that cannot be read: an error, or with `skip` a warning and a list in the outputs folder.

    Args:
        images: the dataset.
        unreadable: index of each such image, and the reason.
        outputs_path: the folder; None in a process that writes nothing.
        skip: whether to skip these images.

    Raises:
        InvalidDatasetError: if there are any and they must not be skipped, or if no image can be read.
        ModuleError: if the list cannot be written.
    """

    def listed() -> Iterable[tuple[str, str]]:  # an iterator, because there may be millions
        return ((images.files[index], unreadable[index]) for index in sorted(unreadable))

    if unreadable:
        count = f"{len(unreadable)} of {len(images)} images cannot be read"
        text = FirstFew(f"{file!r}: {reason}" for file, reason in listed()).joined()
        if not skip:
            raise InvalidDatasetError(
                images.where,
                f"{count}: {text}",
                "Repair or remove them, or skip them with --skip-unreadable-images.",
            )
        where_listed = ""
        if outputs_path is not None:
            keep_others = images.port != TRAINING_DATASET
            try:
                list_path = write_unreadable_images(outputs_path, images.port, listed(), keep_others=keep_others)
            except OSError as error:
                raise as_module_error(error) from error
            where_listed = f" All are listed in {list_path}."
        logger.warning("%s: %s and are skipped: %s.%s", images.where, count, text, where_listed)
    if len(unreadable) == len(images):
        raise InvalidDatasetError(images.where, f"none of its {len(images)} images can be read")
