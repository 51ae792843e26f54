"""Gradient accumulation: how many images of a batch are processed at a time, and what to do when memory runs out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Callable, TypeVar

import torch

from train_pytorch_model.errors import ModuleOutOfMemoryError, first_line
from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.training.graph import free_cached_memory

if TYPE_CHECKING:
    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.step import TrainingStep

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


class BatchTooLargeError(Exception):
    """A training step needs more memory than there is."""

    def __init__(self, reason: str, fitting: int | None, microbatch_size: int | None = None) -> None:
        """Describe the failure.

        Args:
            reason: the message of the allocator.
            fitting: the largest number of images that fits; 0 if not even the smallest does, None if it is unknown.
            microbatch_size: the size that the user set and that does not fit; None if a whole batch does not fit.
        """
        super().__init__(reason)
        self.reason = reason
        self.fitting = fitting
        self.microbatch_size = microbatch_size


def out_of_memory(error: BaseException, batch_size: int) -> ModuleOutOfMemoryError:
    """Return the designer's error for a training that ran out of memory, with advice on what to change."""
    fitting = microbatch_size = None
    if isinstance(error, BatchTooLargeError):
        fitting, microbatch_size = error.fitting, error.microbatch_size
    name = "batch size" if microbatch_size is None else "microbatch size"
    size = batch_size if microbatch_size is None else microbatch_size
    if fitting == 0:
        advice = f"Not even {min(2, size)} images fit (the {name} is {size}): use smaller images or a smaller network"
    elif fitting is None or fitting == size:
        advice = f"Lower the {name} (it is {size}), or use smaller images or a smaller network"
    elif microbatch_size is None:
        advice = (
            f"Lower the batch size (it is {size}) to {fitting}, which fits; or keep the batch size and accumulate "
            "gradients over microbatches with --microbatch-size auto"
        )
    else:
        advice = f"Lower the microbatch size (it is {size}) to {fitting}, which fits, or set --microbatch-size auto"
    return ModuleOutOfMemoryError(f"{first_line(error)}. {advice}, or store the images elsewhere with --image-store.")


def set_microbatch_size(
    step: TrainingStep, images: ImageStore, plan: Plan, world: World, *, is_tried: bool = False
) -> None:
    """Set the microbatch size of a step as the plan asks. All processes call this function.

    Args:
        step: that has not been used yet.
        images: the training images.
        plan: has the batch size of each process and the microbatch size.
        world: the processes. All of them get the same microbatch size.
        is_tried: run one step in each process, without the others, to see whether it fits in memory, even if the
            microbatch size is fixed.

    Raises:
        BatchTooLargeError: when the fixed size does not fit, or "auto" finds no size that fits.
    """
    is_auto = plan.microbatch_size == "auto"
    step.microbatch_size = fixed_microbatch_size(plan)
    if not (is_auto or is_tried):
        return
    # A process gets no more than its shard of a small dataset.
    largest = min(plan.batch_size, max(2, -(-len(images) // world.world_size)))
    first = min(largest, step.microbatch_size or largest)
    found = find_microbatch_size(step, images, largest, world.device, first, with_copies=world.is_main)
    size, reason = min(world.gather(found))
    if not size or not (is_auto or size == first):
        raise BatchTooLargeError(reason, size, step.microbatch_size)
    if is_auto:
        step.microbatch_size = plan.batch_size if size == largest else size
    if size < first:
        logger.warning(
            "A batch of %d images does not fit in memory. It is split into microbatches of %d images, whose gradients "
            "are accumulated. The gradients are those of the whole batch, but batch normalization sees one microbatch "
            "at a time.",
            largest,
            size,
        )


def fixed_microbatch_size(plan: Plan) -> int | None:
    """Return the microbatch size that the plan fixes; None if it fixes none, or one that holds a whole batch."""
    size = plan.microbatch_size
    return size if isinstance(size, int) and size < plan.batch_size else None


def find_microbatch_size(
    step: TrainingStep,
    images: ImageStore,
    batch_size: int,
    device: torch.device,
    first: int | None = None,
    *,
    with_copies: bool = True,
) -> tuple[int, str]:
    """Find the largest microbatch size, by halving, with which a training step of a whole batch fits in memory.

    Args:
        step: to try. Its weights and statistics do not change.
        images: the training images.
        batch_size: of this process.
        device: the device to train on.
        first: the size to start from; the batch size by default.
        with_copies: reserve memory for the copies of the weights that rank 0 makes when it trains on a CPU.

    Returns:
        The number of images, 0 if not even the smallest microbatch fits; and the allocator's message for the last size
        that did not fit, "" if the first one does.
    """
    pixels, labels = next(iter(images.batches([torch.arange(batch_size) % len(images)], device)))
    size, reason = first or batch_size, ""
    # Batch normalization may need more than one image.
    smallest = min(2, size)
    while True:
        fault = _try_step(step, pixels, labels, size, with_copies=with_copies)
        if not fault:
            return size, reason
        reason = fault
        smaller = max(smallest, (size + 1) // 2)
        if smaller == size:
            return 0, reason
        size = smaller


def run_with_advice(
    work: Callable[[], _Result], step: TrainingStep, images: ImageStore, plan: Plan, world: World
) -> _Result:
    """Run `work`; when it runs out of memory, find out which size would fit.

    Args:
        work: runs training steps. It must not keep their tensors alive after it fails.
        step: the step that `work` runs.
        images: the training images.
        plan: has the batch size of each process and the microbatch size.
        world: the processes. With several, nothing can be tried, because the others wait in the step that failed.

    Raises:
        BatchTooLargeError: when memory runs out.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    # Outside the handler: the error's traceback keeps the tensors of the step alive.
    free_cached_memory(world.device)
    fixed = fixed_microbatch_size(plan)
    fitting = None
    if world.is_alone and plan.microbatch_size != "auto":
        step.train_head_alone(False)  # in epochs of the head alone, batches may have features instead of images
        fitting = find_microbatch_size(step, images, plan.batch_size, world.device, fixed)[0]
    raise BatchTooLargeError(reason, fitting, fixed)


def _try_step(
    step: TrainingStep, pixels: torch.Tensor, labels: torch.Tensor, microbatch_size: int, *, with_copies: bool
) -> str:
    """Run a step in microbatches without the other processes; return the allocator's message, "" if it fits."""
    fault = ""
    before, step.microbatch_size = step.microbatch_size, microbatch_size
    try:
        reserve = _copies_of_weights(step, pixels.device) if with_copies else None  # noqa: F841
        step.dry_run(pixels, labels, alone=True)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fault = first_line(error)
    finally:
        step.microbatch_size = before
    if fault:
        free_cached_memory(pixels.device)
    return fault


def _copies_of_weights(step: TrainingStep, device: torch.device) -> torch.Tensor | None:
    """Reserve memory for the best model, a checkpoint and the model to write, if they share memory with training."""
    if device.type != "cpu":
        return None
    return torch.empty(3 * sum(value.nbytes for value in step.network.state_dict().values()), dtype=torch.uint8)
