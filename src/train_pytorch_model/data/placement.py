"""Chooses where decoded images are stored, by the free space of each place, and allocates it."""

from __future__ import annotations

import gc
import logging
import math
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch

from train_pytorch_model.data.file_systems import is_disk_full
from train_pytorch_model.data.free_memory import DECODING_BYTES_PER_PIXEL, MEMORY_FRACTION, available_memory_bytes
from train_pytorch_model.errors import first_line
from train_pytorch_model.text.wording import bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

# The fraction of the free disk that "auto" may use. The model and the metrics may be written to the same disk.
_DISK_FRACTION = 0.9
_PIECE_BYTES = 2**24


class PlacementError(Exception):
    """Decoded images do not fit in the requested place; the message says how much is needed and free."""


def choose_place(wanted: str, num_bytes: int, device: torch.device) -> str:
    """Choose where decoded images are stored, and log it.

    Args:
        wanted: "device", "memory", "disk", "none", or "auto" for the first of them that has enough space.
        num_bytes: the size of all decoded images.
        device: the device that trains. If it is the CPU, "device" means "memory".

    Returns:
        "device", "memory", "disk" or "none".

    Raises:
        PlacementError: if the images do not fit in the requested place.
    """
    available = free_bytes(device)
    if wanted == "device" and "device" not in available:
        wanted = "memory"
    if wanted == "auto":
        fractions = {"device": MEMORY_FRACTION, "memory": MEMORY_FRACTION, "disk": _DISK_FRACTION}
        has_room = {name: num_bytes <= fractions[name] * free for name, free in available.items()}
        has_room["disk"] &= math.isfinite(available["disk"])  # or it is not known
        place = next((name for name, is_enough in has_room.items() if is_enough), "none")
    elif wanted != "none" and num_bytes > available[wanted]:
        raise PlacementError(
            f"--image-store {wanted} needs {bytes_in_words(num_bytes)} for the decoded images, "
            f"but {bytes_in_words(available[wanted])} are free there. Choose auto, or none to decode in every epoch."
        )
    else:
        place = wanted
    if place == "disk":
        place = _disk_if_usable(is_required=wanted == "disk")
    free_places = ", ".join(
        f"{name} {bytes_in_words(free)} free" if math.isfinite(free) else f"{name} unknown"
        for name, free in available.items()
    )
    if place == "none":
        logger.info("Image store none: images are decoded in every epoch (%s).", free_places)
    else:
        logger.info("Image store %s: %s of decoded images (%s).", place, bytes_in_words(num_bytes), free_places)
    return place


def _disk_if_usable(*, is_required: bool) -> str:
    """Map a small file as the images would be; return "disk", or "none" if that is impossible.

    Raises:
        PlacementError: if it is impossible and required.
    """
    try:
        with shared_rows("disk", (1,)) as shared:
            shared.open()
    except PlacementError as error:
        if is_required:
            raise
        logger.warning("The disk cannot hold decoded images: %s", error)
        return "none"
    return "disk"


def free_bytes(device: torch.device) -> dict[str, float]:
    """Return the free bytes of each place, fastest first; "device" only if it is a GPU."""
    of_device = {}
    if device.type == "cuda":
        # PyTorch keeps the memory of tensors that are gone, such as those of an earlier training in this process.
        gc.collect()
        torch.cuda.empty_cache()
        of_device = {"device": float(torch.cuda.mem_get_info(device)[0])}
    return {**of_device, "memory": available_memory_bytes(), "disk": _free_of_disk()}


def choose_host_place(num_bytes: int) -> str:
    """Choose where images are decoded before the processes of a node copy them to their GPUs: "memory" or "disk".

    Raises:
        PlacementError: if they fit in neither.
    """
    if num_bytes <= available_memory_bytes():
        return "memory"
    if num_bytes <= _free_of_disk():
        return "disk"
    raise PlacementError(
        f"{bytes_in_words(num_bytes)} of decoded images fit neither in the host's memory nor on its disk, from which "
        "the processes of a node copy them to their GPUs. Choose --image-store none, or start one process per node."
    )


