"""Writes an ImageDirectory item by item, with the same bytes as designer-core's helper."""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any

from train_pytorch_model.ports.named_files import Folder
from train_pytorch_model.ports.small_files import META_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_META = """\
type: ImageDirectory
extension: {}
image_list: images.lst
samples: _samples.json
schema: _schema.json
"""
_NUM_SAMPLES = 3

CLASSIFICATION = "COCO_classification"
"""The annotation type of a label column that has the name of one class per image."""
MULTILABEL_CLASSIFICATION = "COCO_multilabel_classification"
"""The annotation type of a label column that has a list of labels per image. designer-core has no name for it."""


def make_schema(categories: Sequence[str] | None, *, multilabel: bool = False) -> dict[str, Any]:
    """Return the schema of images with one class each, with a list of labels each, or without labels.

    Args:
        categories: the names of the classes in the order of their ids; None for images without labels.
        multilabel: whether the label column has lists of labels.
    """
    columns: list[dict[str, Any]] = [
        {
            "name": "image",
            "type": "Bytes",
            "isFeature": True,
            "elementType": {"typeName": "bytes", "isNullable": False},
            "properties": {"mime_type": "image/png", "image_ref": "image_info"},
        },
        {
            "name": "id",
            "type": "Numeric",
            "isFeature": False,
            "elementType": {"typeName": "int64", "isNullable": False},
        },
    ]
    if categories is not None:
        properties = {
            "annotation_type": MULTILABEL_CLASSIFICATION if multilabel else CLASSIFICATION,
            "categories": [{"id": number, "name": name} for number, name in enumerate(categories)],
        }
        columns.append(
            {
                "name": "category",
                "type": "Object" if multilabel else "String",
                "isFeature": False,
                "elementType": {"typeName": "object" if multilabel else "str", "isNullable": False},
                "properties": properties,
            }
        )
    return {"columnAttributes": columns}


class ImageDirectoryWriter:
    """Writes the image list and the metadata for images that are already in the folder."""

    def __init__(self, folder: Path, schema: dict[str, Any]) -> None:
        """Create the image list.

        Args:
            folder: an existing folder.
            schema: the schema of the directory, from `make_schema` or another directory.
        """
        self._folder = folder
        self._files = Folder(folder)
        self._schema = schema
        self._list = (folder / "images.lst").open("w", encoding="utf-8")
        self._samples: list[dict[str, Any]] = []
        self._columns = [column["name"] for column in schema["columnAttributes"]]
        self._image_refs = {
            column["name"]: (column.get("properties") or {}).get("image_ref", "image_info")
            for column in schema["columnAttributes"]
            if (column.get("elementType") or {}).get("typeName") == "bytes"
        }

    def __enter__(self) -> ImageDirectoryWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._list.close()
        if kind is None:
            self._write_metadata()

    def add(self, item: dict[str, Any]) -> None:
        """Append an item to the image list."""
        self._list.write(json.dumps(item) + "\n")
        if len(self._samples) < _NUM_SAMPLES:
            self._samples.append({name: self._sample_value(name, item) for name in self._columns})

    def _sample_value(self, name: str, item: dict[str, Any]) -> Any:
        if name not in self._image_refs:
            return item.get(name)
        info = item.get(self._image_refs[name])
        file_name = info.get("file_name") if isinstance(info, dict) else None
        # Another column of images than the one that is read may name any file.
        if not isinstance(file_name, str) or self._files.fault_of(file_name):
            return None
        file = self._folder / file_name
        if not os.path.isfile(file):
            return None
        return base64.b64encode(file.read_bytes()).decode("ascii")

    def _write_metadata(self) -> None:
        (self._folder / "_schema.json").write_text(json.dumps(self._schema, indent=2), encoding="utf-8")
        (self._folder / "_samples.json").write_text(json.dumps(self._samples, indent=2), encoding="utf-8")
        (self._folder / META_FILE).write_text(_META, encoding="utf-8")
