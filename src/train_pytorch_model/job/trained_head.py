"""Whether a trained model has a head for the labels of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from train_pytorch_model.models.network import head_keys
from train_pytorch_model.text.name_forms import nfc

if TYPE_CHECKING:
    from train_pytorch_model.ports.labelled_images import LabelledImages
    from train_pytorch_model.ports.untrained_model import UntrainedModel


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


def _labels_of(model: UntrainedModel, images: LabelledImages) -> list[str]:
    """The labels of as many first outputs of a trained model as a dataset has classes; none for another task."""
    if model.labels is None or model.task.name != images.task:
        return []
    return list(map(nfc, model.labels[: len(images.classes)]))
