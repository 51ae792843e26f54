"""Everything that can be found wrong before training, found before training, and told together."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.datasets import Scanned, scan
from train_pytorch_model.error_report import describe, told
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
    digest_of,
    with_head,
)
from train_pytorch_model.ports.classes import match_classes, warn_of_classes
from train_pytorch_model.ports.labelled_images import LabelledImages, read_labelled_images
from train_pytorch_model.ports.output_directory import TRAINED, OutputDirectory, make_outputs_folder
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_untrained_model
from train_pytorch_model.serving.exports import check_formats
from train_pytorch_model.stores import SharedStores, StoreMaker

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed import World
    from train_pytorch_model.parameters import TrainingParameters
    from train_pytorch_model.progress import ProgressDisplay


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
    checkpoint_path: Path = Path("outputs") / "checkpoints"


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
    data: dict[str, object]
    """What the training begins with, in digests and names; the same in all processes."""


def prepare(settings: Settings, world: World, display: ProgressDisplay) -> Prepared:
    """Read the ports, check everything, build the network and decode the images.

    All processes call it. The first of each node reads the datasets and decodes them for all of the node.

    Raises:
        ModuleError: one fault, or all of them together, those of every process.
    """
    faults = FaultCollector()
    faults.faults.extend(settings.parameters.faults())
    output = OutputDirectory(settings.trained_model_path, TRAINED_MODEL, TRAINED)
    if world.is_main:
        _check_outputs(settings, output, faults)
    model = train = valid = None
    with faults.collecting():
        model = read_untrained_model(settings.untrained_model_path, trust_code=settings.trust_model_code)
    if world.is_leader:
        train, valid = _read_datasets(settings, faults)
    with ExitStack() as files:
        stores: list[ImageStore | None] = [None, None]
        shared: SharedStores | None = None
        network = None
        if world.is_leader:
            if model and train:
                with faults.collecting():
                    network = _build(model, train, valid, settings)
            maker = StoreMaker(
                world, display, faults, settings.outputs_path, skip=settings.skip_unreadable_images
            )  # fmt: skip
            wanted = settings.parameters.image_store
            if len(world.node) == 1:
                stores = maker.make([train, valid], wanted)
            else:
                shared = maker.share([train, valid], wanted, files)
        if len(world.node) > 1:
            train, valid, shared = world.share_on_node((train, valid, shared))
            stores = shared.open(world.device) if shared else stores
            if model and train and not world.is_leader:
                with faults.collecting():
                    network = _build(model, train, valid, settings)
        if train:
            _check_counts(settings, world, train, stores[0], faults)
        _raise_any(faults, world)
    train_store, valid_store = stores
    if train is None or valid is None or model is None or network is None or not (train_store and valid_store):
        raise AssertionError("a part is missing, and no fault says why")
    data: dict[str, object] = {
        "training images": train.digest,
        "validation images": valid.digest,
        "number of images": [len(train_store), len(valid_store)],
        "classes": list(train.images.classes),
        "network": str(network[1]),
        "initial weights": digest_of(model.state),
    }
    return Prepared(train.images, train_store, valid_store, *network, model.code_folders, output, data)


def _check_outputs(settings: Settings, output: OutputDirectory, faults: FaultCollector) -> None:
    with faults.collecting():
        inputs = (settings.untrained_model_path, settings.train_data_path, settings.valid_data_path)
        output.check(inputs, settings.outputs_path, settings.checkpoint_path)
    with faults.collecting():
        make_outputs_folder(settings.outputs_path)
    with faults.collecting():
        make_outputs_folder(settings.checkpoint_path, "--checkpoint-path")
    with faults.collecting():
        check_formats(settings.export_formats)


def _read_datasets(settings: Settings, faults: FaultCollector) -> tuple[Scanned | None, Scanned | None]:
    train = valid = None
    with faults.collecting():
        train = scan(read_labelled_images(settings.train_data_path, TRAINING_DATASET), faults)
    with faults.collecting():
        valid = scan(read_labelled_images(settings.valid_data_path, VALIDATION_DATASET), faults)
    if train and valid:
        with faults.collecting():
            valid = replace(valid, images=match_classes(train.images, valid.images))
            warn_of_classes(train.images, valid.images)
    return train, valid


def _check_counts(
    settings: Settings, world: World, train: Scanned, store: ImageStore | None, faults: FaultCollector
) -> None:
    parameters = settings.parameters
    num_images = len(store) if store is not None else len(train.images)
    if num_images and parameters.batch_size > num_images:
        with faults.collecting():
            raise LessThanOrEqualToError("Batch size", parameters.batch_size, "train data count", num_images)
    if num_images and world.world_size > num_images:
        with faults.collecting():
            raise UserError(
                f"{world.world_size} processes were started for {num_images} training images, and each needs at least "
                "one. Start fewer processes."
            )
    if parameters.sync_batch_norm == "on" and not world.is_alone and world.device.type != "cuda":
        with faults.collecting():
            raise UserError(
                "--sync-batch-norm on needs GPUs: PyTorch has no such normalisation for CPUs. Leave it off."
            )


def _raise_any(faults: FaultCollector, world: World) -> None:
    """Raise what any process has found, each fault once; a process alone raises it as it is."""
    if not world.is_alone:
        found = [
            fault for of_process in world.gather([describe(fault) for fault in faults.faults]) for fault in of_process
        ]
        faults.faults = [told(fault) for number, fault in enumerate(found) if fault not in found[:number]]
    faults.raise_any()


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
