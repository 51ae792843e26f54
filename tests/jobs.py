"""Runs the real command in processes of its own, one or several, and interrupts them."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.making import ROOT, Inputs
from tests.processes import Forked

# Far more than anything here takes; a job that hangs must end a test, not the machine.
PATIENCE_SECONDS = 240.0

TORCHRUN = "torch.distributed.run"

_started: list[Job] = []
# Below the range that the kernel chooses from, so that no other process gets a port before it is used.
_ports = itertools.count(10_000 + os.getpid() * 997 % 20_000)


def end_all() -> None:
    """End what a test has left running."""
    while _started:
        job = _started.pop()
        job.send(signal.SIGKILL)
        for process in job.processes:
            process.wait()


def free_port() -> int:
    """A port that nothing listens on, another one at each call."""
    while True:
        port = next(_ports)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def process_variables(count: int, launcher: str = "pytorch") -> list[dict[str, str]]:
    """What a launcher of Azure's sets for each of `count` processes on one node."""
    port = str(free_port())
    if count == 1:
        # Threads that spin for a core would make a busy machine slower than any limit here allows.
        return [{"OMP_NUM_THREADS": "1"}]
    if launcher == "mpi":
        return [
            {
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_SIZE": str(count),
                "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
                "OMPI_COMM_WORLD_LOCAL_SIZE": str(count),
                "AZ_BATCH_MASTER_NODE": f"127.0.0.1:{port}",
            }
            for rank in range(count)
        ]
    return [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        for rank in range(count)
    ]


class Job:
    """Processes of one job, started and not yet ended."""

    def __init__(
        self,
        path: Path,
        arguments: list[str],
        count: int = 1,
        launcher: str = "pytorch",
        prefix: tuple[str, ...] = (),
        first: str = "",
    ) -> None:
        """Start it.

        Args:
            path: where it runs and its logs lie.
            arguments: of `python -m`.
            count: number of processes.
            launcher: whose variables they get.
            prefix: what `python` is started by; without it, the processes are forked.
            first: Python code that forked processes run before the module.
        """
        _started.append(self)
        self.logs = [path / f"log_{rank}.txt" for rank in range(count)]
        self.processes: list[subprocess.Popen[bytes] | Forked] = []
        for log, own in zip(self.logs, process_variables(count, launcher)):
            environment = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
            log.write_bytes(b"")
            # torchrun starts processes itself, by Python's name.
            if not prefix and arguments[0] != TORCHRUN:
                self.processes.append(Forked(arguments, environment, path, log, log, first))
                continue
            with log.open("wb") as file:
                self.processes.append(
                    subprocess.Popen(
                        [*prefix, sys.executable, "-m", *arguments],
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        cwd=path,
                    )
                )

    def log(self, rank: int = 0) -> str:
        """What a process has said so far."""
        return self.logs[rank].read_text(encoding="utf-8", errors="replace")

    def until(self, has_come: Callable[[], object]) -> bool:
        """Wait until something has come, or all processes have ended; say whether it came."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if has_come():
                return True
            if all(process.poll() is not None for process in self.processes):
                return bool(has_come())
            time.sleep(0.002)
        self.send(signal.SIGKILL)
        raise AssertionError(f"it did not come:\n{self.log()}")

    def send(self, number: signal.Signals, rank: int | None = None) -> None:
        """Send a signal to one process, or to all."""
        for process in self.processes if rank is None else [self.processes[rank]]:
            process.send_signal(number)

    def wait(self) -> list[int]:
        """The exit codes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            return [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        finally:
            self.send(signal.SIGKILL)


def train_job(
    inputs: Inputs,
    count: int = 1,
    launcher: str = "pytorch",
    prefix: tuple[str, ...] = (),
    first: str = "",
    **flags: object,
) -> Job:
    """Start a training."""
    return Job(inputs.path, ["train_pytorch_model", *inputs.arguments(**flags)], count, launcher, prefix, first)


def results(inputs: Inputs) -> tuple[bytes, bytes]:
    """The bytes of the weights and of the metrics that a training has left."""
    return (inputs.trained / "model").read_bytes(), (inputs.outputs / "metrics.jsonl").read_bytes()
