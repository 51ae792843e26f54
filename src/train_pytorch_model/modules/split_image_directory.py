"""Split Image Directory: one labelled ImageDirectory becomes two."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.errors import InvalidDatasetError, NotInRangeValueError
from train_pytorch_model.modules.item_copies import copy_items
from train_pytorch_model.ports.labelled_images import read_listed_items
from train_pytorch_model.ports.output_directory import IMAGES, OutputDirectory
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from pathlib import Path

    from train_pytorch_model.console.progress import ProgressDisplay

logger = logging.getLogger(__name__)

_DATASET = "Image directory"
# Of the fraction that was asked for.
_TOLERATED = 0.02


def split_image_directory(
    source_path: Path,
    train_path: Path,
    test_path: Path,
    outputs_path: Path,
    *,
    fraction: float,
    seed: int,
    display: ProgressDisplay,
) -> None:
    """Write two ImageDirectories, each with every class; names, ids, order and categories are kept.

    Args:
        source_path: a labelled ImageDirectory, or raw images in one folder a class.
        train_path: gets `fraction` of the images of each class.
        test_path: gets the others.
        outputs_path: the folder of reports.
        fraction: in [1/n, 1 - 1/n] for n images.
        seed: of the choice.
        display: shows how far it is.

    Raises:
        ModuleError: for a dataset or a fraction that cannot be split, or an output that cannot be written.
    """
    outputs = [
        OutputDirectory(path, name, IMAGES)
        for path, name in ((train_path, "First output"), (test_path, "Second output"))
    ]
    for output, other in zip(outputs, (test_path, train_path)):
        output.check((source_path, other), outputs_path)
    schema, columns, items = read_listed_items(source_path, _DATASET, labelled=True)
    labels = [str(item.get(columns.label)) for item in items()]
    if len(labels) < 2:
        raise InvalidDatasetError(f"{_DATASET} {source_path}", f"it holds {len(labels)} images; two are needed")
    if not 1 / len(labels) <= fraction <= 1 - 1 / len(labels):
        raise NotInRangeValueError("Split fraction", 1 / len(labels), 1 - 1 / len(labels))
    is_first = stratified_choice(labels, fraction, seed)
    _tell(labels, is_first, fraction)
    with outputs[0].writing() as first, outputs[1].writing() as second:
        for folder, wanted, name in ((first, True, "First output"), (second, False, "Second output")):
            chosen = (item for item, is_in_first in zip(items(), is_first) if is_in_first == wanted)
            with display.images(name, "copied", int((is_first == wanted).sum())) as advance:
                copy_items(folder, schema, columns, source_path, chosen, advance)


def stratified_choice(labels: list[str], fraction: float, seed: int) -> np.ndarray:
    """Choose images such that each class is split by the same fraction, as near as whole images allow.

    The counts are rounded by largest remainders, so that the whole is split by the fraction too, unless that would
    leave a class of two or more images out of a part: each has at least one image in both. Classes of one image count
    as one class here.

    Args:
        labels: of N images.
        fraction: of the images to choose.
        seed: of the choice.

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


def _tell(labels: list[str], is_first: np.ndarray, fraction: float) -> None:
    """Warn of a share that whole images did not allow, and of classes that are not on both sides."""
    if abs(is_first.mean() - fraction) > _TOLERATED:
        logger.warning(
            "The first output has %.3f of the images instead of %.3f: classes of few images have one in each part.",
            is_first.mean(),
            fraction,
        )
    every = set(labels)
    for part, wanted in (("first", True), ("second", False)):
        present = {label for label, is_in_first in zip(labels, is_first) if is_in_first == wanted}
        if every - present:
            logger.warning("The %s output has no image of %s.", part, name_some(sorted(every - present)))
