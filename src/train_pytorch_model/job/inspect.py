"""What can be said about a training run before an image is decoded: parameters, outputs, ports and network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Callable

import torch
from torch import nn

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.data.model_task import MULTILABEL
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
from train_pytorch_model.job.geometry import Datasets, with_geometry
from train_pytorch_model.job.recipe import check_metric, resolve_settings, with_batch_size
from train_pytorch_model.job.trained_head import has_labels, in_order_of
from train_pytorch_model.models.description import NetworkDescription
from train_pytorch_model.models.heads import auxiliary_heads, find_head
from train_pytorch_model.models.memory_format import preferred_memory_format
from train_pytorch_model.models.network import check_image_size, with_head
from train_pytorch_model.models.network_rules import NetworkError
from train_pytorch_model.ports.classes import match_classes, warn_of_classes
from train_pytorch_model.ports.directory_kinds import TRAINED
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.output_directory import OutputDirectory, make_outputs_folder, real_path
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_untrained_model
from train_pytorch_model.report.contents import REPORT_FOLDER
from train_pytorch_model.serving.exports import check_formats
from train_pytorch_model.training.layers import frozen_stages, set_frozen_parts_to_evaluation

if TYPE_CHECKING:
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.job.settings import ResolvedSettings, Settings
    from train_pytorch_model.parameters.recipes import ResolvedParameters


Built = tuple["nn.Module", NetworkDescription, torch.memory_format]
"""A network with the right head, its description, and the memory format that it computes in."""


@dataclass(frozen=True)
class Inspected:
    """The parts of a training run before decoding; a part that cannot be read is None."""

    faults: FaultCollector
    given: Settings
    settings: ResolvedSettings
    output: OutputDirectory
    model: UntrainedModel | None
    train: Scanned | None
    valid: Scanned | None
    built: Built | None


def inspect(settings: Settings, world: World) -> Inspected:
    """Check the parameters and the outputs, and read the ports.

    All processes call it. The datasets are read by the first process of each node only.
    """
    faults = FaultCollector()
    faults.faults.extend(settings.parameters.faults())
    output = OutputDirectory(settings.trained_model_path, TRAINED_MODEL, TRAINED)
    if world.is_main:
        _check_outputs(settings, output, faults)
    model = train = valid = built = None
    with faults.collecting():
        model = read_untrained_model(settings.untrained_model_path, trust_code=settings.trust_model_code)
    resolved = resolve_settings(settings, model)
    _check_momentum(resolved, faults)
    if world.is_leader:
        train, valid = _read_datasets(settings, faults)
        with faults.collecting():
            train, valid = with_geometry(resolved.parameters, model, (train, valid))
        if model and train:
            model = in_order_of(model, train.images)
        built = build_network(model, train, valid, resolved, faults)
    return Inspected(faults, settings, resolved, output, model, train, valid, built)


def _check_outputs(settings: Settings, output: OutputDirectory, faults: FaultCollector) -> None:
    with faults.collecting():
        inputs = (settings.untrained_model_path, settings.train_data_path, settings.valid_data_path)
        output.check(inputs, settings.outputs_path, settings.checkpoint_path)
    report = real_path(settings.outputs_path / REPORT_FOLDER)
    for path in (settings.trained_model_path, settings.checkpoint_path):
        with faults.collecting():
            if report in (real_path(path), *real_path(path).parents):
                raise UserError(f"{path} is the folder of the report, {report}, or inside it. Choose another folder.")
    with faults.collecting():
        make_outputs_folder(settings.outputs_path)
    with faults.collecting():
        make_outputs_folder(settings.checkpoint_path, "--checkpoint-path")
    with faults.collecting():
        check_formats(settings.export_formats)


def _check_momentum(settings: ResolvedSettings, faults: FaultCollector) -> None:
    parameters = settings.parameters
    if parameters.optimizer == "adamw" and parameters.momentum == 1:
        with faults.collecting():
            raise UserError("--momentum 1: AdamW needs less than 1, such as 0.9. SGD takes 1.")


def _read_datasets(settings: Settings, faults: FaultCollector) -> Datasets:
    read = partial(read_labelled_images, follow_links=settings.follow_links)
    train = valid = None
    if settings.held_out is not None:
        with faults.collecting():
            images = read(settings.train_data_path, TRAINING_DATASET)
            train = scan(images.part(~settings.held_out))
            valid = scan(replace(images.part(settings.held_out), port=VALIDATION_DATASET))
    else:
        with faults.collecting():
            train = scan(read(settings.train_data_path, TRAINING_DATASET))
        with faults.collecting():
            valid = scan(read(settings.valid_data_path, VALIDATION_DATASET))
    if train:
        with faults.collecting():
            check_metric(settings.parameters.metric_for_best_model, train.images)
    if train and valid:
        with faults.collecting():
            valid = replace(valid, images=match_classes(train.images, valid.images))
            warn_of_classes(train.images, valid.images)
    return train, valid


def fit_batch_size(inspected: Inspected) -> Inspected:
    """Return what is inspected with a batch of at most all training images, if the recipe has chosen its size.

    Args:
        inspected: with the training dataset as it was decoded.
    """
    settings, train = inspected.settings, inspected.train
    num_images = _num_images(train, settings) if train else 0
    if not num_images:
        return inspected
    return replace(inspected, settings=with_batch_size(settings, inspected.given.parameters, num_images))


def _num_images(train: Scanned, settings: ResolvedSettings) -> int:
    """The number of training images. Images that cannot be read and must not be skipped are a fault of their own."""
    return len(train.kept) if settings.skip_unreadable_images else len(train.images)


def check_counts(settings: ResolvedSettings, world: World, train: Scanned | None, faults: FaultCollector) -> None:
    """Compare the batch size and the number of processes with the number of training images.

    Args:
        settings: with the batch size.
        world: with the number of processes.
        train: the training dataset; images that are skipped do not count.
        faults: collects the faults.
    """
    if train is None:
        return
    parameters = settings.parameters
    num_images = _num_images(train, settings)
    if num_images and parameters.batch_size > num_images:
        with faults.collecting():
            raise LessThanOrEqualToError("Batch size", parameters.batch_size, "train data count", num_images)
    if num_images and world.world_size > num_images:
        with faults.collecting():
            raise UserError(
                f"{world.world_size} processes were started for {num_images} training images, but each needs at least "
                "one image. Start fewer processes."
            )
    if parameters.sync_batch_norm and not world.is_alone and world.device.type != "cuda":
        with faults.collecting():
            raise UserError(
                "--sync-batch-norm true requires GPUs: PyTorch has no synchronized batch normalization for CPUs."
            )


def build_network(
    model: UntrainedModel | None,
    train: Scanned | None,
    valid: Scanned | None,
    settings: ResolvedSettings,
    faults: FaultCollector,
) -> Built | None:
    """Fit the head of the network to the classes, and check the sizes of the images; None if that is impossible."""
    if model and train:
        with faults.collecting():
            return _fit_head(model, train, valid, settings)
    return None


def _fit_head(model: UntrainedModel, train: Scanned, valid: Scanned | None, settings: ResolvedSettings) -> Built:
    classes = train.images.classes
    same_labels = model.labels is None or has_labels(model, train.images)
    torch.manual_seed(derive_seed(settings.seed, "head"))
    try:
        network, description = with_head(
            model.description, model.state, len(classes), keep_head=same_labels, missing=model.missing
        )
    except NetworkError as error:
        raise InvalidModelDirectoryError(UNTRAINED_MODEL, f"in {model.path}, {error}") from error
    parameters = settings.parameters
    set_mode = partial(_set_training_mode, network, train, parameters)
    # The network sees single images in training if there is one, or the batch size or the microbatch size is 1.
    if _num_images(train, settings) == 1:
        _check_size(description, train, 1, set_mode)
    elif parameters.batch_size <= 1 or parameters.microbatch_size == 1:
        name = "Batch size" if parameters.batch_size <= 1 else "Microbatch size"
        _check_size(description, train, 1, set_mode, parameter=name)
    else:
        _check_size(description, train, 2, set_mode)
    if valid:
        _check_size(description, valid, 1, nn.Module.eval)
    geometry = train.geometry
    if geometry and train.images.task == MULTILABEL:
        _check_signs(network, description, geometry.size)
    memory_format = preferred_memory_format(network, geometry.size) if geometry else torch.contiguous_format
    return network, description, memory_format


def _set_training_mode(network: nn.Module, train: Scanned, parameters: ResolvedParameters, copied: nn.Module) -> None:
    """Put a copy of a network into training mode, except for the parts that the recipe keeps in evaluation mode."""
    copied.train()
    is_finetune = parameters.recipe == "finetune"
    set_frozen_parts_to_evaluation(
        copied,
        [name for stage in frozen_stages(network, parameters.layers_to_freeze) for name in stage.module_names],
        batch_norm=is_finetune,
        auxiliary=is_finetune and train.geometry is not None and bool(auxiliary_heads(network, train.geometry.size)),
    )


def _check_signs(network: nn.Module, description: NetworkDescription, size: tuple[int, int]) -> None:
    """Check that the logits of a network can be negative."""
    head = find_head(network, size)
    if not isinstance(head, str) and head.is_rectified:
        raise InvalidModelDirectoryError(
            UNTRAINED_MODEL,
            f"the network {description.network_name} ends with a ReLU, so no label would get a probability below 0.5",
            "Choose another network for several labels per image.",
        )


def _check_size(
    description: NetworkDescription,
    scanned: Scanned,
    batch_size: int,
    set_mode: Callable[[nn.Module], object],
    parameter: str = "",
) -> None:
    """Check that the network takes the images; see `check_image_size`."""
    if scanned.geometry is None:
        return
    size = scanned.geometry.size
    num_classes = len(scanned.images.classes)
    try:
        check_image_size(description, size, batch_size, num_classes, set_mode)
    except NetworkError as error:
        if parameter and "more than 1 value per channel" in str(error):
            raise GreaterThanOrEqualToError(
                parameter,
                2,
                detail=f"{description.network_name} normalizes over the batch, and one such image has one value.",
            ) from error
        raise InvalidDatasetError(
            scanned.images.where,
            f"the network {description.network_name} does not accept images of {size[1]}x{size[0]}: {error}",
            "Choose another size with --image-size, or another network.",
        ) from error
