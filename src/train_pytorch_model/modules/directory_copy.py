"""Copies an ImageDirectory, for Convert to Image Directory."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.data.model_task import MULTICLASS, MULTILABEL
from train_pytorch_model.errors import UserError
from train_pytorch_model.modules.conversion_summary import ConversionSummary, LeftOut, report_unreadable
from train_pytorch_model.modules.image_sources import DATASET
from train_pytorch_model.modules.item_copies import copy_items
from train_pytorch_model.modules.label_task import LabelTask, task_of_names
from train_pytorch_model.modules.merged_labels import labels_in_names
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.image_directory import CLASSIFICATION, MULTILABEL_CLASSIFICATION, make_schema
from train_pytorch_model.ports.image_list import Columns, file_of, read_columns
from train_pytorch_model.ports.item_labels import LabelReader
from train_pytorch_model.text.name_forms import nfc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.conversion_options import ConversionOptions

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
    labels = read_columns(schema, where) if any(map(_has_classes, schema["columnAttributes"])) else None
    task = None if labels is None else _task_of(where, input_path, labels, options)
    is_multilabel = task is not None and task.name == MULTILABEL
    lists: dict[str, tuple[str, ...]] = {}
    if labels is not None:
        lists = labels_in_names(where, labels.categories, task.separator if task else None)
    categories = list(dict.fromkeys(name for names in lists.values() for name in names))
    if labels is not None and is_multilabel:
        schema = _as_lists(schema, labels, categories)
    counts: Counter[Optional[str]] = Counter()
    listed = items() if labels is None else _counted(items(), labels, counts, where, lists if is_multilabel else None)
    with display.images(DATASET, "copied") as advance:
        unreadable: list[tuple[dict[str, Any], str]] = []
        num_images = copy_items(folder, schema, columns, input_path, listed, advance, unreadable)
    skipped = {str(file_of(item, columns)): reason for item, reason in unreadable}
    report_unreadable(outputs_path, where, skipped, num_images + len(unreadable), is_all=not num_images)
    left_out = LeftOut()
    left_out.add_images("that cannot be read", skipped, is_loss=not options.skip_unreadable_images)
    kept = counts.copy()
    if labels is not None:
        kept -= Counter(label for item, _ in unreadable for label in _labels_in(item, labels.label))
    if not (options.allow_partial or options.skip_unreadable_images):
        before = [name for name in counts if name is not None]
        left_out.check(where, before, set(kept), num_images, [f"{name!r}: {fault}" for name, fault in skipped.items()])
    classes = None if labels is None else {name: kept[name] for name in categories}
    return ConversionSummary(classes, num_images, ("images.lst",), None, left_out, task, kept[None]), skipped


def _has_classes(column: dict[str, Any]) -> bool:
    annotation_type = (column.get("properties") or {}).get("annotation_type")
    return annotation_type in (CLASSIFICATION, MULTILABEL_CLASSIFICATION)


def _task_of(where: str, input_path: Path, labels: Columns, options: ConversionOptions) -> LabelTask:
    if not labels.multilabel:
        if options.reading == MULTILABEL:
            reason = "that was given, and each image of the ImageDirectory has one class"
            return task_of_names(where, "its categories", labels.categories, options, reason=reason)
        return LabelTask(MULTICLASS, "the ImageDirectory has one class per image")
    if options.task == MULTICLASS:
        raise UserError(f"--task {MULTICLASS}: {input_path} is an ImageDirectory with a list of labels per image.")
    if options.separator is not None:
        logger.warning("%s: it has lists of labels, which are taken as they are, without --label-separator.", where)
    return LabelTask(MULTILABEL, "the ImageDirectory has a list of labels per image")


def _labels_in(item: dict[str, Any], column: str) -> list[Optional[str]]:
    """The labels of an item as they were counted: None if its list is empty."""
    value = item.get(column)
    if isinstance(value, list):
        return list(value or (None,))
    return [value] if isinstance(value, str) else []


def _as_lists(schema: dict[str, Any], labels: Columns, categories: Sequence[str]) -> dict[str, Any]:
    """The schema of the same images with a list of labels each."""
    schema = copy.deepcopy(schema)
    lists = make_schema(categories, multilabel=True)["columnAttributes"][-1]
    for column in schema["columnAttributes"]:
        if column["name"] == labels.label:
            column.update({key: lists[key] for key in ("type", "elementType")})
            column["properties"]["annotation_type"] = lists["properties"]["annotation_type"]
            if tuple(categories) != labels.categories:
                column["properties"]["categories"] = lists["properties"]["categories"]
    return schema


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


def _counted(
    items: Iterator[dict[str, Any]],
    columns: Columns,
    counts: Counter[Optional[str]],
    where: str,
    lists: Mapping[str, tuple[str, ...]] | None,
) -> Iterator[dict[str, Any]]:
    """Count the labels, and check at the end that all are among the categories.

    Args:
        items: the items of the image list.
        columns: the columns of the schema.
        counts: receives the number of images of each label.
        where: the dataset, for messages.
        lists: the labels of each category; None if an image has one class.
    """
    reader = LabelReader(columns, where)
    for number, item in enumerate(items, start=1):
        found = reader.read(number, item)
        if found is None:
            yield item
            continue
        labels = [columns.categories[index] for index in found]
        if lists is not None:
            labels = [label for name in labels for label in lists[name]]
        counts.update(labels or (None,))
        yield {**item, columns.label: labels[0] if lists is None else labels}
    reader.check()
