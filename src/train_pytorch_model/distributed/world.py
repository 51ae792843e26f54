"""The processes that train together, and their collective operations.

They use NCCL for tensors on GPUs, and gloo for tensors on CPUs and for decisions that all processes make together.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar

import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from train_pytorch_model.distributed.device import find_shared_gpus, gpu_identity
from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

T = TypeVar("T")

# Practically unlimited: the watchdog finds lost processes, and decoding may take hours.
_TIMEOUT = timedelta(days=7)
_LOST_PEER = (
    *("connection closed", "connection reset", "connection was likely closed", "broken pipe", "timed out waiting"),
    *("remote process exited", "ncclremoteerror"),
)


class World:
    """The processes that train together, as one of them sees them."""

    def __init__(
        self, rank: int = 0, local_rank: int = 0, world_size: int = 1, device: Optional[torch.device] = None
    ) -> None:
        """Describe this process. With several processes, `join` must be called before any collective operation.

        Args:
            rank: of this process, 0 … world_size - 1.
            local_rank: rank among the processes of the same node.
            world_size: number of processes.
            device: the device that this process trains on; the CPU by default.
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
        """Tells the watchdog that this process has failed and needs time to save the best model."""

    @property
    def is_alone(self) -> bool:
        """Whether there is a single process."""
        return self.world_size == 1

    @property
    def is_main(self) -> bool:
        """Whether this process has rank 0, which writes files and logs."""
        return self.rank == 0

    @property
    def is_leader(self) -> bool:
        """Whether this process decodes the images for its node."""
        return self.rank == self.node[0]

    def join(self) -> None:
        """Find out which processes share a node, and create the process groups. All processes call this method.

        Raises:
            UserError: when only some processes have a GPU, or two processes use the same one.
        """
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
            raise UserError(f"Ranks {without} have no GPU but other ranks do. Repair or exclude their nodes.")
        shared = find_shared_gpus(hosts)
        if shared:
            raise UserError(f"Several processes use the same GPU: {shared}. Start one process for each GPU of a node.")

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of ranks."""
        if self.is_alone:
            return [value]
        values: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(values, value, group=self._control)
        return values

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0."""
        return value if self.is_alone else self._broadcast_object(value, 0, self._control)

    def broadcast_on_node(self, value: T) -> T:
        """Return the value of the leader of this node."""
        return value if len(self.node) == 1 else self._broadcast_object(value, self.node[0], self._node_group)

    def _broadcast_object(self, value: T, source: int, group: Any) -> T:
        holder: list[Any] = [value if self.rank == source else None]
        torch.distributed.broadcast_object_list(holder, src=source, group=group)
        return holder[0]  # type: ignore[no-any-return]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes, on the CPU."""
        values = values.to("cpu", copy=True)
        if not self.is_alone:
            torch.distributed.all_reduce(values, group=self._control)
        return values

    def broadcast_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite the tensors of the other processes with those of rank 0."""
        if not self.is_alone:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, src=0)

    def any_of(self, flags: Sequence[bool]) -> tuple[bool, ...]:
        """Return for each flag whether it is set in any process.

        With several processes, the result is that of the previous call: the reduction runs while the processes compute,
        so that none waits for it, and all processes see the result at the same step.
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
        """Return a module that averages gradients over all processes; all start from the weights of rank 0.

        Args:
            network: on the device; trained in place.
            sync_batch_norm: compute batch normalization statistics over the batches of all processes; GPUs only.
            has_unused: whether some parameters may receive no gradient in a step, as in a user's own network.
        """
        if self.is_alone:
            return network
        if sync_batch_norm:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        self.broadcast_tensors(network.buffers())
        return DistributedDataParallel(
            network,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            find_unused_parameters=has_unused,
            # The buffers of known networks are statistics that training does not read, and those of rank 0 are kept. A
            # user's own network may read its buffers.
            broadcast_buffers=has_unused,
            gradient_as_bucket_view=True,
        )

    def finish(self) -> None:
        """Wait until all processes call this method. Only for several processes."""
        if self._pending is not None:
            self._pending[0].wait()
        torch.distributed.barrier(group=self._control)


def is_lost_peer(error: BaseException) -> bool:
    """Return whether an operation failed because another process is gone."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _LOST_PEER)


def _boot() -> str:
    """Return Linux's unique identifier of the current boot: different hosts may have the same name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _process_namespace() -> str:
    """Return Linux's process namespace: two containers on one host cannot open each other's files."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
