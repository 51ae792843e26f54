"""Sweeps that tests write and run. Their trials write metrics as MLflow does, without the seconds of its import."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tests.pipelines import component, pipeline

METRIC = "Valid loss"
# Appends a line to a metric of the trial's run, as MLflow does.
LOG = 'd="${MLFLOW_TRACKING_URI#file://}/$MLFLOW_EXPERIMENT_ID/$MLFLOW_RUN_ID/metrics"; mkdir -p $d'


def logging(*values: str, pause: float = 0.0, metric: str = METRIC) -> str:
    """Return a command that logs values with the steps 1, 2, …; `pause` is the time in seconds after each."""
    lines = [
        f'echo "1000 {value} {step}" >> "$d/{metric}"{f"; sleep {pause}" if pause else ""}'
        for step, value in enumerate(values, 1)
    ]
    return "; ".join([LOG, *lines])


def sweep(trial: object, space: dict[str, object], *, trials: int = 4, **fields: object) -> dict[str, Any]:
    """Return a sweep job that looks for the lowest value; fields that are None are left out."""
    document = {
        "type": "sweep",
        "trial": trial,
        "sampling_algorithm": "random",
        "search_space": space,
        "objective": {"goal": "minimize", "primary_metric": METRIC},
        "limits": {"max_total_trials": trials},
        **fields,
    }
    return {name: value for name, value in document.items() if value is not None}


def uniform(low: float, high: float) -> dict[str, object]:
    return {"type": "uniform", "min_value": low, "max_value": high}


def choice(*values: object) -> dict[str, object]:
    return {"type": "choice", "values": list(values)}


def write_sweep(folder: Path, command: str, job: dict[str, Any], **more: object) -> Path:
    """Write a pipeline with the sweep `tune` of a trial with the inputs x and name and the output o."""
    component(
        folder / "trial.yaml",
        command,
        {"x": {"type": "number", "default": 0}, "name": {"type": "string", "default": "none"}},
        ("o",),
    )
    return pipeline(folder / "p.yaml", {"tune": job}, **more)


def table(folder: Path, step: str = "tune") -> list[dict[str, str]]:
    """Return the rows of the table of trials."""
    with (folder / "run" / "steps" / step / "trials.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(folder: Path, name: str) -> list[str]:
    return [row[name] for row in table(folder)]
