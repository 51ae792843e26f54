"""Temperature scaling: one number that makes the probabilities of a classifier as sure as its accuracy allows.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from train_pytorch_model.data.batches import derive_seed

SMALLEST_TEMPERATURE = 0.05
LARGEST_TEMPERATURE = 100.0
NUM_FOLDS = 5
# Rows in float64 at a time.
_CHUNK = 4096
_MAX_STEPS = 100
# Of the logarithm of the temperature.
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Confidence:
    """How well probabilities agree with what is true."""

    log_loss: float
    expected_calibration_error: float
    """In [0, 1]; see `calibration_error`."""


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature T with the lowest log loss of softmax(logits / T).

    The log loss is convex in 1 / T, so there is one minimum. Newton's method finds it, with bisection where a step
    would leave the interval.

    Args:
        logits: float of shape (N, C), N > 0.
        labels: int64 of shape (N,).

    Returns:
        The temperature, in [0.05, 100]. It is one of these bounds if the log loss has no minimum between them: for
        images that are all predicted correctly, it decreases with T.
    """
    # Of the logarithm of 1 / T.
    low, high, at = -math.log(LARGEST_TEMPERATURE), -math.log(SMALLEST_TEMPERATURE), 0.0
    if _slopes(logits, labels, low)[0] >= 0:
        return LARGEST_TEMPERATURE
    if _slopes(logits, labels, high)[0] <= 0:
        return SMALLEST_TEMPERATURE
    for _ in range(_MAX_STEPS):
        slope, curvature = _slopes(logits, labels, at)
        low, high = (low, at) if slope > 0 else (at, high)
        following = at - slope / curvature if curvature > 0 else low
        following = following if low < following < high else (low + high) / 2
        if abs(following - at) < _TOLERANCE:
            break
        at = following
    return math.exp(-at)


def _slopes(logits: torch.Tensor, labels: torch.Tensor, exponent: float) -> tuple[float, float]:
    """The first and second derivative of the sum of log losses by the logarithm of 1 / T, at a value of it."""
    scale = math.exp(exponent)
    first = second = 0.0
    for rows, true in zip(torch.split(logits, _CHUNK), torch.split(labels, _CHUNK)):
        wide = rows.double()
        probabilities = (wide * scale).softmax(1)
        mean = (probabilities * wide).sum(1)
        first += float((mean - wide.gather(1, true[:, None])[:, 0]).sum())
        second += float(((probabilities * wide.square()).sum(1) - mean.square()).sum())
    return scale * first, scale * first + scale**2 * second


def log_loss_at(logits: torch.Tensor, labels: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> float:
    """Return the mean log loss of softmax(logits / temperature).

    Args:
        logits: float of shape (N, C).
        labels: int64 of shape (N,).
        temperature: of all images, or float64 of shape (N,).
    """
    temperatures = torch.as_tensor(temperature, dtype=torch.float64).expand(len(logits))
    parts = zip(torch.split(logits, _CHUNK), torch.split(labels, _CHUNK), torch.split(temperatures, _CHUNK))
    losses = [
        torch.nn.functional.cross_entropy(rows.double() / of_rows[:, None], true, reduction="sum")
        for rows, true, of_rows in parts
    ]
    return float(torch.stack(losses).sum()) / len(logits)


def confidence_at(logits: torch.Tensor, labels: torch.Tensor, temperature: float | torch.Tensor = 1.0) -> Confidence:
    """Return how well softmax(logits / temperature) agrees with the labels; see `log_loss_at`."""
    from train_pytorch_model.evaluation.metrics import calibration_error  # importing scikit-learn takes seconds

    temperatures = torch.as_tensor(temperature, dtype=torch.float32).expand(len(logits))
    probabilities = (logits.float() / temperatures[:, None]).softmax(1)
    return Confidence(
        log_loss_at(logits, labels, temperature), calibration_error(labels.numpy(), probabilities.numpy())
    )


def cross_fitted_temperatures(logits: torch.Tensor, labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a temperature for each image that was fitted without it: on the other four of five random folds.

    What these temperatures achieve is an honest estimate for new images. That of a temperature which was fitted on the
    same images is too good.

    Args:
        logits: float of shape (N, C), N >= 5.
        labels: int64 of shape (N,).
        seed: of the folds.

    Returns:
        float64 of shape (N,).
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "calibration"))
    folds = torch.randperm(len(logits), generator=generator) % NUM_FOLDS
    temperatures = torch.empty(len(logits), dtype=torch.float64)
    for fold in range(NUM_FOLDS):
        is_other = folds != fold
        temperatures[~is_other] = fit_temperature(logits[is_other], labels[is_other])
    return temperatures
