"""The training parameters that make up a recipe. `auto` leaves a value to the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from train_pytorch_model.parameters.definition import Definition, parameter

RECIPES = ("auto", "classic", "finetune", "scratch", "large")
WITH_CROPS = ("crop", "trivialaugment")
"""The values of `auto_augment` that cut random boxes out of images."""


@dataclass(frozen=True)
class RecipeFields:
    """What the network sees, and how its weights change."""

    recipe: str = parameter(
        "auto",
        Definition(
            "Recipe",
            str,
            "How to train: classic as the designer's module did, finetune for pretrained weights, scratch for random "
            "weights, large for many images and epochs. auto is finetune for pretrained or trained weights, and "
            "classic otherwise.",
            "training",
            words=RECIPES,
        ),
    )
    image_size: Union[int, str] = parameter(
        "auto",
        Definition(
            "Image size",
            int,
            "Height and width of the images that the network sees. auto is the size that the weights were made for; "
            "with classic, that of the images if they all have one.",
            "training",
            greater_than=0,
            words=("auto",),
            is_size=True,
        ),
    )
    resize: str = parameter(
        "auto",
        Definition(
            "Resize",
            str,
            "How images get that size: crop cuts off what is over, pad adds black, stretch changes the aspect ratio. "
            "auto is the way of a trained model or of the weights, else crop.",
            "training",
            words=("auto", "crop", "pad", "stretch"),
        ),
    )
    class_weights: str = parameter(
        "auto",
        Definition(
            "Class weights",
            str,
            "Weights of the classes in the loss: none, the inverse of their frequencies (balanced), or its square root "
            "(sqrt). With several labels per image, of the images that have a label relative to those without it.",
            "training",
            words=("auto", "none", "sqrt", "balanced"),
        ),
    )
    metric_for_best_model: str = parameter(
        "auto",
        Definition(
            "Metric for best model",
            str,
            "Validation metric that decides which epoch's model is written. auto is average_precision with several "
            "labels per image, and accuracy otherwise.",
            "training",
            words=("auto", "accuracy", "balanced_accuracy", "average_precision", "micro_f1", "macro_f1", "loss"),
        ),
    )
    early_stopping_delay: Union[int, str] = parameter(
        "auto",
        Definition(
            "Early stopping delay",
            int,
            "Number of epochs at the start that patience does not count.",
            "training",
            at_least=0,
            words=("auto",),
        ),
    )
    test_time_augmentation: str = parameter(
        "none",
        Definition(
            "Test time augmentation",
            str,
            "flip averages the probabilities of each image and of its mirror image, in validation and in scoring.",
            "training",
            words=("none", "flip"),
        ),
    )
    calibration: str = parameter(
        "auto",
        Definition(
            "Calibration",
            str,
            "Scale the logits so that the probabilities of the trained model are as sure as it is right on the "
            "validation images. auto does so unless the recipe is classic.",
            "training",
            words=("auto", "off"),
        ),
    )
    optimizer: str = parameter(
        "auto",
        Definition(
            "Optimizer",
            str,
            "Stochastic gradient descent with Nesterov momentum, or AdamW.",
            "recipe",
            words=("auto", "sgd", "adamw"),
        ),
    )
    momentum: Union[float, str] = parameter(
        "auto",
        Definition(
            "Momentum",
            float,
            "Momentum of stochastic gradient descent.",
            "recipe",
            at_least=0,
            at_most=1,
            words=("auto",),
        ),
    )
    weight_decay: Union[float, str] = parameter(
        "auto",
        Definition("Weight decay", float, "Weight decay of the optimizer.", "recipe", at_least=0, words=("auto",)),
    )
    lr_schedule: str = parameter(
        "auto",
        Definition(
            "LR schedule",
            str,
            "How the learning rate changes after the warm-up. polynomial changes it between epochs, cosine between "
            "steps.",
            "recipe",
            words=("auto", "polynomial", "cosine", "constant"),
        ),
    )
    head_learning_rate_factor: Union[float, str] = parameter(
        "auto",
        Definition(
            "Head learning rate factor",
            float,
            "Learning rate of the head as a multiple of that of the other layers.",
            "recipe",
            at_least=0,
            words=("auto",),
        ),
    )
    layer_decay: Union[float, str] = parameter(
        "auto",
        Definition(
            "Layer decay",
            float,
            "Learning rate of a stage of the network as a multiple of that of the next stage; the head has the whole "
            "rate.",
            "recipe",
            greater_than=0,
            at_most=1,
            words=("auto", "off"),
        ),
    )
    layers_to_freeze: Union[int, str] = parameter(
        "auto",
        Definition(
            "Layers to freeze",
            int,
            "Number of stages of the network, from the input, whose weights stay as they are.",
            "recipe",
            at_least=0,
            words=("auto",),
        ),
    )
    freeze_epochs: Union[int, str] = parameter(
        "auto",
        Definition(
            "Freeze epochs",
            int,
            "Number of epochs at the start that train the head alone.",
            "recipe",
            at_least=0,
            words=("auto",),
        ),
    )
    label_smoothing: Union[float, str] = parameter(
        "auto",
        Definition(
            "Label smoothing",
            float,
            "Part of the label that is spread evenly over all classes in the training loss.",
            "recipe",
            at_least=0,
            at_most=1,
            words=("auto",),
        ),
    )
    auto_augment: str = parameter(
        "auto",
        Definition(
            "Auto augment",
            str,
            "Random changes of training images: none, mirroring only (flip), random crops, too (crop), or these and an "
            "operation of TrivialAugment on each image (trivialaugment).",
            "recipe",
            words=("auto", "none", "flip", "crop", "trivialaugment"),
        ),
    )
    horizontal_flip: str = parameter(
        "auto",
        Definition(
            "Horizontal flip",
            str,
            "Whether augmentation mirrors images. Set it off if left and right differ in meaning.",
            "recipe",
            words=("auto", "on", "off"),
        ),
    )
    color_augment: str = parameter(
        "auto",
        Definition(
            "Color augment",
            str,
            "Whether trivialaugment may change colors. Set it off if classes differ in color or brightness.",
            "recipe",
            words=("auto", "on", "off"),
        ),
    )
    random_erase: Union[float, str] = parameter(
        "auto",
        Definition(
            "Random erase",
            float,
            "Probability that a box of a training image is erased.",
            "recipe",
            at_least=0,
            at_most=1,
            words=("auto",),
        ),
    )
    mixup_alpha: Union[float, str] = parameter(
        "auto",
        Definition(
            "Mixup alpha",
            float,
            "Blend each training image, and its label, with another one of its batch: parameter of the beta "
            "distribution of the weights. 0 is off.",
            "recipe",
            at_least=0,
            words=("auto",),
        ),
    )
    cutmix_alpha: Union[float, str] = parameter(
        "auto",
        Definition(
            "Cutmix alpha",
            float,
            "Replace a box of each training image, and its part of the label, by that of another one of its batch: "
            "parameter of the beta distribution of the areas. 0 is off.",
            "recipe",
            at_least=0,
            words=("auto",),
        ),
    )
    model_ema: Union[float, str] = parameter(
        "auto",
        Definition(
            "Model EMA",
            float,
            "Decay of an exponential moving average of the weights, which is validated and written.",
            "recipe",
            at_least=0,
            at_most=1,
            words=("auto", "off"),
        ),
    )
    clip_grad_norm: Union[float, str] = parameter(
        "auto",
        Definition(
            "Clip grad norm",
            float,
            "Largest norm of the gradient of all weights together; a longer one is shortened to it.",
            "recipe",
            at_least=0,
            words=("auto", "off"),
        ),
    )
