"""The one door to torch.distributed: the processes that train together.

On GPUs they speak through NCCL, on CPUs through gloo; whatever is decided together goes through gloo on both.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from train_pytorch_model.data.threads import num_cores
from train_pytorch_model.distributed.device import choose_device, find_shared_gpus, gpu_identity
from train_pytorch_model.distributed.watchdog import Watch
from train_pytorch_model.errors import ModuleError, UserError, as_module_error, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from train_pytorch_model.distributed.launch import Launch

logger = logging.getLogger(__name__)

T = TypeVar("T")

# To start on all nodes, images of containers loaded.
_MEETING_SECONDS = 600
# Nothing that is waited for takes so long, and a process that is lost is found out by the watch.
_TIMEOUT = timedelta(days=7)
# Within a step all processes come together at once; nodes that do not reach each other are found out when they connect.
_STEP_TIMEOUT = timedelta(minutes=30)
_LOST_PEER = (
    *("connection closed", "connection reset", "connection was likely closed", "broken pipe", "timed out waiting"),
    *("remote process exited", "ncclremoteerror"),
)


class World:
    """The processes that train together, and this one among them."""

    def __init__(
        self, rank: int = 0, local_rank: int = 0, world_size: int = 1, device: Optional[torch.device] = None
    ) -> None:
        """Describe a process; one alone needs no more.

        Args:
            rank: of this process, 0 … world_size - 1.
            local_rank: likewise on its node.
            world_size: number of processes.
            device: that this one trains on; the CPU when left out.
        """
        self.rank = rank
        self.local_rank = local_rank
        self.world_size = world_size
        self.device = device or torch.device("cpu")
        self.node: tuple[int, ...] = (rank,)
        """Ranks of the processes on this node; the first of them leads it."""
        self._control: Any = None
        self._node_group: Any = None
        self._pending: tuple[Any, torch.Tensor] | None = None
        self.expect_failure: Callable[[], None] = lambda: None
        """To call before what takes time once this process has failed."""

    @property
    def is_alone(self) -> bool:
        """Whether there is one process."""
        return self.world_size == 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    @property
    def is_leader(self) -> bool:
        """Whether this process decodes the images for its node."""
        return self.rank == self.node[0]

    def join(self) -> None:
        """Find out who shares a node, and make the groups that speak with each other. All processes call it."""
        host = f"{socket.gethostname()} {_boot()} {_process_namespace()}"
        hosts: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(hosts, (host, gpu_identity(self.device)))
        self._control = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT)
        for name in dict.fromkeys(host for host, _ in hosts):
            ranks = [rank for rank, (other, _) in enumerate(hosts) if other == name]
            group = torch.distributed.new_group(ranks, backend="gloo", timeout=_TIMEOUT)
            if self.rank in ranks:
                self.node, self._node_group = tuple(ranks), group
        if len({gpu is None for _, gpu in hosts}) > 1:
            without = [rank for rank, (_, gpu) in enumerate(hosts) if gpu is None]
            raise UserError(
                f"Some processes have a GPU, and these have none: {without}. Mend or leave out their nodes."
            )
        shared = find_shared_gpus(hosts)
        if shared:
            raise UserError(f"Two processes are on one GPU: {shared}. Start one process for each GPU of a node.")

    def gather(self, value: T) -> list[T]:
        """What each process gives, in the order of ranks."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value, group=self._control)
        return values

    def broadcast(self, value: T) -> T:
        """What process 0 gives."""
        return value if self.is_alone else self._broadcast_object(value, 0, self._control)

    def broadcast_on_node(self, value: T) -> T:
        """What the leader of this node gives."""
        return value if len(self.node) == 1 else self._broadcast_object(value, self.node[0], self._node_group)

    def _broadcast_object(self, value: T, source: int, group: Any) -> T:
        holder: list[Any] = [value if self.rank == source else None]
        torch.distributed.broadcast_object_list(holder, src=source, group=group)
        return holder[0]  # type: ignore[no-any-return]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, on the CPU."""
        values = values.to("cpu", copy=True)
        if not self.is_alone:
            torch.distributed.all_reduce(values, group=self._control)
        return values

    def broadcast_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors of the other processes with process 0's."""
        if not self.is_alone:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def any_of(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """For each flag whether a process has raised it.

        With several processes, the answer is that of the call before: it travels while they compute, so that nobody
        waits for it, and all of them see it at the same step.
        """
        if self.is_alone:
            return tuple(flags)
        pending = self._pending
        values = torch.tensor(flags, dtype=torch.int32)
        operation = torch.distributed.ReduceOp.MAX
        work = torch.distributed.all_reduce(values, operation, group=self._control, async_op=True)
        self._pending = (work, values)
        if pending is None:
            return (False,) * len(flags)
        pending[0].wait()
        return tuple(bool(value) for value in pending[1])

    def parallel(self, network: nn.Module, *, sync_batch_norm: bool = False, has_unused: bool = False) -> nn.Module:
        """The network whose gradients are the mean over all processes; starts from process 0's weights.

        Args:
            network: on the device; trained in place.
            sync_batch_norm: normalise over the batches of all processes; GPUs only.
            has_unused: whether a step may leave out some of its weights.
        """
        if self.is_alone:
            return network
        if sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=device_ids, find_unused_parameters=has_unused)

    def finish(self) -> None:
        """Wait until all of several have come here and nothing is under way."""
        if self._pending is not None:
            self._pending[0].wait()
        torch.distributed.barrier(group=self._control)


