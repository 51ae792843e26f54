"""Exhausted GPU memory is recognised by any of its names, and answered with a size that fits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.gpu.runs import make_store, train
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.training.microbatches import BatchTooLargeError

pytestmark = pytest.mark.gpu


@contextmanager
def limited(num_bytes: int, device: torch.device) -> Iterator[None]:
    """Let PyTorch use this much memory of the GPU."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(num_bytes / total, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


@pytest.mark.parametrize("is_captured", [False, True])
def test_a_batch_that_does_not_fit_is_an_error_with_the_size_that_fits(
    is_captured: bool, device: torch.device, tmp_path: Path
) -> None:
    store = make_store(tmp_path, "memory", device, size=224, per_class=32)
    large = {"batch_size": 128, "epochs": 1, "cuda_graph": is_captured}
    torch.cuda.reset_peak_memory_stats(device)
    train(store, device, **large)
    enough = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    # 128 images do not fit, and 32 do.
    with limited(enough // 2, device):
        fitting = _size_that_fits(store, device, large)
        assert fitting is not None
        assert 2 <= fitting < 128
        torch.cuda.empty_cache()
        _, best = train(store, device, **{**large, "microbatch_size": "auto"})
        assert best.epoch == 1


def _size_that_fits(store: object, device: torch.device, plan: dict[str, object]) -> int | None:
    """The size in the error; a function of its own, so that no traceback keeps the network alive."""
    try:
        train(store, device, **plan)  # type: ignore[arg-type]
    except BatchTooLargeError as error:
        return error.fitting
    pytest.fail("the batch fits")


def test_exhausted_memory_is_recognised_by_any_of_its_names(device: torch.device) -> None:
    def convolve() -> None:
        torch.nn.functional.conv2d(images, weights, padding=1)

    def multiply() -> None:
        left @ left

    images, weights = torch.zeros(64, 64, 64, 64, device=device), torch.zeros(64, 64, 3, 3, device=device)
    left = torch.zeros(4096, 4096, device=device)
    torch.cuda.empty_cache()
    found = []
    with limited(torch.cuda.memory_reserved(device) + 2**20, device):
        for work in (convolve, multiply):
            try:
                work()
            except RuntimeError as error:
                found.append((is_out_of_memory(error), str(error)))
    assert found
    assert all(recognised for recognised, _ in found), found


def test_a_graph_is_given_up_when_memory_holds_only_steps_without_one(device: torch.device, tmp_path: Path) -> None:
    """Between what plain steps need and what a graph needs besides, training must reach the end of the epochs."""
    store = make_store(tmp_path, "memory", device, size=224, per_class=31)  # the last batch is a partial one
    plan = {"batch_size": 32, "epochs": 2}
    torch.cuda.reset_peak_memory_stats(device)
    train(store, device, cuda_graph=False, **plan)
    enough = torch.cuda.max_memory_reserved(device)
    for factor in (1.02, 1.1, 1.25, 1.5, 2.0):
        torch.cuda.empty_cache()
        with limited(int(enough * factor), device):
            _, best = train(store, device, cuda_graph=True, **plan)
        assert best.epoch
