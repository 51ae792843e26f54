"""Reads the labels of images from the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.modules.conversion_options import AUTO
from train_pytorch_model.modules.label_columns import LabelColumns, find_columns
from train_pytorch_model.modules.label_lists import are_vectors, is_bare_list
from train_pytorch_model.text.wording import FirstFew, name_some, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from train_pytorch_model.modules.label_tables import Cell, Table
    from train_pytorch_model.modules.named_images import NamedImages

_MIN_FRACTION = 0.1
"""The smallest fraction of images with several annotations that is no mistake."""


@dataclass
class TableLabels:
    """What a table says of the images."""

    label_column: str
    """The title of the column of the labels; empty if there is none."""
    is_known: bool
    """Whether the title says that the column is that of the labels; otherwise, it is the only one left."""
    other_columns: tuple[str, ...] = ()
    """The titles of columns that might hold labels, if there is no label column."""
    advice: str = ""
    """What to do about them."""
    has_only_counts: bool = False
    """Whether all of those have numbers."""
    has_unknown: bool = False
    """Whether there are other columns whose titles are not those of well-known facts."""
    categories: Optional[tuple[str, ...]] = None
    """All categories in their order, of a format that lists them."""
    columns: tuple[str, ...] = ()
    """All labels, also those that no image has, if each of several columns is one."""
    facts: tuple[str, ...] = ()
    """Those of them that could be facts on the images by their titles."""
    ignored: tuple[str, ...] = ()
    """The titles of columns of 0 and 1 that are not read, beside labels that are columns of 0 and 1."""
    ignored_advice: str = ""
    """What to do if they are labels."""
    has_row_per_label: bool = False
    """Whether several rows of an image may be its labels."""
    are_texts: bool = False
    """Whether the labels are texts of one column, which a separator may split into several labels."""
    are_flags: bool = False
    """Whether the labels are columns of 0 and 1 whose titles do not say so, and which may be facts on the images."""
    num_several: int = 0
    """The images with several rows, which are their labels or a mistake; `judge_rows_per_label` decides."""
    fault_of_several: str = ""
    """What is wrong if it is a mistake."""
    several: str = ""
    """Why the images have several labels each; empty if they have one, as far as the table says."""
    named: set[int] = field(default_factory=set)
    """The images that are named, with a label or without."""
    labels: dict[int, str] = field(default_factory=dict)
    """The label of each image that has one; the first of several."""
    lists: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """All labels of each image: the labels of an image of several labels. They may be none."""
    splits: dict[int, str] = field(default_factory=dict)
    """The split of each image, if there is a column of splits."""
    missing: list[str] = field(default_factory=list)
    """Names that have a label and are no image's."""
    faults: list[str] = field(default_factory=list)
    """Why the labels cannot be used."""

    @property
    def has_only_empty_lists(self) -> bool:
        """Whether the file says of each of its images that it has no label."""
        return bool(self.label_column and self.lists) and not self.labels


def read_table(table: Table, images: NamedImages, file: str, task: str = AUTO) -> TableLabels | None:
    """Read the labels of images from a table.

    Args:
        table: the table, with a header or without.
        images: the images.
        file: the name of the file of the table.
        task: MULTICLASS if an image has one label, MULTILABEL if it may have several, AUTO to find it.

    Returns:
        The labels; None if the table names no image and does not have the titles of a table of labels.
    """
    columns = find_columns(table, images, file, task)
    if columns is None:
        return None
    titles = [column.title for column in columns.labels]
    others = tuple(column.title for column in columns.others)
    title = titles[0] if len(titles) == 1 else f"{len(titles)} columns, one for each class" if titles else ""
    result = TableLabels(title, columns.is_known, others, has_unknown=columns.has_unknown, categories=table.categories)
    result.advice = columns.advice
    result.has_row_per_label = task == AUTO and table.has_row_per_label
    result.facts = tuple(column.title for column in columns.labels if columns.are_classes and column.is_other)
    result.ignored = tuple(column.title for column in columns.ignored)
    result.ignored_advice = columns.ignored_advice
    result.has_only_counts = bool(others) and all(column.are_numbers() for column in columns.others)
    if columns.is_unclear:
        result.faults.append(
            f"several columns could be the labels, or images have several labels: {name_some(titles)}; "
            f"remove all but one, or give --task {MULTILABEL} to read all"
        )
    elif not table.categories and any(column.are_measurements(columns.table) for column in columns.labels):
        result.faults.append(
            f"the numbers in its column {title!r} are measurements rather than classes: most are different; "
            "put the name of a class there, or call the column of the classes 'label'"
        )
    if columns.table.fault:
        result.faults.append(columns.table.fault)
    _Reading(result, columns, images, file, task).read()
    result.are_flags = bool(columns.are_classes and result.several)
    return result


def judge_rows_per_label(files: Iterable[TableLabels]) -> None:
    """Decide for all files together whether several rows of an image are its labels: they are many, or a mistake."""
    files = [read for read in files if read.has_row_per_label]
    num_labelled = sum(len(read.labels) for read in files)
    is_usual = sum(read.num_several for read in files) >= _MIN_FRACTION * num_labelled
    for read in files:
        if read.num_several and is_usual:
            read.several = f"{read.num_several} of {len(read.labels)} labelled images are of several categories"
        elif read.num_several:
            read.faults.append(read.fault_of_several)


