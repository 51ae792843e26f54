"""Draws the graph of a pipeline: a box per step, coloured by its state, and an arrow per dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from matplotlib.axes import Axes

    from train_pytorch_model.pipelines.definition import Pipeline

# In inches: the width of a box, and the distance between two columns of boxes.
_WIDTH = 2.0
_STEP = 2.6
_MAX_CHARACTERS = 26
_COLOURS = {"run": "#d5ead8", "reused": "#d8e4f2", "failed": "#f3cfcb", "not run": "#eeeeee"}


def draw_graph(pipeline: Pipeline, states: Mapping[str, str], path: Path) -> None:
    """Draw the steps from left to right, each step to the right of those that it depends on.

    Args:
        pipeline: the pipeline to draw.
        states: state of each step: "run", "reused", "failed" or "not run".
        path: the SVG to write.
    """
    columns = pipeline.generations()
    places = {
        name: (_STEP * column, (len(names) - 1) / 2 - row)
        for column, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    # One unit is one inch, so that each box has room for its text.
    width, height = _STEP * (len(columns) - 1) + _WIDTH + 0.4, max(map(len, columns)) + 0.4
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_WIDTH / 2 - 0.2, width - _WIDTH / 2 - 0.2)
    axes.set_ylim(-height / 2, height / 2)
    for step in pipeline.steps.values():
        for source in sorted(step.needs):
            _draw_arrow(axes, places[source], places[step.name])
    for name, place in places.items():
        _draw_box(axes, place, name, states.get(name, "not run"))
    figure.savefig(path, format="svg", metadata={"Date": None})


def _draw_arrow(axes: Axes, begin: tuple[float, float], end: tuple[float, float]) -> None:
    # An arrow that skips a column is curved, so that it does not cross the boxes there.
    bend = 0.4 if end[0] - begin[0] > 1.5 * _STEP else 0.0
    style = {
        "arrowstyle": "-|>",
        "color": "#666666",
        "connectionstyle": f"arc3,rad={bend}",
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", xy=(end[0] - _WIDTH / 2, end[1]), xytext=(begin[0] + _WIDTH / 2, begin[1]), arrowprops=style)


def _draw_box(axes: Axes, place: tuple[float, float], name: str, state: str) -> None:
    x, y = place
    box = FancyBboxPatch(
        (x - _WIDTH / 2 + 0.08, y - 0.22),
        _WIDTH - 0.16,
        0.44,
        boxstyle="round,pad=0.08",
        facecolor=_COLOURS[state],
        edgecolor="#888888",
    )
    axes.add_patch(box)
    shown = name if len(name) <= _MAX_CHARACTERS else f"{name[: _MAX_CHARACTERS - 1]}…"
    axes.text(x, y, f"{shown}\n{state}", ha="center", va="center", fontsize=9)
