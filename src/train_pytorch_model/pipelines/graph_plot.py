"""The graph of a pipeline as a picture: a box a step, an arrow for what flows, a colour for what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from train_pytorch_model.pipelines.definition import StepOutput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from train_pytorch_model.pipelines.definition import Pipeline

# Of a box, and from one column of boxes to the next, in inches.
_WIDTH = 2.0
_STEP = 2.6
_MAX_CHARACTERS = 26
_COLOURS = {"run": "#d5ead8", "reused": "#d8e4f2", "failed": "#f3cfcb", "not run": "#eeeeee"}


def draw_graph(pipeline: Pipeline, states: Mapping[str, str], path: Path) -> None:
    """Draw the steps from left to right, each right of those that it takes from.

    Args:
        pipeline: what is drawn.
        states: of each step: "run", "reused", "failed" or "not run".
        path: of the SVG.
    """
    graph = networkx.DiGraph()
    graph.add_nodes_from(pipeline.steps)
    for step in pipeline.steps.values():
        for source in step.inputs.values():
            if isinstance(source, StepOutput):
                graph.add_edge(source.step, step.name)
    columns = [sorted(names, key=list(pipeline.steps).index) for names in networkx.topological_generations(graph)]
    places = {
        name: (_STEP * column, (len(names) - 1) / 2 - row)
        for column, names in enumerate(columns)
        for row, name in enumerate(names)
    }
    num_rows = max(map(len, columns))
    # An inch a unit, so that a box holds its text.
    width, height = _STEP * (len(columns) - 1) + _WIDTH + 0.4, num_rows + 0.4
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-_WIDTH / 2 - 0.2, width - _WIDTH / 2 - 0.2)
    axes.set_ylim(-height / 2, height / 2)
    for begin, end in graph.edges:
        (x0, y0), (x1, y1) = places[begin], places[end]
        # Past the boxes of the columns between.
        bend = 0.4 if x1 - x0 > 1.5 * _STEP else 0.0
        arrow = {
            "arrowstyle": "-|>",
            "color": "#666666",
            "connectionstyle": f"arc3,rad={bend}",
            "shrinkA": 0,
            "shrinkB": 0,
        }
        axes.annotate("", xy=(x1 - _WIDTH / 2, y1), xytext=(x0 + _WIDTH / 2, y0), arrowprops=arrow)
    for name, (x, y) in places.items():
        state = states.get(name, "not run")
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
    figure.savefig(path, format="svg", metadata={"Date": None})
