"""Everything that can be found wrong before training, found before training, and told together."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.batches import derive_seed
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
from train_pytorch_model.job.datasets import Scanned, scan
from train_pytorch_model.job.stores import SharedStores, StoreMaker
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.models.memory_format import preferred_memory_format
from train_pytorch_model.models.network import check_image_size, with_head
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.models.state_dicts import digest_of
from train_pytorch_model.ports.classes import match_classes, warn_of_classes
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.output_directory import TRAINED, OutputDirectory, make_outputs_folder, real_path
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_untrained_model
from train_pytorch_model.report.contents import REPORT_FOLDER
from train_pytorch_model.serving.exports import check_formats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.parameters import TrainingParameters


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


Built = tuple["nn.Module", NetworkDescription, torch.memory_format]
"""A network with the right head, what it is, and the memory format that it computes in."""


@dataclass(frozen=True)
class Inspected:
    """What can be said of a training before an image is decoded; a part that is None cannot be read."""

    faults: FaultCollector
    output: OutputDirectory
    model: UntrainedModel | None
    train: Scanned | None
    valid: Scanned | None
    built: Built | None


@dataclass(frozen=True)
class Prepared:
    """What training needs, checked."""

    train_data: Scanned
    valid_data: Scanned
    train: ImageStore
    """The images of `train_data`."""
    valid: ImageStore
    """Those of `valid_data`."""
    image_store: str
    """Where they lie, of `choose_place`; known to the first process of a node."""
    network: nn.Module
    description: NetworkDescription
    memory_format: torch.memory_format
    """That the network computes in."""
    code_folders: tuple[str, ...]
    output: OutputDirectory
    data: dict[str, object]
    """What the training begins with, in digests and names; the same in all processes."""


def inspect(settings: Settings, world: World) -> Inspected:
    """Check the parameters and the outputs, and read the ports: the datasets in the first process of each node."""
    faults = FaultCollector()
    faults.faults.extend(settings.parameters.faults())
    output = OutputDirectory(settings.trained_model_path, TRAINED_MODEL, TRAINED)
    if world.is_main:
        _check_outputs(settings, output, faults)
    model = train = valid = built = None
    with faults.collecting():
        model = read_untrained_model(settings.untrained_model_path, trust_code=settings.trust_model_code)
    if world.is_leader:
        train, valid = _read_datasets(settings, faults)
        built = _build(model, train, valid, settings, faults)
    return Inspected(faults, output, model, train, valid, built)


def prepare(settings: Settings, world: World, display: ProgressDisplay) -> Prepared:
    """Read the ports, check everything, build the network and decode the images.

    All processes call it. The first of each node reads the datasets and decodes them for all of the node.

    Raises:
        ModuleError: one fault, or all of them together, those of every process.
    """
    inspected = inspect(settings, world)
    faults, model, built = inspected.faults, inspected.model, inspected.built
    train, valid = inspected.train, inspected.valid
    skip = settings.skip_unreadable_images
    maker = StoreMaker(world, display, faults, settings.outputs_path, skip=skip)
    with ExitStack() as files:
        stores: list[ImageStore | None] = [None, None]
        shared: SharedStores | None = None
        if world.is_leader:
            wanted = settings.parameters.image_store
            if len(world.node) == 1:
                stores = maker.make([train, valid], wanted)
            else:
                shared = maker.share([train, valid], wanted, files)
            train, valid = maker.datasets
        if len(world.node) > 1:
            train, valid, shared = world.broadcast_on_node((train, valid, shared))
            stores = shared.open(world.device) if shared else stores
            if not world.is_leader:
                built = _build(model, train, valid, settings, faults)
        check_counts(settings, world, train, faults)
        _raise_any(faults, world)
    return assemble(replace(inspected, train=train, valid=valid, built=built), stores, maker.place)


def assemble(inspected: Inspected, stores: Sequence[ImageStore | None], image_store: str) -> Prepared:
    """Put together what training needs, when nothing is wrong with any part.

    Args:
        inspected: with the datasets as they were decoded.
        stores: the images of both.
        image_store: where they lie.
    """
    train, valid, model, built = inspected.train, inspected.valid, inspected.model, inspected.built
    if train is None or valid is None or model is None or built is None or not (stores[0] and stores[1]):
        raise AssertionError("a part is missing, and no fault says why")
    data: dict[str, object] = {
        "training images": train.digest,
        "validation images": valid.digest,
        "number of images": [len(stores[0]), len(stores[1])],
        "classes": list(train.images.classes),
        "network": str(built[1]),
        "initial weights": digest_of(model.state),
    }
    return Prepared(train, valid, stores[0], stores[1], image_store, *built, model.code_folders, inspected.output, data)


def _check_outputs(settings: Settings, output: OutputDirectory, faults: FaultCollector) -> None:
    with faults.collecting():
        inputs = (settings.untrained_model_path, settings.train_data_path, settings.valid_data_path)
        output.check(inputs, settings.outputs_path, settings.checkpoint_path)
    report = real_path(settings.outputs_path / REPORT_FOLDER)
    for path in (settings.trained_model_path, settings.checkpoint_path):
        with faults.collecting():
            if report in (real_path(path), *real_path(path).parents):
                raise UserError(f"{path} is or lies in the folder of the report, {report}. Give another folder.")
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


def check_counts(settings: Settings, world: World, train: Scanned | None, faults: FaultCollector) -> None:
    """Hold the numbers of images and of processes against each other.

    Args:
        settings: with the batch size.
        world: with the number of processes.
        train: the training dataset, of which the images that are left out do not count.
        faults: takes what is wrong.
    """
    if train is None:
        return
    parameters = settings.parameters
    # Images that cannot be read and are not to be skipped are a fault of their own.
    num_images = len(train.kept) if settings.skip_unreadable_images else len(train.images)
    if num_images and parameters.batch_size > num_images:
        with faults.collecting():
            raise LessThanOrEqualToError("Batch size", parameters.batch_size, "train data count", num_images)
    if num_images and world.world_size > num_images:
        with faults.collecting():
            raise UserError(
                f"{world.world_size} processes were started for {num_images} training images, and each needs at least "
                "one. Start fewer processes."
            )
    if parameters.sync_batch_norm and not world.is_alone and world.device.type != "cuda":
        with faults.collecting():
            raise UserError(
                "--sync-batch-norm true requires GPUs: PyTorch has no synchronized batch normalization for CPUs."
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
    model: UntrainedModel | None,
    train: Scanned | None,
    valid: Scanned | None,
    settings: Settings,
    faults: FaultCollector,
) -> Built | None:
    """Fit the network to the classes and hold it against the sizes of the images; None where that cannot be."""
    if model and train:
        with faults.collecting():
            return _fit_head(model, train, valid, settings)
    return None


def _fit_head(model: UntrainedModel, train: Scanned, valid: Scanned | None, settings: Settings) -> Built:
    classes = train.images.classes
    same_labels = model.labels is None or model.labels[: len(classes)] == classes
    torch.manual_seed(derive_seed(settings.seed, "head"))
    try:
        network, description = with_head(model.description, model.state, len(classes), keep_head=same_labels)
    except NetworkError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {model.path}, {error}") from error
    # The network sees single images in training if the batch size or the microbatch size is 1, and never otherwise.
    parameters = settings.parameters
    smallest_batch = 1 if parameters.batch_size <= 1 or parameters.microbatch_size == 1 else 2
    name = "Batch size" if parameters.batch_size <= 1 else "Microbatch size"
    _check_size(description, train, smallest_batch, training=True, parameter=name)
    if valid:
        _check_size(description, valid, 1, training=False)
    memory_format = preferred_memory_format(network, train.size) if train.size else torch.contiguous_format
    return network, description, memory_format


def _check_size(
    description: NetworkDescription, scanned: Scanned, batch_size: int, *, training: bool, parameter: str = ""
) -> None:
    if scanned.size is None:
        return
    num_classes = len(scanned.images.classes)
    try:
        check_image_size(description, scanned.size, batch_size, num_classes, training=training)
    except NetworkError as error:
        if batch_size == 1 and training and "more than 1 value per channel" in str(error):
            raise GreaterThanOrEqualToError(
                parameter,
                2,
                detail=f"{description.name} normalises over the batch, and these images leave one value.",
            ) from error
        raise InvalidDatasetError(
            scanned.images.where,
            f"the network {description.name} cannot take images of {scanned.size[1]}x{scanned.size[0]}: {error}",
            "Resize the images, or choose another network.",
        ) from error
