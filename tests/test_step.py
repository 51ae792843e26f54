from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.small_training import CPU, PARTS, Recorder, make_images, make_network, make_plan
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.graph import NUM_WARM_UP_STEPS, CapturedStep, use_cuda_graph
from train_pytorch_model.training.loop import train_epoch
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep


def make_step(network: nn.Module, dtype: torch.dtype = torch.float32, **values: Any) -> TrainingStep:
    return TrainingStep(network, make_plan(precision=Precision(dtype, "cpu"), **values), CPU)


ALL_PARTS = [{}, {**PARTS, "optimizer": "sgd"}, {**PARTS, "optimizer": "adamw"}]


class Recording:
    """Stands where CUDA graphs do: runs the recorded work again, on what lies at the addresses it was recorded with."""

    def __init__(self, fault: str = "") -> None:
        self.num_replays = 0
        self.fault = fault

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.fault:
            raise RuntimeError(self.fault)

        def replay() -> None:
            self.num_replays += 1
            work()

        return replay


def train(
    step: TrainingStep, run_step: Callable[[torch.Tensor, torch.Tensor, float], None], count: int, **values: Any
) -> Recorder:
    recorder = Recorder()
    for epoch in (1, 2):
        step.begin_epoch(0.05 / epoch)
        state = TrainingState(step, BestModel(), EarlyStopping(9), epoch)
        train_epoch(state, run_step, make_images(count), make_plan(**values), World(), recorder)
    return recorder


@pytest.mark.parametrize("parts", ALL_PARTS)
@pytest.mark.parametrize("microbatch_size", [None, 3])
@pytest.mark.parametrize("fault", ["", "operation not permitted when stream is capturing"])
def test_replayed_steps_equal_steps_without_a_graph(
    fault: str, microbatch_size: int | None, parts: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    network = make_network()
    replayed = copy.deepcopy(network)
    plain = make_step(network, **parts)
    plain.microbatch_size = microbatch_size
    expected = train(plain, plain, 84, **parts)
    step, recording = make_step(replayed, **parts), Recording(fault)
    step.microbatch_size = microbatch_size
    with caplog.at_level(logging.INFO):
        given = train(step, CapturedStep(step, 8, recording), 84, **parts)
    assert given.losses == expected.losses
    assert all(torch.equal(a, b) for a, b in zip(replayed.state_dict().values(), network.state_dict().values()))
    # 84 images make 10 full batches and one of 4 an epoch.
    assert recording.num_replays == (0 if fault else 20 - NUM_WARM_UP_STEPS)
    assert len([record for record in caplog.records if "CUDA graph" in record.message]) == 1
    assert fault in caplog.text


@pytest.mark.parametrize(
    ("wanted", "device", "num_steps", "is_known", "captured"),
    [
        ("auto", "cuda", 1000, True, True),
        ("auto", "cuda", 1000, False, False),
        ("auto", "cuda", 5, True, False),
        ("on", "cuda", 5, False, True),
        ("off", "cuda", 1000, True, False),
        ("auto", "cpu", 1000, True, False),
        ("on", "cpu", 1000, True, False),
    ],
)
def test_steps_are_captured_on_a_gpu_where_it_pays(
    wanted: str, device: str, num_steps: int, is_known: bool, captured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert use_cuda_graph(wanted, torch.device(device), num_steps, is_known=is_known) is captured
    assert ("--cuda-graph on: requires a GPU" in caplog.text) is (wanted == "on" and device == "cpu")


class Operators(TorchDispatchMode):
    """Writes down the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("parts", ALL_PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_operator_of_a_step_makes_the_host_wait_for_the_device(dtype: torch.dtype, parts: dict[str, Any]) -> None:
    step = make_step(make_network(), dtype, **parts)
    step.begin_epoch(0.05)
    pixels, labels = make_images(8).pixels, make_images(8).labels
    step(pixels, labels)
    with Operators() as operators:
        step(pixels, labels)
    assert "convolution_backward" in operators.names
    # Reading a value, and shapes that depend on values: each stops the host, and no CUDA graph can hold it.
    waits = {"_local_scalar_dense", "item", "nonzero", "masked_select", "_unique2", "unique_dim", "equal", "is_nonzero"}
    assert not waits & set(operators.names)


@pytest.mark.parametrize("parts", ALL_PARTS)
def test_a_step_writes_at_the_same_addresses_from_first_to_last(parts: dict[str, Any]) -> None:
    step = make_step(make_network(), **parts)

    def addresses() -> list[int]:
        tensors = [step.loss, step.sums.totals, *step.network.state_dict().values(), *step.optimizer_tensors]
        return [tensor.data_ptr() for tensor in (*tensors, *step.buffers())]

    before = addresses()
    train(step, step, 20, **parts)
    assert addresses() == before
