"""Pictures of how well a classifier does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Beyond this many classes numbers and names would be too small to read.
_MAX_NUMBERED = 20
MAX_NAMED = 60
# Beyond this many, classes that follow each other share a cell.
_MAX_CELLS = 120


def draw_confusion_matrix(confusion: np.ndarray, names: list[str], path: Path) -> None:
    """Draw a confusion matrix, each row coloured by its share.

    More than 60 classes are numbered from 0 instead of named; more than 120 share cells, which show the mean over the
    true classes of the share predicted as any class of the cell. A square root spreads their colours, so that shares
    of one in a hundred can be seen.

    Args:
        confusion: counts, int of shape (C, C); rows are true classes, columns predicted ones.
        names: of the C classes.
        path: of the PNG.
    """
    is_named = len(names) <= MAX_NAMED
    side = min(14.0, 3.2 + 0.45 * len(names)) if is_named else 5.5
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    cells, width = in_cells(shares, totals[:, 0] > 0)
    end = len(cells) * width - 0.5
    norm = Normalize(0, 1) if is_named else PowerNorm(0.5, 0, 1)
    image = axes.imshow(cells, cmap="Blues", norm=norm, interpolation="nearest", extent=(-0.5, end, end, -0.5))
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    kind = "" if is_named else " class" + (f", {width} to a cell" if width > 1 else "")
    axes.set_xlabel(f"predicted{kind}")
    axes.set_ylabel(f"true{kind}")
    if is_named:
        shown = drawable_names(names)
        size = 10 if len(names) <= _MAX_NUMBERED else 8
        axes.set_xticks(range(len(names)), shown, rotation=90 if max(map(len, shown)) > 2 else 0, fontsize=size)
        axes.set_yticks(range(len(names)), shown, fontsize=size)
    if len(names) <= _MAX_NUMBERED:
        for row, column in np.argwhere(confusion):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, dpi=120)


def draw_reliability(
    confidence: np.ndarray, accuracy: np.ndarray, counts: np.ndarray, error: float, path: Path
) -> None:
    """Draw how often the classifier is right against how sure it is.

    Args:
        confidence: mean of each bin, float of shape (B,).
        accuracy: likewise.
        counts: of images, likewise.
        error: the expected calibration error.
        path: of the PNG.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="as sure as it is right")
    axes.scatter(confidence, accuracy, s=20 + 200 * counts / counts.sum(), color="tab:blue", zorder=3)
    axes.plot(confidence, accuracy, color="tab:blue", linewidth=1, label="this model")
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"Expected calibration error {error:.3f}")
    # Beside the axes: within, there is no place where no curve may run.
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)


def in_cells(shares: np.ndarray, is_present: np.ndarray) -> tuple[np.ndarray, int]:
    """Average a matrix of shares over blocks of classes, so that at most 120 cells are left on a side.

    Args:
        shares: float of shape (C, C); the rows of classes that occur sum to one.
        is_present: which classes occur, bool of shape (C,); the others count in no mean.

    Returns:
        Float of shape (B, B), rows again summing to one, and the number of classes on the side of a block.
    """
    width = -(-len(shares) // _MAX_CELLS)
    starts = np.arange(0, len(shares), width)
    sums = np.add.reduceat(np.add.reduceat(shares, starts, axis=1), starts, axis=0)
    counts = np.add.reduceat(is_present.astype(np.float64), starts)[:, None]
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0), width


def drawable_names(names: Sequence[str]) -> list[str]:
    """Names short enough for an axis, and readable in the font: a class that it has no letters for goes by number."""
    letters = get_font(findfont(FontProperties())).get_charmap()
    shown = [name if len(name) <= 24 else f"{name[:22]}…" for name in names]
    # A label is text: a dollar sign in it begins no formula.
    return [
        name.replace("$", r"\$") if all(ord(letter) in letters for letter in name) else f"class {number}"
        for number, name in enumerate(shown)
    ]
