"""The environment variables of launchers: rank, world size, and the address of rank 0.

torchrun and Azure's PyTorch launcher set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; Azure's MPI
launcher sets Open MPI's variables and, on several nodes, AZ_BATCH_MASTER_NODE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The port in Azure's examples for MPI jobs, for launchers that set none.
_DEFAULT_PORT = 6105


@dataclass(frozen=True)
class Launch:
    """One process of a distributed run, as its launcher describes it."""

    rank: int = 0
    """0 … world_size - 1."""
    local_rank: int = 0
    """Rank among the processes of the same node."""
    world_size: int = 1
    address: str = ""
    """Host name or address of rank 0; empty for a single process."""
    port: int = 0
    has_store: bool = False
    """Whether the launcher itself (torchrun), and not rank 0, serves the key-value store at that address."""
    attempt: int = 0
    """How many times torchrun has restarted the processes."""


def read_launch(environ: Mapping[str, str]) -> Launch:
    """Read RANK and WORLD_SIZE if they are set, else Open MPI's variables; without both, return a single process.

    Raises:
        UserError: when variables are missing or contradict each other; it names them.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    elif "OMPI_COMM_WORLD_SIZE" in environ:
        names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    else:
        return Launch()
    if environ.get(names[1], "1") == "1":
        return Launch()
    rank, world_size, local_rank = (_number(environ, name) for name in names)
    if not (0 <= rank < world_size and 0 <= local_rank <= rank):
        raise UserError(
            f"The launcher's variables contradict each other: {names[0]} is {rank}, {names[1]} {world_size}, "
            f"{names[2]} {local_rank}. Start the processes with torchrun or one of Azure's launchers."
        )
    address, port = _address_of_rank_0(environ)
    return Launch(
        rank,
        local_rank,
        world_size,
        address,
        port,
        has_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _address_of_rank_0(environ: Mapping[str, str]) -> tuple[str, int]:
    if "MASTER_ADDR" in environ:
        return environ["MASTER_ADDR"], _number(environ, "MASTER_PORT", str(_DEFAULT_PORT))
    if "AZ_BATCH_MASTER_NODE" in environ:
        address, _, port = environ["AZ_BATCH_MASTER_NODE"].partition(":")
        return address, int(port) if port.isdigit() else _DEFAULT_PORT
    if "AZ_BATCHAI_MPI_MASTER_NODE" in environ:
        return environ["AZ_BATCHAI_MPI_MASTER_NODE"], _DEFAULT_PORT
    if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environ.get("OMPI_COMM_WORLD_SIZE", "several"):
        return "localhost", _DEFAULT_PORT  # all processes are on this node
    raise UserError(
        "Several processes were started, but none of MASTER_ADDR, AZ_BATCH_MASTER_NODE and AZ_BATCHAI_MPI_MASTER_NODE "
        "gives the address of rank 0. Start the processes with torchrun or one of Azure's launchers."
    )


def _number(environ: Mapping[str, str], name: str, default: str = "") -> int:
    text = environ.get(name, default)
    if not text.isdigit():
        raise UserError(
            f"The launcher's variable {name} is {text!r}, but it must be a number. "
            "Start the processes with torchrun or one of Azure's launchers."
        )
    return int(text)
