"""Apply Image Transformation: transform every image of an ImageDirectory."""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Callable

import torch
from torchvision import transforms

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.data.decoding import opened, read_headers
from train_pytorch_model.data.threads import num_cores
from train_pytorch_model.errors import InvalidDatasetError, UserError
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.directory_kinds import IMAGES
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter
from train_pytorch_model.ports.image_list import file_of, info_of_copy
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.ports.transformation import make_transforms, read_transformation
from train_pytorch_model.text.wording import join_some

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.ports.image_list import Columns

logger = logging.getLogger(__name__)

FOR_TRAINING = "For training"
FOR_INFERENCE = "For inference"
_DATASET = "Image directory"
_ITEMS_AT_ONCE = 1024


def apply_image_transformation(
    input_image_transform_path: Path,
    input_image_dir_path: Path,
    output_path: Path,
    *,
    mode: str,
    random_seed: int,
    outputs_path: Path,
    display: ProgressDisplay,
) -> int:
    """Write the transformed images as PNG, with their names, labels and order.

    Args:
        input_image_transform_path: a TransformationDirectory.
        input_image_dir_path: an ImageDirectory, labelled or not, or raw images.
        output_path: the ImageDirectory to write.
        mode: "For training" for all operations, "For inference" for those that are not random.
        random_seed: the randomness of an image depends only on this seed and its index in the list.
        outputs_path: the folder of reports, which must not overlap with the output.
        display: shows the progress.

    Returns:
        The number of images.

    Raises:
        ModuleError: if an input or the output cannot be used. Images that cannot be read or transformed are listed.
    """
    if mode not in (FOR_TRAINING, FOR_INFERENCE):
        raise UserError(f"Expected `mode` to be {FOR_TRAINING!r} or {FOR_INFERENCE!r}, but got {mode!r}")
    output = OutputDirectory(output_path, "Output image directory", IMAGES)
    output.check((input_image_transform_path, input_image_dir_path), outputs_path)
    operations = read_transformation(input_image_transform_path)
    transform = make_transforms(operations, for_training=mode == FOR_TRAINING)
    schema, columns, items = read_listed_items(input_image_dir_path, _DATASET, labelled=False)
    faults: list[str] = []
    num_images = 0
    with _workers() as pool, output.writing() as folder, ImageDirectoryWriter(folder, schema) as writer:
        with display.images(_DATASET, "transformed") as advance:
            for item, fault in _transformed(
                pool, items(), columns, input_image_dir_path, folder, transform, random_seed
            ):
                if fault is None:
                    writer.add(item)
                    num_images += 1
                else:
                    faults.append(fault)
                advance()
        if faults:
            raise InvalidDatasetError(
                f"{_DATASET} {input_image_dir_path}",
                f"{len(faults)} images cannot be transformed: {join_some(faults)}",
            )
    logger.info("Saved the transformed images to %s.", output_path)
    return num_images


def _workers() -> ProcessPoolExecutor:
    """Processes rather than threads, as torch has one random generator per process. Forked before threads start."""
    pool = ProcessPoolExecutor(
        num_cores(), mp_context=multiprocessing.get_context("fork"), initializer=torch.set_num_threads, initargs=(1,)
    )
    pool.submit(int).result()
    return pool


def _transformed(
    pool: ProcessPoolExecutor,
    items: Iterator[dict[str, Any]],
    columns: Columns,
    source: Path,
    folder: Path,
    transform: transforms.Compose,
    seed: int,
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Each item of the new image list, with the reason if its image could not be transformed."""
    names: set[str] = set()
    work = partial(_transform, transform=transform)
    number = 0
    while block := list(islice(items, _ITEMS_AT_ONCE)):
        jobs, listed = [], []
        for item in block:
            info = info_of_copy(item, columns)
            name = _free_name(info["file_name"], names)
            listed.append({**item, columns.image_ref: {**info, "file_name": name}})
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            file = source / (file_of(item, columns) or "")
            jobs.append((file, folder / name, derive_seed(seed, "transformation", number)))
            number += 1
        read_headers([file for file, _, _ in jobs])
        yield from zip(listed, pool.map(work, jobs, chunksize=16))


def _free_name(name: str, taken: set[str]) -> str:
    """The name with the extension .png; the old extension stays before it if another image has the short name."""
    path = PurePosixPath(name)
    candidates = [str(path.with_suffix(".png")), f"{name}.png"]
    candidates += [f"{name}_{number}.png" for number in range(len(taken))] if candidates[1] in taken else []
    free = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(free)
    return free


def _transform(job: tuple[Path, Path, int], transform: Callable[[Image.Image], Image.Image]) -> str | None:
    """Transform one image; return the reason if it fails."""
    source, target, seed = job
    torch.manual_seed(seed)
    try:
        with opened(source) as image:
            # Higher compression would take most of the time.
            transform(image.convert("RGB")).save(target, format="PNG", compress_level=1)
    except Exception as error:  # the exceptions of Pillow's decoders are not documented
        return f"{source.name!r}: {error or type(error).__name__}"
    return None
