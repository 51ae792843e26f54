"""Decides whether an image has one label or several, from the labels themselves."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.label_lists import TOLD_SEPARATORS, separation, separations, split_labels
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from train_pytorch_model.modules.conversion_options import ConversionOptions
    from train_pytorch_model.modules.table_labels import TableLabels

logger = logging.getLogger(__name__)

_OTHER_SEPARATORS = (",", "/", "\t", " ", "+", "&")
"""Separators that names have within them so often that they have to be given."""


@dataclass(frozen=True)
class LabelTask:
    """Whether an image has one label or several, and why."""

    name: str
    """MULTICLASS or MULTILABEL."""
    reason: str
    separator: Optional[str] = None
    """What separates the labels in a text; None if a text is one label."""

    def labels_of(self, read: TableLabels, number: int) -> tuple[str, ...]:
        """Return the labels of an image: one, or any number if it may have several."""
        if self.name == MULTICLASS:
            return (read.labels[number],)
        labels = read.lists[number]
        if not read.are_texts or self.separator is None:
            return labels
        return tuple(dict.fromkeys(part for label in labels for part in split_labels(label, self.separator)))

    def numbers_in(self, read: TableLabels) -> list[int]:
        """Return the images that have labels, or that are known to have none of several."""
        return list(read.labels if self.name == MULTICLASS else read.lists)


def choose_task(where: str, files: Mapping[str, TableLabels], options: ConversionOptions) -> LabelTask:
    """Decide whether an image has one label or several.

    Args:
        where: the dataset, for messages.
        files: the labels, by the name of the file.
        options: the task and the separator, if they were given.

    Raises:
        InvalidDatasetError: if the labels can be read in both ways, or are separated by several separators.
    """
    if options.task == MULTICLASS:
        return LabelTask(MULTICLASS, f"--task {MULTICLASS} was given")
    source = f"the labels in {name_some(list(files), 3)}"
    texts = [text for read in files.values() if read.are_texts for labels in read.lists.values() for text in labels]
    if options.separator is not None:
        whole = [text for read in files.values() if not read.are_texts for text in _all_labels(read)]
        return _task_of_separator(where, texts, whole, options.separator)
    several = next((f"{read.several} in {name}" for name, read in files.items() if read.several), "")
    if options.task == MULTILABEL or several:
        reason = several or f"--task {MULTILABEL} was given"
        return LabelTask(MULTILABEL, reason, _separator_in(where, source, texts))
    return _task_of_texts(where, source, texts)


def task_of_names(
    where: str, source: str, names: Sequence[str], options: ConversionOptions, *, reason: str
) -> LabelTask:
    """Return the task of images of which each has one name for all its labels, such as that of its folder.

    Args:
        where: the dataset, for messages.
        source: what has the names, for messages.
        names: the names.
        options: the separator, if it was given.
        reason: why an image may have several labels.

    Raises:
        InvalidDatasetError: if the labels are separated by several separators.
    """
    if options.separator is not None:
        return _task_of_separator(where, names, (), options.separator)
    return LabelTask(MULTILABEL, reason, _separator_in(where, source, names))


def _all_labels(read: TableLabels) -> set[str]:
    return {label for labels in read.lists.values() for label in labels}


def _task_of_separator(where: str, texts: Iterable[str], whole: Iterable[str], separator: str) -> LabelTask:
    """The task of labels with a separator that was given.

    Args:
        where: the dataset, for messages.
        texts: the labels that are split.
        whole: the labels that are not, in lists and columns.
        separator: the separator.
    """
    if not any(len(split_labels(text, separator)) > 1 for text in texts):
        inner = sorted(label for label in whole if len(split_labels(label, separator)) > 1)
        if inner:
            logger.warning(
                "%s: the labels in lists and columns are taken as they are: %r has the separator %r and is one label.",
                *(where, inner[0], separator),
            )
        else:
            logger.warning("%s: no label has the separator %r in it.", where, separator)
    return LabelTask(MULTILABEL, f"labels are separated by {separator!r}, as was given", separator)


def _separator_in(where: str, source: str, texts: Sequence[str]) -> str | None:
    """The separator in the labels of images that have several."""
    found = separations(texts)
    if len(found) > 1:
        found = [one for one in found if one.is_list]
    if len(found) > 1:
        raise _unclear(where, source, f"{found[0].example!r} and {found[1].example!r} have different separators", "")
    if not found:
        _warn_of_other_separators(where, texts, "one label")
    return found[0].separator if found else None


def _task_of_texts(where: str, source: str, texts: Sequence[str]) -> LabelTask:
    """The task of labels that are texts: several labels if they have a separator, and the parts recur."""
    found = separations(texts)
    lists = [one for one in found if one.is_list]
    if len(lists) == 1:
        count = sum(len(split_labels(text, lists[0].separator)) > 1 for text in texts)
        reason = f"{count} of {len(texts)} labelled images have labels that are separated by {lists[0].separator!r}"
        return LabelTask(MULTILABEL, reason, lists[0].separator)
    unclear = lists or [one for one in found if not one.is_name]
    if unclear:
        one = unclear[0]
        raise _unclear(
            where,
            source,
            f"{one.example!r} may be one class, or labels that are separated by {one.separator!r}",
            f"Give --task {MULTICLASS} if it is one class. Otherwise, ",
        )
    for one in found:
        logger.info(
            "%s: %r is read as one class, because its parts hardly occur elsewhere. If it is a list of labels, give "
            "--label-separator %r.",
            where,
            one.example,
            one.separator,
        )
    _warn_of_other_separators(where, texts, "one class")
    return LabelTask(MULTICLASS, "each image has one label")


def _warn_of_other_separators(where: str, texts: Sequence[str], what: str) -> None:
    """Log a warning if the texts look like lists with a separator that has to be given."""
    for other in _OTHER_SEPARATORS:
        likely = separation(texts, other)
        if likely and likely.is_list:
            logger.warning(
                "%s: %r is read as %s. If it is a list of labels, give --label-separator %r.",
                *(where, likely.example, what, other),
            )
            return


def _unclear(where: str, source: str, what: str, hint: str) -> InvalidDatasetError:
    advice = f"{hint}give --label-separator, such as --label-separator '{TOLD_SEPARATORS[0]}'."
    return InvalidDatasetError(where, f"{source} are not clear: {what}", advice[0].upper() + advice[1:])
