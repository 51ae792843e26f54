"""The true labels of images that are scored: the column of the table, and lists of labels as JSON text."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_directory import MULTILABEL_CLASSIFICATION
from train_pytorch_model.ports.image_list import is_image_directory, read_columns
from train_pytorch_model.ports.item_labels import LabelReader
from train_pytorch_model.text.name_forms import nfc

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

logger = logging.getLogger(__name__)


def find_label_column(schema: dict[str, Any], path: Path, where: str, *, is_multilabel: bool) -> str | None:
    """Return the name of the column of true labels; None if there is none that fits the model.

    Args:
        schema: of the dataset.
        path: the dataset.
        where: the port and the path in messages.
        is_multilabel: whether the model predicts several labels per image.

    Raises:
        InvalidDatasetError: if an ImageDirectory has labels for the other task.
    """
    columns = schema["columnAttributes"]
    column = next((column for column in columns if "annotation_type" in (column.get("properties") or {})), None)
    if column is None:
        return None
    has_lists = column["properties"]["annotation_type"] == MULTILABEL_CLASSIFICATION
    if has_lists == is_multilabel:
        return str(column["name"])
    if not is_image_directory(path):
        logger.warning(
            "%s: the classes of its images are not used as true labels, because the model predicts several labels.",
            where,
        )
        return None
    one, several = "one class per image", "a list of labels per image"
    found, predicted = (several, one) if has_lists else (one, several)
    raise InvalidDatasetError(
        where,
        f"it has {found}, but the model predicts {predicted}",
        "Score it with a model that was trained for the same task, or score a folder that contains only images.",
    )


def with_lists_as_text(
    items: Iterable[dict[str, Any]], schema: dict[str, Any], where: str, label_column: str, labels: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Iterate over the items of a dataset, with each list of true labels as JSON text.

    Args:
        items: of the dataset.
        schema: of the dataset.
        where: the port and the path in messages.
        label_column: the name of the column of lists.
        labels: of the model. The lists get their order, so that they can be compared with the model's lists as text.

    Raises:
        InvalidDatasetError: at the end, if an item has no list of labels; the message names the first items.
    """
    columns = read_columns(schema, where)
    reader = LabelReader(columns, where)
    place = {nfc(label): number for number, label in enumerate(labels)}
    order = [place.get(nfc(name), len(place)) for name in columns.categories]
    for number, item in enumerate(items, start=1):
        found = reader.read(number, item)
        text = None
        if found is not None:
            text = as_text(columns.categories[index] for index in sorted(found, key=order.__getitem__))
        yield {**item, label_column: text}
    reader.check()


def as_text(labels: Iterable[str]) -> str:
    """Return a list of labels as JSON text, such as `["cat", "dog"]`."""
    return json.dumps(list(labels), ensure_ascii=False)
