from __future__ import annotations

import importlib

import pytest

from train_pytorch_model.cli.main import main
from train_pytorch_model.distributed.launch import Launch, read_launch
from train_pytorch_model.errors import UserError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105"}
MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}


@pytest.mark.parametrize(
    ("variables", "address", "port"),
    [
        (TORCHRUN, "10.0.0.4", 6105),
        ({**TORCHRUN, **MPI, "OMPI_COMM_WORLD_RANK": "7"}, "10.0.0.4", 6105),
        ({**MPI, "AZ_BATCH_MASTER_NODE": "10.0.0.9:6000"}, "10.0.0.9", 6000),
        ({**MPI, "AZ_BATCHAI_MPI_MASTER_NODE": "localhost"}, "localhost", 6105),
        ({**MPI, "MASTER_ADDR": "10.0.0.8", "MASTER_PORT": "77"}, "10.0.0.8", 77),
    ],
)
def test_the_variables_of_every_launcher_are_read(variables: dict[str, str], address: str, port: int) -> None:
    assert read_launch(variables) == Launch(5, 1, 8, address, port)


def test_all_processes_on_one_node_under_mpi_need_no_address() -> None:
    launch = read_launch({**MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "5"})
    assert launch.address == "localhost"


def test_torchrun_keeps_the_meeting_point_over_restarts() -> None:
    variables = {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2"}
    launch = read_launch(variables)
    assert (launch.has_store, launch.attempt) == (True, 2)


@pytest.mark.parametrize(
    "variables",
    [{}, {"RANK": "0", "WORLD_SIZE": "1"}, {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, {"RANK": "0"}],
)
def test_one_process_needs_nothing(variables: dict[str, str]) -> None:
    assert read_launch(variables) == Launch()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"WORLD_SIZE": "2"}, "RANK is ''"),
        ({**TORCHRUN, "LOCAL_RANK": "first"}, "LOCAL_RANK is 'first', but it must be a number"),
        ({**TORCHRUN, "RANK": "8"}, "RANK is 8, WORLD_SIZE 8"),
        ({key: value for key, value in TORCHRUN.items() if key != "MASTER_ADDR"}, "none of MASTER_ADDR"),
        (MPI, "gives the address of rank 0"),
    ],
)
def test_variables_that_cannot_be_used_are_named(variables: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_launch(variables)
    assert words in str(caught.value)


def test_importing_the_command_runs_nothing() -> None:
    assert importlib.import_module("train_pytorch_model.__main__").main is main
