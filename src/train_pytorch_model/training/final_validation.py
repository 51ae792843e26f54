"""Validation of the best weights in float32, after epochs that were validated in another precision."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Callable

from train_pytorch_model.training.state import load_weights
from train_pytorch_model.training.validation import evaluate

if TYPE_CHECKING:
    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.evaluation.records import EpochRecord
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.state import TrainingState


def validate_best(
    state: TrainingState, valid: ImageStore, plan: Plan, world: World, between_batches: Callable[[int, int], None]
) -> EpochRecord:
    """Return the record of the best epoch with figures in float32, which Score Image Model will report.

    All processes call this function. The network has the weights of that epoch afterwards.

    Args:
        state: after the last epoch. Its best model gets the figures too.
        valid: the validation images.
        plan: the hyperparameters.
        world: the processes and the device.
        between_batches: see `evaluate`.
    """
    network, best = state.step.network, state.best
    if world.is_main:
        load_weights(network, best.state)
    world.broadcast_tensors(network.state_dict().values())
    plan = replace(plan, validation_precision="float32")
    found = evaluate(network, valid, plan, world, state.step.microbatch_size, between_batches)
    best.top1_acc, best.valid_loss, best.thresholds = found.top1_acc, found.loss, found.thresholds
    record = next(record for record, _ in state.records if record.epoch == best.epoch)
    return replace(record, **found.of_record())
