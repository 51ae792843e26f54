"""Runs a command and watches what it takes."""

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

# Reading a process's page tables stops it for some milliseconds: seldom enough not to slow what is measured.
_INTERVAL_SECONDS = 2.0


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    output: str
    host_bytes: int
    """Peak of its memory and that of its children, shared pages counted once (the kernel's Pss)."""
    anonymous_bytes: int
    """Peak of its own anonymous memory (the kernel's RssAnon)."""
    device_bytes: int
    """Peak of the GPU's memory in use, 0 without one."""


def run_watched(command: Sequence[object], interval_seconds: float = _INTERVAL_SECONDS) -> Usage:
    """Run a command to its end.

    Args:
        command: and its arguments.
        interval_seconds: between two looks at its memory.

    Raises:
        RuntimeError: with the end of its output when it fails.
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
    """Anonymous memory of this process."""
    return _kibibytes(os.getpid(), "status", "RssAnon:") * 1024


def _tree(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:  # it has just ended
                continue
    return found


def _kibibytes(pid: int, file: str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # as above
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key))


def _device_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]) * 2**20
