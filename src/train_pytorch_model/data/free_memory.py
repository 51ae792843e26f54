"""The free memory of the machine, and the part of it that images may take."""

from __future__ import annotations

from pathlib import Path

MEMORY_FRACTION = 0.5
"""The fraction of the free memory that images may take where the program chooses. A network needs the rest."""
DECODING_BYTES_PER_PIXEL = 16
"""About what Pillow needs while it decodes an image."""


def available_memory_bytes() -> float:
    """Return the free memory of the host, or of the container if that is less."""
    found = [_free_of_host(), *(_free_of_group(*files) for files in _GROUP_FILES)]
    return min(found)


# The limit, the usage and the statistics of a container's memory, in the two versions of Linux control groups.
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
        return float("inf")  # not Linux; the allocation itself will fail


def _free_of_group(limit_file: str, usage_file: str, stat_file: str) -> float:
    try:
        limit = float(Path(limit_file).read_text(encoding="ascii"))
        usage = float(Path(usage_file).read_text(encoding="ascii"))
        stat = dict(line.split() for line in Path(stat_file).read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):  # there is no such group, or its limit is "max"
        return float("inf")
    # Cached files count as used memory but are evicted when memory is needed.
    return limit - usage + float(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
