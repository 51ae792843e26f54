"""Apply Image Transformation: every image of an ImageDirectory is changed as a transformation says."""

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
from train_pytorch_model.data.decoding import look_at, opened
from train_pytorch_model.data.threads import num_cores
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter
from train_pytorch_model.ports.image_list import file_of, info_of_copy
from train_pytorch_model.ports.labelled_images import read_listed_items
from train_pytorch_model.ports.output_directory import IMAGES, OutputDirectory
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
    transformation_path: Path,
    data_path: Path,
    output_path: Path,
    outputs_path: Path,
    *,
    mode: str,
    seed: int,
    display: ProgressDisplay,
) -> None:
    """Write the changed images as PNG, under their own names and labels, in their own order.

    Args:
        transformation_path: a TransformationDirectory.
        data_path: an ImageDirectory, labelled or not, or raw images.
        output_path: the ImageDirectory to write.
        outputs_path: the folder of reports.
        mode: "For training", or "For inference" without the random operations.
        seed: what is random about an image depends on this and its place in the list alone.
        display: shows how far it is.

    Raises:
        ModuleError: for an input or an output that cannot be used; images that cannot be read or changed are named.
    """
    output = OutputDirectory(output_path, "Output image directory", IMAGES)
    output.check((transformation_path, data_path), outputs_path)
    transform = make_transforms(read_transformation(transformation_path), for_training=mode == FOR_TRAINING)
    schema, columns, items = read_listed_items(data_path, _DATASET, labelled=False)
    faults: list[str] = []
    with _workers() as pool, output.writing() as folder, ImageDirectoryWriter(folder, schema) as writer:
        with display.images(_DATASET, "changed") as advance:
            for item, fault in _changed(pool, items(), columns, data_path, folder, transform, seed):
                if fault is None:
                    writer.add(item)
                else:
                    faults.append(fault)
                advance()
        if faults:
            raise InvalidDatasetError(
                f"{_DATASET} {data_path}", f"{len(faults)} images cannot be changed: {join_some(faults)}"
            )
    logger.info("The changed images lie in %s.", output_path)


def _workers() -> ProcessPoolExecutor:
    """Processes, since what is random is drawn from one generator a process; begun while there is no thread yet."""
    pool = ProcessPoolExecutor(
        num_cores(), mp_context=multiprocessing.get_context("fork"), initializer=torch.set_num_threads, initargs=(1,)
    )
    pool.submit(int).result()
    return pool


def _changed(
    pool: ProcessPoolExecutor,
    items: Iterator[dict[str, Any]],
    columns: Columns,
    source: Path,
    folder: Path,
    transform: transforms.Compose,
    seed: int,
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """Each item as it is to be listed, and why its image could not be changed."""
    names: set[str] = set()
    work = partial(_change, transform=transform)
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
        look_at([file for file, _, _ in jobs])
        yield from zip(listed, pool.map(work, jobs, chunksize=16))


def _free_name(name: str, taken: set[str]) -> str:
    """The name with the ending .png; where another image has taken that, with the old ending before it."""
    path = PurePosixPath(name)
    candidates = [str(path.with_suffix(".png")), f"{name}.png"]
    candidates += [f"{name}_{number}.png" for number in range(len(taken))] if candidates[1] in taken else []
    free = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(free)
    return free


def _change(job: tuple[Path, Path, int], transform: Callable[[Image.Image], Image.Image]) -> str | None:
    """Change one image; give the reason when it cannot be."""
    source, target, seed = job
    torch.manual_seed(seed)
    try:
        with opened(source) as image:
            # Quick to write and to read; smaller files would cost most of the time.
            transform(image.convert("RGB")).save(target, format="PNG", compress_level=1)
    except Exception as error:  # Pillow's decoders raise whatever a broken file leads them to
        return f"{source.name!r}: {error or type(error).__name__}"
    return None
