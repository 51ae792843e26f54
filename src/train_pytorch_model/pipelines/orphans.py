"""Finds processes that an earlier run left behind, when it was killed and could not end them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

logger = logging.getLogger(__name__)

_GRACE_SECONDS = 10.0
_PROCESSES = Path("/proc")


def end_processes_of_run(run_id: str) -> None:
    """End the processes that log into a run of MLflow. They would write to the same folders as the next attempt.

    Only Linux says which environment variables a process has. On other systems, nothing is ended.
    """
    for sent in (signal.SIGTERM, signal.SIGKILL):
        found = _processes_of_run(run_id)
        if not found:
            return
        logger.warning("Processes of an interrupted trial are still running and are ended: %s.", sorted(found))
        for process in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, sent)
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline and _processes_of_run(run_id):
            time.sleep(0.1)


def _processes_of_run(run_id: str) -> set[int]:
    variable = f"MLFLOW_RUN_ID={run_id}".encode()
    found = set()
    for folder in _PROCESSES.iterdir() if _PROCESSES.is_dir() else ():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # It has ended, or belongs to another user.
                if variable in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
    return found - {os.getpid()}
