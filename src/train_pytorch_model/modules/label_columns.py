"""Finds the columns of a table that hold the names of images, their labels and their splits."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple, Optional

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.modules.flag_columns import (
    best_known,
    choose_flags,
    flags_beside,
    is_full,
    is_one_hot,
    is_partition,
    repeat,
)
from train_pytorch_model.modules.header_rows import is_header
from train_pytorch_model.modules.label_lists import Listed, is_empty_list, labels_in
from train_pytorch_model.modules.label_tables import Table, with_header
from train_pytorch_model.modules.table_columns import (
    FILE_TITLES,
    LABEL_TITLES,
    VAGUE_FILE_TITLES,
    Column,
    are_equivalent,
    is_binary,
    is_false,
    ones,
    plain,
)
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.modules.label_tables import Cell
    from train_pytorch_model.modules.named_images import NamedImages

_CLASSES_FILE = "_classes.csv"
"""A file of Roboflow's, in which all columns but the first are labels, whatever their titles are."""
_UNLABELLED = "Unlabeled"
"""The title of Roboflow's column of images without a label."""


class LabelColumns(NamedTuple):
    """The columns of a table that are read."""

    table: Table
    """The table, with its header."""
    file: Column
    """The names of the images."""
    labels: list[Column]
    """The labels: none, one, several for an image of several labels, or one column for each class. If `is_unclear`,
    several of which one is right."""
    split: Optional[Column]
    """The split of each image."""
    others: list[Column]
    """Those that might hold labels, if there are no labels."""
    has_unknown: bool
    """Whether there are other columns whose titles are not those of well-known facts."""
    are_classes: bool = False
    """Whether each column of labels is a class, with 1 for the images that have it and 0 for the others."""
    is_unclear: bool = False
    """Whether several columns could be that of the labels."""
    ignored: list[Column] = []  # noqa: RUF012  # it is never changed
    """Columns of 0 and 1 that are not read, beside labels that are columns of 0 and 1."""

    @property
    def unlabelled(self) -> str:
        """The title of the column that has 1 where an image has no label; empty if there is none."""
        titles = [column.title for column in self.labels]
        return _UNLABELLED if self.are_classes and _UNLABELLED in titles else ""

    def are_uncertain(self) -> bool:
        """Whether columns of 0 and 1 have -1 beside 0."""
        values = {str(value) for column in self.labels for value in column.sample} if self.are_classes else set()
        return not (values.isdisjoint(("-1", "-1.0")) or values.isdisjoint(("0", "0.0")))

    def are_blank_for_zero(self) -> bool:
        """Whether columns of 1 are blank where others have 0, so that a blank row has none of the labels."""
        numbers = [column.number for column in self.labels]
        rows = self.table.rows if self.are_classes and self.table.is_delimited else []
        return bool(rows) and not any(is_false(row[number]) for row in rows for number in numbers)

    @property
    def advice(self) -> str:
        """What to do if there are no labels."""
        wrong = [column for column in self.others if not column.is_binary()]
        if not wrong and len(self.others) > 1:
            return f"call the right one 'label', or give --task {MULTILABEL} if each of them is a label"
        if not wrong or len(self.others) - len(wrong) < 2:
            return "call the right one 'label'"
        values = [value for value in wrong[0].sample if not is_binary(value)]
        return (
            f"if each column of 0 and 1 is a label, correct or remove the column {wrong[0].title!r}, "
            f"which has {shown(values[0])}; otherwise, call the right one 'label'"
        )

    @property
    def ignored_advice(self) -> str:
        """What to do if ignored columns are labels."""
        if any(column.is_label for column in self.labels):
            return f"give --task {MULTILABEL}"
        if not self.table.is_delimited:
            return "give them other names"
        return f"leave only the columns of the images and of the labels, and call the file {_CLASSES_FILE}"

    @property
    def is_known(self) -> bool:
        """Whether the titles say where the labels are; otherwise, theirs is the only column left."""
        return len(self.labels) > 1 or any(column.is_label for column in self.labels)

    def labels_of(self, row: Sequence[Cell]) -> Listed | None:
        """Return the labels of a row; None if it does not say which labels the image has."""
        if self.are_classes:
            if not any(row[column.number] for column in self.labels):
                return None
            found = [column.title for column in ones(self.labels, row)]
            return Listed(found, len(found) > 1)
        cells = [row[column.number] for column in self.labels]
        if not any(cells):
            is_none = self.table.is_delimited or any(map(is_empty_list, cells))
            return Listed([], is_list=False) if is_none else None
        if len(cells) == 1:
            return labels_in(cells[0])
        labels = dict.fromkeys(label for cell in cells for label in labels_in(cell).labels)
        return Listed(list(labels), is_list=False)