@contextmanager
def connected(
    launch: Launch,
    report: Callable[[ModuleError], None],
    notice: Callable[[ModuleError], None] = lambda fault: None,
) -> Iterator[World]:
    """Connect this process with the others of its launch, for as long as they work together.

    Args:
        launch: from the environment.
        report: tells the user of a fault when this process must be ended from outside its main thread.
        notice: hears of a fault of another process as soon as it is known.

    Raises:
        ModuleError: the first fault of any of the processes.
    """
    if launch.world_size == 1:
        yield World(device=choose_device())
        return
    # A process blocked for want of another is ended by the watch, which tells why; NCCL's own way would tell nothing.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    store = _meet(launch)
    watch = Watch(
        _prefixed(_open_store(launch, is_server=False), launch, "watch"),
        launch.rank,
        launch.world_size,
        report,
        notice,
    )
    try:
        device = choose_device(launch.local_rank)
        torch.distributed.init_process_group(
            backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=_prefixed(store, launch, "group"),
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=_STEP_TIMEOUT,
        )
        world = World(launch.rank, launch.local_rank, launch.world_size, device)
        world.expect_failure = watch.expect_failure
        world.join()
        if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
            # Threads that spin while they wait for a core of their own would slow each other many times over.
            torch.set_num_threads(max(1, num_cores() // len(world.node)))
        yield world
        world.finish()
    except BaseException as error:
        raise watch.settle(_named(error)) from error
    watch.stop()
    torch.distributed.destroy_process_group()


def _meet(launch: Launch) -> Any:
    """Wait until all processes are there."""
    store = _open_store(launch, is_server=launch.rank == 0 and not launch.has_store)
    arrived = _prefixed(store, launch, "arrived")
    arrived.set(str(launch.rank), "1")
    deadline = time.monotonic() + _MEETING_SECONDS
    missing = list(range(launch.world_size))
    while missing:
        missing = [rank for rank in missing if not arrived.check([str(rank)])]
        if missing and time.monotonic() > deadline:
            raise UserError(
                f"{launch.world_size} processes were to meet at {launch.address}:{launch.port}, but after "
                f"{_MEETING_SECONDS} s these have not come: {missing}. See their logs, and whether the nodes reach "
                "each other."
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
            timeout=timedelta(seconds=_MEETING_SECONDS),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError, OSError) as error:
        doing = "listen" if is_server else "reach process 0"
        raise UserError(
            f"Process {launch.rank} of {launch.world_size} cannot {doing} at {launch.address}:{launch.port}: "
            f"{first_line(error)}. The launcher names the place in MASTER_ADDR and MASTER_PORT."
        ) from error


def _prefixed(store: Any, launch: Launch, name: str) -> Any:
    # torchrun keeps its store over restarts; what an earlier attempt left there must not be read.
    return torch.distributed.PrefixStore(f"attempt-{launch.attempt}/{name}", store)  # type: ignore[attr-defined]


def _named(error: BaseException) -> ModuleError:
    if is_lost_peer(error):
        return UserError(
            f"Another process of this training is lost ({first_line(error)}): it was ended from outside, its memory "
            "ran out or its node is gone. Run the same command again: it goes on from the last checkpoint."
        )
    return as_module_error(error)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an operation failed for want of another process."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _LOST_PEER)


def _boot() -> str:
    """Hosts may have one name; Linux gives each start of each host a number."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _process_namespace() -> str:
    """Two containers of one host cannot open each other's files; Linux tells them apart."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
