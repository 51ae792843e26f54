"""Score Image Model: a trained model and images become a table of probabilities and labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.errors import (
    TRAINED_MODEL,
    GreaterThanError,
    InvalidDatasetError,
    InvalidModelDirectoryError,
)
from train_pytorch_model.models.network import check_state
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.modules.image_scorer import ImageScorer
from train_pytorch_model.ports.file_names import FileNames
from train_pytorch_model.ports.image_list import file_of
from train_pytorch_model.ports.labelled_images import read_listed_items
from train_pytorch_model.ports.output_directory import TABLE, OutputDirectory
from train_pytorch_model.ports.scored_table import PROBABILITIES, SCORED_LABELS, check_column, write_scored_table
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_model
from train_pytorch_model.text.csv_cells import write_sheet
from train_pytorch_model.training.precision import choose_precision

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from train_pytorch_model.console.progress import ProgressDisplay

logger = logging.getLogger(__name__)

_DATASET = "Testing dataset"
_ERROR = "Error"


@dataclass(frozen=True)
class Request:
    """What to score, and how."""

    model_path: Path
    data_path: Path
    scored_path: Path
    outputs_path: Path
    precision: str = "float32"
    batch_size: int = 16
    skip_unreadable_images: bool = False
    trust_model_code: bool = False
    write_csv: bool = False


def score_image_model(request: Request, display: ProgressDisplay) -> None:
    """Score every image and write the table, in the order of the image list.

    Raises:
        ModuleError: for a model, a dataset or an output that cannot be used.
    """
    if request.batch_size < 1:
        raise GreaterThanError("Batch size", request.batch_size, 0)
    output = OutputDirectory(request.scored_path, "Scored dataset", TABLE)
    output.check((request.model_path, request.data_path), request.outputs_path)
    device = choose_device()
    model = read_model(
        request.model_path,
        TRAINED_MODEL,
        "Give the output of a Train PyTorch Model step.",
        trust_code=request.trust_model_code,
    )
    network = _build(model)
    schema, columns, items = read_listed_items(request.data_path, _DATASET, labelled=False)
    passed_on = sorted(column["name"] for column in schema["columnAttributes"] if not column.get("isFeature", True))
    files = FileNames()
    values: dict[str, list[Any]] = {name: [] for name in passed_on}
    for item in items():
        files.append(file_of(item, columns) or "")
        for name in passed_on:
            values[name].append(item.get(name))
    for name in passed_on:
        try:
            check_column(name, values[name])
        except ValueError as error:
            raise InvalidDatasetError(f"{_DATASET} {request.data_path}", str(error)) from error
    normalisation = model.normalisations.get(columns.image)
    if normalisation is None:
        logger.warning("The model says nothing of a column %r: its pixels are not normalised.", columns.image)
    precision = choose_precision(request.precision, device, network)
    scorer = ImageScorer(
        network.to(device), model.description, device, precision, normalisation, batch_size=request.batch_size
    )
    where = f"{_DATASET} {request.data_path}"
    with display.images(_DATASET, "scored", len(files)) as advance:
        probabilities, unreadable = scorer.score(
            request.data_path, files, where, advance, skip_unreadable=request.skip_unreadable_images
        )
    table = _make_columns(values, probabilities, _labels(model, probabilities.shape[1]), unreadable)
    _write(output, table, _label_column(schema), write_csv=request.write_csv)
    logger.info("%d images are scored in %s.", len(files) - len(unreadable), request.scored_path)


def _build(model: UntrainedModel) -> nn.Module:
    try:
        check_state(model.description, model.state)
        network = model.description.build()
    except NetworkError as error:
        raise InvalidModelDirectoryError(TRAINED_MODEL, f"in {model.path}, {error}") from error
    # Whose counters of batches may be missing, which scoring has no use for; all else was checked.
    network.load_state_dict(model.state, strict=False)
    return network.eval()


def _labels(model: UntrainedModel, num_outputs: int) -> list[str]:
    labels = list(model.labels or ())[:num_outputs]
    labels += [str(index) for index in range(len(labels), num_outputs)]
    twice = sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
    if twice:
        raise InvalidModelDirectoryError(TRAINED_MODEL, f"in {model.path}, several outputs are called {twice}")
    return labels


def _label_column(schema: dict[str, Any]) -> str | None:
    columns = schema["columnAttributes"]
    return next((column["name"] for column in columns if "annotation_type" in (column.get("properties") or {})), None)


def _make_columns(
    values: dict[str, list[Any]], probabilities: np.ndarray, labels: list[str], unreadable: dict[int, str]
) -> dict[str, Any]:
    columns: dict[str, Any] = dict(values)
    for index, label in enumerate(labels):
        columns[PROBABILITIES + label] = probabilities[:, index]
    is_scored = ~np.isnan(probabilities[:, 0])
    best = np.where(is_scored, np.nan_to_num(probabilities).argmax(1), -1)
    columns[SCORED_LABELS] = [labels[index] if index >= 0 else None for index in best]
    if unreadable:
        columns[_ERROR] = [unreadable.get(index) for index in range(len(probabilities))]
    return columns


def _write(output: OutputDirectory, columns: dict[str, Any], label_column: str | None, *, write_csv: bool) -> None:
    with output.writing() as folder:
        write_scored_table(folder, columns, label_column)
        if write_csv:
            lists = [values.tolist() if isinstance(values, np.ndarray) else values for values in columns.values()]
            write_sheet(folder / "_data.csv", list(columns), zip(*lists))
