"""Logistic regression with an L2 penalty, which cross-validation on the same rows chooses.

It is multinomial where a row has one class. Where it may have several labels, it is one binary regression a label, all
with the same penalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Callable

import torch
from torch.nn import functional

from train_pytorch_model.training.stratification import strata_of, stratified_folds, stratified_sample

# Penalties of standardized features, strongest first: the solution of one is close to that of the next.
L2_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
# If cross-validation is impossible.
DEFAULT_L2 = 0.1
# Cross-validation stops after so many weaker penalties in a row that are worse than the best.
_WORSE_PENALTIES = 2
_NUM_FOLDS = 5
# Products in one pass over the rows of all folds: about half a second on two cores.
_CROSS_VALIDATION_PRODUCTS = 10**10
# Rows of a class that cross-validation has at least, if there are so many.
_FEWEST_ROWS_OF_CLASS = 4
# Logits that are computed at a time; more need more memory and are not faster.
_LOGITS_AT_ONCE = 2**22


@dataclass(frozen=True)
class LinearModel:
    """Computes the logits of rows: `rows @ weight.T + bias`."""

    weight: torch.Tensor
    """Of shape (classes, features), or of K models: (K, classes, features)."""
    bias: torch.Tensor
    """Of shape (classes,) or (K, classes); zeros for a model without bias."""

    @classmethod
    def zero(cls, num_models: int, num_classes: int, rows: torch.Tensor) -> LinearModel:
        """Return K models whose logits are zero."""
        weight = rows.new_zeros(num_models, num_classes, rows.shape[1])
        return cls(weight, rows.new_zeros(num_models, num_classes))

    def evaluate(
        self, rows: torch.Tensor, labels: torch.Tensor, positive_weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the cross-entropy loss of each row in each of K models, and whether it is classified rightly.

        Both have the shape (N, K). With several labels, the loss is the mean over the labels.

        Args:
            rows: float32 of shape (N, features).
            labels: int64 of shape (N,), or float32 of shape (N, labels).
            positive_weights: the weight of rows that have a label in its loss, of shape (labels,); 1 by default.
        """
        losses, is_right = [], []
        for part, targets, _ in _blocks(self, rows, labels):
            if labels.dim() == 2:
                logits = _logits(self, part)
                losses.append(_binary_losses(logits, targets, positive_weights).mean(2))
                is_right.append(((logits >= 0) == (targets != 0)[:, None]).all(2))
                continue
            log_probabilities, of_targets = _log_probabilities(self, part, targets)
            losses.append(-of_targets)
            is_right.append(log_probabilities.argmax(2) == targets[:, None])
        return torch.cat(losses), torch.cat(is_right)


@dataclass(frozen=True)
class CrossValidation:
    """The penalty that cross-validation has chosen."""

    l2: float
    loss: float
    """The mean cross-entropy loss over held-out rows; NaN if no class has two rows and the penalty is the default."""
    num_folds: int
    """0 if no class has two rows."""
    num_rows: int
    """Rows used, which may be a stratified sample."""
    start: LinearModel
    """The mean of the models of all folds, from which the final fit starts."""


