"""Convert to Image Directory: write the images of a folder or an archive as an ImageDirectory."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Optional

from train_pytorch_model.data.decoding import UnreadableImageError, decode
from train_pytorch_model.data.threads import in_threads
from train_pytorch_model.data.unreadable_images import write_unreadable_images
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.modules.image_layout import Labelling, find_labels
from train_pytorch_model.modules.image_sources import DATASET, files_of
from train_pytorch_model.modules.item_copies import copy_items
from train_pytorch_model.modules.staged_images import StagedImages, staged_path
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.directory_kinds import IMAGES
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter, make_schema
from train_pytorch_model.ports.image_list import is_image_directory
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.ports.raw_images import IMAGE_EXTENSIONS
from train_pytorch_model.text.wording import join_some

if TYPE_CHECKING:
    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.ports.file_names import FileNames

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConvertedImages:
    """The output of Convert to Image Directory."""

    output_path: Path
    num_images: int
    classes: Optional[tuple[str, ...]]
    """In the order of their ids; None for images without labels."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, with the reason."""


def convert_to_image_directory(
    input_path: Path, output_path: Path, *, outputs_path: Path, display: ProgressDisplay
) -> ConvertedImages:
    """Write the images of a folder or an archive as an ImageDirectory. The input is only read.

    Args:
        input_path: one folder per class, or a flat folder, either with an optional file of annotations; an archive of
            one of these; or an ImageDirectory, which is copied.
        output_path: the ImageDirectory to write.
        outputs_path: the folder of reports, where the list of unreadable images is written.
        display: shows the progress.

    Returns:
        The number of images, the classes and the skipped files.

    Raises:
        ModuleError: if there is no image that can be converted, or the output cannot be written.
    """
    output = OutputDirectory(output_path, "Image directory", IMAGES)
    output.check((input_path,), outputs_path)
    with output.writing() as folder:
        if input_path.is_dir() and is_image_directory(input_path):
            converted = _copy_directory(input_path, output_path, folder, display)
        else:
            converted = _convert(input_path, output_path, folder, outputs_path, display)
    logger.info("Saved the image directory to %s.", output_path)
    return converted


def _copy_directory(input_path: Path, output_path: Path, folder: Path, display: ProgressDisplay) -> ConvertedImages:
    schema, columns, items = read_listed_items(input_path, DATASET, labelled=False)
    logger.info("%s is already an ImageDirectory; copying it.", input_path)
    with display.images(DATASET, "copied") as advance:
        num_images = copy_items(folder, schema, columns, input_path, items(), advance)
    return ConvertedImages(output_path, num_images, _classes_of(schema))


def _classes_of(schema: dict[str, Any]) -> Optional[tuple[str, ...]]:
    for column in schema["columnAttributes"]:
        properties = column.get("properties")
        categories = properties.get("categories") if isinstance(properties, dict) else None
        if isinstance(categories, list):
            return tuple(str(entry.get("name")) for entry in categories if isinstance(entry, dict))
    return None


def _convert(
    input_path: Path, output_path: Path, folder: Path, outputs_path: Path, display: ProgressDisplay
) -> ConvertedImages:
    where = f"{DATASET} {input_path}"
    with tempfile.TemporaryDirectory(prefix="annotations-") as texts_folder:
        staged = StagedImages(folder, Path(texts_folder), where)
        with display.images(DATASET, "copied") as advance:
            for file in files_of(input_path):
                if staged.add(file):
                    advance()
        if not staged.names:
            raise InvalidDatasetError(where, f"no image was found; images end in {' '.join(IMAGE_EXTENSIONS)}")
        staged.warn_of_other_files()
        labelling = find_labels(where, staged.names, staged.texts)
    unreadable = {**_unreadable(folder, len(staged.names), display), **staged.unreadable}
    skipped = {staged.names[number]: reason for number, reason in sorted(unreadable.items())}
    if len(unreadable) == len(staged.names):
        reasons = join_some([f"{name!r}: {reason}" for name, reason in skipped.items()])
        raise InvalidDatasetError(where, f"none of its {len(staged.names)} images can be read: {reasons}")
    if unreadable:
        _report(outputs_path, where, skipped, len(staged.names))
    labels = [None if number in unreadable else label for number, label in enumerate(labelling.labels)]
    num_images, classes = _write(folder, staged.names, Labelling(labels, labelling.categories))
    return ConvertedImages(output_path, num_images, classes, skipped)


def _unreadable(folder: Path, count: int, display: ProgressDisplay) -> dict[int, str]:
    """Decode every image and return the reason for each that cannot be decoded."""

    def work(number: int) -> str | None:
        try:
            decode(staged_path(folder, number))
        except UnreadableImageError as error:
            return str(error)
        return None

    with display.images(DATASET, "decoded", count) as advance:
        unreadable = {}
        for number, reason in enumerate(in_threads(work, count)):
            if reason is not None:
                unreadable[number] = reason
            advance()
    return unreadable


def _write(folder: Path, names: FileNames, labelling: Labelling) -> tuple[int, Optional[tuple[str, ...]]]:
    """Rename the images and list them, in the order of their original names; return their number and classes."""
    categories = labelling.categories
    if categories == ():
        categories = tuple(sorted({label for label in labelling.labels if label is not None}))
    index = {name: number for number, name in enumerate(categories or ())}
    taken: set[str] = set()
    count = 0
    with ImageDirectoryWriter(folder, make_schema(categories)) as writer:
        for number in sorted(range(len(names)), key=names.__getitem__):
            label = labelling.labels[number]
            if label is None:
                staged_path(folder, number).unlink()
                continue
            path = PurePosixPath(names[number])
            if categories is None:
                if str(path) in taken:  # an archive may contain two files of the same name
                    path = path.with_name(f"{path.stem}_{count}{path.suffix}")
                taken.add(str(path))
                file_name = f"image/{path}"
                item: dict[str, object] = {"image_info": {"file_name": file_name}}
            else:
                file_name = f"image/{index[label]}_{count}{path.suffix}"
                item = {"image_info": {"file_name": file_name}, "category": label}
            (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
            staged_path(folder, number).rename(folder / file_name)
            writer.add({**item, "id": count})
            count += 1
    kind = "without labels" if categories is None else f"in {len(categories)} classes"
    logger.info("%d images %s.", count, kind)
    return count, categories


def _report(outputs_path: Path, where: str, unreadable: dict[str, str], num_images: int) -> None:
    path = write_unreadable_images(outputs_path, DATASET, unreadable.items())
    logger.warning(
        "%s: skipped %d of %d images that cannot be read: %s. The full list is in %s.",
        where,
        len(unreadable),
        num_images,
        join_some([f"{name!r}: {reason}" for name, reason in unreadable.items()]),
        path,
    )
