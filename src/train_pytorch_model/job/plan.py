"""The plan of a training run, and the fingerprint that tells it from other runs."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.models.heads import auxiliary_heads
from train_pytorch_model.models.network import has_narrow_convolution, head_keys
from train_pytorch_model.parameters.recipe_fields import WITH_CROPS
from train_pytorch_model.parameters.recipes import differences_from_classic, flags_of_recipe, identity_of_warm_up
from train_pytorch_model.text.wording import name_some
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.graph import use_cuda_graph
from train_pytorch_model.training.microbatches import fixed_microbatch_size
from train_pytorch_model.training.mixing import Mixing
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.precision import Precision, choose_precision
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.trivial_augment import TrivialAugment

if TYPE_CHECKING:
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.job.datasets import Scanned
    from train_pytorch_model.job.prepare import Prepared
    from train_pytorch_model.parameters.recipes import ResolvedParameters

logger = logging.getLogger(__name__)

# Random boxes of torchvision's recipe for ImageNet; other recipes use larger ones.
_CROP_SCALE_OF_LARGE = (0.08, 1.0)
# Wider images are wider than the strides of all layers of known networks.
_WIDEST_NARROW = 64


def make_plan(prepared: Prepared, world: World) -> Plan:
    """Choose what the settings leave to the program."""
    settings, parameters = prepared.settings, prepared.settings.parameters
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
        precision=_precision(prepared, world),
        validation_precision=parameters.validation_precision,
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
        mean=prepared.normalisation.mean,
        std=prepared.normalisation.std,
        **_recipe_parts(prepared, world),
    )


def _precision(prepared: Prepared, world: World) -> Precision:
    """The precision of training steps, which is float32 where a CPU computes wrong gradients in a lower one."""
    precision = choose_precision(prepared.settings.parameters.precision, world.device, prepared.network)
    is_half_on_cpu = world.device.type == "cpu" and precision.dtype != torch.float32
    size = prepared.geometry.size
    if is_half_on_cpu and size[1] <= _WIDEST_NARROW and has_narrow_convolution(prepared.description, size):
        return Precision(torch.float32, "cpu")
    return precision


def _recipe_parts(prepared: Prepared, world: World) -> dict[str, Any]:
    """The values of the plan by which recipes differ from the classic one."""
    parameters = prepared.settings.parameters
    is_classic, is_finetune = parameters.recipe == "classic", parameters.recipe == "finetune"
    counts = prepared.train_data.counts()
    steps_per_epoch = math.ceil(len(prepared.train) / (parameters.batch_size * world.world_size))
    return {
        # Without resizing, each dataset has a size of its own.
        "image_size": None if prepared.geometry.resize == "none" else prepared.geometry.size,
        "augmentation": _augmentation(prepared),
        "mixing": _mixing(parameters),
        "optimizer": parameters.optimizer,
        "momentum": parameters.momentum,
        "weight_decay": parameters.weight_decay,
        "decays_one_dimensional": is_classic,
        "lr_schedule": parameters.lr_schedule,
        "warmup_steps": None if is_classic else round(parameters.warmup_epochs * steps_per_epoch),
        "head_learning_rate_factor": parameters.head_learning_rate_factor,
        "head_names": frozenset(head_keys(prepared.description, len(counts))),
        "auxiliary_heads": auxiliary_heads(prepared.network, prepared.geometry.size),
        "layer_decay": _number(parameters.layer_decay),
        "layers_to_freeze": parameters.layers_to_freeze,
        "freeze_epochs": parameters.freeze_epochs,
        "freeze_batch_norm": is_finetune,
        "label_smoothing": parameters.label_smoothing,
        "task": prepared.train_data.images.task,
        "class_weights": _weights(prepared, counts),
        "clip_grad_norm": _number(parameters.clip_grad_norm),
        "model_ema": _number(parameters.model_ema),
        "fits_head": is_finetune,
        "keeps_head": prepared.keeps_head,
        "metric_for_best_model": parameters.metric_for_best_model,
        "averages_mirrored": prepared.geometry.averages_mirrored,
        "early_stopping_delay": parameters.early_stopping_delay,
    }


def _augmentation(prepared: Prepared) -> Augmentation | None:
    parameters = prepared.settings.parameters
    kind, mean = parameters.auto_augment, prepared.normalisation.mean
    parts: dict[str, Any] = {
        "crops": kind in WITH_CROPS,
        "flips": kind != "none" and parameters.horizontal_flip == "on",
        "operations": TrivialAugment(parameters.color_augment == "on") if kind == "trivialaugment" else None,
        # As torchvision erases, to 0 in what the network sees.
        "erasing": RandomErasing(parameters.random_erase, _colour(mean)) if parameters.random_erase else None,
    }
    if not any(parts.values()):
        return None
    if parameters.recipe == "large":
        parts["crop_scale"] = _CROP_SCALE_OF_LARGE
    return Augmentation(prepared.geometry.size, **parts)


def _colour(mean: tuple[float, ...]) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, round(255 * value))) for value in mean)
    return red, green, blue


def _mixing(parameters: ResolvedParameters) -> Mixing | None:
    mixing = Mixing(parameters.mixup_alpha, parameters.cutmix_alpha)
    return None if mixing == Mixing() else mixing


def _number(value: float | str) -> float | None:
    """A number, or None for "off" and 0."""
    return None if isinstance(value, str) or not value else value


def _weights(prepared: Prepared, counts: np.ndarray) -> tuple[float, ...] | None:
    kind = prepared.settings.parameters.class_weights
    if prepared.train_data.images.task == MULTILABEL:
        return positive_weights(kind, counts, len(prepared.train))
    return class_weights(kind, counts)


def positive_weights(kind: str, counts: np.ndarray, num_images: int) -> tuple[float, ...] | None:
    """Return the weight of the images that have a label in its loss, relative to those that do not.

    Args:
        kind: "none"; "balanced" for the number of images without the label divided by that with it; "sqrt" for the
            square root of this.
        counts: the number of training images with each label, int64 of shape (number of labels,).
        num_images: the number of training images.

    Returns:
        One weight for each label, None for "none". It is 1 for a label that all images have, or none.
    """
    if kind == "none":
        return None
    others = num_images - counts
    weights = np.where((counts > 0) & (others > 0), others / np.maximum(counts, 1), 1.0)
    return tuple((weights if kind == "balanced" else np.sqrt(weights)).tolist())


def class_weights(kind: str, counts: np.ndarray) -> tuple[float, ...] | None:
    """Return the weight of each class in the loss, such that their mean over the images is 1.

    Args:
        kind: "none"; "balanced" for the inverse of the number of images; "sqrt" for its square root.
        counts: the number of training images of each class, int64 of shape (number of classes,).

    Returns:
        One weight for each class, None for "none". A class without images has the weight of a class with one.
    """
    if kind == "none":
        return None
    inverse = np.maximum(counts, 1) ** (-1.0 if kind == "balanced" else -0.5)
    return tuple((inverse * counts.sum() / (inverse * counts).sum()).tolist())


def log_plan(prepared: Prepared, plan: Plan, world: World) -> None:
    """Log what is about to start."""
    height, width = prepared.geometry.size
    outputs = f"in {plan.num_classes} classes"
    if plan.task == MULTILABEL:
        outputs = "with 1 label" if plan.num_classes == 1 else f"with {plan.num_classes} labels"
    logger.info(
        "Training %s on %d images of %dx%d %s, validating on %d, on %s in %s.",
        prepared.description.network_name,
        len(prepared.train),
        width,
        height,
        outputs,
        len(prepared.valid),
        world.device,
        plan.precision,
    )
    parameters = prepared.settings.parameters
    if parameters.precision not in ("auto", str(plan.precision)):
        logger.warning(
            "The images are so small that PyTorch computes wrong gradients in %s on a CPU. Training in %s.",
            parameters.precision,
            plan.precision,
        )
    logger.info("Recipe %s: %s", parameters.recipe, flags_of_recipe(parameters))
    if plan.task == MULTILABEL:
        _log_missing(prepared.valid_data)
    if plan.validation_precision != "float32":
        logger.info(
            "Epochs are validated in %s. The best one is validated again in float32, as Score Image Model computes.",
            plan.validation_precision,
        )
    if not world.is_alone:
        logger.info(
            "%d processes take %d images each a step, at a learning rate of %g.",
            world.world_size,
            plan.batch_size,
            plan.learning_rate,
        )


def _log_missing(valid: Scanned) -> None:
    """Log which labels do not count in means over labels."""
    missing = [name for name, count in zip(valid.images.classes, valid.counts()) if not count]
    if missing:
        logger.info(
            "Average precision and macro F1 are means over the labels that validation images have: without %s.",
            name_some(missing),
        )


def fingerprint_of(prepared: Prepared, plan: Plan, world: World) -> dict[str, object]:
    """What two runs must have in common for one to resume from a checkpoint of the other."""
    microbatch_size, validated_in = fixed_microbatch_size(plan), plan.validation_precision
    return {
        **prepared.data,
        "random seed": prepared.settings.parameters.random_seed,
        "batch size": plan.batch_size,
        "learning rate": plan.learning_rate,
        "warm-up epochs": identity_of_warm_up(prepared.settings.parameters),
        "precision": str(plan.precision),
        "processes": world.world_size,
        "device": world.device.type,
        "sync batch norm": plan.sync_batch_norm,
        **({} if validated_in == "float32" else {"validation precision": validated_in}),
        **({} if microbatch_size is None else {"microbatch size": microbatch_size}),
        **differences_from_classic(prepared.settings.parameters),
    }