def minimise(
    start: LinearModel,
    rows: torch.Tensor,
    labels: torch.Tensor,
    row_weights: torch.Tensor,
    l2: torch.Tensor,
    *,
    has_bias: bool,
    max_iterations: int,
    tolerance: float,
    between: Callable[[], None] = lambda: None,
    positive_weights: torch.Tensor | None = None,
) -> LinearModel:
    """Fit K models at a time by L-BFGS, so that the rows are read once for all of them.

    Minimizes, for each model, `sum(row_weights * cross_entropy) + l2 / 2 * sum(weight ** 2)`. With several labels, the
    cross-entropy is the sum over the labels, so that each is fitted as if it were alone.

    Args:
        start: K models to start from.
        rows: float32 of shape (N, features).
        labels: int64 of shape (N,), or float32 of shape (N, labels).
        row_weights: of shape (N, K).
        l2: the penalty of each model, of shape (K,).
        has_bias: whether the biases are fitted; they have no penalty.
        max_iterations: the largest number of iterations.
        tolerance: the largest absolute gradient at which the fit ends.
        between: called after each block of rows. What it raises ends the fit.
        positive_weights: see `LinearModel.evaluate`.
    """
    model = LinearModel(start.weight.clone().requires_grad_(), start.bias.clone().requires_grad_())
    optimizer = torch.optim.LBFGS(
        [model.weight, model.bias] if has_bias else [model.weight],
        max_iter=max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=1e-4 * tolerance,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> float:
        loss, weight_gradient, bias_gradient = _loss_and_gradients(
            model, rows, labels, row_weights, l2, positive_weights, between
        )
        model.weight.grad, model.bias.grad = weight_gradient, bias_gradient
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return LinearModel(model.weight.detach(), model.bias.detach())


def cross_validate(
    rows: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor,
    seed: int,
    *,
    has_bias: bool,
    between: Callable[[], None] = lambda: None,
) -> CrossValidation:
    """Choose the L2 penalty by stratified cross-validation; the lowest mean loss over held-out rows decides.

    A class with a single row, and the only row with a label, is never held out. Large problems use a stratified sample
    of the rows and two folds.

    Args:
        rows: standardized, float32 of shape (N, features).
        labels: int64 of shape (N,), or float32 of shape (N, labels).
        class_weights: the weight of a row of each class in the loss, of shape (classes,). With several labels: that of
            a row with a label in its loss.
        seed: of the sample and the folds.
        has_bias: whether the models have a bias.
        between: called after each block of rows. What it raises ends the fit.
    """
    num_all, num_classes = len(labels), len(class_weights)
    strata = strata_of(labels.cpu())
    num_folds = max(2, min(_NUM_FOLDS, int(torch.bincount(strata).max())))
    products = rows.shape[1] * num_classes
    if num_all * products * num_folds > _CROSS_VALIDATION_PRODUCTS:
        num_folds = 2
        limit = max(_CROSS_VALIDATION_PRODUCTS // (products * num_folds), _FEWEST_ROWS_OF_CLASS * num_classes)
        sample = stratified_sample(strata, limit, seed)
        strata, sample = strata[sample], sample.to(rows.device)
        rows, labels = rows[sample], labels[sample]
    folds = stratified_folds(strata, num_folds, seed).to(rows.device)
    held_out = folds[:, None] == torch.arange(num_folds, device=rows.device)
    if not held_out.any():
        return CrossValidation(DEFAULT_L2, math.nan, 0, len(labels), LinearModel.zero(1, num_classes, rows))
    weights, positive_weights = weights_of(labels, class_weights)
    num_trained = (~held_out).sum(0)
    row_weights = weights * ~held_out / num_trained
    models = LinearModel.zero(num_folds, num_classes, rows)
    best = CrossValidation(DEFAULT_L2, math.inf, num_folds, len(labels), models)
    num_worse = 0
    for l2 in L2_PENALTIES:
        # A penalty of the sum of losses, not of their mean, is right for any number of rows.
        penalties = l2 * num_all / num_trained
        models = minimise(
            *(models, rows, labels, row_weights, penalties),
            has_bias=has_bias,
            max_iterations=30,
            tolerance=1e-3,
            positive_weights=positive_weights,
            between=between,
        )
        losses = (models.evaluate(rows, labels, positive_weights)[0] * weights)[held_out]
        loss = losses.sum(dtype=torch.float64).item() / len(losses)
        if loss < best.loss:
            start = LinearModel(models.weight.mean(0, keepdim=True), models.bias.mean(0, keepdim=True))
            best, num_worse = CrossValidation(l2, loss, num_folds, len(labels), start), 0
        else:
            num_worse += 1
        if num_worse == _WORSE_PENALTIES:
            break
    return best


def weights_of(labels: torch.Tensor, class_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weights of rows, of shape (N, 1), and those of rows that have a label in its loss.

    Args:
        labels: int64 of shape (N,), or float32 of shape (N, labels).
        class_weights: of the classes, or of the labels.
    """
    if labels.dim() == 2:
        return class_weights.new_ones(len(labels), 1), class_weights
    return class_weights[labels][:, None], None


def _loss_and_gradients(
    model: LinearModel,
    rows: torch.Tensor,
    labels: torch.Tensor,
    row_weights: torch.Tensor,
    l2: torch.Tensor,
    positive_weights: torch.Tensor | None,
    between: Callable[[], None],
) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Return the sum of the models' objectives and its gradients with respect to weight and bias."""
    num_models, num_classes, num_features = model.weight.shape
    penalties = l2.to(rows.dtype)[:, None, None]
    loss = (0.5 * penalties * model.weight.square()).sum(dtype=torch.float64)
    weight_gradient = penalties * model.weight
    bias_gradient = torch.zeros_like(model.bias)
    flat_gradient = weight_gradient.view(-1, num_features)
    for part, targets, place in _blocks(model, rows, labels):
        weights = row_weights[place]
        if labels.dim() == 2:
            logits = _logits(model, part)
            losses = _binary_losses(logits, targets, positive_weights).sum(2)
            loss += (losses * weights).sum(dtype=torch.float64)
            errors = logits.sigmoid_().sub_(targets[:, None])
            if positive_weights is not None:
                errors.mul_(1 + (positive_weights - 1) * targets[:, None])
        else:
            log_probabilities, of_targets = _log_probabilities(model, part, targets)
            loss -= (of_targets * weights).sum(dtype=torch.float64)
            errors = log_probabilities.exp_().sub_(functional.one_hot(targets, num_classes)[:, None])
        errors.mul_(weights[:, :, None])
        bias_gradient += errors.sum(0)
        flat_gradient.addmm_(errors.view(-1, num_models * num_classes).T, part)
        between()
    return loss.item(), weight_gradient, bias_gradient


def _log_probabilities(
    model: LinearModel, rows: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probabilities of shape (N, K, classes), and those of the labels, of shape (N, K)."""
    log_probabilities = functional.log_softmax(_logits(model, rows), 2)
    index = labels[:, None, None].expand(-1, len(model.weight), 1)
    return log_probabilities, log_probabilities.gather(2, index)[:, :, 0]


def _logits(model: LinearModel, rows: torch.Tensor) -> torch.Tensor:
    """Return logits of shape (N, K, classes)."""
    num_models, num_classes, num_features = model.weight.shape
    logits = torch.addmm(model.bias.reshape(-1), rows, model.weight.reshape(-1, num_features).T)
    return logits.view(-1, num_models, num_classes)


def _binary_losses(logits: torch.Tensor, labels: torch.Tensor, positive_weights: torch.Tensor | None) -> torch.Tensor:
    """Return the loss of each label of each row, of the shape (N, K, labels) of the logits."""
    return functional.binary_cross_entropy_with_logits(
        logits, labels[:, None].expand_as(logits), reduction="none", pos_weight=positive_weights
    )


def _blocks(
    model: LinearModel, rows: torch.Tensor, labels: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor, slice]]:
    """Divide rows and labels into blocks whose logits need bounded memory."""
    count = max(1, _LOGITS_AT_ONCE // math.prod(model.bias.shape))
    places = [slice(start, start + count) for start in range(0, len(labels), count)]
    return [(rows[place], labels[place], place) for place in places]
