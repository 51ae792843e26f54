"""How many images of a batch the memory holds at once, found by trying."""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING, Callable, TypeVar

import torch

from train_pytorch_model.errors import ModuleOutOfMemoryError, first_line, is_out_of_memory

if TYPE_CHECKING:
    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.training.step import TrainingStep

_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


class BatchTooLargeError(Exception):
    """A step takes more memory than there is."""

    def __init__(self, reason: str, fitting: int | None) -> None:
        """Say so.

        Args:
            reason: what the allocator said.
            fitting: images of a batch that would fit, 0 when there is no such number; None when it is not known.
        """
        super().__init__(reason)
        self.reason = reason
        self.fitting = fitting


def out_of_memory(error: BaseException, batch_size: int) -> ModuleOutOfMemoryError:
    """The named error for memory that ran out in a training, with what can be done about it."""
    fitting = error.fitting if isinstance(error, BatchTooLargeError) else None
    if fitting == 0:
        advice = (
            f"Not even {min(2, batch_size)} images fit, and the batch size is {batch_size}: take smaller images or a "
            "smaller network"
        )
    elif fitting is None or fitting == batch_size:
        advice = f"Lower the batch size (it is {batch_size}), take smaller images or a smaller network"
    else:
        advice = (
            f"Lower the batch size (it is {batch_size}) to {fitting}, which fits; or keep it and have it learnt from "
            "in microbatches, with --microbatch-size auto"
        )
    return ModuleOutOfMemoryError(f"{first_line(error)}. {advice}, or keep the images elsewhere with --image-store.")


def fit_to_memory(step: TrainingStep, images: ImageStore, batch_size: int, world: World, *, in_parts: bool) -> None:
    """Try, alone in each process, whether a batch goes through, and which part of it does where the whole does not.

    Args:
        step: that has learnt nothing yet.
        images: to learn from.
        batch_size: of each process.
        world: the processes; all call it.
        in_parts: have the step take its batches in the parts that go through everywhere, and go on.

    Raises:
        BatchTooLargeError: when no part fits, or the whole does not and is not to be taken in parts.
    """
    # Of few images, no process sees more than its share.
    largest = min(batch_size, max(2, -(-len(images) // world.world_size)))
    found = largest_part(step, images, largest, world.device, with_copies=world.is_main)
    size, reason = min(world.gather(found))
    if not size or not (in_parts or size == largest):
        raise BatchTooLargeError(reason, size)
    if in_parts:
        step.microbatch_size = batch_size if size == largest else size
    if size < largest:
        logger.warning(
            "A batch of %d images takes more memory than there is. It is learnt from in parts of %d: the step is that "
            "of the whole batch, but what is normalised over a batch is normalised over each part.",
            largest,
            size,
        )


def largest_part(
    step: TrainingStep, images: ImageStore, batch_size: int, device: torch.device, *, with_copies: bool = True
) -> tuple[int, str]:
    """Find the largest of a batch, its half, its quarter and so on, by which a whole batch can be learnt from.

    Args:
        step: to try; what it has learnt stays as it is.
        images: to learn from.
        batch_size: of this process.
        device: that trains.
        with_copies: leave room for the copies of the weights that the first process keeps on a host that trains.

    Returns:
        The number of images, 0 when not even the smallest part fits; and what the allocator said of the last that does
        not, "" where all fit.
    """
    pixels, labels = next(iter(images.batches([torch.arange(batch_size) % len(images)], device)))
    size, reason = batch_size, ""
    while True:
        fault = _fault_of(step, pixels, labels, size, with_copies=with_copies)
        if not fault:
            return size, reason
        reason = fault
        # Of a single image nothing could be normalised over the batch.
        smaller = max(min(2, batch_size), (size + 1) // 2)
        if smaller == size:
            return 0, reason
        size = smaller


def run_with_advice(
    work: Callable[[], _Result], step: TrainingStep, images: ImageStore, batch_size: int, world: World
) -> _Result:
    """Train, and when the memory runs out find out which batch would fit.

    Args:
        work: trains, and holds nothing itself of what training takes.
        step: that it trains by.
        images: that it learns from.
        batch_size: of each process.
        world: the processes. With several nothing can be tried, as the others wait in the step that failed; a batch has
            been tried before.

    Raises:
        BatchTooLargeError: when the memory runs out.
    """
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    # Out of the handler, whose error holds all that the step has made.
    _free(world.device)
    is_known = world.is_alone and step.microbatch_size is None
    raise BatchTooLargeError(reason, largest_part(step, images, batch_size, world.device)[0] if is_known else None)


def _fault_of(
    step: TrainingStep, pixels: torch.Tensor, labels: torch.Tensor, microbatch_size: int, *, with_copies: bool
) -> str:
    """What the allocator says when a batch is learnt from in such parts; "" when it goes through."""
    fault = ""
    before, step.microbatch_size = step.microbatch_size, microbatch_size
    try:
        reserve = _copies_of_weights(step, pixels.device) if with_copies else None  # noqa: F841
        step.rehearse(pixels, labels, alone=True)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fault = first_line(error)
    finally:
        step.microbatch_size = before
    if fault:
        _free(pixels.device)
    return fault


def _copies_of_weights(step: TrainingStep, device: torch.device) -> torch.Tensor | None:
    """Room for the best model, a checkpoint and the model to write, which lie in the memory of a host that trains."""
    if device.type != "cpu":
        return None
    return torch.empty(3 * sum(value.nbytes for value in step.network.state_dict().values()), dtype=torch.uint8)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
