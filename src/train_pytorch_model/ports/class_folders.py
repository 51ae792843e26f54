"""Finds the class of each image by the folder that it is in."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Sequence


def label_by_folders(where: str, names: Sequence[str]) -> list[Optional[str]] | None:
    """Return the class of each image, which is the name of a folder; the folders above those have no meaning.

    Args:
        where: the dataset, for messages.
        names: relative names of the images, with forward slashes.

    Returns:
        One class per image, None for an image outside of class folders; None if there are no folders.

    Raises:
        InvalidDatasetError: if the folders are ambiguous.
    """
    folders = [_folder_of(name) for name in names]
    roots = Counter(_folder_of(folder) for folder in folders if folder)
    if not roots:
        return None
    root = roots.most_common(1)[0][0]
    apart = [other for other in roots if not _is_above(other, root) and not _is_above(root, other)]
    if apart:
        raise InvalidDatasetError(
            where,
            f"several folders have class folders: {name_some(sorted([root, *apart]))}",
            "Give one of them.",
        )
    is_in_class = [bool(folder) and _folder_of(folder) == root for folder in folders]
    if sum(is_in_class) < len(names) / 2:
        raise InvalidDatasetError(
            where,
            f"{len(names) - sum(is_in_class)} of {len(names)} images are in no class folder of {root or 'the input'!r}",
            "Put each image into the folder of its class, or all images into one folder without labels.",
        )
    return [folder.rpartition("/")[2] if is_in else None for folder, is_in in zip(folders, is_in_class)]


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _is_above(folder: str, other: str) -> bool:
    return not folder or folder == other or other.startswith(folder + "/")
