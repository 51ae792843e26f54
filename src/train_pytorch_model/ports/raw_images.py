"""Reads raw images, in one folder per class or without labels, as Convert to Image Directory reads them.

For images that are one folder deep, the result is that of designer-core's helper, which reads no other layout.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

from train_pytorch_model.data.decoding import UnreadableImageError, read_size
from train_pytorch_model.data.threads import in_threads
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.class_folders import ClassFolders, are_splits, check_linked_classes, read_class_folders
from train_pytorch_model.ports.file_names import FileNames
from train_pytorch_model.ports.folder_files import files_below
from train_pytorch_model.ports.folders_without_images import check_folders_without_images
from train_pytorch_model.ports.image_directory import make_schema
from train_pytorch_model.ports.image_names import check_encoding, could_be_image, is_image_name
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

logger = logging.getLogger(__name__)

# Larger files are not read as annotations.
_MAX_JSON_BYTES = 2**28
_MAX_FRACTION_OUTSIDE = 0.1
_LABEL_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl")
# How much of a text is searched for how many names.
_MAX_TEXT_BYTES = 2**20
_MAX_NAMES = 100


class RawImages(NamedTuple):
    """Raw images in the form of an ImageDirectory."""

    schema: dict[str, Any]
    names: FileNames
    """Relative to the folder, sorted."""
    labels: Optional[list[str]]
    """One per image; None for images without labels."""

    def items(self) -> Iterator[dict[str, Any]]:
        """Iterate over the items of an image list. `file_name` is the name of a copy, as designer-core chooses it."""
        index = {name: number for number, name in enumerate(sorted(set(self.labels or ())))}
        for number, name in enumerate(self.names):
            if self.labels is None:
                yield {"image_info": {"base_file_name": name, "file_name": f"image/{name}"}, "id": number}
            else:
                label = self.labels[number]
                file_name = f"image/{index[label]}_{number}{PurePosixPath(name).suffix}"
                info = {"file_name": file_name, "base_file_name": name}
                yield {"image_info": info, "category": label, "id": number}


def read_raw_images(path: Path, where: str, *, labelled: bool, follow_links: bool = False) -> RawImages:
    """Read raw images.

    Args:
        path: a folder with one folder per class, or a folder of images without labels.
        where: the port and the path in messages.
        labelled: whether there must be labels. If not, images whose classes are not clear have none.
        follow_links: whether to follow links that lead out of the folder.

    Raises:
        InvalidDatasetError: if there are no images, or their classes are not clear.
    """
    names, others, links = _find_images(path, where, follow_links=follow_links)
    if not names:
        found = f", but {len(others)} other files: {name_some(others)}" if others else ""
        raise InvalidDatasetError(where, f"it has no images{found}", "Give one folder of images per class.")
    try:
        found_classes = _read_classes(path, where, names, others)
        if found_classes is not None:
            check_linked_classes(where, names, found_classes.labels, links)
    except InvalidDatasetError as error:
        if labelled:
            raise
        logger.warning("%s The images are used without labels.", error)
        found_classes = None
    if found_classes is None:
        return RawImages(make_schema(None), names, None)
    pairs = [(name, label) for name, label in zip(names, found_classes.labels) if label is not None]
    labels = [label for _, label in pairs]
    return RawImages(make_schema(sorted(set(labels))), FileNames(name for name, _ in pairs), labels)


def _find_images(path: Path, where: str, *, follow_links: bool) -> tuple[FileNames, list[str], dict[str, str]]:
    """The sorted names of the images, those of the other files, and the original of each file that is a link."""
    images: list[str] = []
    unclear: list[str] = []
    others: list[str] = []
    links = {}
    for file in files_below(path, where, follow_links=follow_links):
        if file.original:
            links[file.name] = file.original
        if is_image_name(file.name):
            images.append(file.name)
        else:
            (unclear if could_be_image(file.name) else others).append(file.name)
    are_images = in_threads(lambda index: _is_image(path / unclear[index]), len(unclear))
    for name, is_image in zip(unclear, are_images):
        (images if is_image else others).append(name)
    for name in images:
        check_encoding(name, where)
    if others:
        logger.warning("%s: skipped %d files of other kinds: %s.", where, len(others), name_some(sorted(others)))
    return FileNames(sorted(images)), sorted(others), links


def _is_image(file: Path) -> bool:
    with suppress(UnreadableImageError):
        read_size(file)
        return True
    return False


def _read_classes(path: Path, where: str, names: FileNames, others: Sequence[str]) -> ClassFolders | None:
    found = read_class_folders(where, names)
    if found is None:
        return None
    classes = {label for label in found.labels if label is not None}
    if are_splits(classes):
        raise InvalidDatasetError(
            where,
            f"its folder {name_some(sorted(classes))} is a split of a dataset, not a class",
            "Give one folder of images per class.",
        )
    if len(classes) == 1:
        _refuse_labels(path, where, names, others)
    check_folders_without_images(where, path, found.root or "", classes, others)
    outside = [name for name, label in zip(names, found.labels) if label is None]
    if len(outside) > _MAX_FRACTION_OUTSIDE * len(names):
        raise InvalidDatasetError(
            where,
            f"{len(outside)} of {len(names)} images are outside of the class folders: {name_some(outside)}",
            "Put each image into the folder of its class.",
        )
    if outside:
        logger.warning("%s: skipped %d images outside of class folders: %s.", where, len(outside), name_some(outside))
    return found


def _refuse_labels(path: Path, where: str, names: FileNames, others: Sequence[str]) -> None:
    """Refuse a text that names images, as files of labels do; the only folder of images is no class then."""
    known = {PurePosixPath(names[index]).stem for index in range(min(len(names), _MAX_NAMES))}
    for name in others:
        if name.lower().endswith(_LABEL_ENDINGS):
            with suppress(OSError), (path / name).open("rb") as file:
                words = set(re.findall(r"[^\s,;|/\\\"']+", file.read(_MAX_TEXT_BYTES).decode(errors="ignore")))
            if len(known & {PurePosixPath(word).stem for word in words}) > len(known) / 2:
                raise InvalidDatasetError(
                    where,
                    f"{name!r} names images as a file of labels does, but training reads labels from folders only",
                    "Convert it with convert-to-image-directory, or move the file away.",
                )


def has_coco_annotations(path: Path, where: str) -> bool:
    """Whether a folder has a JSON file that designer-core would read as COCO annotations of the images.

    Raises:
        InvalidDatasetError: if a JSON file is too large to be read.
    """
    for file in sorted(path.iterdir()):
        if file.suffix == ".json" and file.is_file():
            if file.stat().st_size > _MAX_JSON_BYTES:
                raise InvalidDatasetError(where, f"{file.name!r} has more than {_MAX_JSON_BYTES} bytes", "Remove it.")
            with suppress(ValueError, RecursionError):
                document = json.loads(file.read_bytes())
                if isinstance(document, dict) and document.get("images") and document.get("annotations"):
                    return True
    return False
