"""Reads the group of each image, such as a patient or a site, from a table."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from train_pytorch_model.errors import UserError
from train_pytorch_model.modules.label_tables import TABLE_ENDINGS, Cell, Table, decode_text, parse_tables, with_header
from train_pytorch_model.modules.named_images import NamedImages
from train_pytorch_model.text.wording import FirstFew, name_some

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)

_NUM_SAMPLES = 200


def read_groups(path: Path, column: str | None, files: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Read the group of each image.

    Args:
        path: a .csv, .tsv, .json or .jsonl file with one row per image; one column names the images, another one their
            groups. Rows of other images are ignored.
        column: the title of the column of groups; None for the only one besides the column of images.
        files: the names of the N images, relative to the dataset.

    Returns:
        The index of the group of each image, int64 of shape (N,), and the names of the groups, sorted.

    Raises:
        UserError: if the file cannot be used, or gives an image no group or two groups.
    """
    distinct = list(dict.fromkeys(files))
    images = NamedImages(distinct)
    table, of_images = _read_table(path, images)
    if not table.has_header and not _is_image(table.rows[0][of_images], images):
        table = with_header(table)
    of_groups = _column_of_groups(path, table, of_images, column)
    found: dict[int, str] = {}
    num_others = 0
    faults = FirstFew()
    for row in table.rows:
        name, group = str(row[of_images]), _group_in(row[of_groups])
        image = images.find(name, "")
        if image.others:
            faults.add(f"{name!r} could be {name_some([distinct[number] for number in image.others])}")
        elif image.number is None:
            num_others += 1
        elif group and found.setdefault(image.number, group) != group:
            faults.add(f"{name!r} has the groups {found[image.number]!r} and {group!r}")
    if faults:
        raise UserError(f"--groups-path {path}: {faults.joined()}. Give each image one group, by its path.")
    missing = FirstFew(repr(name) for number, name in enumerate(distinct) if number not in found)
    if missing:
        raise UserError(
            f"--groups-path {path} has no group for {len(missing)} of {len(distinct)} images: {missing.joined(', ')}. "
            "Add a row for each image."
        )
    if num_others:
        logger.info("%s: %d rows are of other images.", path, num_others)
    names = sorted(set(found.values()))
    index = {name: number for number, name in enumerate(names)}
    group_of = {distinct[number]: index[group] for number, group in found.items()}
    logger.info("%s: the column %r has %d groups.", path, table.titles[of_groups], len(names))
    return np.array([group_of[name] for name in files], dtype=np.int64), names


def _group_in(cell: Cell) -> str:
    return cell.strip() if isinstance(cell, str) else ", ".join(cell)


def _read_table(path: Path, images: NamedImages) -> tuple[Table, int]:
    """Return the table with the most images, if possible one with another column, and the number of their column."""
    if path.suffix.lower() not in TABLE_ENDINGS:
        raise UserError(f"--groups-path {path} must be a file that ends with {', '.join(TABLE_ENDINGS)}.")
    try:
        tables = parse_tables(path.name, decode_text(path.read_bytes()))
    except OSError as error:
        raise UserError(f"--groups-path {path} cannot be read: {error.strerror}.") from error
    except (ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"--groups-path {path} cannot be read: {error}.") from error
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"it does not have the structure of COCO ({type(error).__name__}: {error})"
        raise UserError(f"--groups-path {path} cannot be read: {reason}.") from error
    faults = [table.fault for table in tables if table.fault]
    if faults:
        raise UserError(f"--groups-path {path} is not a table with one row per image: {faults[0]}.")
    found = [(*_column_of_images(table, images), table) for table in tables if table.rows]
    if not any(num_images for num_images, _, _ in found):
        raise UserError(
            f"--groups-path {path} has no column with the names of the images, such as {images.names[0]!r}."
        )
    _, column, table = max(found, key=lambda item: (len(item[2].titles) > 1 and item[0] > 0, item[0]))
    # JSON may have a list for each dataset.
    return replace(table, rows=[row for other in tables if other.titles == table.titles for row in other.rows]), column


def _is_image(cell: object, images: NamedImages) -> bool:
    found = images.find(cell, "") if isinstance(cell, str) and cell else None
    return found is not None and (found.number is not None or bool(found.others))


def _column_of_images(table: Table, images: NamedImages) -> tuple[int, int]:
    """Return about how many rows of a table name an image, and the number of the column that does; 0 if none does."""
    every = max(1, len(table.rows) // _NUM_SAMPLES)
    for step in (every, 1):  # a few rows tell, unless few rows of a large table are of the dataset
        rows = table.rows[::step]
        counts = [sum(_is_image(row[number], images) for row in rows) for number in range(len(table.titles))]
        if any(counts):
            return step * max(counts), int(np.argmax(counts))
    return 0, 0


def _column_of_groups(path: Path, table: Table, of_images: int, column: str | None) -> int:
    others = [number for number in range(len(table.titles)) if number != of_images]
    titles = [table.titles[number] for number in others]
    if column is not None:
        wanted = [number for number, title in zip(others, titles) if title == column] or [
            number for number, title in zip(others, titles) if title.casefold() == column.strip().casefold()
        ]
        if len(wanted) == 1:
            return wanted[0]
        raise UserError(
            f"--group-column {column}: {path} has {'several such columns' if wanted else 'no such column'} besides "
            f"that of the images, but {name_some(titles) if titles else 'no other'}."
        )
    if len(others) == 1:
        return others[0]
    raise UserError(
        f"--groups-path {path} has {len(others)} columns besides that of the images"
        + (
            f". Choose one of them with --group-column: {name_some(titles)}."
            if others
            else ", but needs one of groups."
        )
    )
