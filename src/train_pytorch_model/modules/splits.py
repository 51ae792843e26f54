"""Finds the folders that are splits of a dataset (train, valid, test), and not classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional

from train_pytorch_model.ports.split_names import split_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_MIN_FRACTION = 0.9
"""The smallest fraction of all images in a level of folders that can be that of the splits."""


@dataclass(frozen=True)
class Splits:
    """The split of each image, and its path without the folders of the splits."""

    folders: list[Optional[str]]
    """The folder of the outermost split of each image, by its name; None for an image outside of them."""
    names: list[str]
    """The names of the images without the folders of the splits."""
    paths: frozenset[str]
    """The paths of these folders, relative to the input."""
    wrapping: str
    """As many folders as were taken out of the front of the names, so that the levels of the others can be counted."""


def find_splits(names: Sequence[str]) -> Splits:
    """Find the levels of folders whose folders are all called as splits are.

    Args:
        names: relative names of the images, with forward slashes.
    """
    paths = [name.split("/") for name in names]
    deepest = max((len(path) for path in paths), default=1) - 1
    levels = [level for level in range(deepest) if _is_level_of_splits(paths, level)]
    folders: list[Optional[str]] = []
    rest = []
    split_paths = set()
    for path in paths:
        own = [level for level in levels if level < len(path) - 1]
        folders.append(path[own[0]] if own else None)
        rest.append("/".join(part for level, part in enumerate(path) if level not in own))
        if own:
            split_paths.add("/".join(path[: own[0] + 1]))
    num_outer = sum(1 for level in levels if _is_outer(paths, levels, level))
    return Splits(folders, rest, frozenset(split_paths), "split/" * num_outer)


def _is_level_of_splits(paths: Sequence[Sequence[str]], level: int) -> bool:
    """Whether all folders of a level are called as splits are, and hardly any image is outside of them."""
    counts = Counter(path[level] for path in paths if len(path) > level + 1)
    return all(map(split_of, counts)) and sum(counts.values()) >= _MIN_FRACTION * len(paths)


def _is_outer(paths: Sequence[Sequence[str]], levels: Sequence[int], level: int) -> bool:
    """Whether all levels above one are those of splits, or of one folder."""
    return all(above in levels or len({path[above] for path in paths}) == 1 for above in range(level))
