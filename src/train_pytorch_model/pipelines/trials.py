"""The trials of a sweep: their records, from which a sweep is resumed, and their table."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.data.file_systems import move_file
from train_pytorch_model.text.csv_cells import write_sheet
from train_pytorch_model.tracking import Logged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from train_pytorch_model.pipelines.early_termination import Objective
    from train_pytorch_model.pipelines.search_space import Value
    from train_pytorch_model.pipelines.sweep_definition import Sweep

logger = logging.getLogger(__name__)

RUNNING, COMPLETED, ENDED, TIMED_OUT, FAILED, CANCELLED = (
    "running",
    "completed",
    "ended early",
    "timed out",
    "failed",
    "cancelled",
)
"""States of a trial."""
RECORD_FILE = "trial.json"


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep."""

    number: int
    settings: dict[str, Value]
    run_id: str
    """Its run of MLflow."""
    key: str
    """A hash of everything that its outputs depend on."""
    sampling: str
    """What the settings of trials depend on, as a text to compare."""
    ends: str
    """What ends trials, as a text to compare."""
    state: str = RUNNING
    reason: str = ""
    """Why it did not complete."""
    points: tuple[Logged, ...] = ()
    """The values of the primary metric."""
    attempts: tuple[int, ...] = ()
    """For each time that it was started again, how many values it had logged before."""
    seconds: float = 0.0

    @property
    def values(self) -> list[float]:
        """The values of the primary metric in the order of logging."""
        return [point.value for point in self.points]

    def best(self, objective: Objective) -> Optional[float]:
        """Return its best value; None if it has none."""
        return objective.best(self.values) if self.points else None


def joined(logged: Sequence[Logged], attempts: Iterable[int]) -> tuple[Logged, ...]:
    """Return the values of a trial that was started several times.

    Values from before an interruption count as long as the values after it go on from their steps, as those of a
    training that resumes from a checkpoint do.

    Args:
        logged: all values in the order of logging.
        attempts: how many had been logged at each new start.
    """
    begins = [0, *attempts, len(logged)]
    points: list[Logged] = []
    for begin, end in zip(begins, begins[1:]):
        new = list(logged[begin:end])
        if new:
            points = [point for point in points if point.step < new[0].step] + new
    return tuple(points)


def best_trial(trials: Iterable[Trial], objective: Objective) -> Optional[Trial]:
    """Return the completed trial with the best value, the first one of several; None if there is none."""
    done = [trial for trial in trials if trial.state == COMPLETED and trial.points]
    sign = 1 if objective.is_maximized else -1
    return max(done, key=lambda trial: sign * objective.best(trial.values), default=None)


def write_record(folder: Path, trial: Trial) -> None:
    """Write the record of a trial. Without it, a sweep that is resumed runs the trial again."""
    temporary = folder / f"{RECORD_FILE}.writing"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(trial), indent=2), encoding="utf-8")
        move_file(temporary, folder / RECORD_FILE)
    except OSError as error:
        logger.warning("%s could not be written: %s.", folder / RECORD_FILE, error.strerror)


def read_record(folder: Path) -> Optional[Trial]:
    """Return the trial that an earlier run recorded; None if there is none."""
    try:
        document = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
        document["points"] = tuple(Logged(*point) for point in document["points"])
        document["attempts"] = tuple(document["attempts"])
        return Trial(**document)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def trials_folder(step: Path) -> Path:
    """Return the folder with one folder per trial, in the folder of a step."""
    return step / "trials"


def runs_of_interrupted_trials(step: Path) -> list[str]:
    """Return the runs of MLflow of the trials that had not ended when an earlier run was killed."""
    recorded = map(read_record, trials_folder(step).glob("*"))
    return [trial.run_id for trial in recorded if trial is not None and trial.state == RUNNING]


def remove_other_trials(step: Path, sampling: str) -> None:
    """Remove the trials of an earlier run whose settings depend on something else than `sampling`."""
    for folder in trials_folder(step).glob("*"):
        trial = read_record(folder)
        if trial is None or trial.sampling != sampling:
            shutil.rmtree(folder, ignore_errors=True)


def write_table(path: Path, trials: Sequence[Trial], sweep: Sweep) -> None:
    """Write a table of the trials as CSV."""
    objective = sweep.objective
    best = best_trial(trials, objective)
    header = ["trial", "state", "is_best", f"best {objective.metric}", f"last {objective.metric}", "values"]
    rows: list[list[Any]] = [
        [
            trial.number,
            trial.state,
            str(trial is best).lower(),
            trial.best(objective),
            trial.values[-1] if trial.points else None,
            len(trial.points),
            *(trial.settings[name] for name in sweep.search_space),
            round(trial.seconds, 1),
            trial.reason,
            trial.run_id,
        ]
        for trial in trials
    ]
    names = [f"search_space.{name}" for name in sweep.search_space]
    write_sheet(path, [*header, *names, "seconds", "reason", "mlflow_run_id"], rows)
