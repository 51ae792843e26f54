"""Writes scored tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from train_pytorch_model.ports.scored_table import write_scored_table


def write_scored(
    path: Path, probabilities: np.ndarray, truth: Sequence[Any], classes: list[str], label_column: str = "category"
) -> Path:
    columns: dict[str, Any] = {label_column: truth, "id": list(range(len(truth)))}
    for index, name in enumerate(classes):
        columns[f"Scored Probabilities_{name}"] = probabilities[:, index]
    columns["Scored Labels"] = [classes[index] for index in np.nan_to_num(probabilities).argmax(1)]
    path.mkdir()
    write_scored_table(path, columns, None if all(label is None for label in truth) else label_column)
    return path


def write_scored_labels(
    path: Path,
    probabilities: np.ndarray,
    truth: Sequence[Sequence[str] | None],
    labels: Sequence[str],
    thresholds: float | Sequence[float] = 0.5,
) -> Path:
    """A table of several labels per image."""
    columns: dict[str, Any] = {"category": [None if row is None else json.dumps(row) for row in truth]}
    for index, name in enumerate(labels):
        columns[f"Scored Probabilities_{name}"] = probabilities[:, index]
    columns["Scored Labels"] = [
        json.dumps([labels[index] for index in np.flatnonzero(row)]) for row in probabilities >= np.array(thresholds)
    ]
    path.mkdir()
    write_scored_table(path, columns, "category", is_multilabel=True)
    return path
