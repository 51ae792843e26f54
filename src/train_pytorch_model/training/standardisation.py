"""Brings features to a common scale, so that one penalty suits all of them."""

from __future__ import annotations

import math

import torch

# The smallest standard deviation that a feature is divided by, relative to that of all features.
_SMALLEST_STD = 1e-3
# The largest standard deviation of a constant feature, relative to its value.
_ROUNDING = 1e-5


def standardise(rows: torch.Tensor, *, centres: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Subtract a mean from each feature and divide it by a scale, in place; return both, float64 of shape (features,).

    Args:
        rows: float32 of shape (N, features).
        centres: whether to subtract the mean; without it the scale is the root mean square. A model without bias could
            not make up for the mean.
    """
    variance, mean = torch.var_mean(rows, 0, correction=0)
    squares = variance + mean.square()
    if not centres:
        variance, mean = squares, torch.zeros_like(mean)
    scale = variance.sqrt().clamp_(min=_SMALLEST_STD * variance.mean().sqrt().item())
    # A feature that is constant up to rounding becomes zero, and so does its weight.
    scale[variance.sqrt() <= _ROUNDING * squares.sqrt()] = math.inf
    rows.sub_(mean).div_(scale)
    return mean.double(), scale.double()
