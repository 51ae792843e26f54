"""Convert to Image Directory: write the images of a folder or an archive as an ImageDirectory."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.data.decoding_check import DecodingCheck
from train_pytorch_model.data.file_systems import move_file, temporary_folder
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.data.threads import in_threads
from train_pytorch_model.errors import InvalidDatasetError, UserError
from train_pytorch_model.modules.conversion_options import ConversionOptions
from train_pytorch_model.modules.conversion_summary import ConversionSummary, LeftOut, report_unreadable
from train_pytorch_model.modules.directory_copy import copy_directory
from train_pytorch_model.modules.image_layout import Labelling, find_labels
from train_pytorch_model.modules.image_sources import DATASET, files_of
from train_pytorch_model.modules.staged_images import StagedImages, staged_path
from train_pytorch_model.ports.class_folders import check_linked_classes
from train_pytorch_model.ports.directory_kinds import IMAGES
from train_pytorch_model.ports.folders_without_images import check_folders_without_images
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter, make_schema
from train_pytorch_model.ports.image_list import is_image_directory
from train_pytorch_model.ports.output_directory import OutputDirectory
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from train_pytorch_model.console.progress import ProgressDisplay
    from train_pytorch_model.modules.merged_labels import Label
    from train_pytorch_model.ports.file_names import FileNames

logger = logging.getLogger(__name__)

_DEFAULTS = ConversionOptions()
# What common file systems take.
_MAX_NAME_BYTES = 255
_MAX_SUFFIX = 20


@dataclass(frozen=True)
class ConvertedImages:
    """The output of Convert to Image Directory."""

    output_path: Path
    num_images: int
    classes: Optional[tuple[str, ...]]
    """In the order of their ids; None for images without labels."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Files that could not be read, with the reason."""
    labels_from: tuple[str, ...] = ()
    """The files that gave the labels; empty if the folders did, or if there are none."""
    task: Optional[str] = None
    """"multiclass" if each image has one label, "multilabel" if it has a list; None for images without labels."""


def convert_to_image_directory(
    input_path: Path,
    output_path: Path,
    *,
    options: ConversionOptions = _DEFAULTS,
    outputs_path: Path,
    display: ProgressDisplay,
) -> ConvertedImages:
    """Write the images of a folder or an archive as an ImageDirectory. The input is only read.

    Args:
        input_path: one folder per class, or a flat folder, either with an optional file of annotations; an archive of
            one of these; or an ImageDirectory, which is copied.
        output_path: the ImageDirectory to write.
        options: what is converted, and what may be left out.
        outputs_path: the folder of reports, where the summary and the list of unreadable images are written.
        display: shows the progress.

    Returns:
        The number of images, the classes, the skipped files and the files of labels.

    Raises:
        ModuleError: if there is no image that can be converted, too much would be left out, a file of labels cannot be
            used, or the output cannot be written.
    """
    output = OutputDirectory(output_path, "Image directory", IMAGES)
    output.check((input_path,), outputs_path)
    skipped: dict[str, str] = {}
    with output.writing() as folder:
        if input_path.is_dir() and is_image_directory(input_path):
            if options.split is not None:
                raise UserError(f"--split {options.split}: {input_path} is an ImageDirectory, which has no splits.")
            summary, skipped = copy_directory(input_path, folder, options, outputs_path, display)
        else:
            summary, skipped = _convert(input_path, folder, options, outputs_path, display)
        summary.log()
        logger.info("Wrote the summary of the conversion to %s.", summary.write(outputs_path))
    logger.info("Saved the image directory to %s.", output_path)
    return ConvertedImages(
        output_path,
        summary.num_images,
        None if summary.classes is None else tuple(summary.classes),
        skipped,
        summary.labels_from,
        None if summary.task is None else summary.task.name,
    )


