"""Runs a command and measures its time and memory."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

# Reading a process's page tables stops it for some milliseconds, so they are not read more often.
_INTERVAL_SECONDS = 2.0


@dataclass(frozen=True)
class Usage:
    """Time and memory of a command."""

    seconds: float
    output: str
    host_bytes: int
    """Peak memory of the process and its children; shared pages count once (the kernel's Pss)."""
    anonymous_bytes: int
    """Peak anonymous memory of the process (the kernel's RssAnon)."""
    device_bytes: int
    """Peak of the GPU's used memory; 0 without a GPU."""


def run_watched(command: Sequence[object], interval_seconds: float = _INTERVAL_SECONDS) -> Usage:
    """Run a command until it ends.

    Args:
        command: the program and its arguments.
        interval_seconds: between two readings of its memory.

    Raises:
        RuntimeError: when the command fails; it contains the end of the output.
    """
    host = anonymous = device = 0
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            host = max(host, sum(_kibibytes(pid, "smaps_rollup", "Pss:") for pid in _tree(process.pid)) * 1024)
            anonymous = max(anonymous, _kibibytes(process.pid, "status", "RssAnon:") * 1024)
            device = max(device, _device_bytes())
            with suppress(subprocess.TimeoutExpired):
                process.wait(interval_seconds)
        seconds = time.perf_counter() - started
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}:\n{text[-3000:]}")
    return Usage(seconds, text, host, anonymous, device)


def own_anonymous_bytes() -> int:
    """Return the anonymous memory of this process."""
    return _kibibytes(os.getpid(), "status", "RssAnon:") * 1024


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:  # the process has just ended
                continue
    return found


def _kibibytes(pid: int, file: str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # see above
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key))


def _device_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20
