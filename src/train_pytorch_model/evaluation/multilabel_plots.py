"""Plots of the quality of a model that predicts several labels per image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from train_pytorch_model.evaluation.plots import drawable_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Up to this many labels have a bar, those with the most mistakes.
MAX_BARS = 40
# Up to this many curves have a colour and a name, those of the labels with the lowest average precision.
MAX_NAMED_CURVES = 10


def draw_label_confusion(per_label: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw bars of the images that each label was found in correctly, was found in wrongly, and was missed in.

    Of more than 40 labels, those with the most mistakes are drawn.

    Args:
        per_label: metrics of each label, from `compute_multilabel_metrics`.
        path: the PNG to write.
    """
    names = drawn_labels(per_label)
    correct, wrong, missed = (
        np.array([per_label[name][key] for name in names])
        for key in ("true_positives", "false_positives", "false_negatives")
    )
    figure = Figure(figsize=(6.5, 1.5 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(names))
    for values, start, colour, title in (
        (-wrong, 0, "#c2541b", "wrongly found"),
        (correct, 0, "#1b6ca8", "correctly found"),
        (missed, correct, "#b9c4d0", "missed"),
    ):
        axes.barh(places, values, left=start, height=0.7, color=colour, label=title)
    for place, counts in enumerate(zip(wrong, correct, missed)):
        axes.annotate(
            " / ".join(f"{count:,}" for count in counts),
            (correct[place] + missed[place], place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(0, color="#444444", linewidth=0.8)
    shown = _shown_names(per_label)
    axes.set_yticks(places, [shown[name] for name in names])
    axes.set(xlabel="images", ylim=(len(names) - 0.4, -0.6))
    axes.use_sticky_edges = False
    axes.margins(x=0.18)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):,.0f}"))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def drawn_labels(per_label: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Choose the labels that have bars: all in the model's order, or of more than 40 those with the most mistakes."""
    names = list(per_label)
    if len(names) <= MAX_BARS:
        return names
    mistakes = [-per_label[name]["false_positives"] - per_label[name]["false_negatives"] for name in names]
    return [names[number] for number in np.argsort(mistakes, kind="stable")[:MAX_BARS]]


def draw_precision_recall(
    curves: Mapping[str, np.ndarray], per_label: Mapping[str, Mapping[str, Any]], path: Path
) -> None:
    """Draw precision against recall for each label; a dot marks the threshold of the model.

    Of more than 10 labels, those with the lowest average precision have colours and names, and the others are grey.

    Args:
        curves: of `precision_recall_curves`.
        per_label: metrics of each label, from `compute_multilabel_metrics`.
        path: the PNG to write.
    """
    figure = Figure(figsize=(6, 6.2), layout="constrained")
    axes = figure.subplots()
    named = sorted(curves, key=lambda name: float(per_label[name]["average_precision"]))[:MAX_NAMED_CURVES]
    named = [name for name in curves if name in set(named)]
    for name, points in curves.items():
        if name not in set(named):
            axes.plot(*_steps(points), color="#c4cad2", linewidth=0.8, zorder=1)
    shown = _shown_names(per_label)
    for number, name in enumerate(named):
        values = per_label[name]
        colour = f"C{number}"
        title = f"{shown[name]} ({values['average_precision']:.3f})"
        axes.plot(*_steps(curves[name]), color=colour, linewidth=1.5, label=title)
        axes.plot(
            values["recall"], values["precision"], "o", color=colour, markersize=6, markeredgecolor="white", zorder=3
        )
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05), xlabel="recall", ylabel="precision")
    axes.grid(color="#dddddd", linewidth=0.6)
    if curves:
        mean = np.mean([per_label[name]["average_precision"] for name in curves])
        axes.set_title(f"Mean average precision {mean:.3f}")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, title="label (average precision)")
    figure.savefig(path, dpi=120)


def _shown_names(per_label: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a figure shows of the name of each label."""
    names = list(per_label)
    return dict(zip(names, drawable_names(names, "label")))


def _steps(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision as the steps whose area is the average precision."""
    recall = np.append(points[:, 2], 0.0)
    precision = np.append(points[:, 1], points[-1, 1])
    return np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1]
