"""The steps that check tries, on a GPU that computes nothing."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from tests.fake_gpu import DEVICE, fake_gpu
from tests.small_training import make_images, make_network, make_plan
from train_pytorch_model.distributed.world import World
from train_pytorch_model.preflight import trial

# Of images that are much larger than everything else.
NUM_BYTES = 10**12


def in_use() -> int:
    """The bytes of all tensors on the GPU."""
    tensors = [value for value in gc.get_objects() if type(value) is FakeTensor]
    return sum({storage._cdata: storage.nbytes() for storage in map(torch.Tensor.untyped_storage, tensors)}.values())


@pytest.mark.parametrize("place", ["device", "memory"])
def test_steps_are_tried_beside_the_images_that_training_keeps_on_the_gpu(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(peak=0)

    def forget_peak(device: torch.device) -> None:
        gpu.peak = 0

    def too_large(*_: Any) -> None:
        """Try a size that fills the memory and does not fit."""
        gpu.peak = 5 * NUM_BYTES

    beside: list[int] = []

    def use_graph(*_: Any) -> bool:
        beside.append(in_use())
        return False

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: in_use())
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: max(gpu.peak, in_use()))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", forget_peak)
    monkeypatch.setattr(trial, "side_stream", lambda device: nullcontext())
    monkeypatch.setattr(trial, "set_microbatch_size", too_large)
    monkeypatch.setattr(trial, "use_graph", use_graph)
    prepared: Any = SimpleNamespace(
        train=make_images(40),
        valid=make_images(9),
        image_store=place,
        train_data=SimpleNamespace(num_bytes=NUM_BYTES - 1000),
        valid_data=SimpleNamespace(num_bytes=1000),
    )
    with fake_gpu(monkeypatch):
        with DEVICE:
            prepared.network = make_network()
        found = trial.try_steps(prepared, make_plan(microbatch_size="auto"), World(device=DEVICE))
    assert beside[0] // NUM_BYTES == (place == "device")
    assert found.peak_bytes is not None
    assert 0 < found.peak_bytes < NUM_BYTES  # the images are counted by their own
