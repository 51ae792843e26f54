"""Runs one step of a pipeline as processes on this machine, with its folder, variables and log."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from train_pytorch_model.error_report import ERROR_INFO_PATH
from train_pytorch_model.errors import ModuleError, StepFailedError
from train_pytorch_model.pipelines.programs import search_path
from train_pytorch_model.pipelines.snapshot import copy_snapshot

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from train_pytorch_model.pipelines.definition import Component

_POLL_SECONDS = 0.05
# Time between SIGTERM and SIGKILL.
_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class StepPlan:
    """Everything that is needed to run a step."""

    name: str
    component: Component
    command: str
    """The command with all values filled in."""
    folder: Path
    """The folder of the step: a copy of the code, the log and the record of its success."""
    variables: Mapping[str, str]
    run_folder: Path
    """The folder of the pipeline's run."""
    timeout: float = math.inf
    """Seconds after which it is stopped."""

    @property
    def log(self) -> Path:
        """The log of the first process."""
        return self.folder / "log.txt"

    @property
    def work(self) -> Path:
        """The working directory: a copy of the component's code, as in the cloud."""
        return self.folder / "work"


def run_step(plan: StepPlan, is_cancelled: threading.Event) -> None:
    """Run a step and wait for its end.

    Args:
        plan: the step to run.
        is_cancelled: stops the step early when it is set.

    Raises:
        StepFailedError: if the step fails, with the error that it reported, or else the last line of its log.
    """
    shutil.rmtree(plan.work, ignore_errors=True)
    copy_snapshot(plan.component, plan.run_folder, plan.work)
    # The report of an earlier run must not be mistaken for this run's.
    shutil.rmtree(plan.work / "outputs", ignore_errors=True)
    for name in ("outputs", "logs"):  # A job in Azure finds these folders.
        with contextlib.suppress(FileExistsError):
            (plan.work / name).mkdir()
    processes: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        try:
            for rank, variables in enumerate(_process_variables(plan.component)):
                log = stack.enter_context(_log_of(plan, rank).open("wb"))
                processes.append(_start(plan, variables, log))
            codes = _wait(processes, is_cancelled, time.monotonic() + plan.timeout)
        finally:
            _end(processes)
    if None in codes and not is_cancelled.is_set() and not any(codes):
        text = f"it ran longer than limits.timeout, {plan.timeout:g} seconds, and was stopped"
        raise StepFailedError(plan.name, "UserError", 2000, text, plan.log)
    failed = [(rank, code) for rank, code in enumerate(codes) if code]
    if failed:
        raise _error(plan, *failed[0])


def copy_artifacts(plan: StepPlan, outputs: Mapping[str, Path]) -> None:
    """Copy a step's `./outputs` to its output `artifacts`, which Azure fills if the command does not."""
    place = outputs.get("artifacts")
    if place is not None and place.is_dir() and not any(place.iterdir()):
        shutil.copytree(plan.work / "outputs", place / "outputs", dirs_exist_ok=True)


def make_place(path: Path, *, is_file: bool) -> None:
    """Make the empty folder that Azure mounts for an output, or the folder of the file to write."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    (path.parent if is_file else path).mkdir(parents=True, exist_ok=True)


def error_of_missing_file(step: str, output: str, path: Path, log: Path) -> StepFailedError:
    """Return the error of a step that did not write a file which it has as an output."""
    text = f"the command did not write a file to its output {output} of type uri_file, {path}."
    return StepFailedError(step, "UserError", 2000, text, log)


def _log_of(plan: StepPlan, rank: int) -> Path:
    return plan.log if rank == 0 else plan.log.with_name(f"log_{rank}.txt")


def _start(plan: StepPlan, variables: Mapping[str, str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **plan.variables, **variables}
    environment["PATH"] = search_path(environment.get("PATH", ""))
    return subprocess.Popen(
        ["bash", "-c", plan.command],
        cwd=plan.work,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _process_variables(component: Component) -> list[dict[str, str]]:
    """Environment variables of each process for `distribution: pytorch`; otherwise, one process without any."""
    if component.num_processes is None:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world_size = component.num_nodes * component.num_processes
    # Processes that each use all cores would slow each other down severely.
    num_threads = max(1, (os.cpu_count() or 1) // world_size)
    return [
        {
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(num_threads)),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world_size),
            "NODE_RANK": str(rank // component.num_processes),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank % component.num_processes),
        }
        for rank in range(world_size)
    ]


def _wait(processes: list[subprocess.Popen[bytes]], is_cancelled: threading.Event, deadline: float) -> list[int | None]:
    """Wait until all succeed, one fails, or the step is cancelled or late; return exit codes, None for running ones."""
    while not is_cancelled.is_set() and time.monotonic() < deadline:
        codes = [process.poll() for process in processes]
        if all(code is not None for code in codes) or any(codes):
            break
        time.sleep(_POLL_SECONDS)
    return [process.poll() for process in processes]


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    stopped = [process for process in processes if process.poll() is None]
    for sent in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in processes:
            # The whole process group, as children may outlive their parent.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, sent)
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
        # bash ends at once, while a program of several that it runs may still be saving its work.
        while any(map(_has_members, stopped)) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)


def _has_members(leader: subprocess.Popen[bytes]) -> bool:
    try:
        os.killpg(leader.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _error(plan: StepPlan, rank: int, code: int) -> ModuleError:
    report = plan.work / "outputs" / ERROR_INFO_PATH
    try:
        exception = json.loads(report.read_text(encoding="utf-8"))["Exception"]
        error_id, error_code, text = exception["ErrorId"], exception["ErrorCode"], exception["Message"]
        text = text[len(error_id) + 2 :] if text.startswith(f"{error_id}: ") else text
        return StepFailedError(plan.name, error_id, error_code, text, plan.log)
    except (OSError, ValueError, KeyError, TypeError):  # the step failed before it wrote a report
        log = _log_of(plan, rank)
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        end = lines[-1] if lines else "its log is empty"
        return StepFailedError(plan.name, "UserError", 2000, f"it ended with exit code {code}: {end}", log)
