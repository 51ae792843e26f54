"""Whether a trained model has a head for the labels of a dataset, in whatever order they are."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from train_pytorch_model.models.network import head_keys, with_outputs_in_order
from train_pytorch_model.text.name_forms import nfc

if TYPE_CHECKING:
    from train_pytorch_model.ports.labelled_images import LabelledImages
    from train_pytorch_model.ports.untrained_model import UntrainedModel

logger = logging.getLogger(__name__)


def has_head_for(model: UntrainedModel, images: LabelledImages) -> bool:
    """Return whether a model is trained for exactly the classes of a dataset, in this order, and for its task."""
    if not has_labels(model, images):
        return False
    classes = images.classes
    wanted = model.description.with_num_classes(len(classes))
    shapes = wanted.shapes()
    return all(model.state[key].shape == shapes[key] for key in head_keys(wanted, len(classes)) if key in model.state)


def has_labels(model: UntrainedModel, images: LabelledImages) -> bool:
    """Return whether the first outputs of a trained model have the labels of a dataset, and are for its task."""
    return _labels_of(model, images) == list(map(nfc, images.classes))


def in_order_of(model: UntrainedModel, images: LabelledImages) -> UntrainedModel:
    """Return a model with its outputs in the order of the classes of a dataset, if it is trained for these classes.

    Args:
        model: to train.
        images: the training dataset.

    Returns:
        The model with the same head in another order; the model as it is if it has other labels, these labels in this
        order, or a head whose outputs cannot be told apart.
    """
    labels, wanted = _labels_of(model, images), list(map(nfc, images.classes))
    if model.labels is None or labels == wanted or sorted(labels) != sorted(set(wanted)):
        return model
    order = [labels.index(name) for name in wanted]
    state = with_outputs_in_order(model.description, model.state, order)
    if state is None:
        return model
    logger.info("The outputs of the head of %s get the order of the classes of the training dataset.", model.path)
    ordered = tuple(model.labels[number] for number in order)
    return replace(model, state=state, labels=(*ordered, *model.labels[len(order) :]))


def _labels_of(model: UntrainedModel, images: LabelledImages) -> list[str]:
    """The labels of as many first outputs of a trained model as a dataset has classes; none for another task."""
    if model.labels is None or model.task.name != images.task:
        return []
    return list(map(nfc, model.labels[: len(images.classes)]))
