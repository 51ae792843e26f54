"""Split Image Directory: split one labelled ImageDirectory into two."""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.errors import InvalidDatasetError, NotInRangeValueError
from train_pytorch_model.modules.item_copies import copy_items
from train_pytorch_model.modules.label_stratification import stratified_choice_of_labels
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.directory_kinds import IMAGES
from train_pytorch_model.ports.item_labels import LabelReader, label_matrix
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.ports.image_list import Columns

logger = logging.getLogger(__name__)

_DATASET = "Image directory"
_FIRST, _SECOND = "First output", "Second output"
# A larger difference between the requested and the actual fraction is logged.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class SplitImages:
    """The two outputs of Split Image Directory."""

    tgt_train_path: Path
    tgt_test_path: Path
    num_train_images: int
    num_test_images: int
    classes: tuple[str, ...]
    """Categories of the dataset, in the order of their ids; both outputs have all of them."""


def split_image_directory(
    src_path: Path,
    tgt_train_path: Path,
    tgt_test_path: Path,
    *,
    fraction: float,
    random_seed: int,
    outputs_path: Path,
    display: ProgressDisplay,
) -> SplitImages:
    """Split a dataset, stratified by class or by its labels. Names, ids, order and categories of the images are kept.

    Args:
        src_path: a labelled ImageDirectory, or raw images in one folder per class.
        tgt_train_path: the first ImageDirectory to write, with `fraction` of the images of each class or label.
        tgt_test_path: the second ImageDirectory to write, with the other images.
        fraction: in [1/n, 1 - 1/n] for n images.
        random_seed: seed of the random choice.
        outputs_path: the folder of reports, which must not overlap with the outputs.
        display: shows the progress.

    Returns:
        The numbers of images and the classes.

    Raises:
        ModuleError: if the dataset cannot be read or split by the fraction, or an output cannot be written.
    """
    train, test = OutputDirectory(tgt_train_path, _FIRST, IMAGES), OutputDirectory(tgt_test_path, _SECOND, IMAGES)
    train.check((src_path, tgt_test_path), outputs_path)
    test.check((src_path, tgt_train_path), outputs_path)
    schema, columns, items = read_listed_items(src_path, _DATASET, labelled=True)
    where = f"{_DATASET} {src_path}"
    labels = _matrix(items(), columns, where) if columns.multilabel else _classes(items(), columns)
    if len(labels) < 2:
        raise InvalidDatasetError(where, f"it has {len(labels)} images, but at least two are needed")
    if not 1 / len(labels) <= fraction <= 1 - 1 / len(labels):
        raise NotInRangeValueError("Split fraction", 1 / len(labels), 1 - 1 / len(labels))
    if isinstance(labels, list):
        is_first = stratified_choice(labels, fraction, random_seed)
    else:
        is_first = stratified_choice_of_labels(labels, fraction, random_seed)
    _warn(labels, columns, is_first, fraction)
    with train.writing() as first, test.writing() as second:
        for folder, wanted, name in ((first, True, _FIRST), (second, False, _SECOND)):
            chosen = (item for item, is_in_first in zip(items(), is_first) if is_in_first == wanted)
            with display.images(name, "copied", int((is_first == wanted).sum())) as advance:
                copy_items(folder, schema, columns, src_path, chosen, advance)
    num_train = int(is_first.sum())
    return SplitImages(tgt_train_path, tgt_test_path, num_train, len(labels) - num_train, columns.categories)


def _classes(items: Iterator[dict[str, Any]], columns: Columns) -> list[str]:
    """The class of each image, in the spelling of the schema; images without a class are one more class."""
    class_of = {nfc(name): name for name in columns.categories}
    labels = (str(item.get(columns.label)) for item in items)
    return [class_of.get(nfc(label), label) for label in labels]


def _matrix(items: Iterator[dict[str, Any]], columns: Columns, where: str) -> np.ndarray:
    """Whether each image has each label: bool of shape (N, C + 1). Images without a list have the last label."""
    reader = LabelReader(columns, where)
    indices, counts = array("q"), array("q")
    for number, item in enumerate(items, start=1):
        found = reader.read(number, item)
        found = (len(columns.categories),) if found is None else found
        indices.extend(found)
        counts.append(len(found))
    reader.check()
    return label_matrix(np.array(indices, np.int64), np.array(counts, np.int64), len(columns.categories) + 1)


def stratified_choice(labels: list[str], fraction: float, seed: int) -> np.ndarray:
    """Choose images so that each class is split by the same fraction, as closely as whole images allow.

    The counts are rounded by the largest remainder method, so that the whole dataset is split by the fraction too.
    Each class of two or more images keeps at least one image on both sides. All classes of a single image are treated
    as one class.

    Args:
        labels: label of each of N images.
        fraction: fraction of the images to choose, in (0, 1).
        seed: seed of the random choice.

    Returns:
        Whether each image is chosen: bool of shape (N,).
    """
    classes, counts = np.unique(np.array(labels), return_inverse=True, return_counts=True)[1:]
    classes = np.where(counts[classes] == 1, -1, classes)
    classes, counts = np.unique(classes, return_inverse=True, return_counts=True)[1:]
    exact = counts * fraction
    chosen = np.floor(exact).astype(np.int64)
    num_missing = round(len(labels) * fraction) - int(chosen.sum())
    chosen[np.argsort(chosen - exact, kind="stable")[:num_missing]] += 1
    chosen = np.where(counts > 1, np.clip(chosen, 1, counts - 1), counts)
    random = np.random.default_rng(derive_seed(seed, "split"))
    is_chosen = np.zeros(len(labels), dtype=bool)
    for number in range(len(counts)):
        members = np.flatnonzero(classes == number)
        is_chosen[random.permutation(members)[: chosen[number]]] = True
    return is_chosen


def _warn(labels: list[str] | np.ndarray, columns: Columns, is_first: np.ndarray, fraction: float) -> None:
    """Log a fraction that whole images did not allow, and the classes or labels that an output lacks."""
    kind = "class" if isinstance(labels, list) else "label"
    if abs(is_first.mean() - fraction) > _TOLERANCE:
        logger.warning(
            "The first output has a fraction of %.3f of the images instead of %.3f, because each %s of two or more "
            "images has at least one image in both outputs.",
            is_first.mean(),
            fraction,
            kind,
        )
    for output, is_in_output in (("first", is_first), ("second", ~is_first)):
        if isinstance(labels, list):
            absent = set(labels) - {label for label, is_in in zip(labels, is_in_output) if is_in}
        else:
            is_absent = labels.any(axis=0) & ~labels[is_in_output].any(axis=0)
            absent = {name for name, is_missing in zip(columns.categories, is_absent) if is_missing}
        if absent:
            logger.warning("The %s output has no image of %s.", output, name_some(sorted(absent)))
