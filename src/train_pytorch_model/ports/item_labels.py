"""Reads the labels of the items of an image list: one class per image, or a list of labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.image_directory import MULTILABEL_CLASSIFICATION
from train_pytorch_model.ports.image_list import Columns, file_of
from train_pytorch_model.text.name_forms import nfc
from train_pytorch_model.text.wording import FirstFew, name_some, shown


class LabelReader:
    """Maps the labels of items to the indices of their categories, and collects the items with wrong labels."""

    def __init__(self, columns: Columns, where: str) -> None:
        """Prepare the search by name.

        Args:
            columns: the columns of the schema.
            where: the port and the path in messages.
        """
        self._columns = columns
        self._where = where
        self._index: dict[str | None, int] = {nfc(name): number for number, name in enumerate(columns.categories)}
        self._faults = FirstFew()
        self._has_list = False

    def read(self, number: int, item: dict[str, Any]) -> tuple[int, ...] | None:
        """Return the indices of the labels of an item: one index, or any number in a multilabel dataset.

        Args:
            number: the number of the item in the list, from 1.
            item: an item of the image list.

        Returns:
            The indices in the order of the list; None for an item that is unlabelled or has wrong labels. A label that
            occurs twice in a list counts once.
        """
        value = item.get(self._columns.label)
        labels = self._labels_of_list(value) if self._columns.multilabel else self._label_of_text(value)
        if labels is None:
            return None
        if not all(label in self._index for label in labels):
            self._faults.add(f"item {number} ({file_of(item, self._columns) or ''}) is labelled {shown(value)}")
            self._has_list |= isinstance(value, list)
            return None
        return tuple(dict.fromkeys(self._index[label] for label in labels))

    def check(self) -> None:
        """Check that all labels that were read are among the categories.

        Raises:
            InvalidDatasetError: if labels are not; the message names the first items.
        """
        if not self._faults:
            return
        categories = name_some(self._columns.categories)
        if self._columns.multilabel:
            raise InvalidDatasetError(
                self._where,
                f"labels that are not lists of the categories {categories}: {self._faults.joined()}",
                'The labels of an image must be a list, such as ["cat", "dog"] or [], and be spelled like the '
                "categories of the schema.",
            )
        hint = "Labels must be spelled like the categories of the schema."
        if self._has_list:
            hint += f" Lists of labels need the annotation_type {MULTILABEL_CLASSIFICATION} in the schema."
        raise InvalidDatasetError(
            self._where, f"labels that are not among the categories {categories}: {self._faults.joined()}", hint
        )

    def _label_of_text(self, value: Any) -> list[str | None] | None:
        """The label of an item with one class; None if it has none."""
        # The empty text is a label if a category has this name; otherwise, it means no label.
        if value is None or (value in ("", [], {}) and value != "") or (value == "" and "" not in self._index):
            return None
        return [_name(value)]

    def _labels_of_list(self, value: Any) -> list[str | None] | None:
        """The labels of an item of a multilabel dataset; None if it is unlabelled."""
        if value is None:
            return None
        return [_name(label) for label in value] if isinstance(value, list) else [None]


def _name(label: Any) -> str | None:
    """A label as it is searched among the categories; None, which is no category, for what is not text."""
    return nfc(label) if isinstance(label, str) else None


def label_matrix(indices: np.ndarray, counts: np.ndarray, num_labels: int) -> np.ndarray:
    """Return which labels each image has.

    Args:
        indices: the indices of the labels of all images, one image after another.
        counts: the number of labels of each of N images.
        num_labels: the number of all labels C.

    Returns:
        bool of shape (N, C).
    """
    matrix = np.zeros((len(counts), num_labels), dtype=bool)
    matrix[np.repeat(np.arange(len(counts)), counts), indices] = True
    return matrix
