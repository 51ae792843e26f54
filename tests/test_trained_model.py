from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from tests.making import paths_of, write_class_folders
from train_pytorch_model.data.image_geometry import GEOMETRY_FILE, Geometry
from train_pytorch_model.errors import TRAINED_MODEL, InvalidModelDirectoryError
from train_pytorch_model.models.description import describe
from train_pytorch_model.ports.classes import LABELS_READ_AS_MISSING
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.trained_model import label_map, write_trained_model
from train_pytorch_model.ports.untrained_model import read_model


def write(tmp_path: Path, **how: Any) -> Path:
    train = read_labelled_images(write_class_folders(tmp_path / "data"), "Training dataset")
    description = describe("torchvision.models", "squeezenet1_1", {"num_classes": 3})
    folder = tmp_path / "model"
    values = {"is_cuda": False, "include_samples": False, **how}
    write_trained_model(folder, description.build(), description, train, (32, 32), **values)
    return folder


def test_the_directory_has_all_that_score_needs(tmp_path: Path) -> None:
    folder = write(tmp_path)
    yaml = YAML(typ="safe")
    assert yaml.load(folder / "_meta.yaml") == {
        "type": "ModelDirectory",
        "extension": {},
        "model": "model_spec.yaml",
        "registerModel": True,
        "modelOutputPath": "trained_model_outputs",
    }
    spec = yaml.load(folder / "model_spec.yaml")
    assert spec["flavor"] == {"name": "pytorch", "serialization_method": "state_dict"}
    assert spec["flavor_extras"] == {
        "module": "torchvision.models",
        "class": "squeezenet1_1",
        "is_cuda": False,
        "init_params": {"num_classes": 3},
    }
    assert spec["task_type"] == "MultiClassification"
    assert spec["inputs"][0]["name"] == "image"
    assert spec["inputs"][0]["pre_processor"]["class"] == "ImageNormalizer"
    assert spec["inputs"][0]["pre_processor"]["init_params"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    # Read as text, for a time that YAML understands breaks Score.
    assert "+0000" in spec["time_created"]
    state = torch.load(folder / spec["model_file"], weights_only=True)
    assert {value.device.type for value in state.values()} == {"cpu"}


def test_without_asking_no_training_image_is_shipped(tmp_path: Path) -> None:
    (sample,) = json.loads((write(tmp_path) / "_samples.json").read_text())
    with Image.open(io.BytesIO(base64.b64decode(sample["image"]))) as image:
        assert image.size == (32, 32)
        assert image.getextrema() == ((0, 0),) * 3
    assert sample["category"] == "cat"


def test_samples_on_request_are_the_original_bytes(tmp_path: Path) -> None:
    samples = json.loads((write(tmp_path, include_samples=True) / "_samples.json").read_text())
    train = read_labelled_images(tmp_path / "data", "Training dataset")
    assert [base64.b64decode(sample["image"]) for sample in samples] == [
        path.read_bytes() for path in paths_of(train)[:3]
    ]


@pytest.mark.parametrize(
    "labels",
    [
        ("007", "01", "10"),
        ("1e3", "2", "3.5"),
        ("True", "False"),
        ("0", "1"),
        ("cat", "007", "1e3"),
        ("a,b", 'say "hi"', "two\nlines", " spaced ", "ünï"),
        ("1", "(labels are text)"),
        ("1", "NA"),
        ("NA", "null"),
    ],
)
def test_pandas_reads_every_label_as_it_is_written(labels: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    rows = label_map(labels)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("", "label"), *rows.items()])
    read = pd.read_csv(path, index_col=0)["label"]
    for index, label in enumerate(labels):
        if label not in LABELS_READ_AS_MISSING:
            assert read[index] == label
            assert isinstance(read[index], str)
    assert len(set(rows.values())) == len(rows)


def test_labels_that_need_no_help_get_none() -> None:
    assert label_map(("cat", "dog")) == {0: "cat", 1: "dog"}


def test_the_labels_warned_of_are_those_that_pandas_reads_as_missing(tmp_path: Path) -> None:
    candidates = [*sorted(LABELS_READ_AS_MISSING), "missing", "nil", "NAN", "none", "-", "?", "Null"]
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("", "label"), *enumerate(candidates), (len(candidates), "text")])
    read = pd.read_csv(path, index_col=0)["label"]
    assert {label for index, label in enumerate(candidates) if pd.isna(read[index])} == LABELS_READ_AS_MISSING


def test_geometry_and_normalisation_of_the_run_are_in_the_model(tmp_path: Path) -> None:
    geometry = Geometry.crop((48, 64), 0.875, interpolation="bicubic", orients=True, scales_values=True)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    folder = write(tmp_path, geometry=geometry, mean=mean, std=std)
    model = read_model(folder, TRAINED_MODEL, "", trust_code=False)
    assert model.geometry == geometry
    assert model.normalisations == {"image": (list(mean), list(std))}
    (sample,) = json.loads((folder / "_samples.json").read_text())
    with Image.open(io.BytesIO(base64.b64decode(sample["image"]))) as image:
        assert image.size == (64, 48)


@pytest.mark.parametrize("geometry", [None, Geometry((32, 32))])
def test_a_model_that_takes_images_as_they_are_has_no_geometry(geometry: Geometry | None, tmp_path: Path) -> None:
    folder = write(tmp_path, geometry=geometry)
    assert not (folder / GEOMETRY_FILE).exists()
    assert read_model(folder, TRAINED_MODEL, "", trust_code=False).geometry is None


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "1e999", "[" * 100_000, '{"size": 3}', '{"size": [0, 8]}', '{"size": ["a", "b"]}'),
        *('{"size": [8, 8], "resize": "zoom"}', '{"size": [8, 8], "newer": 1}', '{"size": [8, 8], "cover": [4, 4]}'),
        *('{"size": [100000000, 100000000]}', '{"size": [1e999, 8]}', '{"size": [8, 8], "orients": "no"}'),
    ],
)
def test_a_damaged_geometry_is_named(content: str, tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / GEOMETRY_FILE).write_text(content)
    with pytest.raises(InvalidModelDirectoryError, match=r"image_geometry\.json.* is damaged"):
        read_model(folder, TRAINED_MODEL, "", trust_code=False)
