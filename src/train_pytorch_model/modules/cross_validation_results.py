"""The results of a cross-validation: metrics of the folds with mean and standard deviation, and one scored table."""

from __future__ import annotations

import json
import math
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from train_pytorch_model.modules.evaluations import evaluate_classes, evaluate_labels
from train_pytorch_model.ports.scored_table import read_scored_table, write_scored_table
from train_pytorch_model.text.csv_cells import write_sheet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RESULTS_FILE = "cross_validation.json"


def metrics_of(scored_dataset: Path) -> dict[str, float]:
    """Return the metrics of a scored table that are single numbers, as Evaluate Model computes them.

    Averages over the classes are named `macro_f1` and the like. Metrics that are undefined are left out.
    """
    scored = read_scored_table(scored_dataset)
    is_usable = np.logical_and(scored.is_scored, scored.is_labelled)
    evaluate = evaluate_labels if scored.is_multilabel else evaluate_classes
    report = evaluate(scored, is_usable, f"Scored dataset {scored_dataset}").report
    flat: dict[str, object] = {}
    for name, value in report.items():
        if isinstance(value, dict):
            flat.update({f"{name}_{part}": number for part, number in value.items()})
        else:
            flat[name] = value
    return {name: value for name, value in flat.items() if isinstance(value, float) and math.isfinite(value)}


def summarize(folds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the mean and the standard deviation of each metric over the folds.

    Args:
        folds: the metrics of each fold. A fold without a metric does not count for it.

    Returns:
        For each metric, `mean`, `std` (of a sample, with N - 1; None for one value) and `folds`, the values.
    """
    summary = {}
    for name in dict.fromkeys(name for fold in folds for name in fold):
        values = [fold[name] for fold in folds if name in fold]
        summary[name] = {
            "mean": statistics.fmean(values),
            "std": statistics.stdev(values) if len(values) > 1 else None,
            "folds": [fold.get(name) for fold in folds],
        }
    return summary


def merge_scored(
    tables: Sequence[Path], folds: np.ndarray, folder: Path, label_column: str, *, is_multilabel: bool
) -> None:
    """Write the scored tables of all folds as one, in the order of the images.

    Args:
        tables: the scored dataset of each fold; its rows are the images of the fold in their order.
        folds: the number of the fold of each of N images, from 0: int64 of shape (N,).
        folder: an empty folder.
        label_column: the name of the column of true labels.
        is_multilabel: whether an image may have several labels.
    """
    frame = pd.concat([pd.read_parquet(table / "_data.parquet") for table in tables], ignore_index=True)
    # A stable sort by fold lists the images as the tables do.
    rows_of = np.empty(len(folds), dtype=np.int64)
    rows_of[np.argsort(folds, kind="stable")] = np.arange(len(folds))
    frame = frame.iloc[rows_of]
    columns = {
        name: values.to_numpy()
        if values.dtype == np.float64
        else [None if is_missing else value for value, is_missing in zip(values.tolist(), values.isna())]
        for name, values in frame.items()
    }
    write_scored_table(folder, columns, label_column, is_multilabel=is_multilabel)


def write_results(
    folder: Path,
    results: Mapping[str, Any],
    files: Sequence[str],
    folds: np.ndarray,
    groups: np.ndarray | None,
    group_names: Sequence[str],
) -> None:
    """Write the metrics as JSON and as a table, and the fold of each image.

    Args:
        folder: an empty folder.
        results: the contents of cross_validation.json, with the output of `summarize` as `metrics`.
        files: the names of the N images.
        folds: the number of the fold of each image, from 0: int64 of shape (N,).
        groups: the index of the group of each image; None without groups.
        group_names: the names of the groups.
    """
    (folder / RESULTS_FILE).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    num_folds = int(folds.max()) + 1
    write_sheet(
        folder / "cross_validation.csv",
        ["metric", "mean", "standard deviation", *(f"fold {number}" for number in range(1, num_folds + 1))],
        ([name, found["mean"], found["std"], *found["folds"]] for name, found in results["metrics"].items()),
    )
    write_sheet(
        folder / "folds.csv",
        ["image", "fold", *([] if groups is None else ["group"])],
        (
            [file, int(folds[number]) + 1, *([] if groups is None else [group_names[groups[number]]])]
            for number, file in enumerate(files)
        ),
    )
    (folder / "_meta.yaml").write_text("type: AnyDirectory\nextension: {}\n", encoding="utf-8")
