"""Chooses how the images of both datasets become pixels of one size, and says what it does to them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

from train_pytorch_model.data.free_memory import available_memory_bytes
from train_pytorch_model.data.image_geometry import MAX_SIDE, Geometry, Size
from train_pytorch_model.errors import UserError
from train_pytorch_model.parameters.recipe_fields import WITH_CROPS
from train_pytorch_model.text.wording import FirstFew, bytes_in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.job.datasets import Scanned
    from train_pytorch_model.parameters.recipes import ResolvedParameters
    from train_pytorch_model.ports.untrained_model import UntrainedModel

logger = logging.getLogger(__name__)

# The activations of small networks take at least this many times the memory of their input.
_ACTIVATIONS = 10
# Of weights that nothing is known of: those that nearly all networks of ImageNet are evaluated with.
_SIZE = (224, 224)
_CROP_FRACTION = 0.875
# If so many of the images have one size, the others were perhaps not meant to change how all are treated.
_MOST = 0.5

Datasets = tuple[Optional["Scanned"], Optional["Scanned"]]
"""The training and the validation dataset; None for one that could not be read."""


def with_geometry(parameters: ResolvedParameters, model: UntrainedModel | None, datasets: Datasets) -> Datasets:
    """Choose the geometry of both datasets, and log what it does to their images.

    Args:
        parameters: recipe, image size and how to resize.
        model: whose weights may say for which pixels they were made.
        datasets: with their headers read.

    Returns:
        The datasets with their geometry, those without any image as they are.

    Raises:
        UserError: if the image size is out of its range.
    """
    found = [scanned for scanned in datasets if scanned and len(scanned.kept)]
    if not found:
        return datasets
    averages_mirrored = parameters.test_time_augmentation == "flip"
    geometry = replace(choose_geometry(parameters, model, found), averages_mirrored=averages_mirrored)
    _warn_of_memory(geometry.size, parameters)
    is_classic = parameters.recipe == "classic"
    train = _placed(datasets[0], geometry, is_classic=is_classic, has_crops=parameters.auto_augment in WITH_CROPS)
    valid = _placed(datasets[1], geometry, is_classic=is_classic, has_crops=False)
    if averages_mirrored or any(is_resized(scanned) for scanned in (train, valid) if scanned):
        logger.info("%s", how_to_score(geometry))
    return train, valid


def _warn_of_memory(size: Size, parameters: ResolvedParameters) -> None:
    """Warn if a step, of which no more than the size is known yet, will not fit in the memory of this machine."""
    microbatch_size = parameters.microbatch_size
    at_once = microbatch_size if isinstance(microbatch_size, int) else parameters.batch_size
    num_bytes = at_once * size[0] * size[1] * 3 * 4
    free = available_memory_bytes()
    if _ACTIVATIONS * num_bytes > free:
        logger.warning(
            "%d images of %s, which are computed at the same time, take %s before the first layer, and networks need "
            "at least %d times as much. %s are free. Training may run out of memory: choose a smaller --image-size, "
            "or a smaller --batch-size or --microbatch-size.",
            *(at_once, _in_words(size), bytes_in_words(num_bytes), _ACTIVATIONS, bytes_in_words(free)),
        )


def choose_geometry(
    parameters: ResolvedParameters, model: UntrainedModel | None, datasets: Sequence[Scanned]
) -> Geometry:
    """Choose how images become the pixels that the network sees in evaluation.

    The size is the given one; for classic that of the images if each dataset has only one, and these images are then
    taken as they are; else the size of the trained model or of the pretrained weights. Random weights, except with
    classic, and a trained model without a geometry, which was trained on images as they were, take the size of the
    training images if these have only one; else it is 224x224.

    Args:
        parameters: recipe, image size and how to resize.
        model: whose weights may say for which pixels they were made.
        datasets: the datasets that have images.

    Raises:
        UserError: if the image size is out of its range.
    """
    is_classic = parameters.recipe == "classic"
    own, record = (model.geometry, model.pretrained) if model else (None, None)
    if own and own.resize == "none":
        own = None
    size = _given_size(parameters.image_size)
    if size is None:
        sizes = [scanned.sizes_of_kept(orients=not is_classic) for scanned in datasets]
        have_one = [bool((of_one == of_one[0]).all()) for of_one in sizes]
        if is_classic and all(have_one):
            return Geometry(_pair(sizes[0][0]))
        size = own.size if own else record.image_size if record else _SIZE
        is_random = model is None or model.labels is None
        if own is None and record is None and have_one[0] and not (is_classic and is_random):
            size = _pair(sizes[0][0])
    resize = parameters.resize
    if resize == "auto":
        resize = own.resize if own else record.resize if record else "crop"
    fraction, interpolation = _CROP_FRACTION, "bilinear"
    if own:
        fraction, interpolation = own.size[0] / own.cover[0] if own.cover else fraction, own.interpolation
    elif record:
        fraction, interpolation = record.crop_fraction, record.interpolation
    how: dict[str, Any] = {"interpolation": interpolation, "orients": not is_classic, "scales_values": not is_classic}
    return Geometry.crop(size, fraction, **how) if resize == "crop" else Geometry(size, resize, **how)


def _given_size(value: int | str) -> Size | None:
    """The size of `--image-size`; None for auto, and for a number below 1, which is reported with the parameters."""
    if value == "auto":
        return None
    height, width = map(int, value.split("x")) if isinstance(value, str) else (value, value)
    if max(height, width) > MAX_SIDE:
        raise UserError(f"--image-size {value}: a side can have at most {MAX_SIDE} pixels.")
    return (height, width) if min(height, width) > 0 else None


def _placed(scanned: Scanned | None, geometry: Geometry, *, is_classic: bool, has_crops: bool) -> Scanned | None:
    """The dataset with its geometry, of which the log says what it does, and with a margin for random crops."""
    if not (scanned and len(scanned.kept)):
        return scanned
    if geometry.resize == "none":  # each dataset has a size of its own
        geometry = replace(geometry, size=_pair(scanned.sizes_of_kept(orients=False)[0]))
    scanned = replace(scanned, geometry=geometry)
    if is_resized(scanned):
        scanned = replace(scanned, has_margin=has_crops)
        logger.info("%s: %s", scanned.images.where, what_is_done(scanned))
    if is_classic:
        _warn_of_few_others(scanned)
    _warn_of_wide_values(scanned, geometry)
    return scanned


def is_resized(scanned: Scanned) -> bool:
    """Return whether an image of the dataset has another size than the network sees."""
    geometry = scanned.geometry
    return geometry is not None and bool((scanned.sizes_of_kept(orients=geometry.orients) != geometry.size).any())


def enlarges_images_of_its_size(scanned: Scanned) -> bool:
    """Return whether images of the size that the network sees are resized for random crops, as all others are."""
    geometry, stored = scanned.geometry, scanned.stored_geometry
    if geometry is None or stored is None or not stored.has_margin:
        return False
    return bool((scanned.sizes_of_kept(orients=geometry.orients) == geometry.size).all(axis=1).any())


def what_is_done(scanned: Scanned) -> str:
    """Return what the geometry of a dataset does to its images, in a few sentences; empty if nothing."""
    geometry = scanned.geometry
    if geometry is None or not is_resized(scanned):
        return ""
    sizes = scanned.sizes_of_kept(orients=geometry.orients).astype(np.int64)
    size = _in_words(geometry.size)
    if geometry.resize == "pad":
        part = _mean_part(sizes, geometry)
        return f"{_sizes(sizes)} are resized to fit into {size}, and {part} of the pixels around them are black."
    if geometry.resize == "stretch":
        return f"{_sizes(sizes)} are resized to {size}, whatever their aspect ratio."
    cover = _in_words(geometry.cover or geometry.size)
    enlarges = enlarges_images_of_its_size(scanned)
    others = f" This includes images of {size}, which validation and scoring use as they are." if enlarges else ""
    return (
        f"{_sizes(sizes)} are resized to cover {cover}, and the {size} in the centre are used. On average "
        f"{_mean_part(sizes, geometry, enlarges_all=enlarges)} of an image is cut off at its borders.{others}"
    )


def _sizes(sizes: np.ndarray) -> str:
    """The sizes of images in words: "images of 3 sizes, from 80x60 to 400x300,"."""
    areas = sizes.prod(axis=1)
    smallest, largest = (_in_words(_pair(sizes[index])) for index in (areas.argmin(), areas.argmax()))
    num_sizes = len(np.unique(sizes[:, 0] << 32 | sizes[:, 1]))
    return f"images of {largest}" if num_sizes == 1 else f"images of {num_sizes:,} sizes, from {smallest} to {largest},"


def _mean_part(sizes: np.ndarray, geometry: Geometry, *, enlarges_all: bool = False) -> str:
    """The part of an image that is cut off, or the part of the pixels that is black, as a mean over all images."""
    wanted = geometry.cover or geometry.size
    factors = np.array(wanted) / sizes
    if geometry.resize == "pad":
        parts = 1 - (sizes * factors.min(axis=1, keepdims=True)).prod(axis=1) / np.prod(geometry.size)
    else:
        parts = 1 - np.prod(geometry.size) / (sizes * factors.max(axis=1, keepdims=True)).prod(axis=1)
    if not enlarges_all:
        parts[(sizes == geometry.size).all(axis=1)] = 0  # they keep their pixels
    return f"{100 * parts.mean():.0f} %"


def how_to_score(geometry: Geometry) -> str:
    """Return how images come to the designer's Score Image Model, which never resizes them."""
    (height, width), cover = geometry.size, geometry.cover or geometry.size
    missing = [] if geometry.resize == "none" else ["resize images"]
    if geometry.averages_mirrored:
        missing.append("average the probabilities of images and their mirror images")
    start = f"The designer's Score Image Model does not {' or '.join(missing)}."
    is_square = height == width and cover[0] == cover[1]
    can_be_repaired = not geometry.averages_mirrored and geometry.interpolation == "bilinear"
    if geometry.resize == "crop" and is_square and can_be_repaired:
        return (
            f"{start} Apply an image transformation to them before it, with Resize {cover[0]} and Center crop {height}."
        )
    return f"{start} Score with score-image-model or an endpoint of this package, which do it as training does."


