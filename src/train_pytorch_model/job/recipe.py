"""Chooses the recipe for the network that is given, and resolves the settings with it."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from train_pytorch_model.checkpoints.resume import is_of_classic_run, why_not
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.errors import UserError
from train_pytorch_model.job.plan import fingerprint_of, make_plan
from train_pytorch_model.job.settings import ResolvedSettings, Settings
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.parameters.recipes import (
    NetworkFacts,
    ResolvedParameters,
    identity_of_warm_up,
    resolve,
    with_batch_of_at_most,
)
from train_pytorch_model.training.layers import stages_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from train_pytorch_model.checkpoints.folder import CheckpointFolder
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.parameters import TrainingParameters
    from train_pytorch_model.ports.labelled_images import LabelledImages
    from train_pytorch_model.ports.untrained_model import UntrainedModel

logger = logging.getLogger(__name__)


def resolve_settings(settings: Settings, model: UntrainedModel | None) -> ResolvedSettings:
    """Return the settings with the values that the recipe decides.

    Args:
        settings: as given.
        model: the model to train; None if it cannot be read, which is reported elsewhere.
    """
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}
    facts = _facts_of(model)
    if model is not None and settings.parameters.recipe == "finetune" and not facts.has_weights:
        logger.warning(
            "--recipe finetune keeps the statistics and the first layers of the network as they are, but its weights "
            "seem to be random. Give pretrained weights to initialize-model, or train with --recipe scratch."
        )
    parameters = resolve(settings.parameters, facts)
    _warn_of_parts(parameters)
    if settings.head_only and model is not None:
        if parameters.recipe != "finetune":
            raise UserError(
                "--head-only true needs pretrained weights and the recipe finetune, but the recipe is "
                f"{parameters.recipe}. Give initialize-model --weights default, or leave --head-only out."
            )
        parameters = replace(parameters, epochs=0)
    return ResolvedSettings(**{**values, "parameters": parameters})


def _warn_of_parts(parameters: ResolvedParameters) -> None:
    """Warn of parts of the recipe that do not go together."""
    if parameters.freeze_epochs > parameters.epochs:
        logger.warning(
            "--freeze-epochs %d is more than the %d epochs of the training, in which only the head is trained.",
            parameters.freeze_epochs,
            parameters.epochs,
        )
    if parameters.batch_size == 1 and (parameters.mixup_alpha or parameters.cutmix_alpha):
        logger.warning(
            "--mixup-alpha and --cutmix-alpha mix images of one batch, so with --batch-size 1 nothing is mixed. Choose "
            "a larger --batch-size."
        )
    if parameters.horizontal_flip == "off" and parameters.test_time_augmentation == "flip":
        logger.warning(
            "--horizontal-flip off keeps mirror images out of training, but --test-time-augmentation flip shows them "
            "to the network in validation and scoring. Set it to none if left and right differ in meaning."
        )


def with_batch_size(settings: ResolvedSettings, given: TrainingParameters, num_images: int) -> ResolvedSettings:
    """Return the settings with a batch size that suits a small dataset, if it was left to the program, and log it.

    Args:
        settings: with the values of the recipe.
        given: the parameters as given.
        num_images: the number of training images, at least 1.
    """
    chosen = settings.parameters.batch_size
    parameters = with_batch_of_at_most(num_images, settings.parameters, given)
    if parameters.batch_size != chosen:
        logger.info(
            "The batch size is %d, the number of training images, and not the %d of the recipe %s.",
            *(parameters.batch_size, chosen, parameters.recipe),
        )
    return replace(settings, parameters=parameters)


def with_metric(settings: ResolvedSettings, given: str, task: str) -> ResolvedSettings:
    """Return the settings with the metric for the best model that suits the task, if it was left to the program.

    Args:
        settings: with the values of the recipe.
        given: the metric as given.
        task: of the datasets.
    """
    if given != "auto" or task != MULTILABEL:
        return settings
    return replace(settings, parameters=replace(settings.parameters, metric_for_best_model="average_precision"))


def check_metric(metric: str, images: LabelledImages) -> None:
    """Check that the metric for the best model is one of the task.

    Args:
        metric: as given.
        images: a dataset.

    Raises:
        UserError: if it is not.
    """
    if images.task == MULTILABEL and metric == "balanced_accuracy":
        what = "is not defined for the several labels per image"
        others = "average_precision, micro_f1, macro_f1, loss, or accuracy (images whose labels are all right)"
    elif images.task != MULTILABEL and metric in ("average_precision", "micro_f1"):
        what, others = "needs several labels per image, unlike those", "accuracy, balanced_accuracy, macro_f1 or loss"
    else:
        return
    raise UserError(f"--metric-for-best-model {metric} {what} of {images.where}. Choose auto, {others}.")


def with_recipe_of_checkpoint(
    settings: Settings,
    resolved: ResolvedSettings,
    data: Mapping[str, Any],
    candidate: Mapping[str, Any] | None,
    world: World,
) -> Settings | None:
    """Return the settings of a classic run, if its checkpoint is there and the recipe was left to the program.

    All processes call this function.

    Args:
        settings: as given.
        resolved: with the recipe that the program has chosen.
        data: what the training starts from.
        candidate: the newest valid checkpoint in it; only rank 0 needs to have it.
        world: the processes.
    """
    if settings.parameters.recipe != "auto" or resolved.parameters.recipe == "classic":
        return None
    parameters = replace(settings.parameters, recipe="classic")
    classic = resolve(parameters, NetworkFacts(has_weights=False, uses_layer_norm=False, num_stages=0))
    classic = with_batch_of_at_most(data["number of images"][0], classic, parameters)
    chosen = {
        "random seed": classic.random_seed,
        "batch size": classic.batch_size,
        "learning rate": classic.learning_rate * (world.world_size if classic.scale_learning_rate else 1),
        "warm-up epochs": identity_of_warm_up(classic),
        "processes": world.world_size,
    }
    is_classic = world.broadcast(is_of_classic_run(candidate, data, chosen))
    return replace(settings, parameters=parameters) if is_classic else None


def goes_on_as_classic(prepared: Prepared, folder: CheckpointFolder, candidate: dict[str, Any], world: World) -> bool:
    """Return whether a run that is prepared as a classic one can resume from its checkpoint, and log it.

    All processes call this function.

    Args:
        prepared: with the settings of `with_recipe_of_checkpoint`.
        folder: the checkpoint folder.
        candidate: the newest valid checkpoint in it; only rank 0 needs to have it.
        world: the processes.
    """
    fingerprint = fingerprint_of(prepared, make_plan(prepared, world), world)
    epochs = prepared.settings.parameters.epochs
    reason = world.broadcast(why_not(folder, candidate, fingerprint, epochs) if world.is_main else "")
    if not reason:
        logger.warning(
            "The checkpoint in %s was written with --recipe classic, so training goes on with it. Give --recipe "
            "finetune or --resume never to start again.",
            folder.path,
        )
        return True
    logger.warning(
        "The checkpoint in %s was written with --recipe classic, but by a different run (%s). To resume from it, use "
        "the options of that run.",
        folder.path,
        reason,
    )
    return False


def _facts_of(model: UntrainedModel | None) -> NetworkFacts:
    modules: list[nn.Module] = []
    num_stages = 0
    if model is not None:
        with contextlib.suppress(NetworkError):  # reported when the network is built
            network = model.description.build_without_weights()
            modules = list(network.modules())
            num_stages = len(stages_of(network))
    return NetworkFacts(
        has_weights=model is not None and (model.pretrained is not None or model.labels is not None),
        uses_layer_norm=any(isinstance(module, nn.LayerNorm) for module in modules),
        num_stages=num_stages,
    )
