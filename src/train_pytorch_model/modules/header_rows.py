"""Tells whether the first row of a table is its header."""

from __future__ import annotations

from typing import TYPE_CHECKING

from train_pytorch_model.modules.named_images import has_image_ending
from train_pytorch_model.modules.table_columns import FILE_TITLES, LABEL_TITLES, plain

if TYPE_CHECKING:
    from train_pytorch_model.modules.label_tables import Table
    from train_pytorch_model.modules.named_images import NamedImages

_NUM_FIRST_ROWS = 20


def is_header(table: Table, images: NamedImages, file: str) -> bool:
    """Whether the first row of a table has titles, and not the name of an image.

    Args:
        table: a table with rows.
        images: the images.
        file: the name of the file of the table.
    """
    first = [str(cell) for cell in table.rows[0]]
    titles = [plain(cell) for cell in first]
    if not LABEL_TITLES.isdisjoint(titles) and not set(titles).isdisjoint(FILE_TITLES):
        return True
    if any(map(has_image_ending, first)):
        return False
    others = [number for number, cell in enumerate(first) if images.find(cell, file).number is None]
    if len(others) == len(first):
        return True
    # The title "0" of a label can be the name of an image by chance. Then, another column has the names.
    below = [[images.find(str(row[number]), file) for row in table.rows[1:_NUM_FIRST_ROWS]] for number in others]
    return any(
        any(one.number is not None and (one.is_full or titles[number] in FILE_TITLES) for one in found)
        for number, found in zip(others, below)
    )
