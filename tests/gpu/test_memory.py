"""Exhausted GPU memory is recognised by any of its names, and answered with a size that fits."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision

from tests.gpu.runs import make_store, train
from tests.small_training import make_plan
from train_pytorch_model.data.placement import free_bytes
from train_pytorch_model.distributed.world import World
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.preflight.trial import try_steps
from train_pytorch_model.training.microbatches import BatchTooLargeError
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.step import TrainingStep

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


def test_what_is_no_longer_used_counts_as_free(device: torch.device) -> None:
    before = torch.cuda.memory_reserved(device)
    torch.empty(2**30, dtype=torch.uint8, device=device)
    assert torch.cuda.memory_reserved(device) >= before + 2**30
    free_bytes(device)
    assert torch.cuda.memory_reserved(device) <= before


def test_check_tries_steps_beside_the_images_that_training_keeps_on_the_gpu(
    device: torch.device, tmp_path: Path
) -> None:
    store = make_store(tmp_path, "memory", device)
    network = torchvision.models.resnet18(num_classes=4)
    gib = 2**30
    prepared: Any = SimpleNamespace(
        network=network,
        train=store,
        valid=store,
        image_store="device",
        train_data=SimpleNamespace(num_bytes=3 * gib),
        valid_data=SimpleNamespace(num_bytes=gib),
    )
    plan, world = make_plan(precision=choose_precision("auto", device, network)), World(device=device)
    found = try_steps(prepared, plan, world)
    assert found.peak_bytes is not None
    assert 0 < found.peak_bytes < 4 * gib
    torch.cuda.empty_cache()
    enough_for_steps = torch.cuda.memory_reserved(device) + 4 * gib - 1
    with limited(enough_for_steps, device), pytest.raises(torch.OutOfMemoryError):
        try_steps(prepared, plan, world)


def test_a_dry_run_takes_as_much_memory_as_a_step(device: torch.device) -> None:
    """Of few small images, the average of the weights takes more than the activations."""
    network = torchvision.models.resnet50(num_classes=4).to(device)
    plan = make_plan(model_ema=0.9, precision=choose_precision("auto", device, network))
    step = TrainingStep(network, plan, device)
    pixels, labels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=device), torch.arange(2, device=device)
    step.begin_epoch(0.01)
    step(pixels, labels)  # afterwards, the optimizer has its buffers
    peaks = []
    for work in (step, step.dry_run):
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work(pixels, labels)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    assert peaks[0] <= peaks[1] + 2**20


def test_later_trainings_of_a_process_keep_no_more_memory(device: torch.device, tmp_path: Path) -> None:
    """All of them use the same stream: cuBLAS keeps 32 MiB for each one that it has seen."""
    store = make_store(tmp_path, "memory", device)
    kept = []
    for _ in range(3):
        train(store, device, cuda_graph=True)
        gc.collect()
        torch.cuda.synchronize(device)
        kept.append(torch.cuda.memory_allocated(device))
    assert kept[2] - kept[0] < 16 * 2**20, kept


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
