"""Datasets of images of which is known what the frozen network gives to its head, so that none is decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from train_pytorch_model.data.image_store import EncodedImages, FilesAt
from train_pytorch_model.job.datasets import report_unreadable
from train_pytorch_model.job.stores import Decoded
from train_pytorch_model.training.frozen_images import FrozenImages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from train_pytorch_model.data.image_geometry import Geometry
    from train_pytorch_model.job.datasets import Scanned
    from train_pytorch_model.job.settings import ResolvedSettings
    from train_pytorch_model.job.stores import Decoding
    from train_pytorch_model.training.frozen_images import HeadInputs


@dataclass(frozen=True)
class FrozenFeatures:
    """What the frozen network gives to its head for the N labelled images of a dataset."""

    inputs: HeadInputs
    """Of all N images; zeros for those that cannot be read."""
    unreadable: dict[int, str]
    """Index of each image that cannot be read, and the reason."""
    geometry: Geometry
    """How the images became the pixels that the network has seen."""


def known_datasets(datasets: Sequence[Scanned | None], settings: ResolvedSettings, how: Decoding) -> Decoded | None:
    """Return the parts of a dataset with what is known of their images; None if these must be decoded.

    Args:
        datasets: the images that are not held out and those that are, with their headers read.
        settings: with the features, if they are known.
        how: the settings and the faults.
    """
    frozen, held_out = settings.frozen, settings.held_out
    if frozen is None or held_out is None or how.faults.faults:
        return None
    kept, stores = [], []
    for scanned, is_in in zip(datasets, (~held_out, held_out)):
        if scanned is None or scanned.geometry != frozen.geometry:
            return None
        readable, store = _known(scanned, np.flatnonzero(is_in), frozen)
        kept.append(readable)
        stores.append(store)
    for readable in kept:
        with how.faults.collecting():
            report_unreadable(readable.images, readable.unreadable, how.outputs_path, skip=how.skip_unreadable_images)
    return Decoded("none", tuple(kept), tuple(stores))


def _known(scanned: Scanned, rows: np.ndarray, frozen: FrozenFeatures) -> tuple[Scanned, FrozenImages]:
    """Return a part of the dataset without unreadable images, and its images.

    Args:
        scanned: the part.
        rows: the index in the dataset of each image of the part, int64 of shape (number of images,).
        frozen: the features of the dataset.
    """
    unreadable = {
        number: frozen.unreadable[row] for number, row in enumerate(rows.tolist()) if row in frozen.unreadable
    }
    kept = np.setdiff1d(scanned.kept, list(unreadable))
    scanned = replace(scanned, kept=kept, unreadable={**scanned.unreadable, **unreadable})
    height, width = max(scanned.sizes_of_kept(orients=False).tolist(), key=math.prod, default=(0, 0))
    geometry = scanned.stored_geometry
    if geometry is None:
        raise AssertionError("no geometry was chosen")
    labels = torch.from_numpy(scanned.images.labels[kept])
    images = EncodedImages(FilesAt(scanned.images.path_of, kept), labels, geometry, (height, width))
    return scanned, FrozenImages(images, frozen.inputs, torch.from_numpy(rows[kept]))
