"""Lists the files of a folder at any depth, and follows links."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_names import could_be_image, is_hidden, is_image_name, is_known_metadata
from train_pytorch_model.text.wording import join_some, name_some

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger(__name__)

# Texts that may hold labels; a link to one is needed as much as a link to an image.
_LABEL_ENDINGS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".xlsx")


class FolderFile(NamedTuple):
    """A file below a folder."""

    name: str
    """Relative to the folder, with forward slashes."""
    path: Path
    original: str
    """The name of the same file without the links on its path; empty without links, and for a file elsewhere."""


def files_below(path: Path, where: str, *, follow_links: bool = False) -> Iterator[FolderFile]:
    """Iterate over the files of a folder at any depth, in the order of their names, folder by folder.

    Hidden and metadata files are skipped, with a warning if they could be images. Files that are not regular, such as
    pipes, are skipped with a warning.

    Args:
        path: the folder, which may itself be reached through links.
        where: the dataset, for messages.
        follow_links: whether to follow links that lead out of the folder. Those that stay inside are followed anyway.

    Raises:
        InvalidDatasetError: if a folder cannot be read, a link is broken or leads to a folder above itself, or a link
            leads out of the folder and must not be followed.
    """
    root = os.path.realpath(path)
    folders: list[tuple[str, Path, tuple[str, ...]]] = [("", path, (root,))]
    while folders:
        prefix, folder, real_paths = folders.pop()
        entries = _entries(folder, where)
        _warn_of_hidden(entries, prefix, where)
        entries = [entry for entry in entries if not is_hidden(entry.name)]
        followed = _followed(entries, prefix, root, real_paths, where, follow_links=follow_links)
        below = []
        for entry in entries:
            name = f"{prefix}{entry.name}"
            real = followed.get(entry.name, os.path.join(real_paths[-1], entry.name))
            if real is None:
                continue
            if entry.is_dir():
                below.append((f"{name}/", Path(entry.path), (*real_paths, real)))
            elif entry.is_file() or not os.path.exists(
                entry.path
            ):  # an inaccessible file is reported when it is opened
                is_linked = real != os.path.join(root, name) and _is_within(real, root)
                yield FolderFile(name, Path(entry.path), os.path.relpath(real, root) if is_linked else "")
            else:
                # Reading a pipe would block.
                logger.warning("%s: skipped %s, which is not a regular file.", where, entry.path)
        folders += reversed(below)


def _entries(folder: Path, where: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidDatasetError(where, f"a folder cannot be read: {error}") from error


def _followed(
    entries: list[os.DirEntry[str]],
    prefix: str,
    root: str,
    real_paths: tuple[str, ...],
    where: str,
    *,
    follow_links: bool,
) -> dict[str, str | None]:
    """The real path of each link by its name; None for a link that is left out."""
    real_path_of: dict[str, str | None] = {}
    outside, broken, loops, left_out = [], [], [], []
    for entry in entries:
        if not entry.is_symlink():
            continue
        name, real = f"{prefix}{entry.name}", os.path.realpath(entry.path)
        real_path_of[entry.name] = real
        if not os.path.exists(real):
            broken.append(f"{name!r} leads to {real!r}, which does not exist")
        elif os.path.isdir(real) and any(_is_within(above, real) for above in real_paths):
            loops.append(f"{name!r} leads to {real!r}")
        elif not follow_links and not _is_within(real, root):
            if os.path.isdir(real) or _is_needed(entry.name):
                outside.append(f"{name!r} leads to {real!r}")
            else:
                left_out.append(name)
                real_path_of[entry.name] = None
    if broken:
        raise InvalidDatasetError(where, f"it has broken links: {join_some(broken)}", "Repair or remove them.")
    if loops:
        raise InvalidDatasetError(
            where, f"it has links to folders that contain the link: {join_some(loops)}", "Remove them."
        )
    if outside:
        raise InvalidDatasetError(
            where,
            f"links lead out of the directory: {join_some(outside)}",
            "Give --follow-links true to train, check or convert-to-image-directory, or copy the files (cp -rL).",
        )
    if left_out:
        logger.warning("%s: skipped links that lead out of the directory: %s.", where, name_some(left_out))
    return real_path_of


def _is_needed(name: str) -> bool:
    return is_image_name(name) or could_be_image(name) or name.lower().endswith(_LABEL_ENDINGS)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _warn_of_hidden(entries: list[os.DirEntry[str]], prefix: str, where: str) -> None:
    hidden = [entry for entry in entries if is_hidden(entry.name) and not is_known_metadata(entry.name)]
    names = [f"{prefix}{entry.name}" for entry in hidden if entry.is_dir() or is_image_name(entry.name[1:])]
    if names:
        logger.warning("%s: skipped hidden files and folders: %s.", where, name_some(names))