def _convert(
    input_path: Path, folder: Path, options: ConversionOptions, outputs_path: Path, display: ProgressDisplay
) -> tuple[ConversionSummary, dict[str, str]]:
    """Convert a folder or an archive.

    Returns:
        The summary, and the reason for each image that cannot be read.
    """
    where = f"{DATASET} {input_path}"
    left_out = LeftOut()
    with temporary_folder("annotations-") as texts_folder:
        staged = StagedImages(folder, texts_folder, where)
        with display.images(DATASET, "copied") as advance:
            for file in files_of(input_path, options, left_out):
                if staged.add(file):
                    advance()
        if not staged.names:
            found = f", but {len(staged.others)} other files: {name_some(staged.others)}" if staged.others else ""
            raise InvalidDatasetError(where, f"no image was found{found}")
        left_out.add_files("of other kinds", staged.others)
        labelling = find_labels(where, staged.names, staged.texts, staged.others, options, left_out)
        if labelling.folders:
            check_linked_classes(where, staged.names, labelling.folders, staged.links)
        if labelling.class_root is not None and not options.allow_partial:
            names = set(filter(None, labelling.folders))
            check_folders_without_images(where, input_path, labelling.class_root, names, staged.others)
    left_out.log(where)
    wanted = [number for number, label in enumerate(labelling.labels) if label is not None]
    unreadable = {**_unreadable(folder, wanted, display), **staged.unreadable}
    skipped = {staged.names[number]: reason for number, reason in sorted(unreadable.items())}
    lost = [staged.names[number] for number in wanted if number in unreadable]
    report_unreadable(outputs_path, where, skipped, len(staged.names), is_all=len(lost) == len(wanted))
    left_out.add_images("that cannot be read", lost, is_loss=not options.skip_unreadable_images)
    labels = [None if number in unreadable else label for number, label in enumerate(labelling.labels)]
    num_kept = len(wanted) - len(lost)
    counts = Counter(_all_labels(labels))
    if not options.allow_partial:
        before = dict.fromkeys(_all_labels(labels if options.skip_unreadable_images else labelling.labels))
        faults = [f"{name!r}: {skipped[name]}" for name in lost]
        left_out.check(where, before, counts, num_kept, faults)
    classes = _write(folder, staged.names, replace(labelling, labels=labels))
    by_class = None if classes is None else {name: counts[name] for name in classes}
    num_without_label = sum(label == () for label in labels)
    summary = ConversionSummary(
        by_class, num_kept, labelling.labels_from, options.split, left_out, labelling.task, num_without_label
    )
    return summary, skipped


def _all_labels(labels: Iterable[Optional[Label]]) -> Iterator[str]:
    """The labels of all images, each as often as it occurs."""
    for label in labels:
        if label is not None:
            yield from (label,) if isinstance(label, str) else label


def _unreadable(folder: Path, numbers: Sequence[int], display: ProgressDisplay) -> dict[int, str]:
    """Decode the images with these numbers and return the reason for each that cannot be decoded."""
    check = DecodingCheck()

    def work(index: int) -> str:
        return check.fault_of(staged_path(folder, numbers[index]))

    with display.images(DATASET, "decoded", len(numbers)) as advance:
        unreadable = {}
        for number, reason in zip(numbers, in_threads(work, len(numbers))):
            if reason:
                unreadable[number] = reason
            advance()
    return unreadable


def _write(folder: Path, names: FileNames, labelling: Labelling) -> Optional[tuple[str, ...]]:
    """Rename the images and list them, in the order of their original names; return the classes."""
    categories = labelling.categories
    if categories == ():
        categories = tuple(sorted(set(_all_labels(labelling.labels))))
    index = {name: number for number, name in enumerate(categories or ())}
    count = 0
    is_multilabel = labelling.task is not None and labelling.task.name == MULTILABEL
    with ImageDirectoryWriter(folder, make_schema(categories, multilabel=is_multilabel)) as writer:
        for number in sorted(range(len(names)), key=names.__getitem__):
            label = labelling.labels[number]
            if label is None:
                staged_path(folder, number).unlink()
                continue
            path = PurePosixPath(names[number])
            if categories is None:
                file_name = f"image/{_free_name(folder / 'image', path, count)}"
                item: dict[str, object] = {"image_info": {"file_name": file_name}}
            elif isinstance(label, tuple):
                file_name = f"image/{count}{path.suffix[:_MAX_SUFFIX]}"
                item = {"image_info": {"file_name": file_name}, "category": list(label)}
            else:
                file_name = f"image/{index[label]}_{count}{path.suffix[:_MAX_SUFFIX]}"
                item = {"image_info": {"file_name": file_name}, "category": label}
            (folder / file_name).parent.mkdir(parents=True, exist_ok=True)
            move_file(staged_path(folder, number), folder / file_name)
            writer.add({**item, "id": count})
            count += 1
    return categories


def _free_name(folder: Path, path: PurePosixPath, number: int) -> PurePosixPath:
    """The name of an image without a label: its own, unless it is too long for a file or differs only in case."""
    if max(map(len, map(os.fsencode, path.parts))) > _MAX_NAME_BYTES:  # in an archive, names may be longer
        stem = path.stem.encode(errors="replace")[: _MAX_NAME_BYTES // 2].decode(errors="ignore")
        return PurePosixPath(f"{stem}_{number}{path.suffix[:_MAX_SUFFIX]}")
    while os.path.lexists(folder / path):  # on a file system without case
        path = path.with_name(f"{path.stem}_{number}{path.suffix}")
    return path
