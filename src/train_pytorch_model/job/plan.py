"""The plan of a training run, and the fingerprint that tells it from other runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from train_pytorch_model.training.graph import use_cuda_graph
from train_pytorch_model.training.microbatches import fixed_microbatch_size
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.precision import choose_precision

if TYPE_CHECKING:
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.job.settings import Settings

logger = logging.getLogger(__name__)


def make_plan(prepared: Prepared, settings: Settings, world: World) -> Plan:
    """Choose what the settings leave to the program."""
    parameters = settings.parameters
    num_steps = parameters.epochs * (len(prepared.train) // parameters.batch_size)
    is_scaled = parameters.scale_learning_rate
    return Plan(
        num_classes=len(prepared.train_data.images.classes),
        epochs=parameters.epochs,
        batch_size=parameters.batch_size,
        learning_rate=parameters.learning_rate * (world.world_size if is_scaled else 1),
        warmup_epochs=parameters.warmup_epochs,
        patience=parameters.patience,
        seed=settings.seed,
        print_frequency=parameters.print_frequency,
        precision=choose_precision(parameters.precision, world.device, prepared.network),
        memory_format=prepared.memory_format,
        cuda_graph=use_cuda_graph(
            parameters.cuda_graph,
            world.device,
            num_steps,
            is_known=prepared.description.is_known,
            is_alone=world.is_alone,
        ),
        sync_batch_norm=parameters.sync_batch_norm,
        has_unused=not prepared.description.is_known,
        microbatch_size=parameters.microbatch_size,
    )


def log_plan(prepared: Prepared, plan: Plan, world: World) -> None:
    """Log what is about to start."""
    height, width = prepared.train.size
    logger.info(
        "Training %s on %d images of %dx%d in %d classes, validating on %d, on %s in %s.",
        prepared.description.name,
        len(prepared.train),
        width,
        height,
        plan.num_classes,
        len(prepared.valid),
        world.device,
        plan.precision,
    )
    if not world.is_alone:
        logger.info(
            "%d processes take %d images each a step, at a learning rate of %g.",
            world.world_size,
            plan.batch_size,
            plan.learning_rate,
        )


def fingerprint_of(prepared: Prepared, settings: Settings, plan: Plan, world: World) -> dict[str, object]:
    """What two runs must have in common for one to resume from a checkpoint of the other."""
    microbatch_size = fixed_microbatch_size(plan)
    return {
        **prepared.data,
        "random seed": settings.parameters.random_seed,
        "batch size": plan.batch_size,
        "learning rate": plan.learning_rate,
        "warm-up epochs": plan.warmup_epochs,
        "precision": str(plan.precision),
        "processes": world.world_size,
        "device": world.device.type,
        "sync batch norm": plan.sync_batch_norm,
        **({} if microbatch_size is None else {"microbatch size": microbatch_size}),
    }
