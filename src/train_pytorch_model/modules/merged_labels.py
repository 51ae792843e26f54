"""Takes the labels of several files together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.label_lists import split_labels
from train_pytorch_model.modules.label_task import LabelTask, choose_task
from train_pytorch_model.ports.classes import hidden_classes, one_class_each
from train_pytorch_model.text.wording import FirstFew, name_some

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from train_pytorch_model.modules.conversion_options import ConversionOptions
    from train_pytorch_model.modules.table_labels import TableLabels

logger = logging.getLogger(__name__)

Label = Union[str, tuple[str, ...]]
"""The label of an image; a tuple of all labels, in the order of the categories, if an image may have several."""


@dataclass(frozen=True)
class MergedLabels:
    """The labels of images from files."""

    task: LabelTask
    """Whether an image has one label or several."""
    labels: Mapping[int, Label]
    """The label of each image that has one, by the number of the image; a tuple if an image may have several."""
    splits: Mapping[int, str]
    """The split of each image, if the files have a column of splits."""
    categories: tuple[str, ...]
    """All categories, in their order."""
    files: tuple[str, ...]
    """The names of the files that are used."""
    without: frozenset[int]
    """The images that the files name with an empty label, or an empty list of labels."""


def merge_labels(
    where: str, files: Mapping[str, TableLabels], names: Sequence[str], options: ConversionOptions
) -> MergedLabels:
    """Take the labels of files together.

    Args:
        where: the dataset, for messages.
        files: the labels, by the name of the file.
        names: the names of the images.
        options: whether an image has one label or several, if that was given.

    Raises:
        InvalidDatasetError: if two files contradict each other, labels look the same, or it is not clear whether an
            image has one label or several.
    """
    task = choose_task(where, files, options)
    without = frozenset(number for read in files.values() for number, labels in read.lists.items() if not labels)
    if task.name == MULTICLASS:
        files = {name: read for name, read in files.items() if read.labels}
    _tell_of_columns(where, files)
    by_file = {
        name: {number: task.labels_of(read, number) for number in task.numbers_in(read)} for name, read in files.items()
    }
    given = {label for lists in by_file.values() for labels in lists.values() for label in labels}
    listed = {name for read in files.values() for name in (*(read.categories or ()), *read.columns)}
    _check_names(where, sorted(given | listed))
    is_of_letters = all(len(label) == 1 for label in given)  # "a" and "A" are different letters
    form_of = one_class_each(where, given | listed, alike=is_of_letters)
    merged: dict[int, Label] = {}
    splits: dict[int, str] = {}
    first_file: dict[int, str] = {}
    contradictions = FirstFew(limit=3)
    for name, read in files.items():
        for number, labels in by_file[name].items():
            forms = sorted({form_of[label] for label in labels})
            label = tuple(forms) if task.name == MULTILABEL else forms[0]
            if merged.setdefault(number, label) != label:
                contradictions.add(
                    f"{names[number]!r} is {merged[number]!r} in {first_file[number]} and {label!r} in {name}"
                )
            first_file.setdefault(number, name)
        splits.update(read.splits)
    if contradictions:
        raise InvalidDatasetError(
            where,
            f"its files of labels contradict each other: {contradictions.joined()}",
            "Keep the right file, or correct the wrong one.",
        )
    categories = _categories(files, form_of)
    if not categories:
        raise InvalidDatasetError(
            where, f"no image has a label in {name_some(list(files), 3)}", "Add images that have labels."
        )
    return MergedLabels(task, _in_order(merged, categories), splits, categories, tuple(files), without)


def labels_in_names(where: str, names: Collection[str], separator: str | None) -> dict[str, tuple[str, ...]]:
    """Split names that are lists of labels, such as those of folders.

    Args:
        where: the dataset, for messages.
        names: the names.
        separator: what separates the labels in them; None if each is one label.

    Returns:
        The sorted labels in each name.

    Raises:
        InvalidDatasetError: if labels look the same, or training refuses them.
    """
    if separator is None:
        return {name: (name,) for name in names}
    given = {label for name in names for label in split_labels(name, separator)}
    _check_names(where, sorted(given))
    form_of = one_class_each(where, given, alike=all(len(label) == 1 for label in given))
    return {name: tuple(sorted({form_of[label] for label in split_labels(name, separator)})) for name in names}


def _tell_of_columns(where: str, files: Mapping[str, TableLabels]) -> None:
    """Log which columns of 0 and 1 are read as labels or not, against or because of their titles."""
    for name, read in files.items():
        if read.facts:
            logger.info(
                "%s: in %s, these columns of 0 and 1 are read as labels: %s. Remove those that are none.",
                *(where, name, name_some(read.facts)),
            )
        if read.ignored:
            logger.warning(
                "%s: in %s, these columns of 0 and 1 are not read as labels: %s. If they are labels, %s.",
                *(where, name, name_some(read.ignored), read.ignored_advice),
            )


def _in_order(labels: Mapping[int, Label], categories: Sequence[str]) -> dict[int, Label]:
    """The same labels, each list in the order of the categories."""
    index = {name: number for number, name in enumerate(categories)}
    return {
        number: label if isinstance(label, str) else tuple(sorted(label, key=index.__getitem__))
        for number, label in labels.items()
    }


def _check_names(where: str, names: Sequence[str]) -> None:
    """Refuse names of classes that training refuses."""
    for what, found in (
        ("is no UTF-8 text", [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]),
        ("is a hidden folder", hidden_classes(names)),
    ):
        if found:
            raise InvalidDatasetError(where, f"the label {name_some(found)} {what}", "Correct the file of labels.")


def _categories(files: Mapping[str, TableLabels], form_of: Mapping[str, str]) -> tuple[str, ...]:
    """The categories in the order that all files list, if they list the same; otherwise sorted."""
    orders = {read.categories for read in files.values()}
    if len(orders) == 1 and None not in orders:
        (order,) = orders
        return tuple(dict.fromkeys(form_of[category] for category in order or ()))
    return tuple(sorted(set(form_of.values())))
