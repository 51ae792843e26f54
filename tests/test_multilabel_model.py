"""The trained model of several labels per image: what it contains, and who reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests import environments
from tests.making import CLASSES, write_image_directory
from train_pytorch_model.errors import TRAINED_MODEL, InvalidModelDirectoryError
from train_pytorch_model.job.trained_head import has_head_for
from train_pytorch_model.models.description import describe
from train_pytorch_model.ports.labelled_images import LabelledImages, read_labelled_images
from train_pytorch_model.ports.trained_model import write_trained_model
from train_pytorch_model.ports.untrained_model import read_model

THRESHOLDS = (0.1, 0.5, 0.7251)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> LabelledImages:
    path = write_image_directory(tmp_path_factory.mktemp("images") / "data", per_class=2, size=64)
    one_each = read_labelled_images(path, "Training dataset")
    labels = np.eye(3, dtype=bool)[one_each.labels]
    labels[0] = False
    labels[1] = True
    return replace(one_each, labels=labels)


@pytest.fixture(scope="module")
def written(images: LabelledImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "model"
    write(folder, images, thresholds=THRESHOLDS)
    return folder


def write(folder: Path, images: LabelledImages, **how: object) -> None:
    description = describe("torchvision.models", "resnet18", {"num_classes": 3})
    values = {"is_cuda": False, "include_samples": True, **how}
    write_trained_model(folder, description.build(), description, images, (64, 64), **values)  # type: ignore[arg-type]


def test_the_task_and_the_thresholds_are_in_the_model(written: Path) -> None:
    content = {"task": "multilabel", "thresholds": dict(zip(CLASSES, THRESHOLDS))}
    assert json.loads((written / "task.json").read_text()) == content
    assert YAML(typ="safe").load(written / "model_spec.yaml")["task_type"] == "MultiLabelClassification"
    model = read_model(written, TRAINED_MODEL, "", trust_code=False)
    assert model.task.to_dict() == content
    assert model.labels == CLASSES
    assert [sample["category"] for sample in json.loads((written / "_samples.json").read_text())] == [
        [],
        [*CLASSES],
        ["dog"],
    ]


def test_without_thresholds_each_is_a_half(images: LabelledImages, tmp_path: Path) -> None:
    write(tmp_path / "model", images)
    assert read_model(tmp_path / "model", TRAINED_MODEL, "", trust_code=False).task.thresholds == dict.fromkeys(
        CLASSES, 0.5
    )


def test_labels_that_look_like_numbers_keep_their_thresholds(images: LabelledImages, tmp_path: Path) -> None:
    classes = ("007", "1e3", "ünï")
    write(tmp_path / "model", replace(images, classes=classes), thresholds=THRESHOLDS)
    task = read_model(tmp_path / "model", TRAINED_MODEL, "", trust_code=False).task
    assert task.thresholds == dict(zip(classes, THRESHOLDS))
    numbers = ("0", "1", "2")  # the label map has one more row, which makes pandas read them as text
    write(tmp_path / "numbers", replace(images, classes=numbers), thresholds=THRESHOLDS)
    task = read_model(tmp_path / "numbers", TRAINED_MODEL, "", trust_code=False).task
    assert task.thresholds == dict(zip(numbers, THRESHOLDS))


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "[" * 100_000, '{"task": "multilabel"}', '{"task": "multiclass", "thresholds": {}}'),
        *('{"task": "multilabel", "thresholds": {"cat": 0.5, "dog": 0.5}}', '{"task": "multilabel", "thresholds": []}'),
        *(
            f'{{"task": "multilabel", "thresholds": {{"cat": {value}, "dog": 0.5, "owl": 0.5}}}}'
            for value in ("1.5", "-0.1", "NaN", "1e999", "true", '"0.5"', "null")
        ),
    ],
)
def test_damaged_thresholds_are_named(content: str, written: Path, tmp_path: Path) -> None:
    model = shutil.copytree(written, tmp_path / "model")
    (model / "task.json").write_text(content)
    with pytest.raises(InvalidModelDirectoryError, match=r"task\.json"):
        read_model(model, TRAINED_MODEL, "", trust_code=False)


def test_a_model_whose_files_name_two_tasks_is_named(written: Path, tmp_path: Path) -> None:
    model = shutil.copytree(written, tmp_path / "model")
    (model / "task.json").unlink()
    with pytest.raises(InvalidModelDirectoryError, match=r"'MultiLabelClassification', but there is no task\.json"):
        read_model(model, TRAINED_MODEL, "", trust_code=False)
    model = shutil.copytree(written, tmp_path / "other")
    spec = model / "model_spec.yaml"
    spec.write_text(spec.read_text().replace("MultiLabelClassification", "MultiClassification"))
    with pytest.raises(InvalidModelDirectoryError, match=r"'MultiClassification', but there is task\.json"):
        read_model(model, TRAINED_MODEL, "", trust_code=False)


@pytest.mark.environment
def test_the_retired_score_image_model_fails_instead_of_applying_softmax(
    written: Path, images: LabelledImages, tmp_path: Path
) -> None:
    module = "azureml.designer.modules.dl.pytorch.score.score_image_model.module_invoker"
    command = [str(environments.retired()), "-m", module]
    ports = ["--trained-model", written, "--dataset", images.path, "--scored-dataset", tmp_path / "scored"]
    finished = subprocess.run([*command, *map(str, ports)], capture_output=True, text=True, cwd=tmp_path)
    assert finished.returncode == 1
    assert "KeyError: 'MultiLabelClassification'" in finished.stderr
    assert "is invalid. Reason: Failed to load generic model." in finished.stderr.splitlines()[-1]
    assert not (tmp_path / "scored").exists()


def test_a_model_of_the_other_task_gets_a_new_head(written: Path, images: LabelledImages) -> None:
    model = read_model(written, TRAINED_MODEL, "", trust_code=False)
    assert has_head_for(model, images)
    one_each = read_labelled_images(images.path, "Training dataset")
    assert one_each.classes == images.classes
    assert not has_head_for(model, one_each)
