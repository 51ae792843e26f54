"""Compares the names of classes, within a dataset and of two datasets, and warns of unusual classes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.text.name_forms import appearance, difference, nfc, one_form_each
from train_pytorch_model.text.wording import join_some, name_some

if TYPE_CHECKING:
    from collections.abc import Iterable

    from train_pytorch_model.ports.labelled_images import LabelledImages

logger = logging.getLogger(__name__)

# Texts that pandas reads as missing values. Score Image Model reads index_to_label.csv with pandas.
LABELS_READ_AS_MISSING = frozenset(
    [
        *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    ]
)


def one_class_each(where: str, labels: Iterable[str], *, alike: bool = False) -> dict[str, str]:
    """Map each label to the name of its class: labels that are the same text in other Unicode forms are one class.

    Args:
        where: the dataset, for messages.
        labels: the labels of images or names of class folders.
        alike: whether labels may look the same otherwise, such as "cat" and "Cat".

    Raises:
        InvalidDatasetError: if labels look the same and must not; the message says how they differ.
    """
    forms = one_form_each(labels)
    merged = [f"{name!a} and {form!a}" for name, form in forms.items() if name != form]
    if merged:
        logger.warning(
            "%s: read as one class, because they are the same text in two Unicode forms: %s.", where, join_some(merged)
        )
    pairs = [] if alike else pairs_alike(sorted(set(forms.values())))
    if pairs:
        raise InvalidDatasetError(
            where,
            f"it has classes whose names look the same: {join_some(pairs)}",
            "Give one name to what is one class, and other names to what are two classes.",
        )
    return forms


def hidden_classes(names: Iterable[str]) -> list[str]:
    """Return the names of hidden folders of tools, which are classes only by mistake."""
    return [name for name in names if name.startswith(".ipynb_checkpoints") or name == "__MACOSX"]


def pairs_alike(names: Iterable[str], others: Iterable[str] = ()) -> list[str]:
    """Describe the names that look like others, or like earlier names, each with the difference."""
    by_appearance = {appearance(name): name for name in others}
    pairs = []
    for name in names:
        other = by_appearance.setdefault(appearance(name), name)
        if name != other:
            pairs.append(f"{other!a} and {name!a} differ in {difference(other, name)}")
    return pairs


def match_classes(train: LabelledImages, valid: LabelledImages) -> LabelledImages:
    """Return the validation images with the class indices of the training dataset, matched by name.

    Names that are the same text in another Unicode form are the same. The names of the training dataset are kept.

    Raises:
        InvalidDatasetError: if the two datasets have different tasks or categories; the message names them.
    """
    if train.task != valid.task:
        kinds = {MULTICLASS: "one class per image", MULTILABEL: "a list of labels per image"}
        raise InvalidDatasetError(
            valid.where,
            f"it has {kinds[valid.task]}, but the training dataset has {kinds[train.task]}",
            "Create both with the same task (see --task of Convert to Image Directory).",
        )
    index = {nfc(name): name for name in train.classes}
    names = tuple(index.get(nfc(name), name) for name in valid.classes)
    missing = [name for name in train.classes if name not in set(names)]
    extra = [name for name in names if name not in set(train.classes)]
    if missing or extra:
        parts = [f"it lacks {name_some(missing)}"] if missing else []
        parts += [f"the training dataset lacks {name_some(extra)}"] if extra else []
        parts += pairs_alike(extra, missing)
        raise InvalidDatasetError(
            valid.where,
            f"categories of validation dataset are different from that of training dataset ({'; '.join(parts)}).",
            "Please make sure training and validation dataset have the same categories.",
        )
    return replace(valid, classes=names).ordered_as(train.classes)


def warn_of_classes(train: LabelledImages, valid: LabelledImages) -> None:
    """Log warnings about labels that are read as missing values, labels without images, and a single label."""
    if train.task == MULTILABEL:
        _warn_of_labels(train)
    else:
        _warn_of_single_classes(train)
    for images in (train, valid):
        empty = [name for name, count in zip(images.classes, images.counts()) if not count]
        if empty:
            logger.warning("%s has no image of %s.", images.where, name_some(empty))


def _warn_of_single_classes(train: LabelledImages) -> None:
    read_as_missing = [name for name in train.classes if name in LABELS_READ_AS_MISSING]
    if read_as_missing:
        logger.warning(
            "Score Image Model reads the label %s as a missing value: its scores will not have that name%s. "
            "Rename the class if you need it.",
            name_some(read_as_missing),
            ", and scoring will fail because there are several" if len(read_as_missing) > 1 else "",
        )
    if len(train.classes) == 1:
        logger.warning("There is one class, %r: every image will be scored as this class.", train.classes[0])


def _warn_of_labels(train: LabelledImages) -> None:
    everywhere = [name for name, count in zip(train.classes, train.counts()) if count == len(train)]
    if everywhere:
        logger.warning(
            "%s: every image has the label %s. The model can only learn that all images have it.",
            train.where,
            name_some(everywhere),
        )
    if len(train.classes) == 1:
        logger.warning(
            "There is one label, %r: the model tells images with it from images without it.", train.classes[0]
        )
