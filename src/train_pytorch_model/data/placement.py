"""Where decoded images can lie: what room there is, and which place to take."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch

from train_pytorch_model.text.wording import bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

# Share of the free memory that decoded images may take where a person did not choose; the rest is the network's.
_MEMORY_SHARE = 0.5
# Likewise of the disk; the rest is for the model and the metrics, should they lie there too.
_DISK_SHARE = 0.9


class PlacementError(Exception):
    """The images do not fit where they are wanted; the text says what is needed and what is there."""


def choose_place(wanted: str, num_bytes: int, device: torch.device) -> str:
    """Choose where decoded images are to lie, and log it.

    Args:
        wanted: "device", "memory", "disk", "none", or "auto" for the first of them that has the room.
        num_bytes: of all decoded images together.
        device: that trains. Where it is the CPU, its memory is the host's, and "device" means "memory".

    Returns:
        "device", "memory", "disk" or "none".

    Raises:
        PlacementError: when the images do not fit into the place asked for.
    """
    room = free_bytes(device)
    if wanted == "device" and "device" not in room:
        wanted = "memory"
    if wanted == "auto":
        share = {"device": _MEMORY_SHARE, "memory": _MEMORY_SHARE, "disk": _DISK_SHARE}
        place = next((name for name, free in room.items() if num_bytes <= share[name] * free), "none")
    elif wanted != "none" and num_bytes > room[wanted]:
        raise PlacementError(
            f"--image-store {wanted} needs {bytes_in_words(num_bytes)} for the decoded images, "
            f"but {bytes_in_words(room[wanted])} are free there. Choose auto, or none to decode in every epoch."
        )
    else:
        place = wanted
    free_places = ", ".join(f"{name} {bytes_in_words(free)} free" for name, free in room.items())
    if place == "none":
        logger.info("Image store none: images are decoded in every epoch (%s).", free_places)
    else:
        logger.info("Image store %s: %s of decoded images (%s).", place, bytes_in_words(num_bytes), free_places)
    return place


def free_bytes(device: torch.device) -> dict[str, float]:
    """Room in each place, the fastest first; "device" is among them when it has memory of its own."""
    of_device = {"device": float(torch.cuda.mem_get_info(device)[0])} if device.type == "cuda" else {}
    return {**of_device, "memory": available_memory_bytes(), "disk": _free_of_disk()}


def choose_host_place(num_bytes: int) -> str:
    """Where images that are on their way to several GPUs lie meanwhile: "memory" or "disk".

    Raises:
        PlacementError: when neither has the room.
    """
    if num_bytes <= available_memory_bytes():
        return "memory"
    if num_bytes <= _free_of_disk():
        return "disk"
    raise PlacementError(
        f"{bytes_in_words(num_bytes)} of decoded images have no room in the host's memory or on its disk, from where "
        "the processes of a node take them to their GPUs. Choose --image-store none, or start one process a node."
    )


def decoders_at_once(size: tuple[int, int]) -> int:
    """How many images of a size may be decoded side by side: Pillow takes some 16 bytes a pixel while it is at one."""
    return max(1, int(min(_MEMORY_SHARE * available_memory_bytes() / (16 * size[0] * size[1]), 2**16)))


def allocate(place: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Make room for images, uint8 of the given shape, not initialised.

    Args:
        place: "device", "memory" or "disk".
        shape: of the array.
        device: that trains.

    Raises:
        PlacementError: when the disk is full.
    """
    if place != "disk":
        return torch.empty(shape, dtype=torch.uint8, device=device if place == "device" else "cpu")
    # The mapping outlives the name: the space comes back when the process ends, however it ends.
    with shared_rows(place, shape) as shared:
        return shared.open()


@dataclass(frozen=True)
class SharedRows:
    """Room for images that all processes of a node can open."""

    path: str
    shape: tuple[int, ...]

    def open(self) -> torch.Tensor:
        """The images, uint8 of the shape, written by one process and seen by all."""
        num_bytes = torch.Size(self.shape).numel()
        return torch.from_file(self.path, shared=True, size=num_bytes, dtype=torch.uint8).view(self.shape)


@contextmanager
def shared_rows(place: str, shape: tuple[int, ...]) -> Iterator[SharedRows]:
    """Make room for images that all processes of a node open inside the block; it stays for as long as one has it open.

    Args:
        place: "memory" or "disk".
        shape: of the array.

    Raises:
        PlacementError: when the disk is full.
    """
    num_bytes = torch.Size(shape).numel()
    has_descriptors = Path("/proc/self/fd").is_dir()
    with ExitStack() as stack:
        with _disk_told(num_bytes):
            if place == "memory" and has_descriptors:
                # Not bound by the size of /dev/shm.
                file: IO[bytes] = stack.enter_context(open(os.memfd_create("images"), "r+b"))  # noqa: PTH123
                file.truncate(num_bytes)
            else:
                # Without a name, where others can do without, so that nothing stays however this process ends.
                make = tempfile.TemporaryFile if has_descriptors else tempfile.NamedTemporaryFile
                file = stack.enter_context(make(prefix="images-"))
                _reserve(file.fileno(), num_bytes)
        yield SharedRows(f"/proc/{os.getpid()}/fd/{file.fileno()}" if has_descriptors else file.name, shape)


@contextmanager
def _disk_told(num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PlacementError(
            f"No room for {bytes_in_words(num_bytes)} of decoded images in the temporary folder: {error.strerror}. "
            "Set TMPDIR to a larger disk, or choose --image-store none."
        ) from error


def _reserve(descriptor: int, num_bytes: int) -> None:
    """Take the blocks now: a disk found full while a mapping is written kills the process."""
    if num_bytes and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, num_bytes)
    else:
        os.truncate(descriptor, num_bytes)


def _free_of_disk() -> float:
    try:
        return float(shutil.disk_usage(tempfile.gettempdir()).free)
    except OSError:  # there may be no folder that can be written
        return 0.0


def available_memory_bytes() -> float:
    """Memory of the host that is free, or that the container may still take where that is less."""
    found = [_free_of_host(), *(_free_of_group(*files) for files in _GROUP_FILES)]
    return min(found)


# What a container may take and what it has taken, in the two versions of Linux's control groups.
_GROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def _free_of_host() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float("inf")  # no Linux: let the allocation itself say


def _free_of_group(limit_file: str, usage_file: str, stat_file: str) -> float:
    try:
        limit = float(Path(limit_file).read_text(encoding="ascii"))
        usage = float(Path(usage_file).read_text(encoding="ascii"))
        stat = dict(line.split() for line in Path(stat_file).read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return float("inf")
    # Cached files count as used, but make way when memory is asked for.
    return limit - usage + float(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