def find_columns(table: Table, images: NamedImages, file: str, task: str) -> LabelColumns | None:
    """Find the columns of a table that hold the names of images and their labels.

    Args:
        table: the table, with a header or without.
        images: the images.
        file: the name of the file of the table.
        task: MULTICLASS if an image has one label, MULTILABEL if it may have several; another text to find it.

    Returns:
        The columns; None if the table names no image and does not have the titles of a table of labels.

    Raises:
        ValueError: if it is a table of labels without rows.
    """
    if table.rows and not table.has_header and is_header(table, images, file):
        table = with_header(table)
    if not table.rows:
        titles = {plain(title) for title in table.titles}
        if table.has_header and not titles.isdisjoint(FILE_TITLES) and not titles.isdisjoint(LABEL_TITLES):
            raise ValueError("it has titles but no rows")
        return None
    columns = [Column(number, title, table) for number, title in enumerate(table.titles)]
    files = _file_columns(columns, images, file)
    labels, others, are_classes = _label_columns(columns, files, table, file, task)
    if not files:
        files = [column for column in columns if column not in labels and _could_name_files(column, table)]
        if not files or not any(column.is_label and column.sample for column in labels):
            return None
    split = next((column for column in columns if column.is_split and column not in (files[0], *labels)), None)
    used = (*files, *labels, *filter(None, [split]))
    has_unknown = any(column.sample and not column.is_other and column not in used for column in columns)
    is_unclear = len(labels) > 1 and not (are_classes or task == MULTILABEL)
    found = LabelColumns(table, files[0], labels, split, others, has_unknown, are_classes, is_unclear)
    if found.are_blank_for_zero():
        blank = [column for column in columns if column.could_be_blank_label() and column not in used]
        found = found._replace(labels=[*labels, *blank])
    return found._replace(ignored=_ignored(columns, found))


def _ignored(columns: Sequence[Column], found: LabelColumns) -> list[Column]:
    """The columns of 0 and 1 that may be labels and are not read."""
    labels, table = found.labels, found.table
    if found.is_unclear or not labels or not all(column.is_binary() for column in labels):
        return []
    rest = [column for column in columns if column not in (found.file, found.split, *labels)]
    if not table.is_delimited:
        rest = [column for column in rest if found.are_classes and column.parent == labels[0].parent]
    doubtful = [] if any(column.is_label for column in labels) else [one for one in rest if one.is_doubtful]
    return [*flags_beside(labels, rest, table), *doubtful]


def _could_name_files(column: Column, table: Table) -> bool:
    """Whether the title of a column that names none of the images says that it names files."""
    return column.key in FILE_TITLES and (column.key not in VAGUE_FILE_TITLES or len(table.titles) <= 3)


def _file_columns(columns: Sequence[Column], images: NamedImages, file: str) -> list[Column]:
    """The columns that name images, the best first."""
    ranked = []
    for column in columns:
        texts = [text for text in dict.fromkeys(column.sample) if isinstance(text, str) and len(text) < 2000]
        found = [images.find(text, file) for text in texts]
        num_full = sum(one.is_full and (one.number is not None or bool(one.others)) for one in found)
        num_unique = sum(one.is_full and one.number is not None for one in found)
        num_any = sum(one.number is not None for one in found)
        is_known = column.key in FILE_TITLES
        is_full = num_full > 0 and (is_known or num_full >= len(texts) / 2)
        # A number without an ending can be the name of an image by chance, as an index or a class.
        is_enough = num_any >= len(images) / 2 or (is_known and num_any >= max(2, len(images) / 10))
        if is_full or (num_any >= len(texts) / 2 and is_enough and not column.is_label):
            order = -FILE_TITLES.index(column.key) if is_known else -len(FILE_TITLES)
            ranked.append(((is_full, num_unique, num_any, order, -column.number), is_known, column))
    ranked.sort(key=lambda one: one[0], reverse=True)
    most = ranked[0][0][2] if ranked else 0
    has_full = bool(ranked) and ranked[0][0][0]
    # Beside names with endings, 0 and 1 are the images 0.png and 1.png by chance only.
    return [
        column
        for key, is_known, column in ranked
        if key[0] or is_known or (key[2] >= most and not (has_full and column.is_binary()))
    ]


