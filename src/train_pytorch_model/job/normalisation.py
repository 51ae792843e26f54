"""Chooses the mean and the standard deviation that images are normalized with."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from train_pytorch_model.models.weight_records import Channels, channels_of

if TYPE_CHECKING:
    from train_pytorch_model.ports.untrained_model import UntrainedModel

logger = logging.getLogger(__name__)


class Normalisation(NamedTuple):
    """Pixels in [0, 1] become (pixels - mean) / std."""

    mean: Channels
    std: Channels


CLASSIC = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What the designer's module used for every network."""


def normalisation_of(model: UntrainedModel, recipe: str, image_column: str = "") -> Normalisation:
    """Return the normalization of a training: the one that the model's weights were made for, if it is known.

    Args:
        model: the model to train.
        recipe: "classic" for that of the designer's module, whatever the weights were made for.
        image_column: the name of the images in the training dataset, which matters if the model has several inputs.
    """
    trained = _of_trained_model(model, image_column)
    if recipe == "classic":
        if trained and trained != CLASSIC:
            logger.warning(
                "The given model was trained with another normalization (mean %s, std %s); "
                "this run uses mean and std 0.5.",
                *map(list, trained),
            )
        return CLASSIC
    if trained:
        return trained
    if model.pretrained is None:
        return CLASSIC
    return Normalisation(model.pretrained.mean, model.pretrained.std)


def _of_trained_model(model: UntrainedModel, image_column: str) -> Normalisation | None:
    found = model.normalisations.get(image_column) or next(iter(model.normalisations.values()), None)
    return found and Normalisation(*map(channels_of, found))
