"""Judges the labels of both datasets: by features of the images, and models that are fitted without them."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.distributed.world import World
from train_pytorch_model.errors import ModuleError
from train_pytorch_model.models.heads import features_of, find_head
from train_pytorch_model.models.state_dicts import digest_of
from train_pytorch_model.ports.untrained_model import read_untrained_model
from train_pytorch_model.training.augmentation import plain
from train_pytorch_model.training.features import head_values
from train_pytorch_model.training.out_of_fold import affordable_rows, out_of_fold_probabilities
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.state import load_weights
from train_pytorch_model.training.stratification import stratified_sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.job.result import FinishedTraining
    from train_pytorch_model.models.heads import Head

logger = logging.getLogger(__name__)

# Of the time, for the features of images; the rest is for fitting.
_FEATURES_FRACTION = 0.7


class _OutOfTimeError(Exception):
    """The fit takes too long."""


@dataclass(frozen=True)
class Judgement:
    """How probable each label is for each image that was judged."""

    images: np.ndarray
    """The numbers of these images, training images before validation images: int64 of shape (N,)."""
    probabilities: np.ndarray
    """By a model that was fitted without the image: float32 of shape (N, C)."""
    notes: tuple[str, ...]
    """Sentences: how the labels were judged, and what was left out."""


def judge_labels(
    training: FinishedTraining, labels: np.ndarray, predicted: tuple[torch.Tensor, np.ndarray], seconds: float
) -> Judgement:
    """Return how probable each label is for each image of both datasets, or for those that there is time for.

    The features are those of the weights before training, if they are pretrained; otherwise those of the trained
    network, which has seen the labels of the training images. A network without a known head has no features: the
    validation images are then judged by the predictions of the trained network.

    Args:
        training: the results; the network on the device has the best weights, before and afterwards.
        labels: classes, int of shape (N,), training images before validation images.
        predicted: the indices of validation images, and the probabilities that the trained network predicts for them.
        seconds: the time that this may take.
    """
    prepared = training.prepared
    num_train = len(prepared.train)
    head = find_head(prepared.network, prepared.geometry.size)
    if isinstance(head, str):
        note = f"The network {head}, so only the labels of validation images were judged, by the trained network."
        return Judgement(num_train + predicted[0].numpy(), predicted[1], (note,))
    end = time.monotonic() + seconds
    stop = end - (1 - _FEATURES_FRACTION) * seconds
    index, features, is_pretrained = _features(training, head, stop)
    fitted = _fit(training, features, torch.from_numpy(labels[index]).long(), end)
    if fitted is None:
        note = "There was no time to judge the labels of the images."
        return Judgement(index[:0], np.empty((0, training.plan.num_classes), dtype=np.float32), (note,))
    rows, probabilities = fitted
    is_judged = np.isfinite(probabilities).all(axis=1)
    images = index[rows[is_judged]]
    note = _how(images, num_train, len(labels) - num_train, is_pretrained=is_pretrained)
    return Judgement(images, probabilities[is_judged], (note,))


def _pretrained_weights(training: FinishedTraining) -> dict[str, torch.Tensor]:
    """Return the weights before training, without those of the head; none if they are random or have changed."""
    settings, state = training.settings, training.best.state
    try:
        model = read_untrained_model(settings.untrained_model_path, trust_code=settings.trust_model_code)
    except ModuleError as error:
        logger.debug("The weights before training cannot be read again: %s", error)
        return {}
    is_random = model.pretrained is None and model.labels is None
    if is_random or digest_of(model.state) != training.prepared.data["initial weights"]:
        return {}
    return {key: value for key, value in model.state.items() if key in state and state[key].shape == value.shape}


def _features(training: FinishedTraining, head: Head, end: float) -> tuple[np.ndarray, torch.Tensor, bool]:
    """Return the numbers of images, their features, and whether these are features of the weights before training.

    They are known if the head was fitted in this process. Others are computed until the time is over.
    """
    prepared, known = training.prepared, training.history.features
    num_train = len(prepared.train)
    if known is not None and known.valid is not None:
        index = np.concatenate([known.images.numpy(), num_train + np.arange(len(known.valid))])
        return index, torch.cat([known.train, known.valid]), True
    initial = _pretrained_weights(training)
    parts = [(np.empty(0, dtype=np.int64), torch.empty(0, head.num_features))]
    stores = [(prepared.valid, num_train)]
    if known is not None and initial:
        parts.append((known.images.numpy(), known.train))
    else:
        stores.append((plain(prepared.train, training.plan.image_size), 0))
    try:
        load_weights(prepared.network, {**training.best.state, **initial})
        for number, (store, offset) in enumerate(stores):
            now = time.monotonic()
            computed = _computed(training, head, store, now + (end - now) / (len(stores) - number))
            parts += [(images + offset, values) for images, values in computed]
    finally:
        load_weights(prepared.network, training.best.state)
    index = np.concatenate([images for images, _ in parts])
    return index, torch.cat([values for _, values in parts]), bool(initial)


def _computed(
    training: FinishedTraining, head: Head, images: ImageStore, end: float
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield indices and features of images, in random order, until all are done or the time is over."""
    plan, world = training.plan, World(device=training.device)
    precision = Precision(torch.float32, training.device.type)
    generator = torch.Generator().manual_seed(derive_seed(plan.seed, "judged images"))
    order = torch.randperm(len(images), generator=generator)
    for batch in torch.split(order, plan.batch_size):
        if time.monotonic() >= end:
            return
        values, _ = head_values(
            *(training.prepared.network, head, images, batch, features_of, head.num_features, plan, world, precision)
        )
        is_finite = values.isfinite().all(1)
        yield batch[is_finite].numpy(), values[is_finite]


def _fit(
    training: FinishedTraining, features: torch.Tensor, labels: torch.Tensor, end: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the indices of rows, all or a sample, and the probabilities of their labels; None if there is no time."""
    num_classes, seed = training.plan.num_classes, training.plan.seed

    def check_time() -> None:
        if time.monotonic() >= end:
            raise _OutOfTimeError

    try:
        check_time()
        limit = affordable_rows(end - time.monotonic(), features.shape[1], num_classes, training.device)
        rows = stratified_sample(labels, limit, seed)
        chosen = features[rows].to(training.device)
        found = out_of_fold_probabilities(chosen, labels[rows], num_classes, seed, check_time)
    except _OutOfTimeError:
        return None
    return rows.numpy(), found.numpy()


def _how(images: np.ndarray, num_train: int, num_valid: int, *, is_pretrained: bool) -> str:
    """Say how the labels were judged, and of how many images."""
    is_train = images < num_train
    return (
        f"The labels of {is_train.sum():,} of {num_train:,} training images and {(~is_train).sum():,} of {num_valid:,} "
        f"validation images were judged, each by a logistic regression that was fitted on the "
        "features of other images. "
    ) + (
        "The features are those of the network before training."
        if is_pretrained
        else "The features are those of the trained network. It has seen the labels of the training images, so wrong "
        "ones among these are less likely to be found."
    )
