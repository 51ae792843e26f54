"""Reads labels from a file: COCO, an export of Azure Machine Learning data labeling, or a CSV."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.text.wording import join_some

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

ENDINGS = (".json", ".jsonl", ".csv")
# No realistic file of annotations is larger.
_MAX_BYTES = 2**30
_FILE_COLUMNS = ("file", "file_name", "filename", "image", "path")
_LABEL_COLUMNS = ("label", "category", "class")
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*/", re.IGNORECASE)


class Annotations:
    """The labels of files, by the names that a file of annotations gives them."""

    def __init__(self, labels: Iterable[tuple[str, str]], categories: Iterable[str] | None = None) -> None:
        """Strip names and labels.

        Args:
            labels: names of files and their labels; an empty label means that the file has none.
            categories: all categories, in order; None for the labels that occur, sorted.
        """
        self._labels = [(name.strip(), label.strip()) for name, label in labels if label.strip()]
        given = sorted({label for _, label in self._labels}) if categories is None else categories
        self.categories = tuple(given)

    def match(self, files: Iterable[str]) -> dict[str, str]:
        """Match the annotated names with the files that exist.

        Annotations may name a file relative to another root (`images/a.jpg`, or the URL of a datastore). Such a name
        matches the file that is its longest suffix, or else the only file with the same last component.

        Args:
            files: names of the files that exist, with forward slashes.

        Returns:
            The label of each labelled file.

        Raises:
            ValueError: if a labelled file does not exist, or has several labels.
        """
        present = set(files)
        by_last_name: dict[str, list[str]] = {}
        for file in present:
            by_last_name.setdefault(file.rpartition("/")[2], []).append(file)
        matched: dict[str, str] = {}
        missing, several = [], []
        for name, label in self._labels:
            parts = PurePosixPath(name.replace("\\", "/")).parts
            endings = ("/".join(parts[start:]) for start in range(len(parts)))
            found = next((ending for ending in endings if ending in present), None)
            namesakes = by_last_name.get(parts[-1], []) if parts else []
            found = found or (namesakes[0] if len(namesakes) == 1 else None)
            if found is None:
                missing.append(repr(name))
            elif matched.setdefault(found, label) != label:
                several.append(f"{found!r} is {matched[found]!r} and {label!r}")
        if several:
            raise ValueError(f"images of several categories: {join_some(several)}; give each image one category")
        if missing:
            raise ValueError(f"{len(missing)} labelled files do not exist: {join_some(missing)}")
        return matched


def parse_annotations(name: str, content: bytes) -> Annotations | None:
    """Parse a file that may hold annotations.

    Returns:
        The annotations; None if the file holds none.

    Raises:
        ValueError: if the annotations cannot be used.
    """
    text = content.decode("utf-8-sig")
    if name.lower().endswith(".csv"):
        return _csv(name, text)
    if name.lower().endswith(".jsonl"):
        return Annotations(_labeling_export(text))
    document = json.loads(text)
    if isinstance(document, dict) and "images" in document and "annotations" in document:
        return _coco(document)
    return None


def _coco(document: Mapping[str, Any]) -> Annotations:
    names = {entry["id"]: str(entry["name"]).strip() for entry in document.get("categories", [])}
    files = {entry["id"]: str(entry["file_name"]) for entry in document["images"]}
    labels = []
    for annotation in document["annotations"]:
        if annotation.get("category_id") not in names or annotation.get("image_id") not in files:
            raise ValueError(f"annotation {annotation.get('id')!r} refers to an undefined category or image")
        labels.append((files[annotation["image_id"]], names[annotation["category_id"]]))
    return Annotations(labels, (names[number] for number in sorted(names)))


def _labeling_export(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not JSON: {error}") from error
        address, label = (entry.get(key) if isinstance(entry, dict) else None for key in ("image_url", "label"))
        if not isinstance(address, str) or not isinstance(label, str):
            raise ValueError(f"line {number} must have strings as 'image_url' and 'label'; give each image one class")
        path = _SCHEME.sub("", address)
        yield unquote(path.partition("?")[0] if address.lower().startswith("http") else path), label


def _csv(name: str, text: str) -> Annotations | None:
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = {str(title).strip().lower(): title for title in rows.fieldnames or ()}
    file = next((columns[title] for title in _FILE_COLUMNS if title in columns), None)
    label = next((columns[title] for title in _LABEL_COLUMNS if title in columns), None)
    if file is None or label is None:
        logger.warning("%s has no labels: its columns are %s, but 'file' and 'label' are needed.", name, list(columns))
        return None
    return Annotations((row[file] or "", row[label] or "") for row in rows)


def read_annotations(where: str, files: Mapping[str, Path]) -> tuple[str, Annotations] | None:
    """Read the annotations from text files.

    Args:
        where: the dataset, for messages.
        files: paths of the text files, by name.

    Returns:
        The name of the file that holds annotations, and the annotations; None if there is no such file.

    Raises:
        InvalidDatasetError: if a file is damaged, or several files hold annotations.
    """
    found: dict[str, Annotations] = {}
    for name, path in files.items():
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"it is larger than {_MAX_BYTES:,} bytes")
            annotations = parse_annotations(name, path.read_bytes())
        except (ValueError, csv.Error, RecursionError) as error:
            raise InvalidDatasetError(where, f"the annotations in {name} cannot be used: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            reason = f"they do not have the structure of COCO ({type(error).__name__}: {error})"
            raise InvalidDatasetError(where, f"the annotations in {name} cannot be used: {reason}") from error
        if annotations is not None:
            found[name] = annotations
    if len(found) > 1:
        raise InvalidDatasetError(where, f"several files hold annotations: {', '.join(found)}", "Keep one of them.")
    return next(iter(found.items()), None)
