"""A few steps of a training, to see what they cost."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.batches import normalised, shuffled, training_shards
from train_pytorch_model.training.graph import NUM_WARM_UP_STEPS, CapturedStep
from train_pytorch_model.training.microbatches import run_with_advice, set_microbatch_size
from train_pytorch_model.training.step import TrainingStep, logits_and_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from train_pytorch_model.data.image_store import Batch
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.training.plan import Plan

# The first steps prepare kernels, take memory and record a CUDA graph; then a few are timed, fewer of long ones.
_WARM_UP = NUM_WARM_UP_STEPS + 1
_TIMED = 5
_SECONDS = 10.0


@dataclass(frozen=True)
class Trial:
    """What steps cost."""

    step_seconds: float
    """Of a step of training, its images being there."""
    validation_seconds: float
    """Of a batch of validation of the same size, likewise."""
    peak_bytes: int | None
    """Memory that network, optimizer and a batch take at most: of the GPU, or of the host where that trains; None where
    the system does not tell."""


def try_steps(prepared: Prepared, plan: Plan, world: World) -> Trial:
    """Do a few steps with real batches; the network is of no use afterwards.

    Args:
        prepared: the training.
        plan: how.
        world: this process alone.

    Raises:
        BatchTooLargeError: when a step takes more memory than there is.
    """
    device = world.device
    before = _memory_in_use(device)
    network = prepared.network.to(device)
    step = TrainingStep(network, plan.num_classes, device, plan.memory_format, plan.precision)
    set_microbatch_size(step, prepared.train, plan, world)
    step.begin_epoch(plan.learning_rate)
    shards = training_shards(shuffled(len(prepared.train), plan.seed, 1), plan.batch_size)[:2]
    # There before a step is timed, as they are where images are decoded once.
    batches = list(prepared.train.batches([shard.indices for shard in shards], device))

    def time_training() -> float:
        return time_steps(CapturedStep(step, plan.batch_size) if plan.cuda_graph else step, batches, device)

    step_seconds = run_with_advice(time_training, step, prepared.train, plan, world)
    network.eval()

    @torch.no_grad()
    def validate(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        at_once = step.microbatch_size or plan.batch_size
        for part, part_labels in zip(torch.split(pixels, at_once), torch.split(labels, at_once)):
            logits_and_loss(network(normalised(part, plan.memory_format)), part_labels)

    validation_seconds = time_steps(validate, batches, device)
    peak = _peak_memory(device)
    return Trial(step_seconds, validation_seconds, None if peak is None or before is None else max(0, peak - before))


def time_steps(
    work: Callable[[torch.Tensor, torch.Tensor], None], batches: Sequence[Batch], device: torch.device
) -> float:
    """Return the seconds of the median batch, after some batches that warm up."""
    seconds: list[float] = []
    began = time.perf_counter()
    for number in range(_WARM_UP + _TIMED):
        pixels, labels = batches[number % len(batches)]
        started = time.perf_counter()
        work(pixels, labels)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= _WARM_UP:
            seconds.append(time.perf_counter() - started)
        if seconds and time.perf_counter() - began > _SECONDS:
            break
    return median(seconds)


def _memory_in_use(device: torch.device) -> int | None:
    """Bytes in use, from where the peak is counted."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_reserved(device)
    with contextlib.suppress(OSError):  # then the peak since the process began stands, which is no less
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int | None:
    """What Linux says of this process, in bytes; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
