"""Score Image Model: write a table of the probabilities and labels that a trained model predicts."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any, Callable

import numpy as np
import pandas as pd
import torch

from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.errors import (
    TRAINED_MODEL,
    GreaterThanError,
    InvalidDatasetError,
    InvalidModelDirectoryError,
    UserError,
)
from train_pytorch_model.models.network import check_state
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.modules.explanations import (
    MAX_EXPLANATIONS,
    choose_explained,
    explanations_output,
    write_explanations,
)
from train_pytorch_model.modules.image_scorer import ImageScorer
from train_pytorch_model.modules.true_labels import as_text, find_label_column, with_lists_as_text
from train_pytorch_model.modules.unknown_images import DEFAULT_LABEL, unknown_images
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.directory_kinds import TABLE
from train_pytorch_model.ports.file_names import FileNames
from train_pytorch_model.ports.image_list import file_of
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.ports.scored_table import PROBABILITIES, SCORED_LABELS, check_column, write_scored_table
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_model
from train_pytorch_model.text.csv_cells import write_sheet
from train_pytorch_model.training.precision import choose_precision

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import nn

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.data.image_geometry import Geometry
    from train_pytorch_model.data.model_task import Task
    from train_pytorch_model.ports.image_list import Columns

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "auto", "bfloat16", "float16")
KnownScores = Callable[["nn.Module", "Geometry | None", torch.device], "tuple[np.ndarray, dict[int, str]] | None"]
"""Returns what `ImageScorer.score` returns, for the network of the model on the device and the geometry of its images;
None if it does not know."""

_DATASET = "Testing dataset"
_ERROR = "Error"


@dataclass(frozen=True)
class ScoredImages:
    """The output of Score Image Model."""

    scored_dataset: Path
    num_images: int
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, with the reason."""

    def to_dataframe(self) -> pd.DataFrame:
        """Read the table: one row per image, in the order of the image list."""
        return pd.read_parquet(self.scored_dataset / "_data.parquet")


def score_image_model(
    trained_model: Path,
    dataset: Path,
    scored_dataset: Path,
    *,
    precision: str = "float32",
    batch_size: int = 16,
    csv: bool = False,
    skip_unreadable_images: bool = False,
    unknown_below: float | None = None,
    unknown_label: str = DEFAULT_LABEL,
    explanations: Path | None = None,
    max_explanations: int = MAX_EXPLANATIONS,
    trust_model_code: bool = False,
    only: np.ndarray | None = None,
    known: KnownScores | None = None,
    outputs_path: Path,
    display: ProgressDisplay,
) -> ScoredImages:
    """Score every image and write the table, in the order of the image list.

    Args:
        trained_model: a ModelDirectory.
        dataset: an ImageDirectory, labelled or not, or raw images.
        scored_dataset: the table to write.
        precision: "float32", "bfloat16", "float16", or "auto" for the best that the device has.
        batch_size: images in one batch.
        csv: whether to write the table as `_data.csv` too.
        skip_unreadable_images: whether an image that cannot be read becomes a row with an error instead of failing.
        unknown_below: images whose highest probability is lower get the label `unknown_label`; None for no such images.
        unknown_label: no class of the model.
        explanations: the folder to write heat maps to; None for no heat maps.
        max_explanations: the largest number of images with heat maps, the least certain ones; 0 for no heat maps.
        trust_model_code: whether the model may import code from outside torchvision and timm.
        only: whether to score each item of the image list, bool of shape (number of items,); None for all.
        known: computes the probabilities of these items, without their images; None to compute them from the images.
        outputs_path: the folder of reports, which must not overlap with the output.
        display: shows the progress.

    Returns:
        The number of images and those that were skipped.

    Raises:
        ModuleError: if the model, the dataset or the output cannot be used, or if the labels of the dataset are for the
            other task.
    """
    if batch_size < 1:
        raise GreaterThanError("Batch size", batch_size, 0)
    if precision not in PRECISIONS:
        raise UserError(f"Expected `precision` to be one of {', '.join(PRECISIONS)}, but got {precision!r}")
    output = OutputDirectory(scored_dataset, "Scored dataset", TABLE)
    output.check((trained_model, dataset), outputs_path)
    explained = explanations_output(
        explanations, max_explanations, (trained_model, dataset, scored_dataset), outputs_path
    )
    device = choose_device()
    hint = "Give the output of a Train PyTorch Model step."
    model = read_model(trained_model, TRAINED_MODEL, hint, trust_code=trust_model_code)
    unknown_images(unknown_below, unknown_label, model.task, model.labels or ())  # an error before images are scored
    network = _build(model)
    where = f"{_DATASET} {dataset}"
    schema, columns, items = read_listed_items(dataset, _DATASET, labelled=False)
    is_multilabel = model.task.is_multilabel
    label_column = find_label_column(schema, dataset, where, is_multilabel=is_multilabel)
    rows: Iterable[dict[str, Any]] = items() if only is None else compress(items(), only)
    if is_multilabel and label_column is not None:
        rows = with_lists_as_text(rows, schema, where, label_column, list(model.task.thresholds))
    files, values = _read_columns(schema, columns, rows, where)
    normalisation = model.normalisations.get(columns.image)
    if normalisation is None:
        logger.warning("The model has no input %r, so the pixels are not normalised.", columns.image)
    scorer = ImageScorer(
        network.to(device),
        model.description,
        device,
        choose_precision(precision, device, network),
        normalisation,
        model.geometry,
        batch_size=batch_size,
        task=model.task.name,
    )
    found = None if known is None else known(network, model.geometry, device)
    if found is None:
        with display.images(_DATASET, "scored", len(files)) as advance:
            found = scorer.score(dataset, files, where, advance, skip_unreadable=skip_unreadable_images)
    probabilities, unreadable = found
    labels = _labels(model, probabilities.shape[1])
    scores = {PROBABILITIES + label: probabilities[:, index] for index, label in enumerate(labels)}
    unknown = unknown_images(unknown_below, unknown_label, model.task, labels)
    scored_labels = _scored_labels(model.task, labels, probabilities)
    if unknown is not None:
        scored_labels = unknown.relabelled(scored_labels, probabilities)
    table: dict[str, Any] = {**values, **scores, SCORED_LABELS: scored_labels}
    if unreadable:
        table[_ERROR] = [unreadable.get(index) for index in range(len(files))]
    with ExitStack() as written:
        if explained is not None:
            # Entered first, so that a failed heat map leaves neither of the two outputs.
            folder = written.enter_context(explained.writing())
            chosen = choose_explained(probabilities, model.task, max_explanations)
            with display.images(_DATASET, "explained", len(chosen)) as advance:
                write_explanations(folder, chosen, scorer, dataset, files, probabilities, labels, where, advance)
        folder = written.enter_context(output.writing())
        write_scored_table(
            folder,
            table,
            label_column,
            is_multilabel=is_multilabel,
            unknown_label=None if unknown is None else unknown.label,
        )
        if csv:
            lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in table.values()]
            write_sheet(folder / "_data.csv", list(table), zip(*lists))
    logger.info("Scored %d images and saved the table to %s.", len(files) - len(unreadable), scored_dataset)
    if explained is not None:
        logger.info("Saved heat maps of %d images to %s.", len(chosen), explanations)
    skipped = {files[index]: reason for index, reason in sorted(unreadable.items())}
    return ScoredImages(scored_dataset, len(files) - len(unreadable), skipped)


