"""Everything that can be found wrong before training, found before training, and told together."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.data.placement import PlacementError, choose_place
from train_pytorch_model.datasets import Scanned, decode, report_unreadable, scan
from train_pytorch_model.device import check_single_process
from train_pytorch_model.errors import (
    TRAINED_MODEL,
    TRAINING_DATASET,
    UNTRAINED_MODEL,
    VALIDATION_DATASET,
    FaultCollector,
    GreaterThanOrEqualToError,
    InvalidDatasetError,
    InvalidModelDirectoryError,
    LessThanOrEqualToError,
    UserError,
)
from train_pytorch_model.memory_format import preferred_memory_format
from train_pytorch_model.network import (
    NetworkDescription,
    NetworkError,
    check_image_size,
    with_head,
)
from train_pytorch_model.ports.classes import match_classes, warn_of_classes
from train_pytorch_model.ports.labelled_images import LabelledImages, read_labelled_images
from train_pytorch_model.ports.output_directory import TRAINED, OutputDirectory, make_outputs_folder
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_untrained_model
from train_pytorch_model.serving.exports import check_formats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.parameters import TrainingParameters
    from train_pytorch_model.progress import ProgressDisplay

logger = logging.getLogger(__name__)

# With other faults at hand, larger datasets are not decoded just to add to the list: that would be long work.
_MAX_IMAGES_DECODED_FOR_FAULTS = 10_000


@dataclass(frozen=True)
class Settings:
    """One training, as the command line gives it."""

    untrained_model_path: Path
    train_data_path: Path
    valid_data_path: Path
    trained_model_path: Path
    outputs_path: Path
    parameters: TrainingParameters
    seed: int
    skip_unreadable_images: bool = False
    trust_model_code: bool = False
    include_samples: bool = False
    export_formats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """What training needs, checked."""

    train_images: LabelledImages
    train: ImageStore
    valid: ImageStore
    network: nn.Module
    description: NetworkDescription
    memory_format: torch.memory_format
    """That the network computes in."""
    code_folders: tuple[str, ...]
    output: OutputDirectory


def prepare(settings: Settings, device: torch.device, display: ProgressDisplay) -> Prepared:
    """Read the ports, check everything, build the network and decode the images.

    Raises:
        ModuleError: one fault, or all of them together.
    """
    faults = FaultCollector()
    faults.faults.extend(settings.parameters.faults())
    with faults.collecting():
        check_single_process()
    output = OutputDirectory(settings.trained_model_path, TRAINED_MODEL, TRAINED)
    with faults.collecting():
        inputs = (settings.untrained_model_path, settings.train_data_path, settings.valid_data_path)
        output.check(inputs, settings.outputs_path)
    with faults.collecting():
        make_outputs_folder(settings.outputs_path)
    with faults.collecting():
        check_formats(settings.export_formats)
    model = train = valid = None
    with faults.collecting():
        model = read_untrained_model(settings.untrained_model_path, trust_code=settings.trust_model_code)
    with faults.collecting():
        train = scan(read_labelled_images(settings.train_data_path, TRAINING_DATASET), faults)
    with faults.collecting():
        valid = scan(read_labelled_images(settings.valid_data_path, VALIDATION_DATASET), faults)
    if train and valid:
        with faults.collecting():
            valid = replace(valid, images=match_classes(train.images, valid.images))
            warn_of_classes(train.images, valid.images)
    network = None
    if model and train:
        with faults.collecting():
            network = _build(model, train, valid, settings)
    train_store, valid_store = _decode([train, valid], settings, device, display, faults)
    if train:
        _check_batch_size(settings.parameters.batch_size, train, train_store, faults)
    faults.raise_any()
    if train is None or train_store is None or valid_store is None or network is None or model is None:
        raise AssertionError("a part is missing, and no fault says why")
    return Prepared(train.images, train_store, valid_store, *network, model.code_folders, output)


def _decode(
    datasets: list[Scanned | None],
    settings: Settings,
    device: torch.device,
    display: ProgressDisplay,
    faults: FaultCollector,
) -> list[ImageStore | None]:
    """Decode the datasets that have been read; with faults at hand only to see whether there are more."""
    stores: list[ImageStore | None] = [None] * len(datasets)
    place = "none"
    if not faults.faults:
        num_bytes = sum(scanned.num_bytes for scanned in datasets if scanned)
        with faults.collecting(), _placement_told():
            place = choose_place(settings.parameters.image_store, num_bytes, device)
    for number, scanned in enumerate(datasets):
        if scanned is None:
            continue
        unreadable = scanned.unreadable
        if faults.faults and len(scanned.kept) > _MAX_IMAGES_DECODED_FOR_FAULTS:
            logger.warning(
                "%s: its %d images are not decoded until the faults are mended.",
                scanned.images.where, len(scanned.kept),
            )  # fmt: skip
        elif scanned.size:
            with faults.collecting(), _placement_told():
                stores[number], unreadable = decode(scanned, place, device, display)
        with faults.collecting():
            report_unreadable(scanned.images, unreadable, settings.outputs_path, skip=settings.skip_unreadable_images)
    return stores


@contextmanager
def _placement_told() -> Iterator[None]:
    try:
        yield
    except PlacementError as error:
        raise UserError(str(error)) from error


def _check_batch_size(batch_size: int, train: Scanned, store: ImageStore | None, faults: FaultCollector) -> None:
    num_images = len(store) if store is not None else len(train.images)
    if num_images and batch_size > num_images:
        with faults.collecting():
            raise LessThanOrEqualToError("Batch size", batch_size, "train data count", num_images)


def _build(
    model: UntrainedModel, train: Scanned, valid: Scanned | None, settings: Settings
) -> tuple[nn.Module, NetworkDescription, torch.memory_format]:
    """Fit the network to the classes and hold it against the sizes of the images."""
    classes = train.images.classes
    same_labels = model.labels is None or model.labels[: len(classes)] == classes
    torch.manual_seed(derive_seed(settings.seed, "head"))
    try:
        network, description = with_head(model.description, model.state, len(classes), keep_head=same_labels)
    except NetworkError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {model.path}, {error}") from error
    # With a batch size of 1 every batch is one image; otherwise none is.
    smallest_batch = min(2, max(1, settings.parameters.batch_size))
    _check_size(description, train, smallest_batch, training=True)
    if valid:
        _check_size(description, valid, 1, training=False)
    memory_format = preferred_memory_format(network, train.size) if train.size else torch.contiguous_format
    return network, description, memory_format


def _check_size(description: NetworkDescription, scanned: Scanned, batch_size: int, *, training: bool) -> None:
    if scanned.size is None:
        return
    num_classes = len(scanned.images.classes)
    try:
        check_image_size(description, scanned.size, batch_size, num_classes, training=training)
    except NetworkError as error:
        if batch_size == 1 and training and "more than 1 value per channel" in str(error):
            raise GreaterThanOrEqualToError(
                "Batch size",
                2,
                detail=f"{description.name} normalises over the batch, and these images leave one value.",
            ) from error
        raise InvalidDatasetError(
            scanned.images.where,
            f"the network {description.name} cannot take images of {scanned.size[1]}x{scanned.size[0]}: {error}",
            "Resize the images, or choose another network.",
        ) from error
