"""Scored datasets: DataFrameDirectories with probabilities, scored labels and true labels."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from train_pytorch_model.errors import InvalidDatasetError, NotLabeledDatasetError
from train_pytorch_model.ports.small_files import META_FILE, find_meta_file, read_meta, read_text
from train_pytorch_model.text.wording import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

PROBABILITIES = "Scored Probabilities_"
SCORED_LABELS = "Scored Labels"
# The keys of the column of scored labels in the schema. The designer only knows the first.
_ONE_LABEL = "Multi Class Assigned Labels"
_SEVERAL_LABELS = "Multi Label Assigned Labels"
# The key of the label of unknown images in the metadata of the Parquet file, which the designer does not read.
_UNKNOWN_LABEL = b"unknown_label"
_META = """\
type: DataFrameDirectory
visualization:
- type: Visualization
  path: _data.visualization
extension: {}
format: Parquet
data: _data.parquet
samples: _samples.json
schema: schema/_schema.json
"""
# Much more than a schema of a million columns needs.
_MAX_SCHEMA_BYTES = 2**28
# The designer shows only the first rows and columns of a table.
_NUM_SHOWN_ROWS = 100
_NUM_SHOWN_COLUMNS = 100
_NUM_SAMPLES = 3
_STATISTICS = ("Mean", "Median", "Min", "Max", "Standard Deviation", "Unique Values", "Missing Values")
# The designer's type of a column, the type of its elements, and the Parquet type.
_KINDS = {
    "boolean": ("Binary", "bool", pa.bool_()),
    "integer": ("Numeric", "int64", pa.int64()),
    "floating": ("Numeric", "float64", pa.float64()),
    "string": ("String", "str", pa.string()),
}
_OTHER_KIND = ("Object", "object", None)


@dataclass(frozen=True)
class ScoredTable:
    """The columns of a scored dataset that evaluation needs."""

    classes: tuple[str, ...]
    """The names of the classes, in the order of the columns."""
    probabilities: np.ndarray
    """float64 of shape (N, C); NaN for images that could not be scored."""
    true_labels: np.ndarray
    """Objects of shape (N,): the class as text, or a tuple of labels; None for images without a label."""
    scored_labels: np.ndarray | None = None
    """Objects of shape (N,): tuples of the labels that the model found, None for images that could not be scored. None
    for one class per image."""
    unknown_label: str | None = None
    """The label of images that are unknown because their highest probability is low; None if there is no such label."""
    is_unknown: np.ndarray | None = None
    """Whether each image has that label: bool of shape (N,). None if there is no such label."""

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.scored_labels is not None

    @property
    def is_scored(self) -> np.ndarray:
        """Whether each row has probabilities: bool of shape (N,)."""
        is_scored = ~np.isnan(self.probabilities).any(axis=1)
        if self.scored_labels is not None:
            is_scored &= [labels is not None for labels in self.scored_labels]
        return np.asarray(is_scored)

    @property
    def is_labelled(self) -> np.ndarray:
        """Whether each row has a true label: bool of shape (N,)."""
        return np.array([label is not None for label in self.true_labels], dtype=bool)


def read_scored_table(path: Path) -> ScoredTable:
    """Read the output of Score Image Model.

    Raises:
        NotLabeledDatasetError: if it has no column of true labels.
        InvalidDatasetError: if it cannot be used for another reason.
    """
    where = f"Scored dataset {path}"
    try:
        meta = read_meta(path, "DataFrameDirectory")
        data_path = find_meta_file(path, meta, "data")
        table = pd.read_parquet(data_path)
        schema = json.loads(read_text(find_meta_file(path, meta, "schema"), _MAX_SCHEMA_BYTES))
        scores = [name for name in schema["scoreColumns"].values() if str(name).startswith(PROBABILITIES)]
        true_column = schema["labelColumns"].get("True Labels")
        found_column = schema["scoreColumns"].get(_SEVERAL_LABELS)
        probabilities = table[scores].to_numpy(dtype=np.float64)
        found = None if found_column is None else _read_lists(table[found_column])
        unknown_label = (pq.read_schema(data_path).metadata or {}).get(_UNKNOWN_LABEL, b"").decode() or None
        is_unknown = None
        if unknown_label is not None:
            is_unknown = (table[schema["scoreColumns"][_ONE_LABEL]] == unknown_label).to_numpy(dtype=bool)
    except (ValueError, KeyError, OSError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidDatasetError(where, str(error), "Give the output of a Score Image Model step.") from error
    if not scores:
        raise InvalidDatasetError(where, f"it has no column whose name begins with {PROBABILITIES!r}")
    if not isinstance(true_column, str) or true_column not in table:
        raise NotLabeledDatasetError(where, "Score images that have labels.")
    classes = tuple(str(name)[len(PROBABILITIES) :] for name in scores)
    if found is not None:
        try:
            return ScoredTable(classes, probabilities, _read_lists(table[true_column]), found)
        except ValueError as error:
            hint = "Score a dataset whose images have lists of labels."
            raise InvalidDatasetError(where, str(error), hint) from error
    # The retired module wrote labels that look like numbers as numbers. They are compared as text.
    column = table[true_column]
    labels = _objects(None if is_none else str(label) for label, is_none in zip(column, column.isna()))
    return ScoredTable(classes, probabilities, labels, unknown_label=unknown_label, is_unknown=is_unknown)


def _read_lists(column: pd.Series[Any]) -> np.ndarray:
    """Read lists of labels from JSON text: tuples of text, None for missing values; objects of shape (N,).

    Raises:
        ValueError: if a value is not a list of text.
    """

    def parse(row: int, value: Any) -> tuple[str, ...]:
        try:
            labels = json.loads(value)
        except (TypeError, ValueError, RecursionError):
            labels = None
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError(f"row {row} of {shown(column.name)} is {shown(value)}, not a list of labels as JSON text")
        return tuple(labels)

    are_none = column.isna()
    return _objects(
        None if is_none else parse(row, value) for row, (value, is_none) in enumerate(zip(column, are_none), start=1)
    )


def _objects(values: Iterable[object]) -> np.ndarray:
    """Return an array of shape (N,), even if all objects are tuples of one length."""
    listed = list(values)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array


def check_column(name: str, values: Sequence[Any]) -> None:
    """Check that values can be written as a column.

    Raises:
        ValueError: if no type of column fits all values.
    """
    try:
        pa.array(values, type=_kind(values)[2], from_pandas=True)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise ValueError(
            f"the values of {shown(name)} cannot be written as a column of a table: {str(error)[:200]}"
        ) from error


def write_scored_table(
    folder: Path,
    columns: Mapping[str, Sequence[Any]],
    label_column: str | None,
    *,
    is_multilabel: bool = False,
    unknown_label: str | None = None,
) -> None:
    """Write a table with its schema and its visualization for the designer, as the retired module did.

    Args:
        folder: an empty folder.
        columns: the values of each column, all of the same length. `Scored Probabilities_…` and `Scored Labels` are
            the scores.
        label_column: the name of the column of true labels; None if there is none.
        is_multilabel: whether scored and true labels are lists, as JSON text.
        unknown_label: the scored label of unknown images; None if there are none.
    """
    kinds = {name: _kind(values) for name, values in columns.items()}
    arrays = [pa.array(values, type=kinds[name][2], from_pandas=True) for name, values in columns.items()]
    metadata = None if unknown_label is None else {_UNKNOWN_LABEL: unknown_label.encode()}
    pq.write_table(pa.table(arrays, names=list(columns), metadata=metadata), folder / "_data.parquet")
    scores = {name: name for name in columns if name.startswith(PROBABILITIES)}
    scores[_SEVERAL_LABELS if is_multilabel else _ONE_LABEL] = SCORED_LABELS
    labels = {} if label_column is None else {"True Labels": label_column}
    attributes = [
        {
            "name": name,
            "type": kind,
            "isFeature": name not in {*labels.values(), *scores.values()},
            "elementType": {"typeName": element, "isNullable": False},
        }
        for name, (kind, element, _) in kinds.items()
    ]
    schema = {"columnAttributes": attributes, "featureChannels": [], "labelColumns": labels, "scoreColumns": scores}
    (folder / "schema").mkdir()
    _write_json(folder / "schema" / "_schema.json", schema)
    samples = [
        {name: _shown(values[row]) for name, values in columns.items()}
        for row in range(_num_rows(columns, _NUM_SAMPLES))
    ]
    _write_json(folder / "_samples.json", samples)
    _write_json(folder / "_data.visualization", _visualization(columns, attributes, labels, scores))
    (folder / META_FILE).write_text(_META, encoding="utf-8")


def _kind(values: Sequence[Any]) -> tuple[str, str, Any]:
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return _KINDS["floating"]
    found = pd.api.types.infer_dtype(values, skipna=True)
    return _KINDS.get({"empty": "string", "mixed-integer-float": "floating"}.get(found, found), _OTHER_KIND)


def _num_rows(columns: Mapping[str, Sequence[Any]], limit: int) -> int:
    return min(limit, len(next(iter(columns.values()))))


def _shown(value: Any) -> Any:
    """Convert a value to what the designer expects in JSON."""
    if isinstance(value, float) and math.isnan(value):
        return {"isNan": True}
    return value.item() if isinstance(value, np.generic) else value


def _visualization(
    columns: Mapping[str, Sequence[Any]],
    attributes: Sequence[dict[str, Any]],
    labels: Mapping[str, str],
    scores: Mapping[str, str],
) -> dict[str, Any]:
    shown = list(columns)[:_NUM_SHOWN_COLUMNS]
    num_rows = len(next(iter(columns.values())))
    rows = range(_num_rows(columns, _NUM_SHOWN_ROWS))
    roles = {**dict.fromkeys(scores.values(), "Score"), **dict.fromkeys(labels.values(), "Label")}
    features = [
        (item["name"], item["elementType"]["typeName"], f"{item['type']} {roles.get(item['name'], 'Feature')}")
        for item in attributes[:_NUM_SHOWN_COLUMNS]
    ]
    statistics = [(name, "float64", "Numeric Feature") for name in _STATISTICS]
    layout = [(name, "object", "Object Feature") for name in ("Histogram", "Boxplot")]
    records = [[_shown(columns[name][row]) for name in shown] for row in rows]
    return {
        "visualizationType": "default",
        "data": _part(records, features, num_rows, len(columns)),
        "statistics": _part(
            [[{"isNan": True}] * len(statistics)] * len(shown), statistics, len(columns), len(statistics)
        ),
        "layout": _part([[None] * len(layout)] * len(shown), layout, len(columns), len(layout)),
    }


def _part(
    records: list[list[Any]], features: Iterable[tuple[str, str, str]], num_rows: int, num_columns: int
) -> dict[str, Any]:
    return {
        "records": records,
        "features": [
            {"name": name, "index": index, "elementType": element, "featureType": kind}
            for index, (name, element, kind) in enumerate(features)
        ],
        "numberOfRows": num_rows,
        "numberOfColumns": num_columns,
        "name": None,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
