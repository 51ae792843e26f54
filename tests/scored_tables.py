"""Writes scored tables."""

from __future__ import annotations

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
