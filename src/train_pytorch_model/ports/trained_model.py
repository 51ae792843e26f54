"""Writes the port "Trained model": a ModelDirectory for Score Image Model."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from train_pytorch_model import designer_core
from train_pytorch_model.data.model_task import MULTILABEL, Task
from train_pytorch_model.ports.geometry_file import write_geometry
from train_pytorch_model.ports.task_file import LABELS_ARE_TEXT, ONE_CLASS, write_task
from train_pytorch_model.serving.exports import export
from train_pytorch_model.serving.files import write_serving_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from train_pytorch_model.data.image_geometry import Geometry
    from train_pytorch_model.models.description import NetworkDescription
    from train_pytorch_model.ports.labelled_images import LabelledImages

# The retired module's normalization, which maps pixels from [0, 1] to [-1, 1].
MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)

_NUM_SAMPLES = 3


def write_trained_model(
    folder: Path,
    network: nn.Module,
    description: NetworkDescription,
    train: LabelledImages,
    image_size: tuple[int, int],
    *,
    is_cuda: bool,
    include_samples: bool,
    geometry: Geometry | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    code_folders: tuple[str, ...] = (),
    export_formats: tuple[str, ...] = (),
    thresholds: tuple[float, ...] = (),
) -> None:
    """Write a trained network with everything that scoring needs.

    Args:
        folder: an empty folder.
        network: the trained network on the CPU.
        description: the description that builds the same network.
        train: the training dataset, for labels, image column and schema.
        image_size: (height, width) of the images that the network was trained on, in pixels.
        is_cuda: whether the network was trained on a GPU. If so, Score Image Model uses a GPU if there is one.
        include_samples: whether `_samples.json` contains three training images; otherwise it contains a blank image.
        geometry: how images of any size become what the network sees; None if it sees them as they are.
        mean: the mean of each channel, for pixels in [0, 1]. Score Image Model reads it from the model.
        std: the standard deviation of each channel, likewise.
        code_folders: folders of code that the network needs.
        export_formats: additional formats to write, "mlflow" or "onnx".
        thresholds: of each label if images may have several labels, in [0, 1]; by default, 0.5 each.
    """
    task = ONE_CLASS
    if train.task == MULTILABEL:
        task = Task(MULTILABEL, dict(zip(train.classes, thresholds or [0.5] * len(train.classes))))
    designer_core.dump_trained_model(
        folder,
        network,
        description.flavor_extras(is_cuda=is_cuda),
        image_column=train.image_column,
        index_to_label=label_map(train.classes),
        mean=list(mean),
        std=list(std),
        local_dependencies=list(code_folders) or None,
        is_multilabel=task.is_multilabel,
    )
    write_task(folder, task)
    (folder / "_schema.json").write_text(json.dumps(train.schema, indent=2), encoding="utf-8")
    write_geometry(folder, geometry)
    if geometry is not None and geometry.resize != "none":
        image_size = geometry.size
    samples = _samples(train) if include_samples else [_blank_sample(train, image_size)]
    (folder / "_samples.json").write_text(json.dumps(samples, indent=2), encoding="utf-8")
    write_serving_files(folder, description)
    what: dict[str, Any] = {
        "labels": list(train.classes),
        "mean": list(mean),
        "std": list(std),
        "image_size": image_size,
        "geometry": geometry,
        "task": task if task.is_multilabel else None,
    }
    for name in export_formats:
        export(name, folder, network, description, **what)


def label_map(classes: tuple[str, ...]) -> dict[int, str]:
    """Return the rows of `index_to_label.csv`, such that pandas reads all labels as text.

    Score Image Model reads the file with pandas, which converts a column that contains only labels such as `007`, `1e3`
    or `True` to numbers or booleans. An extra row of text after the last class prevents this.
    """
    rows = dict(enumerate(classes))
    text = io.StringIO()
    csv.writer(text).writerows([("", "label"), *rows.items()])
    text.seek(0)
    guessed = pd.read_csv(text, index_col=0)["label"]
    if not all(isinstance(value, str) for value in guessed.dropna()) or guessed.isna().all():
        rows[len(classes)] = LABELS_ARE_TEXT
    return rows


def _sample(train: LabelledImages, number: int, image: bytes) -> dict[str, Any]:
    values: dict[str, Any] = {
        "image": base64.b64encode(image).decode(),
        "id": number,
        "category": train.label_of(number),
    }
    by_type = {"bytes": "image", "int64": "id", "str": "category"}
    columns = train.schema["columnAttributes"]
    return {column["name"]: values[by_type.get(column["elementType"]["typeName"], "category")] for column in columns}


def _samples(train: LabelledImages) -> list[dict[str, Any]]:
    numbers = range(min(_NUM_SAMPLES, len(train)))
    return [_sample(train, number, train.path_of(number).read_bytes()) for number in numbers]


def _blank_sample(train: LabelledImages, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return a black image of the right size, which shows the format of a request but no training image."""
    blank = io.BytesIO()
    Image.new("RGB", (image_size[1], image_size[0])).save(blank, format="PNG")
    return _sample(train, 0, blank.getvalue())
