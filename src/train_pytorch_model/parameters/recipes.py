"""Recipes: the values of the training parameters that the user leaves to the program."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from train_pytorch_model.parameters import TrainingParameters

# Training as the designer's module did it.
_CLASSIC: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 16,
    "learning_rate": 0.001,
    "patience": 3,
    "warmup_epochs": 0.0,
    "image_size": "auto",
    "class_weights": "none",
    "metric_for_best_model": "accuracy",
    "early_stopping_delay": 0,
    "test_time_augmentation": "none",
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "lr_schedule": "polynomial",
    "head_learning_rate_factor": 1.0,
    "layer_decay": "off",
    "layers_to_freeze": 0,
    "freeze_epochs": 0,
    "label_smoothing": 0.0,
    "auto_augment": "none",
    "horizontal_flip": "on",
    "color_augment": "on",
    "random_erase": 0.0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
    "model_ema": "off",
    "clip_grad_norm": "off",
}
_WITH_AUGMENTATION: dict[str, Any] = {
    **_CLASSIC,
    "early_stopping_delay": 5,
    "lr_schedule": "cosine",
    "auto_augment": "crop",
    "clip_grad_norm": 1.0,
}
# Kumar et al. 2022, "Fine-tuning can distort pretrained features": first the head, then the other layers, carefully.
_FINETUNE: dict[str, Any] = {**_WITH_AUGMENTATION, "epochs": 3, "learning_rate": 0.003, "model_ema": 0.99}
_SCRATCH: dict[str, Any] = {
    **_WITH_AUGMENTATION,
    "epochs": 30,
    "learning_rate": 0.01,
    "patience": 10,
    "weight_decay": 5e-4,
    "label_smoothing": 0.1,
    "model_ema": 0.99,
}
# torchvision's recipe for ImageNet (Vryniotis 2021, "How to Train State-Of-The-Art Models Using TorchVision's Latest
# Primitives") with fewer epochs. Its averages cover the last 4 % of all steps: of short runs the last tenth here.
_LARGE: dict[str, Any] = {
    **_WITH_AUGMENTATION,
    "epochs": 100,
    "batch_size": 128,
    "patience": 10,
    "weight_decay": 2e-5,
    "label_smoothing": 0.1,
    "auto_augment": "trivialaugment",
    "random_erase": 0.1,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "model_ema": 0.99997,
    "clip_grad_norm": "off",
}
_VALUES = {"classic": _CLASSIC, "finetune": _FINETUNE, "scratch": _SCRATCH, "large": _LARGE}
# The learning rate increases in one of so many epochs.
_WARM_UP = 10
_MOST_WARM_UP_OF_LARGE = 5
# The learning rate of an image of a batch: that of the recipe for 1,024 images.
_RATE_OF_LARGE = 0.5 / 1024
# AdamW's rate for 1,024 images, as in most recipes for transformers, is 0.001.
_ADAMW_DIVISOR_OF_LARGE = 500
# A cosine schedule gets its best results in its last epochs, so patience counts after this part of the epochs only.
_DELAY = 0.75
# AdamW takes about a tenth of the learning rate of SGD.
_ADAMW_DIVISOR = 10
_ADAMW_WEIGHT_DECAY = 0.05
# AutoGluon fine-tunes transformers and ConvNeXt with it.
_ADAMW_LAYER_DECAY = 0.9


@dataclass(frozen=True)
class NetworkFacts:
    """What a recipe must know of a network."""

    has_weights: bool
    """Whether its weights are pretrained or trained, rather than random."""
    uses_layer_norm: bool
    """Whether it is a transformer or ConvNeXt, which AdamW trains better."""
    num_stages: int
    """The number of stages that can be frozen, head included."""


@dataclass(frozen=True)
class ResolvedParameters(TrainingParameters):
    """Training parameters without `auto`, except where another part of the program decides (size, speed).

    The defaults are those of the classic recipe.
    """

    epochs: int = 5
    batch_size: int = 16
    learning_rate: float = 0.001
    patience: int = 3
    warmup_epochs: float = 0.0
    early_stopping_delay: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    head_learning_rate_factor: float = 1.0
    layers_to_freeze: int = 0
    freeze_epochs: int = 0
    label_smoothing: float = 0.0
    random_erase: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0


def resolve(parameters: TrainingParameters, facts: NetworkFacts) -> ResolvedParameters:
    """Choose the recipe, and fill in what the user left to it.

    Args:
        parameters: as given.
        facts: about the network and its weights.
    """
    recipe = parameters.recipe
    if recipe == "auto":
        recipe = "finetune" if facts.has_weights else "classic"
    values = dict(_VALUES[recipe])
    given = {name: value for name, value in asdict(parameters).items() if value != "auto" or name not in values}
    if recipe == "finetune":
        # The first stages see edges and textures, which all photos have.
        values["layers_to_freeze"] = facts.num_stages // 2
    if recipe == "large":
        values["learning_rate"] = _RATE_OF_LARGE * given.get("batch_size", values["batch_size"])
    epochs = given.get("epochs", values["epochs"])
    if recipe != "classic":
        values["warmup_epochs"] = _warm_up(recipe, epochs)
        values["early_stopping_delay"] = max(values["early_stopping_delay"], math.ceil(_DELAY * epochs))
        if given.get("optimizer", "adamw" if facts.uses_layer_norm else "sgd") == "adamw":
            values.update(optimizer="adamw", weight_decay=_ADAMW_WEIGHT_DECAY)
            if recipe == "finetune":
                values["layer_decay"] = _ADAMW_LAYER_DECAY
            # A rate that is given together with the optimizer is meant for it.
            rates = values if "optimizer" in given or "learning_rate" not in given else given
            is_scaled = recipe == "large" and rates is values
            rates["learning_rate"] /= _ADAMW_DIVISOR_OF_LARGE if is_scaled else _ADAMW_DIVISOR
    return ResolvedParameters(**{**values, **given, "recipe": recipe})


def with_batch_of_at_most(
    num_images: int, resolved: ResolvedParameters, given: TrainingParameters
) -> ResolvedParameters:
    """Return the parameters with a batch of at most all training images, if the recipe has chosen its size.

    Args:
        num_images: the number of training images.
        resolved: with the values of the recipe.
        given: as given.
    """
    if given.batch_size != "auto" or resolved.batch_size <= num_images:
        return resolved
    rate = resolved.learning_rate
    if resolved.recipe == "large" and given.learning_rate == "auto":
        rate *= num_images / resolved.batch_size
    return replace(resolved, batch_size=num_images, learning_rate=rate)


def _warm_up(recipe: str, epochs: int) -> float:
    """Return the number of epochs of the warm-up, if it is left to a recipe other than classic."""
    return min(epochs / _WARM_UP, _MOST_WARM_UP_OF_LARGE if recipe == "large" else math.inf)


def flags_of_recipe(parameters: ResolvedParameters) -> str:
    """Return the values that a recipe decides as flags of the command line."""
    return " ".join(f"--{name.replace('_', '-')} {getattr(parameters, name)}" for name in _CLASSIC)


def identity_of_warm_up(parameters: ResolvedParameters) -> float | str:
    """Return what two runs must have in common of their warm-up, whose length follows the epochs in most recipes."""
    epochs = parameters.warmup_epochs
    if parameters.recipe != "classic" and epochs == _warm_up(parameters.recipe, parameters.epochs):
        return "a tenth of all epochs, at most 5" if parameters.recipe == "large" else "a tenth of all epochs"
    # A whole number as an int, as version 0.1 wrote it, and words show it.
    return int(epochs) if epochs == int(epochs) else epochs


# What a run may change when it resumes, or what its checkpoint knows by another name.
_NOT_COMPARED = frozenset(
    [
        *("epochs", "batch_size", "learning_rate", "patience", "warmup_epochs", "early_stopping_delay"),
        *("image_size", "horizontal_flip", "color_augment"),
    ]
)


def differences_from_classic(parameters: ResolvedParameters) -> dict[str, object]:
    """Return the values that tell a run from a classic one, by name; empty for a classic run.

    A run resumes only from a checkpoint with the same values. Checkpoints of version 0.1 have none.
    """
    values = {name: getattr(parameters, name) for name in _CLASSIC if name not in _NOT_COMPARED}
    differing = {name: value for name, value in values.items() if value != _CLASSIC[name]}
    if parameters.auto_augment != "none" and parameters.horizontal_flip == "off":
        differing["horizontal_flip"] = "off"
    if parameters.auto_augment == "trivialaugment" and parameters.color_augment == "off":
        differing["color_augment"] = "off"
    if parameters.recipe != "classic":
        differing["recipe"] = parameters.recipe
    return {name.replace("_", " "): value for name, value in differing.items()}