def _read_columns(
    schema: dict[str, Any], columns: Columns, items: Iterable[dict[str, Any]], where: str
) -> tuple[FileNames, dict[str, list[Any]]]:
    """The files of a dataset, and the values of its other columns, which become columns of the table."""
    names = sorted(column["name"] for column in schema["columnAttributes"] if not column.get("isFeature", True))
    files = FileNames()
    values: dict[str, list[Any]] = {name: [] for name in names}
    for item in items:
        files.append(file_of(item, columns) or "")
        for name in names:
            values[name].append(item.get(name))
    for name in names:
        try:
            check_column(name, values[name])
        except ValueError as error:
            raise InvalidDatasetError(where, str(error)) from error
    return files, values


def _build(model: UntrainedModel) -> nn.Module:
    try:
        check_state(model.description, model.state)
        network = model.description.build()
    except NetworkError as error:
        raise InvalidModelDirectoryError(TRAINED_MODEL, f"in {model.path}, {error}") from error
    # Only num_batches_tracked may be missing, which evaluation does not need; all other entries were checked.
    network.load_state_dict(model.state, strict=False)
    return network.eval()


def _labels(model: UntrainedModel, num_outputs: int) -> list[str]:
    labels = list(model.labels or ())[:num_outputs]
    labels += [str(index) for index in range(len(labels), num_outputs)]
    if model.task.is_multilabel and len(model.task.thresholds) != num_outputs:
        fault = f"the network has {num_outputs} outputs, but there are {len(model.task.thresholds)} thresholds"
        raise InvalidModelDirectoryError(TRAINED_MODEL, f"in {model.path}, {fault}")
    twice = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
    if twice:
        raise InvalidModelDirectoryError(TRAINED_MODEL, f"in {model.path}, several outputs have the label {twice}")
    return labels


def _scored_labels(task: Task, labels: list[str], probabilities: np.ndarray) -> list[str | None]:
    """The class of each image, or its labels as JSON text; None for images that could not be scored."""
    is_scored = ~np.isnan(probabilities[:, 0])
    if task.is_multilabel:
        rows = zip(probabilities.tolist(), is_scored)
        return [as_text(task.labels_of(row, labels)) if is_row_scored else None for row, is_row_scored in rows]
    best = np.where(is_scored, np.nan_to_num(probabilities).argmax(1), -1)
    return [labels[index] if index >= 0 else None for index in best]
