"""Everything that can be found wrong before training, found before training, and told together."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.data.decoding import Size, UnreadableImageError, common_size, in_threads, read_size
from train_pytorch_model.data.image_store import ImageStore, decode_all
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
from train_pytorch_model.messages import join_some
from train_pytorch_model.network import NetworkDescription, NetworkError, check_image_size, with_head
from train_pytorch_model.ports.classes import match_classes, warn_of_classes
from train_pytorch_model.ports.labelled_images import LabelledImages, read_labelled_images
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.ports.untrained_model import UntrainedModel, read_untrained_model

if TYPE_CHECKING:
    from torch import nn

    from train_pytorch_model.parameters import TrainingParameters
    from train_pytorch_model.progress import ProgressDisplay

logger = logging.getLogger(__name__)

UNREADABLE_IMAGES_FILE = "unreadable_images.json"
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


@dataclass(frozen=True)
class Prepared:
    """What training needs, checked."""

    train_images: LabelledImages
    train: ImageStore
    valid: ImageStore
    network: nn.Module
    description: NetworkDescription
    code_folders: tuple[str, ...]
    output: OutputDirectory


@dataclass(frozen=True)
class _Scanned:
    """A dataset whose headers have been read."""

    images: LabelledImages
    sizes: list[Size | None]
    unreadable: dict[int, str]

    @property
    def size(self) -> Size | None:
        return common_size(self.sizes)


def prepare(settings: Settings, display: ProgressDisplay) -> Prepared:
    """Read the ports, check everything, decode the images and build the network.

    Raises:
        ModuleError: one fault, or all of them together.
    """
    faults = FaultCollector()
    faults.faults.extend(settings.parameters.faults())
    with faults.collecting():
        check_single_process()
    output = OutputDirectory(settings.trained_model_path, TRAINED_MODEL, trained=True)
    with faults.collecting():
        inputs = (settings.untrained_model_path, settings.train_data_path, settings.valid_data_path)
        output.check(inputs, settings.outputs_path)
    with faults.collecting():
        _make_outputs(settings.outputs_path)
    model = train = valid = None
    with faults.collecting():
        model = read_untrained_model(settings.untrained_model_path, trust_code=settings.trust_model_code)
    with faults.collecting():
        train = _scan(read_labelled_images(settings.train_data_path, TRAINING_DATASET), faults)
    with faults.collecting():
        valid = _scan(read_labelled_images(settings.valid_data_path, VALIDATION_DATASET), faults)
    if train and valid:
        with faults.collecting():
            valid = _Scanned(match_classes(train.images, valid.images), valid.sizes, valid.unreadable)
            warn_of_classes(train.images, valid.images)
    stores = [_decode(scanned, settings, display, faults) for scanned in (train, valid)]
    _check_batch_size(settings.parameters.batch_size, stores[0], train, faults)
    network = None
    if model and train:
        with faults.collecting():
            network = _build(model, train, valid, settings)
    faults.raise_any()
    train_store, valid_store = stores
    if train is None or train_store is None or valid_store is None or network is None or model is None:
        raise AssertionError("a part is missing, and no fault says why")
    return Prepared(train.images, train_store, valid_store, *network, model.code_folders, output)


def _make_outputs(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"--outputs-path {path} cannot be written to: {error.strerror}. Give another folder."
        ) from error


def _scan(images: LabelledImages, faults: FaultCollector) -> _Scanned:
    """Read every header: missing files, files that are no images, sizes that differ."""
    paths = images.paths()

    def work(index: int) -> Size | str:
        try:
            return read_size(paths[index])
        except UnreadableImageError as error:
            return str(error)

    results = list(in_threads(work, len(paths)))
    sizes = [None if isinstance(result, str) else result for result in results]
    unreadable = {index: result for index, result in enumerate(results) if isinstance(result, str)}
    scanned = _Scanned(images, sizes, unreadable)  # type: ignore[arg-type]
    different = [index for index, size in enumerate(scanned.sizes) if size not in (None, scanned.size)]
    if different:
        usual = scanned.sizes.index(scanned.size)
        first = different[0]
        with faults.collecting():
            raise InvalidDatasetError(
                images.where,
                f"its images differ in size: {_named(scanned, usual)} and {_named(scanned, first)}; "
                f"{len(different)} of {len(images)} differ from the first of these",
                "Please transform input images to have the same size, see https://aka.ms/aml/init-image-transformation.",
            )
    return scanned


def _named(scanned: _Scanned, index: int) -> str:
    height, width = scanned.sizes[index] or (0, 0)
    return f"{scanned.images.files[index]!r} is {width}x{height}"


def _decode(
    scanned: _Scanned | None, settings: Settings, display: ProgressDisplay, faults: FaultCollector
) -> ImageStore | None:
    """Decode a dataset; images that cannot be read are a fault, or left out and listed."""
    if scanned is None:
        return None
    images = scanned.images
    unreadable = [(images.files[index], reason) for index, reason in scanned.unreadable.items()]
    store = None
    kept = [index for index, size in enumerate(scanned.sizes) if size is not None and size == scanned.size]
    if scanned.size and (not faults.faults or len(kept) <= _MAX_IMAGES_DECODED_FOR_FAULTS):
        paths = images.paths()
        with display.decoding(images.port, len(kept)) as advance:
            store, failed = decode_all(
                [paths[index] for index in kept], [images.labels[index] for index in kept], scanned.size, advance
            )
        unreadable += [(images.files[kept[index]], reason) for index, reason in failed.items()]
    elif scanned.size:
        logger.warning("%s: its %d images are not decoded until the faults are mended.", images.where, len(kept))
    unreadable = sorted(unreadable) + list(images.unreadable)
    with faults.collecting():
        if unreadable:
            _report_unreadable(images, unreadable, settings)
        if (store is None and not scanned.size) or (store is not None and not len(store)):
            raise InvalidDatasetError(images.where, f"none of its {len(images)} images can be read")
    return store


def _report_unreadable(images: LabelledImages, unreadable: list[tuple[str, str]], settings: Settings) -> None:
    text = join_some([f"{file!r}: {reason}" for file, reason in unreadable])
    count = f"{len(unreadable)} of {len(images) + len(images.unreadable)} images cannot be read"
    if not settings.skip_unreadable_images:
        raise InvalidDatasetError(
            images.where, f"{count}: {text}", "Mend or remove them, or leave them out with --skip-unreadable-images."
        )
    list_path = settings.outputs_path / UNREADABLE_IMAGES_FILE
    try:
        listed = json.loads(list_path.read_text(encoding="utf-8")) if images.port != TRAINING_DATASET else {}
    except (OSError, ValueError):
        listed = {}
    listed[images.port] = [{"file_name": file, "reason": reason} for file, reason in unreadable]
    list_path.write_text(json.dumps(listed, indent=2), encoding="utf-8")
    logger.warning("%s: %s and left out: %s. All are listed in %s.", images.where, count, text, list_path)


def _check_batch_size(
    batch_size: int, store: ImageStore | None, train: _Scanned | None, faults: FaultCollector
) -> None:
    if train is None:
        return
    num_images = len(store) if store is not None else len(train.images)
    if num_images and batch_size > num_images:
        with faults.collecting():
            raise LessThanOrEqualToError("Batch size", batch_size, "train data count", num_images)


def _build(
    model: UntrainedModel, train: _Scanned, valid: _Scanned | None, settings: Settings
) -> tuple[nn.Module, NetworkDescription]:
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
    return network, description


def _check_size(description: NetworkDescription, scanned: _Scanned, batch_size: int, *, training: bool) -> None:
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
