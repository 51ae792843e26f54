"""Chooses among several columns of labels, and tells whether columns of 0 and 1 each are a label."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from train_pytorch_model.modules.table_columns import Column, are_equivalent, ones, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.modules.label_tables import Table

FIRST_LABEL_TITLES = ("label", "category", "class")
"""The usual titles of a column of labels, the best first."""
# Titles of a column of labels that are names of labels as well, as in a table of `healthy` and `disease`.
_NAMES_OF_LABELS = frozenset(("breed", "species", "variety", "diagnosis", "dx", "disease", "emotion", "tag"))


def choose_flags(
    known: Sequence[Column], best: Sequence[Column], free: Sequence[Column], table: Table, *, multilabel: bool
) -> tuple[list[Column], bool]:
    """Choose the columns that are read, if all columns that are titled as labels are have 0 and 1.

    Args:
        known: the columns that are titled so.
        best: those of them that differ.
        free: all columns that may hold labels.
        table: the table.
        multilabel: whether an image is known to have several labels.

    Returns:
        The columns, and whether each is a label. If not, and they are several, it is not clear which one is right.
    """
    flags = [column for column in free if column in known or (column.is_flag and not column.is_another_label())]
    if multilabel and len(flags) > 1:
        return flags, True
    if plain(best[0].title) in FIRST_LABEL_TITLES:
        return list(best), False
    are_names = len(flags) > 2 or not _NAMES_OF_LABELS.isdisjoint(column.key for column in known)
    if (are_names and len(flags) > 1 and is_partition(flags, table)) or (len(known) > 1 and is_one_hot(flags, table)):
        return flags, True
    return [*best, *flags_beside(best, [column for column in flags if column not in known], table)], False


def best_known(known: Sequence[Column], table: Table) -> list[Column]:
    """Of several columns of labels, the one with names rather than numbers, or the one with the usual title."""
    kept: list[Column] = []
    for column in sorted(known, key=Column.are_numbers):
        if not any(are_equivalent(column, other, table) for other in kept):
            kept.append(column)
    if len(kept) > 1:
        for title in FIRST_LABEL_TITLES:
            usual = [column for column in known if plain(column.title) == title]
            if usual:
                return usual[:1]
    return kept


def flags_beside(labels: Sequence[Column], columns: Sequence[Column], table: Table) -> list[Column]:
    """Return the columns of 0 and 1 that say something else than columns of labels do."""
    return [
        column
        for column in columns
        if column.is_flag
        and len(column.truths(table)) > 1
        and not any(are_equivalent(column, label, table) for label in labels)
    ]


def is_one_hot(columns: Sequence[Column], table: Table) -> bool:
    """Whether each column is a class: it has 1 in the rows of its images, and 0 elsewhere."""
    if not all(column.is_binary() for column in columns):
        return False
    counts = Counter(len(ones(columns, row)) for row in table.rows)
    return counts[1] > 0 and max(counts) == 1


def is_partition(columns: Sequence[Column], table: Table) -> bool:
    """Whether each row has 1 in one of the columns."""
    return all(len(ones(columns, row)) == 1 for row in table.rows)


def is_full(columns: Sequence[Column], table: Table) -> bool:
    """Whether each row has 1 in one of more than two columns."""
    return len(columns) > 2 and is_partition(columns, table)


def repeat(columns: Sequence[Column], label: Column, table: Table) -> bool:
    """Whether columns are the classes of a column of labels, such as `label_0` to `label_9` beside `label`."""
    pairs = {(row[label.number] or "", tuple(column.title for column in ones(columns, row))) for row in table.rows}
    num_classes = len({given for given, _ in pairs})
    return is_one_hot(columns, table) and is_full(columns, table) and len(pairs) == num_classes
