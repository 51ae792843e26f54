"""Draws the trials of a sweep: their values over time, the best so far, and the value against each hyperparameter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from train_pytorch_model.evaluation.plots import drawable_names
from train_pytorch_model.pipelines.trials import COMPLETED, ENDED, FAILED, TIMED_OUT, Trial, best_trial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from train_pytorch_model.pipelines.search_space import Value
    from train_pytorch_model.pipelines.sweep_definition import Sweep

_COLOURS = {COMPLETED: "#3b6ea5", ENDED: "#d08a2e", FAILED: "#b5463c", TIMED_OUT: "#8d6cab"}
_OTHER, _BEST = "#999999", "#2e8b57"
_COLUMNS = 2
_WIDTH, _HEIGHT = 5.2, 3.3
# Values of a logarithmic distribution whose largest is so many times the smallest have a logarithmic axis.
_LOG_RATIO = 30
# The same of values to minimize: the loss of a trial that diverged must not hide the differences of the others.
_LOG_RATIO_OF_LOSSES = 1000
_MAX_TICKS = 8
# Longer metrics are shortened, and labels with more characters together are slanted.
_MAX_CHARACTERS = 32


def draw_trials(trials: Sequence[Trial], sweep: Sweep, path: Path) -> None:
    """Draw the trials of which at least one has a value.

    Args:
        trials: the trials, in the order of their numbers.
        sweep: their sweep.
        path: the PNG to write.
    """
    drawn = [trial for trial in trials if trial.points]
    best = best_trial(trials, sweep.objective)
    num_rows = math.ceil((2 + len(sweep.search_space)) / _COLUMNS)
    figure = Figure(figsize=(_COLUMNS * _WIDTH, num_rows * _HEIGHT + 0.5), layout="constrained")
    axes = figure.subplots(num_rows, _COLUMNS, squeeze=False).flatten().tolist()
    _draw_values(axes[0], drawn, best)
    _draw_best_so_far(axes[1], drawn, best, sweep)
    titles = drawable_names(list(sweep.search_space), "setting")
    for place, name, title in zip(axes[2:], sweep.search_space, titles):
        _draw_setting(place, drawn, best, name, sweep)
        place.set_title(f"best value by {title}")
        place.set_xlabel(title)
    for place in axes[2 + len(sweep.search_space) :]:
        place.set_axis_off()
    metric = sweep.objective.metric
    is_short = metric.isascii() and len(metric) <= _MAX_CHARACTERS
    label = metric.replace("$", r"\$") if is_short else drawable_names([metric], "metric")[0]
    bests = [sweep.objective.best(trial.values) for trial in drawn]
    shown = [[value for trial in drawn for value in trial.values], *[bests] * (1 + len(sweep.search_space))]
    for place, values in zip(axes, shown):
        if not sweep.objective.is_maximized and 0 < _LOG_RATIO_OF_LOSSES * min(values) <= max(values):
            place.set_yscale("log")
        place.set_ylabel(label)
        place.grid(alpha=0.25)
    states = list(dict.fromkeys(trial.state for trial in drawn if trial is not best))
    marks = [_mark(_colour(state), state) for state in states]
    if best is not None:
        marks.append(_mark(_BEST, f"best: trial {best.number}"))
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), frameon=False)
    figure.savefig(path, format="png", dpi=110, metadata={"Software": None})


def _colour(state: str) -> str:
    return _COLOURS.get(state, _OTHER)


def _mark(colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker="o", linewidth=1.5, label=label)


def _integers() -> MaxNLocator:
    """Return ticks at integers, also where there is one value only."""
    return MaxNLocator(6, integer=True, min_n_ticks=1)


def _draw_values(axes: Axes, trials: Sequence[Trial], best: Trial | None) -> None:
    """Draw the values that each trial logged, in the order of logging."""
    for trial in trials:
        is_best = trial is best
        axes.plot(
            range(1, len(trial.points) + 1),
            trial.values,
            color=_BEST if is_best else _colour(trial.state),
            linewidth=2.2 if is_best else 1.1,
            marker="o",
            markersize=3,
            alpha=0.9,
            zorder=3 if is_best else 2,
        )
    axes.set_title("values that the trials logged")
    axes.set_xlabel("number of the value")
    axes.xaxis.set_major_locator(_integers())


def _draw_best_so_far(axes: Axes, trials: Sequence[Trial], best: Trial | None, sweep: Sweep) -> None:
    """Draw the best value of each trial, and the best of the completed trials so far."""
    objective = sweep.objective
    so_far: list[Trial] = []
    line: dict[int, float] = {}
    for trial in trials:
        so_far.append(trial)
        leader = best_trial(so_far, objective)
        if leader is not None:
            line[trial.number] = objective.best(leader.values)
    axes.step(list(line), list(line.values()), where="post", color=_BEST, linewidth=1.2)
    for trial in trials:
        _draw_point(axes, trial.number, trial, best, sweep)
    axes.set_title("best value of each trial, and the best so far")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(_integers())


def _draw_setting(axes: Axes, trials: Sequence[Trial], best: Trial | None, name: str, sweep: Sweep) -> None:
    """Draw the best value of each trial against a hyperparameter."""
    distribution = sweep.search_space[name]
    given: list[Value] = [trial.settings[name] for trial in trials]
    numbers = [value for value in given if not isinstance(value, str)]
    if distribution.kind == "choice":
        places = {value: place for place, value in enumerate(dict.fromkeys(distribution.values))}
        for trial in trials:
            _draw_point(axes, places[trial.settings[name]], trial, best, sweep)
        step = math.ceil(len(places) / _MAX_TICKS)
        labels = drawable_names(list(map(str, places)), "value")[::step]
        axes.set_xticks(list(places.values())[::step], labels)
        if sum(map(len, labels)) > _MAX_CHARACTERS:
            for label in axes.get_xticklabels():
                label.set(rotation=25, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(places) - 0.5)
    else:
        for trial, value in zip(trials, numbers):
            _draw_point(axes, value, trial, best, sweep)
        if distribution.is_log and min(numbers) > 0 and max(numbers) >= _LOG_RATIO * min(numbers):
            axes.set_xscale("log")
        else:
            has_integers = all(isinstance(value, int) for value in numbers)
            axes.xaxis.set_major_locator(_integers() if has_integers else MaxNLocator(6))


def _draw_point(axes: Axes, place: float, trial: Trial, best: Trial | None, sweep: Sweep) -> None:
    colour, size = (_BEST, 8) if trial is best else (_colour(trial.state), 5)
    value = sweep.objective.best(trial.values)
    axes.plot(place, value, marker="o", color=colour, markersize=size, alpha=0.85, zorder=3 if trial is best else 2)
