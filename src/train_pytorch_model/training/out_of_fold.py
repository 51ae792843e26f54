"""Probabilities of the classes of images by models of their features that have not seen these images."""

from __future__ import annotations

from typing import Callable

import torch

from train_pytorch_model.training.logistic_regression import LinearModel, minimise
from train_pytorch_model.training.standardisation import standardise
from train_pytorch_model.training.stratification import stratified_folds

_NUM_FOLDS = 5
# The L2 penalty of the sum of the losses, for each feature. On photos with wrong labels, a third or thrice of it finds
# as many of them, and so do 10 or 50 iterations.
_PENALTY_PER_FEATURE = 0.1
_LARGEST_L2 = 1.0
_MAX_ITERATIONS = 20
_TOLERANCE = 1e-4
# Passes over the rows in all iterations, and products a second on a device that is not fast.
_PASSES = 25
_PRODUCTS_PER_SECOND = {"cpu": 4e9, "cuda": 4e11}


def affordable_rows(seconds: float, num_features: int, num_classes: int, device: torch.device) -> int:
    """Return the number of rows whose probabilities can be computed in a time, at least 1."""
    products = _PASSES * num_features * num_classes * _NUM_FOLDS
    return max(1, int(seconds * _PRODUCTS_PER_SECOND[device.type] / products))


def out_of_fold_probabilities(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    seed: int,
    between: Callable[[], None] = lambda: None,
) -> torch.Tensor:
    """Return the probabilities of each row, float32 of shape (N, C), by a model that is fitted on the other folds.

    The models are logistic regressions. The probabilities of a row that is the only one of its class are NaN.

    Args:
        features: float32 of shape (N, features), on the device to compute on; overwritten.
        labels: int64 of shape (N,), on the CPU.
        num_classes: C.
        seed: of the folds.
        between: called after each block of rows. What it raises ends the fit.
    """
    standardise(features, centres=True)
    folds = stratified_folds(labels, _NUM_FOLDS, seed).to(features.device)
    is_held_out = folds[:, None] == torch.arange(_NUM_FOLDS, device=features.device)
    num_trained = (~is_held_out).sum(0)
    models = minimise(
        LinearModel.zero(_NUM_FOLDS, num_classes, features),
        features,
        labels.to(features.device),
        ~is_held_out / num_trained,
        (_PENALTY_PER_FEATURE * features.shape[1] / num_trained).clamp(max=_LARGEST_L2),
        has_bias=True,
        max_iterations=_MAX_ITERATIONS,
        tolerance=_TOLERANCE,
        between=between,
    )
    probabilities = torch.full((len(labels), num_classes), torch.nan)
    for fold in range(_NUM_FOLDS):
        rows = is_held_out[:, fold].nonzero()[:, 0]
        logits = features[rows] @ models.weight[fold].T + models.bias[fold]
        probabilities[rows.cpu()] = logits.softmax(1).cpu()
    return probabilities