def _warn_of_few_others(scanned: Scanned) -> None:
    """Warn if most images have one size, but all are resized because of a few others."""
    sizes = scanned.sizes_of_kept(orients=False).astype(np.int64)
    values, first, counts = np.unique(sizes[:, 0] << 32 | sizes[:, 1], return_index=True, return_counts=True)
    most = counts.argmax()
    if len(values) == 1 or counts[most] <= _MOST * len(sizes):
        return
    is_other = (sizes != sizes[first[most]]).any(axis=1)
    named = FirstFew(
        f"{scanned.name_of(number)!r} is {_in_words(_pair(sizes[number]))}" for number in is_other.nonzero()[0]
    )
    logger.warning(
        "%s: most images are %s, but %d of %d have another size: %s. All are resized.",
        scanned.images.where,
        _in_words(_pair(sizes[first[most]])),
        is_other.sum(),
        len(sizes),
        named.joined(),
    )


def _warn_of_wide_values(scanned: Scanned, geometry: Geometry) -> None:
    numbers = scanned.has_wide_values[scanned.kept].nonzero()[0]
    if len(numbers):
        logger.warning(
            "%s: %d of %d images have values of more than 8 bits, which are %s: %s.",
            scanned.images.where,
            len(numbers),
            len(scanned.kept),
            "scaled to 8 bits (negative values, infinity and NaN become 0)"
            if geometry.scales_values
            else "clipped at 255, as in the designer",
            FirstFew(repr(scanned.name_of(number)) for number in numbers).joined(),
        )


def _pair(size: np.ndarray) -> Size:
    height, width = size.tolist()
    return height, width


def _in_words(size: Size) -> str:
    return f"{size[1]}x{size[0]}"
