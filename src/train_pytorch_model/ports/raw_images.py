"""Reads raw images, in one folder per class or in one folder, as designer-core's helper reads them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from train_pytorch_model import designer_core
from train_pytorch_model.data.decoding import UnreadableImageError, read_headers, read_size
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_list import file_of
from train_pytorch_model.ports.named_files import Folder
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from train_pytorch_model.ports.image_list import Columns

logger = logging.getLogger(__name__)

# The extensions that designer-core reads; it ignores other files.
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# designer-core reads the whole first JSON file as annotations before it looks at folders.
_MAX_JSON_BYTES = 2**28


def load_raw_images(path: Path, where: str) -> Any:
    """Load raw images with designer-core's helper, after checks for what it would read by mistake.

    Args:
        path: a folder with one folder per class, or a flat folder.
        where: the port and the path in messages.

    Raises:
        InvalidDatasetError: if there are no images, or files that cannot be read safely.
    """
    folders = _folders(path)
    hidden = [name for name in folders if name.startswith(".") or name == "__MACOSX"]
    hidden = [name for name in hidden if any(_is_image(entry.name) for entry in _entries(path / name))]
    if hidden:
        raise InvalidDatasetError(
            where, f"the hidden folder {name_some(hidden)} contains images and would become a class", "Remove it."
        )
    read_headers(_image_files(path, where))
    found = _look_through(path, folders)
    try:
        directory = designer_core.load_image_directory(path)
    except MemoryError:
        raise  # not caused by the images
    except Exception as error:  # with unusual files, it can raise anything
        raise InvalidDatasetError(where, f"designer-core finds no images in it: {error}") from error
    if found.misplaced:
        logger.warning(
            "%s: only images exactly one folder deep (class/file) are used; skipped: %s.",
            where,
            name_some(found.misplaced),
        )
    if found.others:
        logger.warning("%s: skipped %d files of other kinds: %s.", where, len(found.others), name_some(found.others))
    return directory


def _image_files(path: Path, where: str) -> list[Path]:
    """List all images at any depth.

    Raises:
        InvalidDatasetError: for links out of the folder, pipes, devices and huge JSON files, which designer-core would
            read.
    """
    files = []
    root = Folder(path)
    folders = [path]
    while folders:
        folder = folders.pop()
        for entry in _entries(folder):
            name = os.path.relpath(entry.path, path)
            is_json = folder == path and entry.name.endswith(".json")
            if entry.is_symlink() and root.is_led_out(entry.path):
                if entry.is_dir() or is_json or _is_image(entry.name):
                    raise InvalidDatasetError(
                        where,
                        f"{name!r} is a link that leads out of the directory",
                        "Copy the files that it leads to (cp -rL).",
                    )
            elif entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif (is_json or _is_image(entry.name)) and not entry.is_file():
                raise InvalidDatasetError(where, f"{name!r} is not a regular file or is a broken link", "Remove it.")
            elif is_json and entry.is_file() and entry.stat().st_size > _MAX_JSON_BYTES:
                raise InvalidDatasetError(where, f"{name!r} has more than {_MAX_JSON_BYTES} bytes", "Remove it.")
            elif _is_image(entry.name):
                files.append(Path(entry.path))
    return files


def _entries(path: Path) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return list(entries)


class _Found(NamedTuple):
    """Files and folders that are not images in a class folder, relative to the dataset."""

    misplaced: list[str]
    """Folders in class folders, and images outside class folders."""
    others: list[str]
    """Files in class folders without the extension of an image."""


def _look_through(path: Path, folders: list[str]) -> _Found:
    found = _Found([], [])
    for folder in ("", *folders):
        for entry in _entries(path / folder):
            name = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                found.misplaced.extend([name] if folder else [])
            elif not _is_image(name):
                found.others.extend([name] if folder and not entry.name.startswith(".") else [])
            elif not folder:
                found.misplaced.append(name)
    return found


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in _entries(path) if entry.is_dir())


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS)


def files_not_taken(path: Path, items: list[dict[str, Any]], columns: Columns) -> tuple[tuple[str, str], ...]:
    """Return image files one folder deep that the helper skipped because Pillow cannot open them, and the reasons."""
    taken = {file_of(item, columns) for item in items}
    present = (
        f"{folder}/{entry.name}"
        for folder in _folders(path)
        for entry in _entries(path / folder)
        if entry.is_file() and _is_image(entry.name)
    )
    return tuple((name, _reason(path / name)) for name in sorted(set(present) - taken))


def _reason(file: Path) -> str:
    try:
        read_size(file)
    except UnreadableImageError as error:
        return str(error)
    return "designer-core skips it"


def items_not_taken(path: Path, directory: Any, columns: Columns) -> list[dict[str, Any]]:
    """Return items for the images that the helper skipped, so that the code that opens them reports them."""
    attributes = directory.schema["columnAttributes"]
    label = next((column["name"] for column in attributes if column["type"] == "String"), None)
    if label is None:
        taken = {file_of(item, columns) for item in directory.image_list}
        present = {file.relative_to(path).as_posix() for file in path.rglob("*") if _is_image(file.name)}
        files = sorted(present - taken)
    else:
        files = [file for file, _ in files_not_taken(path, directory.image_list, columns)]
    items: list[dict[str, Any]] = []
    for number, file in enumerate(files, start=len(directory.image_list)):
        labels = {} if label is None else {label: file.partition("/")[0]}
        items.append({columns.image_ref: {"file_name": file}, **labels, "id": number})
    return items
