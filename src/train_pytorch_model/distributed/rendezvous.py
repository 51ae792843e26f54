"""Connects the processes of a launch, and disconnects them after a success or a failure."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Callable

import torch
import torch.distributed

from train_pytorch_model.data.threads import num_cores
from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.distributed.watchdog import Watchdog
from train_pytorch_model.distributed.world import World, is_lost_peer
from train_pytorch_model.errors import ModuleError, UserError, as_module_error, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.distributed.launch import Launch

# For all nodes to start and to pull their container images.
_RENDEZVOUS_SECONDS = 600
# Numbers the trainings of this process; all processes of a launch run the same ones.
_calls = itertools.count()
# The processes reach each operation within a step at about the same time; the limit finds nodes that cannot connect.
_STEP_TIMEOUT = timedelta(minutes=30)


@contextmanager
def connected(
    launch: Launch,
    report: Callable[[ModuleError], None],
    notice: Callable[[ModuleError], None] = lambda fault: None,
) -> Iterator[World]:
    """Connect this process with the others of its launch while the block runs.

    Args:
        launch: from the environment.
        report: reports an error when the watchdog ends this process outside its main thread.
        notice: called with the error of another process as soon as it is known.

    Raises:
        ModuleError: the first error of any process.
    """
    if launch.world_size == 1:
        yield World(device=choose_device())
        return
    if torch.distributed.is_initialized():
        raise UserError(
            "torch.distributed is already initialized in this process, by your program or by a training that failed. "
            "Start the training in new processes."
        )
    call = next(_calls)
    # The watchdog ends processes that wait for a failed one, and reports the reason. NCCL would end them without one.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    # CUDA may take long to start, and holds the interpreter's lock: a watchdog would send no heartbeats. An error is
    # raised below, where the other processes learn of it.
    device, fault = _chosen_device(launch.local_rank)
    store = _rendezvous(launch, call)
    watchdog = Watchdog(
        _prefixed(_open_store(launch, is_server=False), launch, call, "watch"),
        launch.rank,
        launch.world_size,
        report,
        notice,
    )
    try:
        if fault is not None:
            raise fault
        torch.distributed.init_process_group(
            backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=_prefixed(store, launch, call, "group"),
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=_STEP_TIMEOUT,
        )
        world = World(launch.rank, launch.local_rank, launch.world_size, device)
        world.expect_failure = watchdog.expect_failure
        world.join()
        if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # More threads than cores would slow all processes down many times, because waiting threads spin.
            torch.set_num_threads(max(1, num_cores() // len(world.node)))
        yield world
        world.finish()
    except BaseException as error:
        settled = watchdog.settle(_named(error))
        if settled is error:
            raise
        raise settled from error
    watchdog.stop()
    torch.distributed.destroy_process_group()


def _chosen_device(local_rank: int) -> tuple[torch.device, Exception | None]:
    """Return the device of this process, and the error if it cannot be used."""
    try:
        return choose_device(local_rank), None
    except Exception as error:
        return torch.device("cpu"), error


def _rendezvous(launch: Launch, call: int) -> Any:
    """Wait until all processes have started; return the key-value store."""
    store = _open_store(launch, is_server=launch.rank == 0 and not launch.has_store)
    arrived = _prefixed(store, launch, call, "arrived")
    arrived.set(str(launch.rank), "1")
    deadline = time.monotonic() + _RENDEZVOUS_SECONDS
    missing = list(range(launch.world_size))
    while missing:
        missing = [rank for rank in missing if not arrived.check([str(rank)])]
        if missing and time.monotonic() > deadline:
            raise UserError(
                f"Ranks {missing} of {launch.world_size} processes did not connect to {launch.address}:{launch.port} "
                f"within {_RENDEZVOUS_SECONDS} s. Check their logs, and whether the nodes can reach each other."
            )
        time.sleep(0.05)
    return store


def _open_store(launch: Launch, *, is_server: bool) -> Any:
    try:
        return torch.distributed.TCPStore(  # type: ignore[attr-defined]
            launch.address,
            launch.port,
            launch.world_size,
            is_server,
            timeout=timedelta(seconds=_RENDEZVOUS_SECONDS),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError, OSError) as error:
        action = "listen" if is_server else "connect to rank 0"
        raise UserError(
            f"Rank {launch.rank} of {launch.world_size} processes cannot {action} at {launch.address}:{launch.port}: "
            f"{first_line(error)}. Launchers set the address in MASTER_ADDR and MASTER_PORT."
        ) from error


def _prefixed(store: Any, launch: Launch, call: int, name: str) -> Any:
    # torchrun keeps its store when it restarts the processes, and over several trainings of one program; entries of an
    # earlier attempt or training must not be read.
    return torch.distributed.PrefixStore(f"attempt-{launch.attempt}/call-{call}/{name}", store)  # type: ignore[attr-defined]


def _named(error: BaseException) -> ModuleError:
    if is_lost_peer(error):
        return UserError(
            f"Another process of this training was lost ({first_line(error)}): it was killed, ran out of memory, or "
            "its node failed. Run the same command again to resume from the last checkpoint."
        )
    return as_module_error(error)
