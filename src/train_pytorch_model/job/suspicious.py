"""The images of both datasets that a person should look at: what the report says of them, in bounded time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

import numpy as np
import torch

from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.data.near_duplicates import SAME_FILE, SAME_PIXELS, find_duplicates
from train_pytorch_model.errors import first_line
from train_pytorch_model.evaluation.label_issues import classes_alike, find_label_issues, why_no_label_issues
from train_pytorch_model.job.label_judgement import judge_labels
from train_pytorch_model.report.suspicious import (
    BOTH_DATASETS,
    KINDS,
    LABEL,
    MAX_SHOWN,
    REPEATED,
    SUSPICIOUS_IMAGES,
    TRAINING,
    TWO_LABELS,
    VALIDATION,
    AlikeClasses,
    ImageName,
    Suspect,
    Suspicions,
)
from train_pytorch_model.report.thumbnails import make_jpeg, name_labels
from train_pytorch_model.text.wording import join_some, name_some
from train_pytorch_model.training.augmentation import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from train_pytorch_model.data.near_duplicates import Duplicate
    from train_pytorch_model.job.result import FinishedTraining

# The fraction of the time for judging labels; what remains is for finding images that are there twice.
_JUDGING_FRACTION = 0.6
# Confident learning counts pairs of classes, which need 8 bytes each.
_MAX_CLASSES = 2000


class _Images:
    """The images of both datasets by one number: training images first, then validation images."""

    def __init__(self, training: FinishedTraining) -> None:
        prepared = training.prepared
        self._device = training.device
        self._data = prepared.train_data, prepared.valid_data
        self._stores = plain(prepared.train, training.plan.image_size), prepared.valid
        self.num_train = len(prepared.train)
        self.classes = prepared.train_data.images.classes
        self.datasets = [(store, data.files()) for store, data in zip(self._stores, self._data)]
        self.labels = np.concatenate([data.images.labels[data.kept] for data in self._data])

    @property
    def label_numbers(self) -> np.ndarray:
        """A number for the label, or the set of labels, of each image: int of shape (N,)."""
        if self.labels.ndim == 1:
            return self.labels
        return np.unique(self.labels, axis=0, return_inverse=True)[1].reshape(-1)

    def is_valid(self, image: int) -> bool:
        """Return whether an image is of the validation dataset."""
        return image >= self.num_train

    def named(self, image: int, *, has_picture: bool) -> ImageName:
        """Return an image as the report shows it."""
        is_valid = self.is_valid(image)
        index = image - self.num_train if is_valid else image
        jpeg = None
        if has_picture:
            pixels, _ = next(iter(self._stores[is_valid].batches([torch.tensor([index])], self._device)))
            jpeg = make_jpeg(pixels[0].permute(1, 2, 0).cpu().numpy())
        label = name_labels(self.labels[image], self.classes)
        return ImageName(VALIDATION if is_valid else TRAINING, self._data[is_valid].name_of(index), label, jpeg)


@dataclass(frozen=True)
class _Found:
    """A suspect by the numbers of its images."""

    kind: str
    image: int
    score: float
    suggested: Optional[str] = None
    match: Optional[str] = None
    other: Optional[int] = None


@dataclass(frozen=True)
class _Judged:
    """What is said about the labels."""

    notes: tuple[str, ...]
    of_given: Mapping[int, float] = field(default_factory=dict)
    """The probability of the given label of each image that was judged."""
    issues: Sequence[tuple[int, int, float]] = ()
    """The images of `find_label_issues`."""
    alike: Sequence[tuple[int, int, float, float]] = ()
    """The result of `classes_alike`."""


def find_suspicious(
    training: FinishedTraining,
    predicted: tuple[torch.Tensor, np.ndarray],
    seconds: float,
    *,
    has_images: bool,
) -> Suspicions:
    """Find the images that a person should look at.

    Args:
        training: the results; the network on the device has the best weights, before and afterwards.
        predicted: the indices of validation images, and the probabilities that the trained network predicts for them.
        seconds: the time that this may take.
        has_images: whether to make small versions of the images that the page shows.
    """
    images = _Images(training)
    end = time.monotonic() + seconds
    judged = _judged(training, images, predicted, _JUDGING_FRACTION * seconds)
    remaining = max(end - time.monotonic(), (1 - _JUDGING_FRACTION) * seconds)
    try:
        duplicates = find_duplicates(images.datasets, images.label_numbers, training.device, remaining)
        pairs, unfinished = duplicates.found, duplicates.unfinished
    except Exception as error:  # such as no memory; the rest of the report must not be lost for it
        pairs = []
        unfinished = f"Images that are there twice were not searched for, because of an error: {_name_of(error)}"
    found = [_pair(images, pair, judged.of_given) for pair in pairs]
    found += [_Found(LABEL, image, score, images.classes[suggested]) for image, suggested, score in judged.issues]
    alike = [
        AlikeClasses(images.classes[first], images.classes[second], *fractions)
        for first, second, *fractions in judged.alike
    ]
    suspects = [
        Suspect(
            kind,
            images.named(item.image, has_picture=has_images and rank < MAX_SHOWN),
            item.score,
            item.suggested,
            item.match,
            None if item.other is None else images.named(item.other, has_picture=has_images and rank < MAX_SHOWN),
        )
        for kind in KINDS
        for rank, item in enumerate([item for item in found if item.kind == kind])
    ]
    missing = [unfinished] if unfinished else []
    warnings = _warnings(suspects, len(images.labels) - images.num_train)
    return Suspicions(suspects, alike, (*judged.notes, *missing), (*warnings, *missing))


def _name_of(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _judged(
    training: FinishedTraining, images: _Images, predicted: tuple[torch.Tensor, np.ndarray], seconds: float
) -> _Judged:
    if training.plan.task == MULTILABEL:
        return _Judged(("Labels that look wrong are not searched for where an image may have several labels.",))
    if len(images.classes) > _MAX_CLASSES:
        return _Judged((f"Labels that look wrong are not searched for among more than {_MAX_CLASSES:,} classes.",))
    if reason := why_no_label_issues():
        return _Judged((f"Labels that look wrong were not searched for, because {reason}.",))
    try:
        judgement = judge_labels(training, images.labels, predicted, seconds)
        labels = images.labels[judgement.images]
        issues, num_wrong = find_label_issues(labels, judgement.probabilities)
        alike = classes_alike(labels, judgement.probabilities)
    except Exception as error:  # the rest of the report must not be lost for it
        return _Judged((f"Labels that look wrong were not searched for, because of an error: {_name_of(error)}",))
    notes = judgement.notes
    if len(labels):
        notes = (
            *notes,
            f"{len(issues):,} of these images look like another class than the given one, the most suspicious first. "
            f"Confident learning takes {num_wrong:,} of them for wrong labels. That is too many where the classes are "
            "hard to tell apart.",
        )
    numbers = judgement.images.tolist()
    of_given = judgement.probabilities[np.arange(len(labels)), labels].tolist()
    named = [(numbers[row], suggested, score) for row, suggested, score in issues]
    return _Judged(notes, dict(zip(numbers, of_given)), named, alike)


def _pair(images: _Images, duplicate: Duplicate, of_given: Mapping[int, float]) -> _Found:
    """Return a pair of images, the more suspicious one first."""
    first, second = duplicate.first, duplicate.second
    how = {"match": duplicate.kind}
    numbers = images.labels[[first, second]]
    if (numbers[0] == numbers[1]).all():
        kind = BOTH_DATASETS if images.is_valid(first) != images.is_valid(second) else REPEATED
        return _Found(kind, second, duplicate.similarity, other=first, **how)
    if first not in of_given or second not in of_given:
        return _Found(TWO_LABELS, second, duplicate.similarity, other=first, **how)
    image, other = (first, second) if of_given[first] < of_given[second] else (second, first)
    suggested = name_labels(images.labels[other], images.classes)
    return _Found(TWO_LABELS, image, duplicate.similarity, suggested, other=other, **how)


def _warnings(suspects: Iterable[Suspect], num_valid: int) -> list[str]:
    """Return sentences about images with two labels, and about validation images that are nearly training images."""
    pairs = [(suspect, suspect.other) for suspect in suspects if suspect.other is not None]
    texts = []
    two = [
        f"{suspect.image.path!r} is {suspect.image.label!r} and {other.path!r} is {other.label!r}"
        for suspect, other in pairs
        if suspect.kind == TWO_LABELS and suspect.match in (SAME_FILE, SAME_PIXELS)
    ]
    if two:
        texts.append(
            f"{len(two)} {'pair' if len(two) == 1 else 'pairs'} of identical images with two labels: {join_some(two)}. "
            f"At least one label of each pair is wrong: see {SUSPICIOUS_IMAGES}."
        )
    # Identical files have a warning of their own.
    similar = dict.fromkeys(
        image.path
        for suspect, other in pairs
        if suspect.match != SAME_FILE and suspect.image.dataset != other.dataset
        for image in (suspect.image, other)
        if image.dataset == VALIDATION
    )
    if similar:
        texts.append(
            f"{len(similar)} of {num_valid} validation images are nearly identical to training images: "
            f"{name_some(list(similar))}. The model has seen images like them, so its metrics may be worse on new "
            f"images: see {SUSPICIOUS_IMAGES}."
        )
    return texts
