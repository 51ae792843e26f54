"""A few steps of a training, to see what they cost."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.data.batches import shuffled, training_shards
from train_pytorch_model.training.augmentation import AugmentedImages, augmented, centre, plain
from train_pytorch_model.training.graph import NUM_WARM_UP_STEPS, CapturedStep, side_stream
from train_pytorch_model.training.microbatches import run_with_advice, set_microbatch_size
from train_pytorch_model.training.mixing import mixed
from train_pytorch_model.training.rehearsal import make_repeatable, use_graph
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.validation import add_batch, validation_batch_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.data.image_store import Batch, ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.training.plan import Plan

Work = Callable[[torch.Tensor, torch.Tensor], None]
"""Does something with pixels and labels."""

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
    """Of validating all images, likewise."""
    peak_bytes: int | None
    """Memory that network, optimizer and a batch take at most: of the GPU, or of the host where that trains; None where
    the system does not tell."""
    cuda_graph: bool = False
    """Whether training replays its steps as a CUDA graph."""


def try_steps(prepared: Prepared, plan: Plan, world: World) -> Trial:
    """Do a few steps with real batches; the network is of no use afterwards.

    Args:
        prepared: the training.
        plan: how.
        world: this process alone.

    Raises:
        BatchTooLargeError: when a step takes more memory than there is.
    """
    with side_stream(world.device):
        _images = _memory_of_images(prepared, world.device)  # held until all steps are tried
        _forget_peak(world.device)
        before = _memory_in_use(world.device)
        network = prepared.network.to(world.device)
        step = TrainingStep(network, plan, world.device)
        images = plain(prepared.train, plan.image_size)
        make_repeatable(step, images, world)
        set_microbatch_size(step, images, plan, world)
        _forget_peak(world.device)  # of sizes that do not fit
        trial = run_with_advice(
            lambda: _time_all(step, prepared.train, prepared.valid, plan, world), step, images, plan, world
        )
        peak = _peak_memory(world.device)
    return replace(trial, peak_bytes=None if peak is None or before is None else max(0, peak - before))


def _time_all(step: TrainingStep, train: ImageStore, valid: ImageStore, plan: Plan, world: World) -> Trial:
    """Time training and validation as they will be run; `peak_bytes` of the result is None."""
    device, network = world.device, step.network
    plain_train = plain(train, plan.image_size)
    captured = CapturedStep(step, plan.batch_size) if use_graph(step, plain_train, valid, plan, world) else None
    shards = training_shards(shuffled(len(train), plan.seed, 1), plan.batch_size)
    step.begin_epoch(plan.learning_rate)
    # There before a step is timed, as they are where images are decoded once.
    batches = list(train.batches([shard.indices for shard in shards[:2]], device))
    step_seconds = time_steps(_with_views(captured or step, train, plan, device), batches, device)
    if captured:  # whose memory this batch cannot use
        step(*next(iter(plain_train.batches([shards[-1].indices], device))))
    network.eval()
    at_once = validation_batch_size(plan, world, len(valid), step.microbatch_size)
    batches = list(valid.batches(torch.split(torch.arange(len(valid)), at_once)[:2], device))

    @torch.no_grad()
    def validate(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        add_batch(network, pixels, labels, step.sums, plan, at_once)

    validation_seconds = math.ceil(len(valid) / at_once) * time_steps(validate, batches, device)
    return Trial(step_seconds, validation_seconds, None, captured is not None and captured.is_captured)


def _with_views(work: Work, train: ImageStore, plan: Plan, device: torch.device) -> Work:
    """Return a step that also turns stored images into those of the network, and mixes them."""
    shown = augmented(train, plan, 1)
    size = plan.image_size or train.size

    def changed(batch: Batch) -> Batch:
        pixels, labels = batch
        if isinstance(shown, AugmentedImages):
            (change,) = shown.changes([torch.arange(len(labels)) % len(train)], device)
            return change(pixels), labels
        return centre(pixels, size), labels

    def run(pixels: torch.Tensor, labels: torch.Tensor) -> None:
        ((pixels, labels),) = mixed(iter([changed((pixels, labels))]), plan, 1, 1, 0)
        work(pixels, labels)

    return run


def time_steps(work: Work, batches: Sequence[Batch], device: torch.device) -> float:
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


def _memory_of_images(prepared: Prepared, device: torch.device) -> torch.Tensor | None:
    """Allocate the GPU memory that training gives to the decoded images; None if it keeps them elsewhere."""
    if prepared.image_store != "device":
        return None
    num_bytes = prepared.train_data.num_bytes + prepared.valid_data.num_bytes
    return torch.empty(num_bytes, dtype=torch.uint8, device=device)


def _forget_peak(device: torch.device) -> None:
    """Count the peak from now on."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # then the peak since the process began stands, which is no less
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _memory_in_use(device: torch.device) -> int | None:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else _status("VmRSS")


def _peak_memory(device: torch.device) -> int | None:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int | None:
    """What Linux says of this process, in bytes; None elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
