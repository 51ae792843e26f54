"""Fits the head of a network on the features of the frozen network."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable

import torch
from torch.nn import functional

from train_pytorch_model.errors.library_faults import is_out_of_memory
from train_pytorch_model.models.heads import features_of
from train_pytorch_model.training.features import BetweenBatches, head_values
from train_pytorch_model.training.graph import free_cached_memory
from train_pytorch_model.training.logistic_regression import (
    DEFAULT_L2,
    LinearModel,
    cross_validate,
    minimise,
    weights_of,
)
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.standardisation import standardise
from train_pytorch_model.training.stratification import strata_of, stratified_sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.models.heads import Head
    from train_pytorch_model.training.logistic_regression import CrossValidation
    from train_pytorch_model.training.plan import Plan

logger = logging.getLogger(__name__)

# The memory for the features of all images. More images than fit are represented by a stratified sample.
_MAX_FEATURE_BYTES = 2**30
_MAX_ITERATIONS = 100
_MIN_ITERATIONS = 20
# Products in all iterations; more need fewer iterations, from the start that cross-validation gives. It takes a minute
# or two on two cores.
_MAX_PRODUCTS = 3 * 10**12
# The largest absolute gradient of the mean loss at the end of the fit.
_TOLERANCE = 1e-5
# Between two answers to requests to save a checkpoint or to stop, such as signals.
_SECONDS_BETWEEN = 0.5


KeepFeatures = Callable[["Head", torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called with the head, the indices of training images, their features and their labels."""


class FeaturesNotFiniteError(Exception):
    """The frozen network computes NaN or infinity for a training image, so its head cannot be fitted."""


@dataclass(frozen=True)
class HeadFit:
    """A head fitted on the features of the training images."""

    state: dict[str, torch.Tensor]
    """Entries of the network's state dict, float32 on the CPU."""
    l2: float
    """The L2 penalty of the weights of standardized features, relative to the mean loss."""
    train_loss: float
    """Mean cross-entropy loss over the training images, without penalty and class weights."""
    train_error: float
    """The fraction of training images that are classified wrongly, or of which a label is wrong."""
    seconds: float
    """Time for features and fit."""


def fit_head(
    network: nn.Module,
    head: Head,
    train: ImageStore,
    plan: Plan,
    world: World,
    between_batches: BetweenBatches = lambda batch, num_batches: None,
    keep: KeepFeatures = lambda head, images, features, labels: None,
) -> HeadFit:
    """Fit the head by logistic regression on the features of the training images.

    If an image may have several labels, it is one regression for each label. The L2 penalty is chosen by
    cross-validation on the training images. All processes call this function and get the same result.

    Args:
        network: on the device; it is left as it was.
        head: the head of the network.
        train: the training images; every process has all of them.
        plan: the hyperparameters.
        world: the processes and the device.
        between_batches: called after each batch of images and about once a second of the fit, equally often in every
            process.
        keep: called in rank 0 before the features are overwritten.

    Raises:
        FeaturesNotFiniteError: in all processes, when a feature is not finite.
    """
    started = time.perf_counter()
    indices = torch.arange(len(train))
    limit = _MAX_FEATURE_BYTES // (4 * head.num_features)
    if len(train) > limit:
        indices = stratified_sample(strata_of(train.labels.cpu()), limit, plan.seed)
    features, labels, precision = _features(network, head, train, indices, plan, world, between_batches)
    if world.is_main:
        keep(head, indices, features, labels)
    with _answering(world, between_batches) as between:
        fitted = _fit_somewhere(head, features, labels, plan, world, between) if world.is_main else None
    del features
    result = world.broadcast(fitted)
    assert result is not None
    model, l2, loss, error = result
    if head.is_rectified:
        lowest = _lowest_logit(network, head, model, train, indices, plan, world, precision, between_batches)
        model = LinearModel(model.weight, model.bias + max(0.0, -lowest))
    seconds = time.perf_counter() - started
    if world.is_main:
        of = f" of {len(train):,}" if len(indices) < len(train) else ""
        logger.info(
            "Fitted the head on the features of %s%s training images in %.1f s.", f"{len(indices):,}", of, seconds
        )
    return HeadFit(head.state(model.weight, model.bias), l2, loss, error, seconds)


@contextmanager
def _answering(world: World, between_batches: BetweenBatches) -> Iterator[Callable[[], None]]:
    """Let rank 0 work inside the block while the other processes wait, and all of them answer requests to stop.

    Yields:
        What rank 0 calls during its work, as often as it likes.
    """
    last = time.monotonic()

    def between() -> None:
        nonlocal last
        if time.monotonic() >= last + _SECONDS_BETWEEN:
            world.broadcast(True)  # it is still working
            between_batches(0, 0)
            last = time.monotonic()

    yield between
    if world.is_main:
        world.broadcast(False)
    else:
        while world.broadcast(True):
            between_batches(0, 0)


def _features(
    network: nn.Module,
    head: Head,
    train: ImageStore,
    indices: torch.Tensor,
    plan: Plan,
    world: World,
    between_batches: BetweenBatches,
) -> tuple[torch.Tensor, torch.Tensor, Precision]:
    """Return the features, the labels and the precision that they were computed in, after float32 if need be."""
    precisions = dict.fromkeys((plan.precision, Precision(torch.float32, plan.precision.device_type)))
    for precision in precisions:  # float16 may overflow
        features, labels = head_values(
            network, head, train, indices, features_of, head.num_features, plan, world, precision, between_batches
        )
        if features.isfinite().all():
            return features, labels, precision
    raise FeaturesNotFiniteError("the network computes features that are not finite (NaN or infinity)")