def _label_columns(
    columns: Sequence[Column], files: Sequence[Column], table: Table, file: str, task: str
) -> tuple[list[Column], list[Column], bool]:
    """The columns of the labels, those that might be if there are none, and whether each column is a class."""
    free = [column for column in columns if column not in files and not column.is_split and column.sample]
    are_binary = all(column.is_binary() for column in free)
    multilabel = task == MULTILABEL
    if PurePosixPath(file).name == _CLASSES_FILE and are_binary and len(free) >= (2 if task == MULTICLASS else 1):
        return free, [], True
    known = [column for column in free if column.is_label]
    if len(known) > 1 and all(column.is_binary() and column.key not in LABEL_TITLES for column in known):
        return known, [], True  # check boxes
    if known:
        best = best_known(known, table)
        if all(column.is_binary() for column in known):
            beside = [column for column in free if column in known or _are_together(column, known[0], table)]
            best, are_classes = choose_flags(known, best, beside, table, multilabel=multilabel)
            if len(best) > 1:
                return best, [], are_classes
        more = [column for column in free if column.is_another_label() and column not in known]
        if not repeat(more, best[0], table):
            best = [*best, *(column for column in more if not are_equivalent(column, best[0], table))]
        return best, [], len(best) > 1 and is_one_hot(best, table)
    numbered = [column for column in free if column.is_another_label()] if multilabel else []
    if numbered:
        return numbered, [], False
    unknown = [column for column in free if not column.is_other]
    others = [column for column in unknown if column.could_be_classes(table)] or [
        column for column in unknown if column.could_be_lists() or (multilabel and not column.are_numbers())
    ]
    empty = [column for column in columns if column.is_label and column.has_empty_lists(table)]
    if empty and (not others or empty[0].is_result):
        return empty[:1], [], False
    flags = _flags(free, others, table) if all(column.is_binary() for column in others) else []
    if len(flags) > 1 or (flags and multilabel):
        num_unknown = sum(column in unknown for column in flags)
        if multilabel or num_unknown > 1 or (num_unknown and is_partition(flags, table)):
            others = flags
        elif num_unknown or all(column.are_numbers() for column in flags):
            return [], flags, False
    binary = [column for column in others if column.is_binary()]
    if len(others) == 1:
        if binary and multilabel and table.has_header:
            return others, [], True
        return ([] if table.has_header and others[0].could_be_counts(table) else others), others, False
    are_one_hot = is_one_hot(binary, table)
    fractions = [] if are_one_hot else [column for column in unknown if column.are_fractions()]
    if len(binary) > 1 and not fractions and (len(binary) == len(others) or (are_one_hot and is_full(binary, table))):
        return binary, [], True
    others += fractions
    if not table.has_header:
        texts = [column for column in others if not column.are_numbers()]
        if len(texts) == 1 or (texts and multilabel):
            return texts, others, False
    return [], others, False


def _flags(free: Sequence[Column], others: Sequence[Column], table: Table) -> list[Column]:
    """The columns of 0 and 1, also those whose titles are facts, and those with a single 1."""
    if table.is_delimited:
        return [column for column in free if column.is_flag]
    parents = {column.parent for column in others}
    return [
        column
        for column in free
        if column in others or (column.is_flag and column.is_other and column.parent in parents)
    ]


def _are_together(column: Column, other: Column, table: Table) -> bool:
    """Whether columns are of one kind: in JSON, those of one object within the record."""
    return table.is_delimited or (column.parent != "" and column.parent == other.parent)
