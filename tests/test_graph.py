"""Capturing a training step, with stand-ins for the parts of PyTorch that need a GPU."""

from __future__ import annotations

import copy
import gc
import logging
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.models.densenet import DenseNet

from tests.small_training import CPU, make_images, make_network, make_plan
from train_pytorch_model.training import graph
from train_pytorch_model.training.graph import NUM_WARM_UP_STEPS, CapturedStep, capture_cuda_graph, side_stream
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.step import TrainingStep


class Generator:
    """A random number generator whose state can be cloned and replaced."""

    def __init__(self) -> None:
        self.state: object = "in use"

    def clone_state(self) -> object:
        return "cloned"

    def graphsafe_set_state(self, state: object) -> None:
        self.state = state


class Gpu:
    """What a capture does to a GPU, written down; `begin` and `end` raise these errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, begin: str = "", end: str = "") -> None:
        gpu = self
        self.allocating: list[object] = []
        self.released: list[object] = []
        self.stream = "of the caller"
        self.generator = Generator()

        class CUDAGraph:
            def capture_begin(self, pool: object, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                gpu.allocating.append(pool)
                if begin:
                    raise RuntimeError(begin)
                self.pool = pool

            def capture_end(self) -> None:
                assert gpu.stream == "of the caller"
                if end:  # as PyTorch does: before the allocation to the pool is ended
                    raise RuntimeError(end)
                gpu.allocating.remove(self.pool)

            def replay(self) -> None:
                pass

        def end_allocation(device: int, pool: object) -> None:
            if pool not in gpu.allocating:
                raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
            gpu.allocating.remove(pool)

        def set_stream(stream: str) -> None:
            gpu.stream = stream

        values: dict[str, Any] = {
            "CUDAGraph": CUDAGraph,
            "graph_pool_handle": lambda: (0, 7),
            "current_device": lambda: 0,
            "current_stream": lambda: gpu.stream,
            "set_stream": set_stream,
            "default_generators": (self.generator,),
            "synchronize": lambda device: None,
            "empty_cache": lambda: None,
        }
        for name, value in values.items():
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end_allocation, raising=False)
        monkeypatch.setattr(
            torch._C, "_cuda_releasePool", lambda device, pool: self.released.append(pool), raising=False
        )


def waits() -> None:
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("begin", "end", "work", "words"),
    [
        ("", "operation failed due to a previous error during capture", waits, "not permitted when"),
        ("", "operation failed due to a previous error during capture", lambda: None, "due to a previous error"),
        ("cannot begin", "", lambda: None, "cannot begin"),
        ("", "", waits, "not permitted when"),
    ],
)
def test_a_failed_capture_leaves_the_process_as_it_was(
    begin: str, end: str, work: Callable[[], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(monkeypatch, begin, end)

    def leave_stream_and_fail() -> None:
        gpu.stream = "of the network"
        work()

    with pytest.raises(RuntimeError, match=words):
        capture_cuda_graph(leave_stream_and_fail)
    # Otherwise the allocator would free nothing from now on.
    assert gpu.allocating == []
    assert gpu.released == ([(0, 7)] if begin or end else [])
    assert gpu.stream == "of the caller"
    assert gpu.generator.state == "cloned"


def test_a_successful_capture_keeps_its_memory_and_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)
    assert callable(capture_cuda_graph(lambda: None))
    assert (gpu.allocating, gpu.released, gpu.generator.state) == ([], [], "in use")


def test_an_interrupted_capture_is_ended_too(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(monkeypatch)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture_cuda_graph(interrupted)
    assert gpu.allocating == []


def test_a_failed_capture_keeps_no_tensor_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    Gpu(monkeypatch, end="invalidated")
    kept: list[weakref.ref[torch.Tensor]] = []

    def work() -> None:
        activations = torch.zeros(8)
        kept.append(weakref.ref(activations))
        waits()

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(RuntimeError) as raised:
            capture_cuda_graph(work)
        raised.value.__traceback__ = None
        raised = None  # type: ignore[assignment]
        assert kept[0]() is None
    finally:
        gc.enable()


class Stream:
    """A stream of a GPU."""

    def wait_stream(self, other: Stream) -> None:
        """Do nothing."""


def test_all_trainings_of_a_process_use_the_same_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace that cuBLAS keeps for each stream would take more memory in each of them."""
    default = Stream()
    used = [default]

    class Selected:
        def __init__(self, stream: Stream) -> None:
            self.stream = stream

        def __enter__(self) -> None:
            used.append(self.stream)

        def __exit__(self, *_: object) -> None:
            used.append(default)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: used[-1])
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device=None: default)
    monkeypatch.setattr(torch.cuda, "stream", Selected)
    graph._side_stream.cache_clear()
    try:
        for device in (0, 1, 0):
            with side_stream(torch.device("cuda", device)):
                pass
        step: Any = SimpleNamespace(device=torch.device("cuda", 0))
        CapturedStep(step, 8)._run_on_side_stream(lambda: None)
    finally:
        graph._side_stream.cache_clear()
    first, other, again, captured = (stream for stream in used if stream is not default)
    assert first is again is captured
    assert first is not other


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("place", ["forward", "backward", "optimizer", "update"])
def test_training_after_a_failed_capture_equals_training_without_one(
    place: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever the capture failed. A capture runs nothing on the device, so weights and statistics do not change."""

    def make_step() -> TrainingStep:
        # The scaler of float16 works on CPUs too; convolutions in float16 may not.
        step = TrainingStep(make_network(), make_plan(precision=Precision(dtype, "cpu")), CPU)
        monkeypatch.setattr(Precision, "context", lambda self: nullcontext())
        step.begin_epoch(0.05)
        return step

    images = make_images(8)
    plain, captured = make_step(), make_step()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"cannot capture the {place}")

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        saved = copy.deepcopy((captured.network.state_dict(), captured.optimizer_tensors, captured.sums, captured.loss))
        scale = captured.scaler.state_dict()
        with monkeypatch.context() as patch:
            if place == "forward":
                patch.setattr(captured, "_forward", fail)
            elif place == "backward":
                patch.setattr(torch.Tensor, "backward", fail)
            elif place == "optimizer":
                patch.setattr(type(captured.scaler), "step", fail)
            else:
                patch.setattr(type(captured.scaler), "update", fail)
            try:
                work()
            finally:
                # What a capture does not run.
                captured.network.load_state_dict(saved[0])
                for buffer, values in zip(captured.optimizer_tensors, saved[1]):
                    buffer.copy_(values)
                captured.sums.totals.copy_(saved[2].totals)
                captured.loss.copy_(saved[3])
                assert captured.scaler.state_dict() == scale
        raise AssertionError("it did not fail")

    run = CapturedStep(captured, 8, capture)
    with caplog.at_level(logging.INFO):
        for _ in range(NUM_WARM_UP_STEPS + 4):
            plain(images.pixels, images.labels)
            run(images.pixels, images.labels)
    assert f"training continues without it: RuntimeError: cannot capture the {place}" in caplog.text
    assert torch.equal(plain.sums.totals, captured.sums.totals)
    assert plain.scaler.state_dict() == captured.scaler.state_dict()
    for value, other in zip(plain.network.state_dict().values(), captured.network.state_dict().values()):
        assert torch.equal(value, other)
    assert all(parameter.grad is None for parameter in captured.network.parameters())


def test_a_densenet_that_recomputes_activations_can_be_captured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def make_step() -> TrainingStep:
        torch.manual_seed(0)
        network = DenseNet(4, (2, 2), 8, num_classes=4, memory_efficient=True)
        step = TrainingStep(network, make_plan(), CPU)
        step.begin_epoch(0.05)
        return step

    def forbidden() -> None:
        raise RuntimeError("Cannot call CUDAGeneratorImpl::current_seed during CUDA graph capture")

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        saved = copy.deepcopy(captured)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_rng_state", forbidden)
            work()
        for value, before in zip(captured.network.state_dict().values(), saved.network.state_dict().values()):
            value.copy_(before)
        for buffer, before in zip(captured.optimizer_tensors, saved.optimizer_tensors):
            buffer.copy_(before)
        return work

    pixels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(8) % 4
    plain, captured = make_step(), make_step()
    run = CapturedStep(captured, 8, capture)
    with caplog.at_level(logging.INFO):
        for _ in range(NUM_WARM_UP_STEPS + 2):
            plain(pixels, labels)
            run(pixels, labels)
    assert "as a CUDA graph" in caplog.text
    for value, other in zip(plain.network.state_dict().values(), captured.network.state_dict().values()):
        assert torch.equal(value, other)