def _fit_somewhere(
    head: Head, features: torch.Tensor, labels: torch.Tensor, plan: Plan, world: World, between: Callable[[], None]
) -> tuple[LinearModel, float, float, float]:
    """Fit on the training device, or on the CPU if the memory of a GPU is not enough; see `_fit`."""
    try:
        return _fit(head, features, labels, plan, world.device, between)
    except Exception as error:
        if world.device.type == "cpu" or not is_out_of_memory(error):
            raise
    # Outside the handler: the error's traceback keeps the tensors of the fit alive.
    free_cached_memory(world.device)
    logger.warning("The head is fitted on the CPU, because the memory of the GPU is not enough.")
    return _fit(head, features, labels, plan, torch.device("cpu"), between)


def _fit(
    head: Head,
    features: torch.Tensor,
    labels: torch.Tensor,
    plan: Plan,
    device: torch.device,
    between: Callable[[], None],
) -> tuple[LinearModel, float, float, float]:
    """Return the model, its L2 penalty, and its mean loss and error. On the CPU, the features are overwritten."""
    rows, labels = features.to(device), labels.to(device)
    class_weights = torch.ones(head.num_classes, device=device)
    if plan.class_weights is not None:
        class_weights = torch.tensor(plan.class_weights, device=device)
    mean, scale = standardise(rows, centres=head.has_bias)
    if labels.dim() == 1:
        fitted, l2 = _fit_rows(rows, labels, class_weights, plan.seed, between, has_bias=head.has_bias)
    else:
        labels = labels.float()
        fitted, l2 = _fit_labels(rows, labels, class_weights, plan.seed, between, has_bias=head.has_bias)
    losses, is_right = fitted.evaluate(rows, labels)
    weight, bias = fitted.weight[0].double() / scale, fitted.bias[0].double()
    model = LinearModel(weight.float().cpu(), (bias - weight @ mean).float().cpu())
    loss = losses.sum(dtype=torch.float64).item() / len(labels)
    return model, l2, loss, 1 - int(is_right.sum()) / len(labels)


def _fit_rows(
    rows: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor,
    seed: int,
    between: Callable[[], None],
    *,
    has_bias: bool,
) -> tuple[LinearModel, float]:
    """Return the model of standardized rows, and its L2 penalty; see `cross_validate`."""
    chosen = cross_validate(rows, labels, class_weights, seed, has_bias=has_bias, between=between)
    _log(chosen, len(labels))
    weights, positive_weights = weights_of(labels, class_weights)
    num_products = rows.numel() * len(class_weights)
    fitted = minimise(
        chosen.start,
        rows,
        labels,
        weights / len(labels),
        torch.tensor([chosen.l2], device=rows.device),
        has_bias=has_bias,
        max_iterations=max(_MIN_ITERATIONS, min(_MAX_ITERATIONS, _MAX_PRODUCTS // num_products)),
        tolerance=_TOLERANCE,
        positive_weights=positive_weights,
        between=between,
    )
    return fitted, chosen.l2


def _fit_labels(
    rows: torch.Tensor,
    labels: torch.Tensor,
    class_weights: torch.Tensor,
    seed: int,
    between: Callable[[], None],
    *,
    has_bias: bool,
) -> tuple[LinearModel, float]:
    """Return the model of several labels, and its L2 penalty.

    The fit would never end for a label that all rows have, or none. It gets a constant logit.
    """
    counts = labels.sum(0)
    model, l2 = LinearModel.zero(1, len(counts), rows), DEFAULT_L2
    model.bias[0] = ((counts + 0.5) / (len(labels) - counts + 0.5)).log()
    is_fitted = (counts > 0) & (counts < len(labels)) if has_bias else torch.ones_like(counts, dtype=torch.bool)
    if is_fitted.any():
        fitted, l2 = _fit_rows(rows, labels[:, is_fitted], class_weights[is_fitted], seed, between, has_bias=has_bias)
        model.weight[:, is_fitted], model.bias[:, is_fitted] = fitted.weight, fitted.bias
    return model, l2


def _log(chosen: CrossValidation, num_rows: int) -> None:
    if not chosen.num_folds:
        logger.info("No class has two images to cross-validate with. The L2 penalty of the head is %g.", chosen.l2)
        return
    sample = f" on a stratified sample of {chosen.num_rows:,} images" if chosen.num_rows < num_rows else ""
    logger.info(
        "Chose the L2 penalty %g of the head by %d-fold cross-validation of the training images%s (loss %.4f).",
        *(chosen.l2, chosen.num_folds, sample, chosen.loss),
    )


def _lowest_logit(
    network: nn.Module,
    head: Head,
    model: LinearModel,
    train: ImageStore,
    indices: torch.Tensor,
    plan: Plan,
    world: World,
    precision: Precision,
    between_batches: BetweenBatches,
) -> float:
    """Return the lowest logit of any class at any position of any training image."""
    weight, bias = model.weight[:, :, None, None].to(world.device), model.bias.to(world.device)

    def lowest(given: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(given.float(), weight, bias).amin((1, 2, 3))[:, None]

    values, _ = head_values(network, head, train, indices, lowest, 1, plan, world, precision, between_batches)
    return values.min().item()
