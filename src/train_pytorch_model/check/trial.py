"""A few steps of a training, to see what they cost."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.batches import normalised, shuffled, training_shares
from train_pytorch_model.training.step import TrainingStep, logits_and_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from train_pytorch_model.data.image_store import Batch
    from train_pytorch_model.preflight import Prepared
    from train_pytorch_model.training.loop import Plan

# The first steps prepare kernels and take memory; then a few are timed, fewer where they take long.
_WARM_UP = 2
_TIMED = 5
_SECONDS = 10.0


@dataclass(frozen=True)
class Trial:
    """What steps cost."""

    step_seconds: float
    """Of a step of training, its images being there."""
    validation_seconds: float
    """Of a batch of validation of the same size, likewise."""
    peak_bytes: int
    """Memory that network, optimizer and a batch take at most: of the GPU, or of the host where that trains."""


def try_steps(prepared: Prepared, plan: Plan, device: torch.device) -> Trial:
    """Do a few steps with real batches; the network is of no use afterwards.

    Args:
        prepared: the training.
        plan: how.
        device: that trains.
    """
    before = _memory_in_use(device)
    network = prepared.network.to(device)
    step = TrainingStep(network, plan.num_classes, device, plan.memory_format, plan.precision)
    step.begin_epoch(plan.learning_rate)
    shares = training_shares(shuffled(len(prepared.train), plan.seed, 1), plan.batch_size)
    indices = [shares[number % len(shares)].indices for number in range(_WARM_UP + _TIMED)]
    step_seconds = _time(step, prepared.train.batches(indices, device), device)
    network.eval()

    @torch.no_grad()
    def validate(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        logits_and_loss(network(normalised(pixels, plan.memory_format)), labels)

    validation_seconds = _time(validate, prepared.train.batches(indices, device), device)
    return Trial(step_seconds, validation_seconds, max(0, _peak_memory(device) - before))


def _time(
    work: Callable[[torch.Tensor, torch.Tensor], None], batches: Iterable[Batch], device: torch.device
) -> float:  # fmt: skip
    """Seconds that the median batch takes, once the first have gone by."""
    seconds: list[float] = []
    began = time.perf_counter()
    for number, (pixels, labels) in enumerate(batches):
        started = time.perf_counter()
        work(pixels, labels)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= _WARM_UP:
            seconds.append(time.perf_counter() - started)
        if seconds and time.perf_counter() - began > _SECONDS:
            break
    return median(seconds)


def _memory_in_use(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
