"""Starts a command where a folder is a small disk."""

from __future__ import annotations

import os
from pathlib import Path

# A user's own mounts, so that a small disk can be had; root needs no other user for that.
SMALL_DISK = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")


def on_small_disk(path: Path, size: str) -> tuple[str, ...]:
    """What to start a command by, so that `path` is a disk of its own of this size."""
    path.mkdir(parents=True)
    mount = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'
    return (*SMALL_DISK, "sh", "-c", mount, "sh", size, str(path))
