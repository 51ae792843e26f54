"""Plots of the quality of a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from train_pytorch_model.evaluation.answered import AnsweredCurve, Threshold

# Up to this many classes, cells show their counts; beyond, those would be too small to read.
_MAX_NUMBERED = 20
# Up to this many classes, axes show their names.
MAX_NAMED = 60
# Beyond this many classes, neighbouring classes are averaged into one cell.
_MAX_CELLS = 120


def draw_confusion_matrix(confusion: np.ndarray, names: list[str], path: Path) -> None:
    """Draw a confusion matrix, normalised by row.

    More than 60 classes are numbered from 0 instead of named, and the colour scale is a square root, which makes
    fractions of one percent visible. More than 120 classes are grouped into cells, see `in_cells`.

    Args:
        confusion: counts, int of shape (C, C); rows are true classes, columns predicted ones.
        names: names of the C classes.
        path: the PNG to write.
    """
    is_named = len(names) <= MAX_NAMED
    side = min(14.0, 3.2 + 0.45 * len(names)) if is_named else 5.5
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    totals = confusion.sum(axis=1, keepdims=True)
    fractions = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    cells, width = in_cells(fractions, totals[:, 0] > 0)
    end = len(cells) * width - 0.5
    norm = Normalize(0, 1) if is_named else PowerNorm(0.5, 0, 1)
    image = axes.imshow(cells, cmap="Blues", norm=norm, interpolation="nearest", extent=(-0.5, end, end, -0.5))
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    kind = "" if is_named else " class" + (f", {width} per cell" if width > 1 else "")
    axes.set_xlabel(f"predicted{kind}")
    axes.set_ylabel(f"true{kind}")
    if is_named:
        shown = drawable_names(names)
        size = 10 if len(names) <= _MAX_NUMBERED else 8
        axes.set_xticks(range(len(names)), shown, rotation=90 if max(map(len, shown)) > 2 else 0, fontsize=size)
        axes.set_yticks(range(len(names)), shown, fontsize=size)
    if len(names) <= _MAX_NUMBERED:
        for row, column in np.argwhere(confusion):
            colour = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120)


def draw_reliability(
    confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, error: float, path: Path
) -> None:
    """Draw a reliability diagram: accuracy against confidence.

    Args:
        confidence: mean confidence of each bin, float of shape (B,).
        accuracy: accuracy of each bin, float of shape (B,).
        counts: images in each bin, int of shape (B,).
        error: the expected calibration error.
        path: the PNG to write.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="perfect calibration")
    axes.scatter(confidence, accuracy, s=20 + 200 * counts / counts.sum(), color="tab:blue", zorder=3)
    axes.plot(confidence, accuracy, color="tab:blue", linewidth=1, label="this model")
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"Expected calibration error {error:.3f}")
    # Outside the axes, where it cannot cover a curve.
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def draw_answered(curve: AnsweredCurve, thresholds: Sequence[Threshold], path: Path) -> None:
    """Draw accuracy against the fraction of images that are answered.

    Args:
        curve: from `answered_curve`.
        thresholds: to mark.
        path: the PNG to write.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.fraction, curve.accuracy, color="tab:blue", linewidth=1.5)
    for threshold in thresholds:
        label = f"{threshold.wanted:.0%} right: below {threshold.below:g} unknown"
        axes.scatter(threshold.fraction, threshold.accuracy, zorder=3, label=label)
    axes.set(xlim=(0, 1.02), xlabel="fraction of images that are answered", ylabel="accuracy of the answered images")
    axes.set_ylim(top=1.005)
    axes.grid(color="#dddddd", linewidth=0.6)
    if thresholds:
        figure.legend(loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=120)


def in_cells(fractions: np.ndarray, is_present: np.ndarray) -> tuple[np.ndarray, int]:
    """Average a normalised confusion matrix over blocks of classes, so that it has at most 120 cells per side.

    A cell is the fraction predicted as any class of its columns, averaged over the true classes of its rows.

    Args:
        fractions: float of shape (C, C); the rows of classes that occur sum to one.
        is_present: whether each class occurs, bool of shape (C,); the other classes are not part of any mean.

    Returns:
        Float of shape (B, B), rows summing to one, and the number of classes per side of a block.
    """
    width = -(-len(fractions) // _MAX_CELLS)
    starts = np.arange(0, len(fractions), width)
    sums = np.add.reduceat(np.add.reduceat(fractions, starts, axis=1), starts, axis=0)
    counts = np.add.reduceat(is_present.astype(np.float64), starts)[:, None]
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0), width


def drawable_names(names: Sequence[str], noun: str = "class") -> list[str]:
    """Shorten names for an axis; a name with characters that the font lacks becomes `class N`.

    Args:
        names: all names of a model, in its order, since N is the place among them.
        noun: what the names are.
    """
    letters = get_font(findfont(FontProperties())).get_charmap()
    shown = [name if len(name) <= 24 else f"{name[:22]}…" for name in names]
    # Escaped, since matplotlib reads text between dollar signs as a formula.
    return [
        name.replace("$", r"\$") if all(ord(letter) in letters for letter in name) else f"{noun} {number}"
        for number, name in enumerate(shown)
    ]
