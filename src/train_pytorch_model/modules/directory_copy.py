"""Copies an ImageDirectory, for Convert to Image Directory."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.modules.conversion_summary import ConversionSummary, LeftOut, report_unreadable
from train_pytorch_model.modules.image_sources import DATASET
from train_pytorch_model.modules.item_copies import copy_items
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.image_directory import CLASSIFICATION, MULTILABEL_CLASSIFICATION
from train_pytorch_model.ports.image_list import file_of, read_columns
from train_pytorch_model.ports.item_labels import LabelReader
from train_pytorch_model.text.name_forms import nfc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.conversion_options import ConversionOptions
    from train_pytorch_model.ports.image_list import Columns

logger = logging.getLogger(__name__)


def copy_directory(
    input_path: Path, folder: Path, options: ConversionOptions, outputs_path: Path, display: ProgressDisplay
) -> tuple[ConversionSummary, dict[str, str]]:
    """Copy an ImageDirectory. What training would refuse is refused; a category that is listed twice is listed once.

    Args:
        input_path: the ImageDirectory.
        folder: an empty folder, where the copy is written.
        options: how many images may be left out.
        outputs_path: the folder of reports, where the list of unreadable images is written.
        display: shows the progress.

    Returns:
        The summary, and the reason for each image that cannot be read.

    Raises:
        InvalidDatasetError: if the directory is damaged, its labels are not among its categories, or too many images
            cannot be read.
    """
    where = f"{DATASET} {input_path}"
    schema, columns, items = read_listed_items(input_path, DATASET, labelled=False)
    schema = _with_distinct_categories(schema, where)
    logger.info("%s is already an ImageDirectory; copying it.", input_path)
    counts: Counter[Optional[str]] = Counter()
    is_labelled = any(_has_classes(column) for column in schema["columnAttributes"])
    labels = read_columns(schema, where) if is_labelled else None
    with display.images(DATASET, "copied") as advance:
        listed = items() if labels is None else _counted(items(), labels, counts, where)
        unreadable: list[tuple[dict[str, Any], str]] = []
        num_images = copy_items(folder, schema, columns, input_path, listed, advance, unreadable)
    skipped = {str(file_of(item, columns)): reason for item, reason in unreadable}
    report_unreadable(outputs_path, where, skipped, num_images + len(unreadable), is_all=not num_images)
    left_out = LeftOut()
    left_out.add_images("that cannot be read", skipped, is_loss=not options.skip_unreadable_images)
    kept = counts.copy()
    if labels is None:
        kept[""] = num_images
    else:
        for item, _ in unreadable:
            kept.subtract(_labels_of(item, labels))
        kept = +kept
    if not (options.allow_partial or options.skip_unreadable_images):
        faults = [f"{name!r}: {fault}" for name, fault in skipped.items()]
        left_out.check(where, counts, kept, faults, num_images)
    classes = None if labels is None else {name: kept[name] for name in labels.categories}
    return ConversionSummary(classes, num_images, ("images.lst",), None, left_out), skipped


def _has_classes(column: dict[str, Any]) -> bool:
    return (column.get("properties") or {}).get("annotation_type") in (CLASSIFICATION, MULTILABEL_CLASSIFICATION)


def _with_distinct_categories(schema: dict[str, Any], where: str) -> dict[str, Any]:
    schema = copy.deepcopy(schema)
    for column in filter(_has_classes, schema["columnAttributes"]):
        categories = column["properties"].get("categories")
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in categories or ()]
        names = [nfc(name) if isinstance(name, str) else name for name in names]
        repeated = [name for name, count in Counter(map(repr, names)).items() if count > 1]
        if repeated:
            logger.warning("%s: categories that are listed several times are listed once: %s.", where, repeated)
            firsts = (entry for number, entry in enumerate(categories) if names[number] not in names[:number])
            column["properties"]["categories"] = list(firsts)
    return schema


def _labels_of(item: dict[str, Any], columns: Columns) -> list[str]:
    """The labels of an item that was counted, one or several."""
    value = item.get(columns.label)
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def _counted(
    items: Iterator[dict[str, Any]], columns: Columns, counts: Counter[Optional[str]], where: str
) -> Iterator[dict[str, Any]]:
    """Count the labels, write them as the categories are spelled, and check at the end that all are categories."""
    reader = LabelReader(columns, where)
    for number, item in enumerate(items, start=1):
        found = reader.read(number, item)
        if found is None:
            yield item
            continue
        names = [columns.categories[index] for index in found]
        counts.update(names)
        yield {**item, columns.label: names if columns.multilabel else names[0]}
    reader.check()
