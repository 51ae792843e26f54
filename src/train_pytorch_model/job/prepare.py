"""Everything that training needs, checked before it starts; all faults are reported together."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from train_pytorch_model.data.model_task import MULTICLASS
from train_pytorch_model.error_report import describe, restore
from train_pytorch_model.job.inspect import Inspected, build_network, check_counts, fit_batch_size, inspect
from train_pytorch_model.job.known_datasets import known_datasets
from train_pytorch_model.job.normalisation import CLASSIC, Normalisation, normalisation_of
from train_pytorch_model.job.recipe import with_metric
from train_pytorch_model.job.stores import Decoded, Decoding, decode_datasets, decode_for_node
from train_pytorch_model.job.trained_head import has_head_for, in_order_of
from train_pytorch_model.models.state_dicts import digest_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.data.image_geometry import Geometry
    from train_pytorch_model.data.image_store import ImageStore
    from train_pytorch_model.distributed.world import World
    from train_pytorch_model.errors import FaultCollector
    from train_pytorch_model.job.datasets import Scanned
    from train_pytorch_model.job.settings import ResolvedSettings, Settings
    from train_pytorch_model.models.description import NetworkDescription
    from train_pytorch_model.ports.output_directory import OutputDirectory


@dataclass(frozen=True)
class Prepared:
    """What training needs, checked."""

    settings: ResolvedSettings
    train_data: Scanned
    valid_data: Scanned
    train: ImageStore
    """The images of `train_data`."""
    valid: ImageStore
    """The images of `valid_data`."""
    image_store: str
    """Where the images are kept, as `choose_place` returns it."""
    network: nn.Module
    description: NetworkDescription
    memory_format: torch.memory_format
    """The memory format that the network computes in."""
    keeps_head: bool
    """Whether the model is trained for the classes of the dataset, so that its head is of use."""
    normalisation: Normalisation
    code_folders: tuple[str, ...]
    output: OutputDirectory
    geometry: Geometry
    """How images become the pixels that the network sees in evaluation."""
    data: dict[str, object]
    """What the training starts from, as digests and names; the same in all processes."""


def prepare(settings: Settings, world: World, display: ProgressDisplay) -> Prepared:
    """Read the ports, check everything, build the network and decode the images.

    All processes call it. The first process of each node reads and decodes the datasets for all processes of the node.

    Raises:
        ModuleError: one fault, or all faults of all processes together.
    """
    inspected = inspect(settings, world)
    outputs_path = settings.outputs_path if world.is_main else None
    how = Decoding(world, display, inspected.faults, settings.skip_unreadable_images, outputs_path)
    with ExitStack() as files:
        inspected, decoded = _decode(inspected, how, files)
        inspected = fit_batch_size(inspected)
        check_counts(inspected.settings, world, inspected.train, inspected.faults)
        _raise_any(inspected.faults, world)  # after which all processes have opened the shared files
    return assemble(inspected, decoded)


def _decode(inspected: Inspected, how: Decoding, files: ExitStack) -> tuple[Inspected, Decoded]:
    """Decode the datasets, on a node of several processes in the first of them only."""
    world = how.world
    datasets = (inspected.train, inspected.valid)
    wanted = inspected.settings.parameters.image_store
    if len(world.node) == 1:
        decoded = known_datasets(datasets, inspected.settings, how) or decode_datasets(datasets, wanted, how)
        return replace(inspected, train=decoded.datasets[0], valid=decoded.datasets[1]), decoded
    shared = world.broadcast_on_node(decode_for_node(datasets, wanted, how, files) if world.is_leader else None)
    if shared is None:
        raise AssertionError("the first process of the node has sent nothing")
    decoded = shared.open(world.device)
    train, valid = decoded.datasets
    model, built = inspected.model, inspected.built
    if not world.is_leader:
        model = in_order_of(model, train.images) if model and train else model
        built = build_network(model, train, valid, inspected.settings, inspected.faults)
    return replace(inspected, model=model, train=train, valid=valid, built=built), decoded


def assemble(inspected: Inspected, decoded: Decoded) -> Prepared:
    """Put together what training needs, when no part has a fault.

    Args:
        inspected: with the datasets as they were decoded.
        decoded: the images of both datasets.
    """
    train, valid, model, built = inspected.train, inspected.valid, inspected.model, inspected.built
    train_store, valid_store = decoded.stores
    geometry = train.geometry if train else None
    if not (train and valid and model and built and geometry and train_store and valid_store):
        raise AssertionError("a part is missing, and no fault says why")
    data: dict[str, object] = {
        "training images": train.digest,
        "validation images": valid.digest,
        "number of images": [len(train_store), len(valid_store)],
        "classes": list(train.images.classes),
        "network": str(built[1]),
        "initial weights": digest_of(model.state),
        # Checkpoints of version 0.1, which resized nothing, do not have it.
        **({} if geometry.resize == "none" else {"geometry": geometry.to_dict()}),
        **({} if train.images.task == MULTICLASS else {"task": train.images.task}),
    }
    normalisation = normalisation_of(model, inspected.settings.parameters.recipe, train.images.image_column)
    if normalisation != CLASSIC:
        data["normalization"] = [list(normalisation.mean), list(normalisation.std)]
    return Prepared(
        with_metric(inspected.settings, inspected.given.parameters.metric_for_best_model, train.images.task),
        train,
        valid,
        train_store,
        valid_store,
        decoded.place,
        *built,
        has_head_for(model, train.images) and not inspected.settings.head_only,
        normalisation,
        model.code_folders,
        inspected.output,
        geometry,
        data,
    )


def _raise_any(faults: FaultCollector, world: World) -> None:
    """Raise what any process has found, each fault once; a single process raises its own faults."""
    if not world.is_alone:
        found = [
            fault for of_process in world.gather([describe(fault) for fault in faults.faults]) for fault in of_process
        ]
        faults.faults = [restore(fault) for number, fault in enumerate(found) if fault not in found[:number]]
    faults.raise_any()
