"""Heat maps of scored images: a picture for each label that the model gives an image, and a table of them."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

import numpy as np

from train_pytorch_model.errors import UserError, first_line
from train_pytorch_model.errors.library_faults import is_device_fault, is_out_of_memory
from train_pytorch_model.ports.directory_kinds import EXPLANATIONS, EXPLANATIONS_FILE, HEAT_MAPS
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.serving.heat_maps import HeatMapError, HeatMaps, check_captum
from train_pytorch_model.serving.heat_pictures import draw_explanation
from train_pytorch_model.text.csv_cells import write_sheet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from train_pytorch_model.data.model_task import Task
    from train_pytorch_model.modules.image_scorer import ImageScorer
    from train_pytorch_model.ports.file_names import FileNames

logger = logging.getLogger(__name__)

MAX_EXPLANATIONS = 100
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Explained:
    """An image and the labels that its heat maps are for."""

    index: int
    labels: tuple[int, ...]


def explanations_output(
    path: Path | None, max_explanations: int, inputs: Sequence[Path], outputs_path: Path
) -> OutputDirectory | None:
    """Check, before any work, that heat maps can be computed and written; None if none are wanted.

    Args:
        path: the folder to write; None for no heat maps.
        max_explanations: the largest number of images.
        inputs: folders that it must not overlap with.
        outputs_path: the folder of reports, which it must not contain.

    Raises:
        ModuleError: if they cannot.
    """
    if max_explanations < 0:
        raise UserError(f"Expected `max_explanations` to be at least 0, but got {max_explanations}")
    if path is None and max_explanations not in (0, MAX_EXPLANATIONS):
        logger.warning("--max-explanations %d has no effect without --explanations.", max_explanations)
    if path is None or not max_explanations:
        return None
    try:
        check_captum()
    except HeatMapError as error:
        raise UserError(f"--explanations cannot be used: {error}. Otherwise omit the flag.") from error
    output = OutputDirectory(path, "Explanations", EXPLANATIONS)
    output.check(inputs, outputs_path)
    return output


def choose_explained(probabilities: np.ndarray, task: Task, limit: int) -> list[Explained]:
    """Choose the images that a person would look at first: the least certain ones.

    With one class an image, these are the images whose highest probability is lowest; with several labels, those with a
    label whose probability is nearest to its threshold. Images without any label have nothing to explain.

    Args:
        probabilities: float of shape (N, outputs), NaN for images that could not be scored.
        task: of the model.
        limit: the largest number of images.

    Returns:
        The images, the least certain first; ties are in the order of the images.
    """
    is_scored = ~np.isnan(probabilities[:, 0])
    values = np.nan_to_num(probabilities)
    if task.is_multilabel:
        thresholds = np.array(list(task.thresholds.values()))
        found = values >= thresholds
        certainty = np.abs(values - thresholds).min(1)
    else:
        found = np.zeros(values.shape, dtype=bool)
        found[np.arange(len(values)), values.argmax(1)] = True
        certainty = values.max(1)
    usable = np.flatnonzero(is_scored & found.any(1))
    chosen = usable[np.argsort(certainty[usable], kind="stable")[:limit]]
    logger.info(
        "Computing heat maps of %s %d images%s.",
        "all" if len(chosen) == len(usable) else f"the {len(chosen)} least certain of",
        len(usable),
        " with a label" if task.is_multilabel else "",
    )
    return [Explained(index, tuple(np.flatnonzero(found[index]).tolist())) for index in chosen.tolist()]


def write_explanations(
    folder: Path,
    chosen: Sequence[Explained],
    scorer: ImageScorer,
    dataset: Path,
    files: FileNames,
    probabilities: np.ndarray,
    labels: Sequence[str],
    where: str,
    advance: Callable[[], None],
) -> None:
    """Write the pictures and their table into an empty folder.

    Args:
        folder: the folder.
        chosen: the images.
        scorer: has the network and the geometry of images.
        dataset: the folder of the images.
        files: their names, relative to it.
        probabilities: float of shape (N, outputs).
        labels: of the outputs.
        where: the dataset, for messages.
        advance: called once per image.

    Raises:
        InvalidDatasetError: if an image can no longer be read.
        UserError: if the network has no heat maps.
    """
    heat_maps = HeatMaps(scorer.network, averages_mirrored=scorer.averages_mirrored)
    (folder / HEAT_MAPS).mkdir()
    rows = []
    for number, image in enumerate(chosen, 1):
        file = files[image.index]
        pixels, images = scorer.seen(dataset, file, where)
        for label in image.labels:
            probability = float(probabilities[image.index, label])
            try:
                heat = heat_maps.heat(images, label).numpy()
            except Exception as error:
                if is_out_of_memory(error) or is_device_fault(error):
                    raise
                reason = f"this network has no heat maps: {first_line(error)}"
                raise UserError(f"--explanations cannot be used: {reason}. Omit the flag.") from error
            picture = f"{HEAT_MAPS}/{number:04d}_{_name_of(label, labels[label], len(image.labels))}.png"
            title = f"{100 * probability:.1f} %  {labels[label]}"
            (folder / picture).write_bytes(draw_explanation(pixels, heat, title))
            rows.append([file, labels[label], probability, picture])
        advance()
    write_sheet(folder / EXPLANATIONS_FILE, ["file", "label", "probability", "heat_map"], rows)
    (folder / "_meta.yaml").write_text("type: AnyDirectory\nextension: {}\n", encoding="utf-8")


def _name_of(index: int, label: str, num_labels: int) -> str:
    """Return the part of a file name that stands for a label, different for each label of an image."""
    name = re.sub(r"[^\w-]+", "_", label)[:_LONGEST_NAME].strip("_") or str(index)
    return name if num_labels == 1 else f"{index}_{name}"
