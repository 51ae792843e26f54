"""Divides rows such that each part has about the same fraction of each class."""

from __future__ import annotations

import torch

from train_pytorch_model.data.batches import derive_seed


def strata_of(labels: torch.Tensor) -> torch.Tensor:
    """Return the stratum of each row, int64 of shape (N,): its class, or the rarest of its labels.

    Args:
        labels: int64 of shape (N,), or of shape (N, C) and 0 where a row does not have a label. Rows without any label
            are a stratum of their own.
    """
    if labels.dim() == 1:
        return labels
    rarest_first = torch.argsort((labels != 0).sum(0), stable=True)
    ordered = (labels != 0)[:, rarest_first]
    return torch.where(ordered.any(1), rarest_first[ordered.int().argmax(1)], labels.shape[1])


def stratified_sample(labels: torch.Tensor, limit: int, seed: int) -> torch.Tensor:
    """Return the indices of at most `limit` rows, in order, with about the same fraction of each class.

    Every class keeps a row if the limit allows it.
    """
    if len(labels) <= limit:
        return torch.arange(len(labels))
    order, ranks = _ranks_in_class(labels, derive_seed(seed, "head sample"))
    fractions = ranks / torch.bincount(labels)[labels[order]]
    chosen = order[torch.argsort(fractions, stable=True)[:limit]]
    return chosen.sort().values


def stratified_folds(labels: torch.Tensor, num_folds: int, seed: int) -> torch.Tensor:
    """Return the fold of each row, int64 of shape (N,), and -1 for a row that is the only one of its class.

    The folds have about the same number of rows, of each class and of all. The rows of a class with fewer rows than
    folds are in different folds.
    """
    order, _ = _ranks_in_class(labels, derive_seed(seed, "head folds"))
    is_single = torch.bincount(labels)[labels[order]] == 1
    order = order[~is_single]
    folds = torch.full((len(labels),), -1)
    folds[order] = torch.arange(len(order)) % num_folds
    return folds


def _ranks_in_class(labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all indices, shuffled and then ordered by class, and the rank of each within its class."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    order = shuffled[torch.argsort(labels[shuffled], stable=True)]
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    return order, torch.arange(len(labels)) - first[labels[order]]
