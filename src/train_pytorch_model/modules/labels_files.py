"""Finds the files of labels among the text files of a dataset, and reads them."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from train_pytorch_model.modules.conversion_options import ConversionOptions
from train_pytorch_model.modules.label_tables import MAX_BYTES, TABLE_ENDINGS, decode_text, parse_tables
from train_pytorch_model.modules.sidecars import find_sidecars, read_sidecars
from train_pytorch_model.modules.table_labels import TableLabels, judge_rows_per_label, read_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from train_pytorch_model.modules.conversion_summary import LeftOut
    from train_pytorch_model.modules.named_images import NamedImages

_PREDICTIONS = re.compile(r"submission|prediction|predicted", re.IGNORECASE)
_LABELS = re.compile(r"label|annot|class|truth|target|tags", re.IGNORECASE)
_NUM_SAMPLES = 50
_DEFAULTS = ConversionOptions()


@dataclass
class LabelsFiles:
    """The text files of a dataset, by what they say of the images."""

    with_labels: dict[str, TableLabels] = field(default_factory=dict)
    """Files that give labels."""
    guessed: dict[str, TableLabels] = field(default_factory=dict)
    """Files that give labels in a column whose title does not say so."""
    empty: dict[str, TableLabels] = field(default_factory=dict)
    """Files that say of each of their images that it has no label."""
    unclear: dict[str, str] = field(default_factory=dict)
    """Files that name images, and may have labels that are not found; with the reason."""
    unclear_numbers: dict[str, str] = field(default_factory=dict)
    """The same, of files that have only numbers, which could count something; with the reason."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Files whose labels cannot be used; with the reason."""
    suspects: list[str] = field(default_factory=list)
    """Files that are damaged, or mention images and have no labels that are understood."""
    beside: dict[str, TableLabels] = field(default_factory=dict)
    """The labels in the files of single images."""
    unclear_beside: dict[str, str] = field(default_factory=dict)
    """Files of single images whose labels cannot be used; with the reason."""


def is_called_labels(name: str) -> bool:
    """Whether the name of a file says that it has labels."""
    return bool(_LABELS.search(PurePosixPath(name).name))


def read_labels_files(
    images: NamedImages, texts: Mapping[str, Path], left_out: LeftOut, options: ConversionOptions = _DEFAULTS
) -> LabelsFiles:
    """Read the text files of a dataset.

    Args:
        images: the images.
        texts: paths of the text files, by name.
        left_out: receives the files that say nothing of the images, or no labels.
        options: whether an image has one label or several, if that was given.
    """
    files = LabelsFiles()
    sidecars = find_sidecars(texts, images)
    contents: dict[str, _Content | str] = {}
    for name in sorted(texts):
        if name in sidecars:
            continue
        try:
            contents[name] = _read(name, texts[name], images, options)
        except (ValueError, csv.Error, RecursionError) as error:
            contents[name] = str(error)
        except (KeyError, TypeError, AttributeError) as error:
            contents[name] = f"they do not have the structure of COCO ({type(error).__name__}: {error})"
    read_contents = [content.labels for content in contents.values() if isinstance(content, _Content)]
    judge_rows_per_label(labels for labels in read_contents if labels is not None)
    for name, content in contents.items():
        if isinstance(content, str):
            _add_damaged(files, name, texts[name], content, images)
        else:
            _add(files, name, content, left_out)
    if sidecars:
        read = read_sidecars({name: texts[name] for name in sidecars}, images, options.reading)
        _add_sidecars(files, read, sidecars, left_out)
    return files


@dataclass(frozen=True)
class _Content:
    """What a file says of the images."""

    labels: TableLabels | None
    is_mentioning: bool


def _read(name: str, path: Path, images: NamedImages, options: ConversionOptions) -> _Content:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES:,} bytes")
    text = decode_text(path.read_bytes())
    tables = parse_tables(name, text, options.separator)
    found = [read for table in tables if (read := read_table(table, images, name, options.reading))]
    best = max(found, key=lambda read: (len(read.named), len(read.labels)), default=None)
    return _Content(best, best is None and _mentions_images(text, images))


def _mentions_images(text: str, images: NamedImages) -> bool:
    """Whether a text has the names of at least half of the images, or of a sample of them."""
    step = max(1, len(images) // _NUM_SAMPLES)
    names = [images.names[number].rpartition("/")[2] for number in range(0, len(images), step)]
    return sum(name in text for name in names) >= len(names) / 2


def _add_damaged(files: LabelsFiles, name: str, path: Path, reason: str, images: NamedImages) -> None:
    """Add a file that cannot be read. It is refused if it is called as a file of labels, or mentions images.

    An empty file is neither: it may be a placeholder beside the class folders.
    """
    is_table = name.lower().endswith(TABLE_ENDINGS)
    with path.open("rb") as file:
        start = file.read(MAX_BYTES // 16).decode("latin-1")
    if is_table and start.strip() and (is_called_labels(name) or _mentions_images(start.replace("\0", ""), images)):
        files.unusable[name] = reason
    else:
        files.suspects.append(name)


def _add(files: LabelsFiles, name: str, content: _Content, left_out: LeftOut) -> None:
    is_table = name.lower().endswith(TABLE_ENDINGS)
    read = content.labels
    if _PREDICTIONS.search(PurePosixPath(name).name):
        left_out.add_files("of predictions", [name])
    elif read is None and not content.is_mentioning:
        left_out.add_files("that name no image", [name])
    elif read is None or (read.faults and not is_table) or _is_suspect(read):
        files.suspects.append(name)
    elif read.faults:
        files.unusable[name] = "; ".join(read.faults)
    elif read.labels or read.missing:
        (files.with_labels if read.is_known else files.guessed)[name] = read
    elif read.has_only_empty_lists:
        files.empty[name] = read
    elif read.other_columns and is_table:
        unclear = files.unclear_numbers if read.has_only_counts else files.unclear
        unclear[name] = (
            f"none of its columns is known to hold the labels: {', '.join(read.other_columns[:10])}; {read.advice}"
        )
    else:
        left_out.add_files("without labels", [name])


def _is_suspect(read: TableLabels) -> bool:
    """Whether a table names images, and has unknown columns that are no classes as they are, such as probabilities."""
    has_labels = read.labels or read.missing or read.has_only_empty_lists
    return read.has_unknown and not (read.faults or has_labels or read.other_columns)


def _add_sidecars(files: LabelsFiles, read: TableLabels | None, sidecars: set[str], left_out: LeftOut) -> None:
    """Add the files beside single images. Those of a labeling tool give labels if each has one."""
    first = min(sidecars)
    name = first if len(sidecars) == 1 else f"{first} and {len(sidecars) - 1} other files beside images"
    if read is not None and read.is_known and read.labels and not read.faults:
        files.beside[name] = read
    elif read is not None and read.is_known and read.faults:
        files.unclear_beside[name] = "; ".join(read.faults)
    else:
        left_out.add_files("beside images, without known labels", sorted(sidecars))
        if not any(sidecar.lower().endswith(".json") for sidecar in sidecars):
            files.suspects.append(name)
