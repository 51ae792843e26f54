"""Finds the class of each image by the folders that it is in, as torchvision's ImageFolder does.

Folders around the class folders have no meaning. The class folders are the first level where the images are in several
folders; images further down belong to the class, too. If a further level could be that of the classes as well, the
folders are ambiguous, unless the level is chosen.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.classes import one_class_each
from train_pytorch_model.ports.split_names import split_of
from train_pytorch_model.text.name_forms import appearance, nfc
from train_pytorch_model.text.wording import name_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

logger = logging.getLogger(__name__)

_SMALL_FRACTION = 0.1
"""The largest fraction of the images that may lie elsewhere without making a reading of the folders doubtful."""


@dataclass(frozen=True)
class ClassFolders:
    """The classes of images by their folders."""

    labels: list[Optional[str]]
    """One per image: None for an image outside of the class folders."""
    root: Optional[str]
    """The folder of the class folders, relative to the input: empty for the input, None if a level was chosen."""


@dataclass
class _Node:
    """A folder with images in it or below it."""

    name: str
    num_direct: int = 0
    num_images: int = 0
    children: dict[str, _Node] = field(default_factory=dict)
    """By their names in NFC."""

    @property
    def is_class(self) -> bool:
        """Whether the folder has images of its own, apart from a few."""
        return self.num_direct > _SMALL_FRACTION * self.num_images


def read_class_folders(where: str, names: Sequence[str], level: int | None = None) -> ClassFolders | None:
    """Find the class folders of images.

    Args:
        where: the dataset, for messages.
        names: relative names of the images, with forward slashes.
        level: which folder on the path of an image is its class: 1 for the first, -1 for the last one; None for the
            first level where the images are in several folders.

    Returns:
        The classes; None if no image is in a folder.

    Raises:
        InvalidDatasetError: if several levels of folders could be the classes, or two classes look the same.
    """
    counts = Counter(_folder_of(name) for name in names)
    root: str | None = None
    if level is not None:
        label_of = {folder: _part(folder, level) for folder in counts}
        if not any(label_of.values()):
            hint = "Levels count from 1 for the first folder, or from -1 for the last one."
            raise InvalidDatasetError(where, f"no image has a folder of --class-level {level} on its path", hint)
    elif any(counts):
        root, level = _find_level(_tree(counts), where)
        label_of = {folder: _part(folder, level) for folder in counts}
    else:
        return None
    classes = {label for label in label_of.values() if label is not None}
    are_letters = all(len(label) == 1 for label in classes)  # "a" and "A" are different letters
    one_form = one_class_each(where, classes, alike=are_letters)
    labels = {folder: None if label is None else one_form[label] for folder, label in label_of.items()}
    return ClassFolders([labels[_folder_of(name)] for name in names], root)


def check_linked_classes(
    where: str, names: Sequence[str], labels: Sequence[str | None], links: Mapping[str, str]
) -> None:
    """Check that no class consists of images that links show in other classes, too, as a folder of all images does.

    Args:
        where: the dataset, for messages.
        names: relative names of the images.
        labels: their classes.
        links: the name of the image that a link leads to, for each image that is read through a link.

    Raises:
        InvalidDatasetError: if there is such a class.
    """
    if not links:
        return
    class_of = dict(zip(names, labels))
    counts = Counter(labels)
    shown: dict[str, dict[str, str]] = {}
    for name, original in links.items():
        label = class_of.get(original)
        if label is not None and class_of.get(name) not in (label, None):
            shown.setdefault(label, {})[original] = name
    for label, originals in shown.items():
        if len(originals) == counts[label]:
            original, name = min(originals.items())
            raise InvalidDatasetError(
                where,
                f"all images of {label!r} are read as other classes, too: {name!r} is a link to {original!r}",
                f"Remove the links, or move {label!r} out of the input and give --follow-links true.",
            )


def are_splits(names: Iterable[str]) -> bool:
    """Whether all folders of a level have names of splits, so that they are not classes."""
    return all(map(split_of, names))


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _part(folder: str, level: int) -> str | None:
    """The name of the folder at a level of a path, from 1 for the first or -1 for the last one; None if it has none."""
    parts = folder.split("/") if folder else []
    return parts[level - (level > 0)] if 0 < abs(level) <= len(parts) else None


def _tree(counts: Mapping[str, int]) -> _Node:
    top = _Node("")
    for folder, count in counts.items():
        node = top
        node.num_images += count
        for part in folder.split("/") if folder else ():
            node = node.children.setdefault(nfc(part), _Node(part))
            node.num_images += count
        node.num_direct += count
    return top


def _find_level(top: _Node, where: str) -> tuple[str, int]:
    """The folder of the class folders, and their level."""
    path, node = _first_level(top)
    level = len(path) + 1
    outer = list(node.children.values())
    if len(outer) > 1 and are_splits(node.children):
        raise InvalidDatasetError(
            where,
            f"its folders {name_some(sorted(node.children))} are splits of a dataset, not classes",
            "Give the folder of one split, or convert the dataset with convert-to-image-directory.",
        )
    inner, inner_level = _other_reading(outer, level)
    if inner:
        choices = (f"--class-level {level}", f"--class-level {inner_level}")
        names = (name_some(sorted(child.name for child in outer)), name_some(sorted(inner)))
        raise InvalidDatasetError(
            where,
            f"two levels of its folders could be the classes: {names[0]} ({choices[0]}) or {names[1]} ({choices[1]})",
            f"Choose one of them with {choices[0]} or {choices[1]} of convert-to-image-directory.",
        )
    nested = [child.name for child in outer if child.num_direct < child.num_images]
    if nested:
        logger.info("%s: images in folders below %s belong to these classes.", where, name_some(sorted(nested)))
    return "/".join(path), level


def _first_level(node: _Node) -> tuple[list[str], _Node]:
    """The first folder, at or below a folder, that has several folders, or one class; and the path to it."""
    path: list[str] = []
    while len(node.children) == 1 and not node.is_class:
        (child,) = node.children.values()
        if child.is_class:
            break
        path.append(child.name)
        node = child
    return path, node


def _other_reading(outer: Sequence[_Node], level: int) -> tuple[set[str], int]:
    """The names of folders further down that could be the classes, and their level; no names if there are none.

    They could be if, of more than a few images, the class folders have several folders and no images of their own; or
    if almost all class folders have one folder each and no images of their own.
    """
    num_images = sum(node.num_images for node in outer)
    deep = [(node, *_first_level(node)) for node in outer if not node.is_class]
    several = [node for node, _, last in deep if _are_classes(last)]
    names = {child.name for _, _, last in deep for child in last.children.values()}
    if sum(node.num_images for node in several) <= _SMALL_FRACTION * num_images:
        num_shallow = num_images - sum(node.num_images for node, _, _ in deep)
        same = all(_is_named_after(child, node) for node, _, last in deep for child in last.children.values())
        if num_shallow > _SMALL_FRACTION * num_images or len(names) < 2 or are_splits(names) or same:
            return set(), 0
    levels = {level + 1 + len(path) for _, path, _ in deep}
    if len(levels) == 1 and len(deep) == len(outer):
        return names, levels.pop()
    return {name for node in outer for name in _names_with_images(node)}, -1


def _are_classes(node: _Node) -> bool:
    return len(node.children) > 1 and not are_splits(node.children)


def _is_named_after(node: _Node, other: _Node) -> bool:
    return appearance(other.name) in appearance(node.name)


def _names_with_images(top: _Node) -> Iterator[str]:
    nodes = [top]
    while nodes:
        node = nodes.pop()
        nodes += node.children.values()
        if node.num_direct:
            yield node.name