class _Reading:
    """The reading of the rows of a table."""

    def __init__(self, result: TableLabels, columns: LabelColumns, images: NamedImages, file: str, task: str) -> None:
        self._result = result
        self._columns = columns
        self._images = images
        self._file = file
        self._task = task
        parents = {column.title.rpartition(".")[0] for column in columns.labels}
        has_path = len(parents) == 1 and parents != {""} and not columns.table.is_delimited
        self._path = f"{parents.pop()}." if has_path else ""
        self._blank_is_zero = columns.are_blank_for_zero()
        self._ambiguous = FirstFew()
        self._different = FirstFew()
        self._listed: dict[int, None] = {}
        """The images with several labels in one list."""
        self._several: dict[int, None] = {}
        """The images with several labels otherwise, which may be a mistake."""

    def read(self) -> None:
        """Read all rows, and decide whether several labels of an image are a mistake."""
        self._check_lists()
        if self._columns.are_classes:
            self._result.columns = tuple(self._names_of([column.title for column in self._columns.labels]))
        for row in self._columns.table.rows:
            self._read_row(row)
        self._judge()
        if self._ambiguous:
            self._result.faults.append(
                f"names that several images have: {self._ambiguous.joined()}; give them with their folders"
            )
        self._result.are_texts = len(self._columns.labels) == 1 and not (
            self._columns.are_classes or self._columns.table.categories or self._listed
        )

    def _check_lists(self) -> None:
        """Refuse lists that do not have names."""
        for column in self._columns.labels:
            cells = [row[column.number] for row in self._columns.table.rows if row[column.number]]
            bare = [cell for cell in cells if is_bare_list(cell)]
            if bare and self._task != MULTICLASS:
                self._result.faults.append(
                    f"its column {column.title!r} has lists without quotes, such as {bare[0]}; write them as JSON, "
                    f'such as ["cat", "dog"], or give --task {MULTICLASS} if these are names'
                )
            if are_vectors(cells):
                self._result.faults.append(
                    f"its column {column.title!r} has lists of 0 and 1 without the names of the labels, such as "
                    f"{shown(cells[0])}; write the names, or one column of 0 and 1 for each label"
                )

    def _read_row(self, row: Sequence[Cell]) -> None:
        result, columns = self._result, self._columns
        listed = None if columns.is_unclear else columns.labels_of(row)
        name = row[columns.file.number]
        found = self._images.find(name if isinstance(name, str) else "", self._file)
        result.named.update(found.others if found.number is None else (found.number,))
        if found.others:
            others = " or ".join(repr(self._images.names[number]) for number in found.others[:3])
            self._ambiguous.add(f"{name!r} may be {others}")
            return
        if found.number is None:
            if listed and listed.labels:
                result.missing.append(str(name))
            return
        if columns.split is not None and row[columns.split.number]:
            result.splits[found.number] = columns.split.split_name(row[columns.split.number])
        if listed is not None:
            self._add(found.number, listed.labels, is_list=listed.is_list)
        elif self._blank_is_zero:
            self._add(found.number, [], is_list=False)

    def _add(self, number: int, labels: Sequence[str], *, is_list: bool) -> None:
        before, names = self._result.lists.get(number, ()), self._names_of(labels)
        if before and names and {*before} != {*names}:
            if is_list or number in self._listed:
                self._different.add(f"{self._images.names[number]!r} is {list(before)} and {names}")
            self._several[number] = None
        if len(labels) > 1:
            (self._listed if is_list else self._several)[number] = None
        self._result.lists[number] = tuple(dict.fromkeys((*before, *names)))
        if labels:
            first = labels[0][len(self._path) :] if self._columns.are_classes else labels[0]
            self._result.labels.setdefault(number, first)

    def _names_of(self, labels: Sequence[str]) -> list[str]:
        """The names of labels: of columns, the titles without a path that all have, such as `labels.cat`."""
        if not self._columns.are_classes:
            return list(labels)
        return [name for label in labels if (name := label[len(self._path) :]) != self._columns.unlabelled]

    def _judge(self) -> None:
        result, num_labelled = self._result, len(self._result.labels)
        if self._task == MULTICLASS:
            self._several.update(self._listed)
        elif self._listed:
            if self._columns.are_classes and not self._columns.table.has_header:
                result.faults.append(
                    "the columns of 0 and 1 have no titles; put the names of the labels in a first row"
                )
            if self._columns.are_uncertain():
                result.faults.append("its columns of 0 and 1 have -1 beside 0, which may mean uncertain; write 0 or 1")
            result.several = f"{len(self._listed)} of {num_labelled} labelled images have several labels"
        elif len(result.columns) == 1:
            result.several = f"{result.columns[0]!r} is the only column of labels"
        if self._task != MULTICLASS and self._different:
            result.faults.append(f"images with different lists of labels: {self._different.joined()}; keep one of them")
        elif self._task == MULTILABEL:
            return
        elif self._several:
            shown = FirstFew(
                f"{self._images.names[number]!r} is {' and '.join(map(repr, sorted(result.lists[number])[:5]))}"
                for number in self._several
            )
            fault = (
                f"images of several categories: {shown.joined()}; give each image one category, "
                f"or give --task {MULTILABEL} if an image may have several labels"
            )
            if result.has_row_per_label:
                result.num_several, result.fault_of_several = len(self._several), fault
            else:
                result.faults.append(fault)
