"""What is tried on a GPU before the first epoch, with stand-ins for the GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.small_training import CPU, make_images, make_network, make_plan
from train_pytorch_model.data.image_store import Batch, DecodedImages
from train_pytorch_model.distributed.device import torch_settings_restored
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.rehearsal import graph_memory, make_repeatable, use_graph
from train_pytorch_model.training.step import TrainingStep

GPU = torch.device("cuda", 0)
MIB = 2**20


class OnGpu(DecodedImages):
    """Images whose batches are, for these tests, on a GPU."""

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        assert device == GPU
        return super().batches(batches, CPU)


def make_store(count: int) -> OnGpu:
    images = make_images(count)
    return OnGpu(images.pixels, images.labels)


def make_step(network: nn.Module) -> TrainingStep:
    return TrainingStep(network, make_plan(), CPU)


class Strict(nn.Module):
    """Fails where operators without a deterministic kernel are errors, as such an operator does."""

    def __init__(self, text: str, *, in_training: bool) -> None:
        super().__init__()
        self.network = make_network()
        self.text = text
        self.in_training = in_training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        is_strict = not torch.is_deterministic_algorithms_warn_only_enabled()
        if self.text and is_strict and self.training is self.in_training:
            raise RuntimeError(self.text)
        result: torch.Tensor = self.network(images)
        return result


@pytest.fixture
def settings() -> Iterator[Any]:
    """The settings that decide which kernels PyTorch chooses."""

    def read() -> tuple[bool, bool, list[bool]]:
        cuda = torch.backends.cuda
        kernels = [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.cudnn_sdp_enabled()]
        is_strict = not torch.is_deterministic_algorithms_warn_only_enabled()
        return torch.are_deterministic_algorithms_enabled(), is_strict, kernels

    before = read()
    with torch_settings_restored():
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield read
    assert read() == before


NO_KERNEL = "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set"
CUBLAS = "this operation is not deterministic because it uses CuBLAS. Set CUBLAS_WORKSPACE_CONFIG=:4096:8"


@pytest.mark.parametrize("in_training", [True, False])
@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("", None),
        (NO_KERNEL, "no deterministic kernel for adaptive_avg_pool2d_backward_cuda on"),
        (CUBLAS, "CUBLAS_WORKSPACE_CONFIG is :4096:8"),
    ],
)
def test_operators_without_a_deterministic_kernel_are_named(
    text: str, logged: str | None, in_training: bool, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    step = make_step(Strict(text, in_training=in_training))
    before = copy.deepcopy(step.network.state_dict())
    make_repeatable(step, make_store(5), World(device=GPU))
    # Strictly, PyTorch's attention is deterministic; otherwise only without its own kernels.
    assert settings() == ((True, False, [False] * 3) if logged else (True, True, [True] * 3))
    assert (logged or "") in caplog.text
    assert bool(caplog.text) is bool(logged)
    assert all(torch.equal(value, before[key]) for key, value in step.network.state_dict().items())


def test_all_processes_use_the_same_kernels(settings: Any) -> None:
    class OneOf(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, "an_operator_of_the_other"]

    make_repeatable(make_step(make_network()), make_store(5), OneOf(world_size=2, device=GPU))
    assert settings() == (True, False, [False] * 3)


def test_other_errors_of_the_network_are_raised(settings: Any) -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        make_repeatable(
            make_step(Strict("shapes cannot be multiplied", in_training=True)), make_store(5), World(device=GPU)
        )


def test_on_a_cpu_no_setting_changes(settings: Any) -> None:
    make_repeatable(make_step(Strict(NO_KERNEL, in_training=True)), make_images(5), World())
    assert settings() == (True, False, [True] * 3)


class Memory:
    """The memory of a GPU: a training step needs 10 MiB for each image, validation 1 MiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, network: nn.Module, free: int, fraction: float = 1.0) -> None:
        self.peak = 0
        network.register_forward_hook(self._run)
        functions = {
            "synchronize": lambda device: None,
            "empty_cache": lambda: None,
            "memory_reserved": lambda device: 5 * MIB,
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", 0),
            "max_memory_reserved": lambda device: 5 * MIB + self.peak,
            "mem_get_info": lambda device: (free, 1000 * MIB),
            "get_per_process_memory_fraction": lambda device: fraction,
        }
        for name, function in functions.items():
            monkeypatch.setattr(torch.cuda, name, function)

    def _run(self, network: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self.peak = max(self.peak, len(inputs[0]) * (10 if network.training else 1) * MIB)


def decide(
    monkeypatch: pytest.MonkeyPatch, free_mib: float, *, train: int, valid: int, fraction: float = 1.0, **plan: Any
) -> bool:
    step = make_step(make_network())
    Memory(monkeypatch, step.network, int(free_mib * MIB), fraction)
    before = copy.deepcopy(step.network.state_dict())
    decision = use_graph(
        step, make_store(train), make_store(valid), make_plan(cuda_graph=True, **plan), World(device=GPU)
    )
    assert all(torch.equal(value, before[key]) for key, value in step.network.state_dict().items())
    return decision


@pytest.mark.parametrize(
    ("train", "valid", "needed"),
    [
        (16, 4, 80 + 4),  # no partial batch
        (20, 4, 80 + 40),  # a last batch of 4 images
        (16, 60, 80 + 60),  # validation of 60 images at a time
        (16, 100, 80 + 50),  # of 50
        (20, 60, 80 + 60),  # the larger of both
    ],
)
def test_a_graph_is_used_if_all_that_training_needs_fits(
    train: int, valid: int, needed: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    total = 1.05 * needed + 128
    assert decide(monkeypatch, total + 0.1, train=train, valid=valid)
    assert caplog.text == ""
    assert not decide(monkeypatch, total - 0.1, train=train, valid=valid)
    expected = f"would keep 80.0 MiB of GPU memory: the last batch of an epoch and validation need {needed - 80}.0 MiB"
    assert expected in caplog.text


def test_the_copy_in_which_mixed_weights_are_validated_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(make_network())
    Memory(monkeypatch, step.network, 900 * MIB)
    plain, finetune = (
        graph_memory(step, make_store(16), make_store(4), make_plan(fits_head=flag), World(device=GPU))
        for flag in (False, True)
    )
    weights = sum(value.nbytes for value in step.network.state_dict().values())
    assert (plain.step_bytes, plain.other_bytes) == (80 * MIB, 4 * MIB)
    assert (finetune.step_bytes, finetune.other_bytes) == (80 * MIB, 4 * MIB + weights)


def test_a_limit_of_the_process_counts_as_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decide(monkeypatch, 900, train=20, valid=4)
    assert not decide(monkeypatch, 900, train=20, valid=4, fraction=0.25)


def test_all_processes_decide_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(make_network())
    Memory(monkeypatch, step.network, 900 * MIB)
    others = SimpleNamespace(fits=[True, False])

    class OneOf(World):
        def gather(self, value: Any) -> list[Any]:
            return [value, others.fits.pop(0)]

    world = OneOf(world_size=2, device=GPU)
    plan = make_plan(cuda_graph=True)
    assert use_graph(step, make_store(40), make_store(9), plan, world)
    assert not use_graph(step, make_store(40), make_store(9), plan, world)


@pytest.mark.parametrize(
    ("train", "sizes"),
    [
        (32, ([8], [8])),
        (31, ([8, 8], [8, 7])),  # a shard of 8 images, which is replayed by no graph, as the other one has 7
        (29, ([8, 7], [8, 6])),
    ],
)
def test_all_processes_measure_the_last_batch_or_none(
    train: int, sizes: tuple[list[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synchronized batch normalization would wait for a process that does not."""
    for rank, expected in enumerate(sizes):
        step = make_step(make_network())
        Memory(monkeypatch, step.network, 900 * MIB)
        trained_on: list[int] = []

        def look(network: nn.Module, inputs: tuple[torch.Tensor], trained_on: list[int] = trained_on) -> None:
            trained_on.extend([len(inputs[0])] if network.training else [])

        step.network.register_forward_pre_hook(look)
        world = World(rank, world_size=2, device=GPU)
        memory = graph_memory(step, make_store(train), make_store(4), make_plan(cuda_graph=True), world)
        assert trained_on == expected
        assert memory.other_bytes == max(10 * sum(expected[1:]), 2) * MIB


def test_without_a_graph_nothing_is_measured() -> None:
    assert not use_graph(make_step(make_network()), make_store(9), make_store(9), make_plan(), World(device=GPU))
