"""What is tried on a GPU before the first epoch: deterministic kernels, and the memory that a CUDA graph needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

import torch

from train_pytorch_model.data.batches import normalised, shuffled, training_shards
from train_pytorch_model.distributed.device import free_gpu_memory, prefer_determinism, require_determinism
from train_pytorch_model.text.wording import bytes_in_words
from train_pytorch_model.training.graph import free_cached_memory
from train_pytorch_model.training.validation import add_batch, validation_batch_size

if TYPE_CHECKING:
    from train_pytorch_model.data.image_store import Batch, ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.step import TrainingStep

logger = logging.getLogger(__name__)

# Of the memory that is free with a graph, this must remain: the measured peaks do not count the fragments of another
# allocation order, nor the graph itself in the driver.
_MARGIN = 0.05
_MARGIN_BYTES = 128 * 2**20
# How PyTorch ends the name of an operator in the error that strict determinism raises.
_NO_KERNEL = " does not have a deterministic implementation"


@dataclass(frozen=True)
class GraphMemory:
    """The GPU memory that a training with a CUDA graph needs, in bytes, in addition to the weights."""

    step_bytes: int
    """Of a training step. A graph keeps it, and nothing else can use it."""
    other_bytes: int
    """The most that the last batch of an epoch or a validation batch needs, which run without the graph."""
    free_bytes: int
    """What is free before the first step."""

    @property
    def fits(self) -> bool:
        """Whether all of it fits."""
        needed = self.step_bytes + self.other_bytes
        return needed + _MARGIN * needed + _MARGIN_BYTES <= self.free_bytes


def make_repeatable(step: TrainingStep, images: ImageStore, world: World) -> None:
    """Use only deterministic kernels on a GPU, as far as the network's operators have some. All processes call it.

    PyTorch's attention has deterministic kernels, which it uses only where operators without one are errors. Whether
    the network has such operators is seen in a dry run of two images.
    """
    if world.device.type != "cuda":
        return
    require_determinism()
    batch = _first(images, 2, world)
    found = max(world.gather(_operator_without_kernel(lambda: _pass_once(step, batch))))
    if found:
        prefer_determinism()
        logger.warning(
            "PyTorch has no deterministic kernel for %s on GPUs: weights and metrics of two runs of this training may "
            "differ slightly.",
            found,
        )


def _pass_once(step: TrainingStep, batch: Batch) -> None:
    pixels, labels = batch
    step.dry_run(pixels, labels, alone=True)
    with torch.no_grad():
        step.network.eval()(normalised(pixels, step.memory_format))


def _operator_without_kernel(work: Callable[[], None]) -> str:
    """Return the name of the operator in `work` that has no deterministic kernel; "" if there is none."""
    try:
        work()
    except RuntimeError as error:
        name, found, _ = str(error).partition(_NO_KERNEL)
        if found:
            return name
        if "CUBLAS_WORKSPACE_CONFIG" in name:
            return "matrix products unless CUBLAS_WORKSPACE_CONFIG is :4096:8"
        raise
    return ""


def use_graph(step: TrainingStep, train: ImageStore, valid: ImageStore, plan: Plan, world: World) -> bool:
    """Return whether training steps are captured, as the plan asks and memory allows. All processes call this function.

    Raises:
        RuntimeError: when a step does not fit in memory, with or without a graph.
    """
    if not plan.cuda_graph:
        return False
    memory = graph_memory(step, train, valid, plan, world)
    if all(world.gather(memory.fits)):
        return True
    logger.warning(
        "Training continues without a CUDA graph, which would keep %s of GPU memory: the last batch of an epoch and "
        "validation need %s more, and %s are free. A smaller batch size may be faster.",
        *map(bytes_in_words, (memory.step_bytes, memory.other_bytes, memory.free_bytes)),
    )
    return False


def graph_memory(step: TrainingStep, train: ImageStore, valid: ImageStore, plan: Plan, world: World) -> GraphMemory:
    """Measure the memory that training with a CUDA graph needs, in dry runs that leave the training as it is."""
    device = world.device
    last = training_shards(torch.arange(len(train)), plan.batch_size, world.rank, world.world_size)[-1]
    num_last = len(last.indices)
    # The same in all processes, whose shards of it may differ by one image: SyncBatchNorm makes them wait for each
    # other. A shard as large as those of other batches runs without the graph too if others are smaller.
    is_last_captured = num_last == plan.batch_size and last.weight == 1
    num_valid = validation_batch_size(plan, world, len(valid), step.microbatch_size)

    def train_on(count: int) -> Callable[[], None]:
        batch = _first(train, count, world)
        return lambda: step.dry_run(*batch, alone=True)

    def validate() -> None:
        with torch.no_grad():
            add_batch(step.network.eval(), *_first(valid, num_valid, world), step.sums, plan, num_valid)

    step_bytes = _peak_bytes(train_on(plan.batch_size), device)
    last_bytes = 0 if is_last_captured else _peak_bytes(train_on(num_last), device)
    valid_bytes = _peak_bytes(validate, device)
    if plan.fits_head:  # mixed weights are validated in a copy of the network
        valid_bytes += sum(value.nbytes for value in step.network.state_dict().values())
    free_cached_memory(device)
    return GraphMemory(step_bytes, max(last_bytes, valid_bytes), free_gpu_memory(device))


def settle_buckets(step: TrainingStep, images: ImageStore, plan: Plan, world: World) -> None:
    """Run a step of several processes dry, after which gradients are always reduced in the same bucket layout."""
    if not world.is_alone:
        shard = training_shards(shuffled(len(images), 0, 0), plan.batch_size, world.rank, world.world_size)[0]
        step.dry_run(*next(iter(images.batches([shard.indices], world.device))))


def _first(images: ImageStore, count: int, world: World) -> Batch:
    """Return the first `count` images, some of them again if there are fewer."""
    return next(iter(images.batches([torch.arange(count) % len(images)], world.device)))


def _peak_bytes(work: Callable[[], None], device: torch.device) -> int:
    """Return the GPU memory that `work` needs at most in addition to what is in use before it."""
    free_cached_memory(device)
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_reserved(device) - before
