"""An ImageDirectory with a list of labels per image."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import environments
from tests.image_directories import edit_items, edit_schema
from tests.making import (
    CLASSES,
    error_text,
    read_json_lines,
    run_here,
    run_retired_tool,
    write_image_directory,
    write_multilabel_directory,
)
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.errors import InvalidDatasetError, NotLabeledDatasetError
from train_pytorch_model.ports.classes import match_classes, warn_of_classes
from train_pytorch_model.ports.labelled_images import LabelledImages, read_labelled_images

PORT = "Training dataset"
LISTS: list[object] = [["cat", "dog"], [], ["owl"], ["owl", "cat", "owl"]]
FILES = ("images.lst", "_schema.json", "_samples.json", "_meta.yaml")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_multilabel_directory(tmp_path / "data", LISTS)


def set_label(index: int, label: object) -> Callable[[Path], None]:
    return lambda path: edit_items(path, lambda items: items[index].update(category=label))


def test_the_schema_is_as_designer_core_writes_columns_of_lists(directory: Path) -> None:
    schema = json.loads((directory / "_schema.json").read_text())
    assert schema["columnAttributes"][2] == {
        "name": "category",
        "type": "Object",
        "isFeature": False,
        "elementType": {"typeName": "object", "isNullable": False},
        "properties": {
            "annotation_type": "COCO_multilabel_classification",
            "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
        },
    }


def test_designer_core_loads_it_and_writes_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    theirs = load_image_directory(directory)
    assert theirs.get_annotation_type() == "COCO_multilabel_classification"
    assert [item["category"] for item in theirs.image_list] == LISTS
    theirs.dump(str(tmp_path / "again"))
    for file in FILES:
        assert (tmp_path / "again" / file).read_bytes() == (directory / file).read_bytes()


def test_labels_are_a_row_of_booleans_per_image(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        images = read_labelled_images(directory, PORT)
    assert images.task == "multilabel"
    assert images.labels.dtype == bool
    assert images.labels.tolist() == [[True, True, False], [False] * 3, [False, False, True], [True, False, True]]
    assert images.counts().tolist() == [2, 1, 2]
    assert [images.label_of(index) for index in range(4)] == [["cat", "dog"], [], ["owl"], ["cat", "owl"]]
    assert "2 images have several labels, 1 one, and 1 none" in caplog.text


def test_labels_of_another_unicode_form_are_the_same(tmp_path: Path) -> None:
    path = write_multilabel_directory(tmp_path / "data", [["café"], ["café", "café"], []], ["café", "tea"])
    assert read_labelled_images(path, PORT).labels.tolist() == [[True, False], [True, False], [False, False]]


@pytest.mark.parametrize("label", [None, "absent"])
def test_an_image_without_a_list_is_skipped(label: object, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_items(directory, lambda items: items[0].update(category=None) if label is None else items[0].pop("category"))
    images = read_labelled_images(directory, PORT)
    assert images.labels.shape == (3, 3)
    assert "1 of 4 images have no list of labels and are not used: 'image/0.png'" in caplog.text


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("cat", "'cat'"),
        ("", "''"),
        ("cat;dog", "'cat;dog'"),
        ('["cat"]', "'[\"cat\"]'"),
        (["cat", "cow"], "['cat', 'cow']"),
        (["Cat"], "['Cat']"),
        ([["cat"]], "[['cat']]"),
        ([0], "[0]"),
        ([None], "[None]"),
        ([""], "['']"),
        ({"cat": 1}, "{'cat': 1}"),
        (1, "1"),
        (True, "True"),
    ],
    ids=str,
)
def test_a_label_that_is_not_a_list_of_categories_is_an_error(label: object, shown: str, directory: Path) -> None:
    set_label(1, label)(directory)
    with pytest.raises(InvalidDatasetError) as raised:
        read_labelled_images(directory, PORT)
    assert "labels that are not lists of the categories 'cat', 'dog', 'owl'" in raised.value.message
    assert f"item 2 (image/1.png) is labelled {shown}" in raised.value.message
    assert 'must be a list, such as ["cat", "dog"] or []' in raised.value.message


def test_a_list_in_a_dataset_of_one_class_per_image_is_an_error(tmp_path: Path) -> None:
    path = write_image_directory(tmp_path / "data", per_class=2)
    set_label(1, ["cat", "dog"])(path)
    with pytest.raises(InvalidDatasetError, match=r"item 2 \(.*\) is labelled \['cat', 'dog'\]") as raised:
        read_labelled_images(path, PORT)
    assert "Lists of labels need the annotation_type COCO_multilabel_classification" in raised.value.message


def test_a_dataset_without_any_label_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotLabeledDatasetError, match="None of its 3 images has a label"):
        read_labelled_images(write_multilabel_directory(tmp_path / "data", [[], [], None]), PORT)


def test_a_thousand_labels(tmp_path: Path) -> None:
    names = [f"label {number}" for number in range(1000)]
    lists = [names[number::20] for number in range(20)]
    images = read_labelled_images(write_multilabel_directory(tmp_path / "data", lists, names), PORT)
    assert images.counts().tolist() == [1] * 1000
    assert [images.label_of(number) for number in range(20)] == lists


def test_labels_of_validation_are_matched_by_name(tmp_path: Path) -> None:
    train = read_labelled_images(write_multilabel_directory(tmp_path / "train", LISTS), PORT)
    others = ("owl", "cat", "dog")
    valid = read_labelled_images(write_multilabel_directory(tmp_path / "valid", LISTS, others), "Validation dataset")
    assert not np.array_equal(valid.labels, train.labels)
    matched = match_classes(train, valid)
    assert matched.classes == CLASSES
    assert np.array_equal(matched.labels, train.labels)


def test_a_validation_set_of_other_labels_is_an_error(tmp_path: Path) -> None:
    train = read_labelled_images(write_multilabel_directory(tmp_path / "train", LISTS), PORT)
    valid = write_multilabel_directory(tmp_path / "valid", [["cow"], []], ["cat", "cow", "dog", "owl"])
    with pytest.raises(InvalidDatasetError, match="the training dataset lacks 'cow'"):
        match_classes(train, read_labelled_images(valid, "Validation dataset"))


@pytest.mark.parametrize("several", ["train", "valid"])
def test_datasets_of_different_tasks_are_an_error(several: str, tmp_path: Path) -> None:
    lists = read_labelled_images(write_multilabel_directory(tmp_path / "lists"), PORT)
    names = read_labelled_images(write_image_directory(tmp_path / "names"), PORT)
    train, valid = (lists, names) if several == "train" else (names, lists)
    with pytest.raises(InvalidDatasetError, match="but the training dataset has") as raised:
        match_classes(train, valid)
    assert "one class per image" in raised.value.message
    assert "a list of labels per image" in raised.value.message


@pytest.mark.parametrize(
    ("lists", "categories", "words"),
    [
        ([["cat"], ["cat", "dog"]], ("cat", "dog"), "every image has the label 'cat'"),
        ([["cat"], []], ("cat",), "There is one label, 'cat'"),
        ([["cat"], ["dog"]], ("cat", "dog", "owl"), "has no image of 'owl'"),
        ([["cat"], ["NA"]], ("NA", "cat"), ""),
    ],
)
def test_unusual_labels_warn(
    lists: list[object], categories: tuple[str, ...], words: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = read_labelled_images(write_multilabel_directory(tmp_path / "data", lists, categories), PORT)
    warn_of_classes(images, replace(images, port="Validation dataset"))
    warnings = "".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)
    assert words in warnings
    assert bool(warnings) == bool(words)


def test_the_schema_alone_decides_about_the_task(tmp_path: Path) -> None:
    """Lists of one label each are still lists."""
    path = write_multilabel_directory(tmp_path / "data", [["cat"], ["dog"], ["owl"]])
    assert read_labelled_images(path, PORT).task == "multilabel"
    edit_schema(path, lambda columns: columns[2]["properties"].update(annotation_type="COCO_classification"))
    with pytest.raises(InvalidDatasetError):
        read_labelled_images(path, PORT)


def test_convert_copies_it(tmp_path: Path) -> None:
    outputs = {"outputs_path": tmp_path / "outputs"}
    directory = write_multilabel_directory(tmp_path / "data", [["cat", "dog"], [], ["owl"], ["owl", "cat"]])
    assert run_here("convert-to-image-directory", input_path=directory, output_path=tmp_path / "copy", **outputs) == 0
    assert (tmp_path / "copy" / "images.lst").read_bytes() == (directory / "images.lst").read_bytes()
    assert (tmp_path / "copy" / "_schema.json").read_bytes() == (directory / "_schema.json").read_bytes()
    summary = json.loads((tmp_path / "outputs" / "conversion.json").read_text())
    assert summary["classes"] == {"cat": 2, "dog": 1, "owl": 2}
    assert summary["num_images"] == 4


def test_convert_lists_a_label_once(directory: Path, tmp_path: Path) -> None:
    flags = {"input_path": directory, "output_path": tmp_path / "copy", "outputs_path": tmp_path / "outputs"}
    assert run_here("convert-to-image-directory", **flags) == 0
    assert read_json_lines(tmp_path / "copy" / "images.lst")[3]["category"] == ["owl", "cat"]


def test_convert_reports_labels_that_would_be_lost(directory: Path, tmp_path: Path) -> None:
    (directory / "image" / "0.png").write_text("no image")
    flags = {"input_path": directory, "output_path": tmp_path / "copy", "outputs_path": tmp_path / "outputs"}
    assert run_here("convert-to-image-directory", **flags) == 1
    assert "all images of 'dog' would be left out" in error_text(tmp_path / "outputs")
    assert run_here("convert-to-image-directory", skip_unreadable_images=True, **flags) == 0
    assert [item["category"] for item in read_json_lines(tmp_path / "copy" / "images.lst")] == [
        *([], ["owl"], ["owl", "cat"])
    ]


def test_convert_refuses_labels_that_training_refuses(directory: Path, tmp_path: Path) -> None:
    set_label(1, "cat")(directory)
    flags = {"input_path": directory, "output_path": tmp_path / "copy", "outputs_path": tmp_path / "outputs"}
    assert run_here("convert-to-image-directory", **flags) == 1
    assert "item 2 (image/1.png) is labelled 'cat'" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "copy").exists()


def test_a_transformation_keeps_the_lists(directory: Path, tmp_path: Path) -> None:
    outputs = {"outputs_path": tmp_path / "outputs"}
    assert run_here("init-image-transformation", output_path=tmp_path / "how", grayscale=True, **outputs) == 0
    paths = {"input_image_transform_path": tmp_path / "how", "input_image_dir_path": directory}
    assert (
        run_here("apply-image-transformation", output_path=tmp_path / "out", mode="For training", **paths, **outputs)
        == 0
    )
    for file in ("images.lst", "_schema.json"):
        assert (tmp_path / "out" / file).read_bytes() == (directory / file).read_bytes()
    before: LabelledImages = read_labelled_images(directory, PORT)
    assert np.array_equal(read_labelled_images(tmp_path / "out", PORT).labels, before.labels)


@pytest.mark.environment
def test_the_retired_modules_keep_the_lists_and_never_train_on_them(tmp_path: Path) -> None:
    retired = environments.retired()
    data = write_multilabel_directory(tmp_path / "data", size=64)
    single = write_multilabel_directory(tmp_path / "single", [["cat"], ["dog"], ["owl"]] * 4, size=64)
    run_retired_tool(
        retired,
        "computer_vision.preprocess.split_image_directory.split_image_directory",
        *("--src-path", data, "--tgt-train-path", tmp_path / "first", "--tgt-test-path", tmp_path / "second"),
        *("--fraction", 0.75),
    )
    items = {item["id"]: item for item in read_json_lines(data / "images.lst")}
    parts = [item for part in ("first", "second") for item in read_json_lines(tmp_path / part / "images.lst")]
    assert {item["id"]: item for item in parts} == items
    assert read_labelled_images(tmp_path / "first", PORT).task == "multilabel"
    run_retired_tool(
        retired,
        "dl.pytorch.initialize_models.vision.classification.resnet",
        *("--untrained-model-path", tmp_path / "untrained", "--model-name", "resnet18", "--pretrained", "False"),
    )
    for path in (data, single):
        with pytest.raises(AssertionError, match=r"each element in list of batch|must be Tensor, not list"):
            run_retired_tool(
                retired,
                "dl.pytorch.train.train_pytorch_model",
                *("--untrained-model-path", tmp_path / "untrained", "--train-data-path", path),
                *("--valid-data-path", path, "--trained-model-path", tmp_path / "trained"),
                *("--epochs", 1, "--batch-size", 4),
            )
        assert not (tmp_path / "trained").exists()
