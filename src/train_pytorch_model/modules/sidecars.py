"""Reads the small files that some labeling tools write beside each image."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from train_pytorch_model.modules.json_tables import tables_of_records
from train_pytorch_model.modules.label_tables import Table, decode_text
from train_pytorch_model.modules.table_labels import TableLabels, read_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from train_pytorch_model.modules.named_images import NamedImages

_ENDINGS = (".json", ".xml", ".txt", ".yaml", ".yml")
_MIN_FRACTION = 0.3
"""The smallest number of such files, as a fraction of the images."""


def find_sidecars(texts: Iterable[str], images: NamedImages) -> set[str]:
    """Return the text files that are called as an image is, but for the ending, if a good part of the images has one.

    Args:
        texts: the names of the text files.
        images: the images.
    """
    found = set()
    for name in texts:
        path = PurePosixPath(name)
        if path.suffix.lower() in _ENDINGS and images.find(path.with_suffix("").name, name).number is not None:
            found.add(name)
    return found if len(found) >= max(1, _MIN_FRACTION * len(images)) else set()


def read_sidecars(texts: Mapping[str, Path], images: NamedImages, task: str) -> TableLabels | None:
    """Read the labels from JSON files of one image each.

    Args:
        texts: paths of the files, by name.
        images: the images.
        task: as of `read_table`.

    Returns:
        The labels; None if there are none.
    """
    records: list[object] = []
    for name, path in texts.items():
        if name.lower().endswith(".json"):
            try:
                record = json.loads(decode_text(path.read_bytes()))
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                image = images.find(PurePosixPath(name).with_suffix("").name, name).number
                records.append({"file": "" if image is None else images.names[image], "content": record})
    tables = tables_of_records(records)
    return read_table(Table(*tables[0]), images, "", task) if tables else None
