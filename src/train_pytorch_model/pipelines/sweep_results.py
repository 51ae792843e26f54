"""What a sweep says: how its trials ended, which one is the best, and why there is none."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from train_pytorch_model.data.file_systems import move_file
from train_pytorch_model.errors import StepFailedError, first_line
from train_pytorch_model.pipelines.search_space import settings_in_words
from train_pytorch_model.pipelines.trials import COMPLETED, FAILED, Trial, best_trial, write_table
from train_pytorch_model.pipelines.trials_plot import draw_trials

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from train_pytorch_model.pipelines.sweep_definition import Sweep

logger = logging.getLogger(__name__)

TABLE_FILE, PLOT_FILE = "trials.csv", "trials.png"


def log_outcome(name: str, trial: Trial, trials: Mapping[int, Trial], sweep: Sweep) -> None:
    """Log how a trial of the sweep of a step ended."""
    objective = sweep.objective
    value = f"{objective.metric} {objective.best(trial.values):.6g}" if trial.points else f"no {objective.metric}"
    title = f"{name}: trial {trial.number} of {sweep.num_trials}"
    if trial.state == COMPLETED:
        is_best = best_trial(trials.values(), objective) is trial
        logger.info("%s completed in %.1f s: %s%s", title, trial.seconds, value, " (best so far)" if is_best else "")
    else:
        level = logging.WARNING if trial.state == FAILED else logging.INFO
        logger.log(level, "%s %s after %.1f s, %s: %s", title, trial.state, trial.seconds, value, trial.reason)


def log_best(name: str, best: Trial, sweep: Sweep, folder: Path) -> None:
    """Log the best trial of the sweep of a step, and where all trials are."""
    objective = sweep.objective
    value, words = objective.best(best.values), settings_in_words(best.settings)
    logger.info("%s: the best trial is %d, %s %.6g: %s", name, best.number, objective.metric, value, words)
    logger.info("%s: all trials are in %s and %s", name, folder / TABLE_FILE, folder / PLOT_FILE)


def error_of_missing_metric(step: str, metric: str, names: Sequence[str], log: Path) -> StepFailedError:
    """Return the error of a trial that succeeded and logged no finite value of the primary metric.

    Args:
        step: the name of the trial's step.
        metric: the primary metric.
        names: the metrics that the trial logged.
        log: its log.
    """
    logged = f"It logged {', '.join(map(repr, names))}" if names else "It logged no metric to MLflow"
    if metric in names:
        logged = "All values that it logged are NaN or infinite"
    text = f"no finite value of the primary metric {metric!r} was logged. {logged}."
    return StepFailedError(step, "UserError", 2000, text, log)


def error_of_sweep(name: str, errors: Sequence[StepFailedError], folder: Path) -> StepFailedError:
    """Return the error of a sweep of which no trial completed, with the errors of the trials."""
    table = folder / TABLE_FILE
    if not errors:
        text = (
            "no trial completed before limits.timeout, limits.trial_timeout or the early termination policy ended it."
        )
        return StepFailedError(name, "UserError", 2000, text, table)
    first = errors[0]
    text = f"no trial completed; {len(errors)} failed, see {table}. The first one: {first.text}"
    return StepFailedError(name, first.error_id, first.code, text, first.log)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a file to write that takes the place of `path` when it is complete."""
    temporary = path.with_name(f"{path.name}.writing")
    try:
        yield temporary
        move_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_results(folder: Path, trials: Sequence[Trial], sweep: Sweep, *, has_plot: bool) -> None:
    """Write the table of the trials, and the plot where there are values."""
    try:
        with _whole(folder / TABLE_FILE) as path:
            write_table(path, trials, sweep)
        if has_plot and any(trial.points for trial in trials):
            with _whole(folder / PLOT_FILE) as path:
                draw_trials(trials, sweep, path)
    except (OSError, ValueError) as error:  # No axis reaches from -1e308 to 1e308.
        logger.warning("The results of the sweep could not be written to %s: %s.", folder, first_line(error))
