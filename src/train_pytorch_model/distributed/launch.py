"""What a launcher's environment says of this process: which of how many it is, and where the first one is met.

torchrun and Azure's PyTorch launcher set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; Azure's MPI
launcher sets Open MPI's variables and, on several nodes, AZ_BATCH_MASTER_NODE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from train_pytorch_model.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

# What Azure's examples for MPI jobs take where nothing names a port.
_DEFAULT_PORT = 6105


@dataclass(frozen=True)
class Launch:
    """One process among those that were launched together."""

    rank: int = 0
    """0 … world_size - 1."""
    local_rank: int = 0
    """Likewise among the processes of one node."""
    world_size: int = 1
    address: str = ""
    """Where process 0 is met; empty for one process."""
    port: int = 0
    has_store: bool = False
    """Whether the launcher itself answers at that address (torchrun), and not process 0."""
    attempt: int = 0
    """How many times torchrun has started the processes anew."""


def read_launch(environ: Mapping[str, str]) -> Launch:
    """Read RANK and WORLD_SIZE where they are set, else Open MPI's variables, else one process.

    Raises:
        UserError: naming the variables that are missing or contradict each other.
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
    address, port = _meeting_point(environ)
    return Launch(
        rank,
        local_rank,
        world_size,
        address,
        port,
        has_store=environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _meeting_point(environ: Mapping[str, str]) -> tuple[str, int]:
    if "MASTER_ADDR" in environ:
        return environ["MASTER_ADDR"], _number(environ, "MASTER_PORT", str(_DEFAULT_PORT))
    if "AZ_BATCH_MASTER_NODE" in environ:
        address, _, port = environ["AZ_BATCH_MASTER_NODE"].partition(":")
        return address, int(port) if port.isdigit() else _DEFAULT_PORT
    if "AZ_BATCHAI_MPI_MASTER_NODE" in environ:
        return environ["AZ_BATCHAI_MPI_MASTER_NODE"], _DEFAULT_PORT
    if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environ.get("OMPI_COMM_WORLD_SIZE", "several"):
        return "localhost", _DEFAULT_PORT  # all of them are here
    raise UserError(
        "Several processes were started, but none of MASTER_ADDR, AZ_BATCH_MASTER_NODE and AZ_BATCHAI_MPI_MASTER_NODE "
        "says where they meet. Start them with torchrun or one of Azure's launchers."
    )


def _number(environ: Mapping[str, str], name: str, default: str = "") -> int:
    text = environ.get(name, default)
    if not text.isdigit():
        raise UserError(
            f"The launcher's variable {name} is {text!r} where a number is expected. "
            "Start the processes with torchrun or one of Azure's launchers."
        )
    return int(text)
