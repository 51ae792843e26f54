"""Pictures of how well a classifier does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

# Beyond this many classes numbers and names would be too small to read.
_MAX_NUMBERED = 20
_MAX_NAMED = 60


def draw_confusion_matrix(confusion: np.ndarray, names: list[str], path: Path) -> None:
    """Draw a confusion matrix, each row coloured by its share.

    Args:
        confusion: counts, int of shape (C, C); rows are true classes, columns predicted ones.
        names: of the C classes.
        path: of the PNG.
    """
    side = min(14.0, 3.2 + 0.45 * len(names))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= _MAX_NAMED:
        # A label is text: a dollar sign in it begins no formula.
        shown = [_shortened(name).replace("$", r"\$") for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90 if max(map(len, shown)) > 2 else 0)
        axes.set_yticks(range(len(names)), shown)
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
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="as sure as it is right")
    axes.scatter(confidence, accuracy, s=20 + 200 * counts / counts.sum(), color="tab:blue", zorder=3)
    axes.plot(confidence, accuracy, color="tab:blue", linewidth=1, label="this model")
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"Expected calibration error {error:.3f}")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)


def _shortened(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:22]}…"