def decoders_at_once(size: tuple[int, int]) -> int:
    """Return how many images of a size may be decoded at the same time."""
    of_one = DECODING_BYTES_PER_PIXEL * size[0] * size[1]
    return max(1, int(min(MEMORY_FRACTION * available_memory_bytes() / of_one, 2**16)))


def allocate(place: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Allocate an array for images, uint8 of the given shape, not initialized.

    Args:
        place: "device", "memory" or "disk".
        shape: the shape of the array.
        device: the device that trains.

    Raises:
        PlacementError: if the disk is full.
    """
    if place != "disk":
        return torch.empty(shape, dtype=torch.uint8, device=device if place == "device" else "cpu")
    # The file has no name while it is mapped, so its space is freed when the process ends, however it ends.
    with shared_rows(place, shape) as shared:
        return shared.open()


@dataclass(frozen=True)
class SharedRows:
    """An array for images that all processes of a node can open."""

    path: str
    shape: tuple[int, ...]

    def open(self) -> torch.Tensor:
        """Map the array, uint8 of the shape. What one process writes, all see.

        Raises:
            PlacementError: if the file system cannot map files.
        """
        num_bytes = torch.Size(self.shape).numel()
        try:
            return torch.from_file(self.path, shared=True, size=num_bytes, dtype=torch.uint8).view(self.shape)
        except (RuntimeError, OSError) as error:
            raise PlacementError(
                f"{bytes_in_words(num_bytes)} of decoded images cannot be mapped into memory: {first_line(error)}. "
                "Set TMPDIR to a folder on a local disk, or choose --image-store none."
            ) from error


@contextmanager
def shared_rows(place: str, shape: tuple[int, ...]) -> Iterator[SharedRows]:
    """Allocate an array that all processes of a node can open inside the block. It exists until the last closes it.

    Args:
        place: "memory" or "disk".
        shape: the shape of the array.

    Raises:
        PlacementError: if the disk is full.
    """
    num_bytes = torch.Size(shape).numel()
    has_descriptors = Path("/proc/self/fd").is_dir()
    with ExitStack() as stack:
        with _disk_errors_as_placement_errors(num_bytes):
            file = _memory_file() if place == "memory" and has_descriptors else None
            if file is not None:
                stack.enter_context(file).truncate(num_bytes)
            else:
                # Without a name if others can open it by descriptor, so that nothing remains when this process ends.
                make = tempfile.TemporaryFile if has_descriptors else tempfile.NamedTemporaryFile
                file = stack.enter_context(make(prefix="images-"))
                _reserve(file.fileno(), num_bytes)
        yield SharedRows(f"/proc/{os.getpid()}/fd/{file.fileno()}" if has_descriptors else file.name, shape)


def _memory_file() -> IO[bytes] | None:
    """Create a file in memory; None if the system has none. Unlike /dev/shm, it has no limit of its own."""
    try:
        return os.fdopen(os.memfd_create("images"), "r+b")
    except OSError as error:
        logger.debug("There are no files in memory: %s", error)
        return None


@contextmanager
def _disk_errors_as_placement_errors(num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PlacementError(
            f"{bytes_in_words(num_bytes)} of decoded images do not fit in the temporary folder: {error.strerror}. "
            "Set TMPDIR to a larger disk, or choose --image-store none."
        ) from error


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Allocate the blocks now: if the disk is full while a mapping is written, the process is killed."""
    try:
        if num_bytes:
            os.posix_fallocate(descriptor, 0, num_bytes)
    except (OSError, AttributeError) as error:  # other systems than Linux, and some file systems
        if isinstance(error, OSError) and is_disk_full(error):
            raise
        zeros = bytes(min(num_bytes, _PIECE_BYTES))
        for start in range(0, num_bytes, _PIECE_BYTES):
            os.pwrite(descriptor, zeros[: num_bytes - start], start)


def _free_of_disk() -> float:
    """Return the free bytes of the temporary folder; infinity if its file system does not tell."""
    try:
        usage = shutil.disk_usage(tempfile.gettempdir())
    except FileNotFoundError:  # there may be no writable folder
        return 0.0
    except OSError:
        return math.inf
    return float(usage.free) if usage.free or usage.total else math.inf
