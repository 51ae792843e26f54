"""Reads the labels of images from the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.modules.label_columns import LabelColumns, find_columns
from train_pytorch_model.modules.table_columns import ones, values_in
from train_pytorch_model.text.wording import FirstFew, name_some

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.modules.label_tables import Cell, Table
    from train_pytorch_model.modules.named_images import NamedImages


@dataclass
class TableLabels:
    """What a table says of the images."""

    label_column: str
    """The title of the column of the labels; empty if there is none."""
    is_known: bool
    """Whether the title says that the column is that of the labels; otherwise, it is the only one left."""
    other_columns: tuple[str, ...] = ()
    """The titles of columns that might hold labels, if there is no label column."""
    has_only_counts: bool = False
    """Whether all of those have numbers."""
    has_unknown: bool = False
    """Whether there are other columns whose titles are not those of well-known facts."""
    categories: Optional[tuple[str, ...]] = None
    """All categories in their order, of a format that lists them."""
    named: set[int] = field(default_factory=set)
    """The images that are named, with a label or without."""
    labels: dict[int, str] = field(default_factory=dict)
    """The label of each image that has one."""
    splits: dict[int, str] = field(default_factory=dict)
    """The split of each image, if there is a column of splits."""
    missing: list[str] = field(default_factory=list)
    """Names that have a label and are no image's."""
    faults: list[str] = field(default_factory=list)
    """Why the labels cannot be used."""


def read_table(table: Table, images: NamedImages, file: str) -> TableLabels | None:
    """Read the labels of images from a table.

    Args:
        table: the table, with a header or without.
        images: the images.
        file: the name of the file of the table.

    Returns:
        The labels; None if the table names no image and does not have the titles of a table of labels.
    """
    columns = find_columns(table, images, file)
    if columns is None:
        return None
    titles = [column.title for column in columns.labels]
    others = tuple(column.title for column in columns.others)
    shown = titles[0] if len(titles) == 1 else f"{len(titles)} columns, one for each class" if titles else ""
    result = TableLabels(shown, columns.is_known, others, has_unknown=columns.has_unknown, categories=table.categories)
    result.has_only_counts = bool(others) and all(column.are_numbers() for column in columns.others)
    if columns.is_unclear:
        some = name_some(titles)
        result.faults.append(f"several columns could be the labels, or images have several labels: {some}")
    elif not table.categories and any(column.are_measurements(columns.table) for column in columns.labels):
        result.faults.append(
            f"the numbers in its column {shown!r} are measurements rather than classes: most are different; "
            "put the name of a class there, or call the column of the classes 'label'"
        )
    if columns.table.fault:
        result.faults.append(columns.table.fault)
    _read_rows(result, columns, images, file)
    return result


def _read_rows(result: TableLabels, columns: LabelColumns, images: NamedImages, file: str) -> None:
    several: dict[int, set[str]] = {}
    ambiguous = FirstFew()
    is_read = not columns.is_unclear
    for row in columns.table.rows:
        labels = _labels_of(columns, row) if is_read else []
        name = row[columns.file.number]
        found = images.find(name if isinstance(name, str) else "", file)
        result.named.update(found.others if found.number is None else (found.number,))
        if found.others:
            others = " or ".join(repr(images.names[number]) for number in found.others[:3])
            ambiguous.add(f"{name!r} may be {others}")
        elif found.number is None:
            if labels:
                result.missing.append(str(name))
        else:
            if columns.split is not None and row[columns.split.number]:
                result.splits[found.number] = columns.split.split_name(row[columns.split.number])
            for label in labels:
                if result.labels.setdefault(found.number, label) != label:
                    several.setdefault(found.number, {result.labels[found.number]}).add(label)
    if several:
        shown = FirstFew(
            f"{images.names[number]!r} is {' and '.join(map(repr, sorted(labels)[:5]))}"
            for number, labels in several.items()
        )
        result.faults.append(f"images of several categories: {shown.joined()}; give each image one category")
    if ambiguous:
        result.faults.append(f"names that several images have: {ambiguous.joined()}; give them with their folders")


def _labels_of(columns: LabelColumns, row: Sequence[Cell]) -> list[str]:
    """The different labels of a row: none, one, or several by mistake."""
    if len(columns.labels) > 1:
        return [column.title for column in ones(columns.labels, row)]
    return [value for column in columns.labels for value in values_in(row[column.number])]
