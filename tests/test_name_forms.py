"""Names that are the same text in two Unicode forms, through all modules: NFC as on Linux, NFD as on a Mac."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pandas as pd
import pytest

from tests.image_directories import edit_items, set_categories
from tests.making import (
    NETWORK,
    Inputs,
    error_text,
    initialize,
    read_json_lines,
    run_here,
    write_class_folders,
    write_image_directory,
)
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.classes import match_classes
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.text.name_forms import appearance, difference, nfc, one_form_each

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
PORT = "Training dataset"


def run(command: str, tmp_path: Path, **flags: object) -> int:
    return run_here(command, outputs_path=tmp_path / "outputs", **flags)


def with_labels(path: Path, labels: tuple[str, ...], categories: tuple[str, ...]) -> Path:
    """An ImageDirectory with these categories, two images for each label."""
    names = [f"class {number}" for number in range(len(labels))]
    write_image_directory(path, classes=names, per_class=2)
    set_categories([{"id": number, "name": name} for number, name in enumerate(categories)])(path)
    edit_items(path, lambda items: [item.update(category=labels[names.index(item["category"])]) for item in items])
    return path


def test_two_datasets_in_two_forms_train_and_their_model_is_evaluated(tmp_path: Path) -> None:
    for name, form in (("train", NFC), ("valid", NFD), ("test", NFD)):
        write_class_folders(tmp_path / f"{name}_raw", [form, "thé"], per_class=4)
        assert (
            run(
                "convert-to-image-directory", tmp_path, input_path=tmp_path / f"{name}_raw", output_path=tmp_path / name
            )
            == 0
        )
    inputs = Inputs(tmp_path)
    initialize(inputs.untrained, NETWORK, inputs.outputs)
    assert inputs.fit() == 0
    scored = tmp_path / "scored"
    paths = {"trained_model": inputs.trained, "dataset": tmp_path / "test", "scored_dataset": scored}
    assert run("score-image-model", tmp_path, **paths) == 0
    assert run("evaluate-model", tmp_path, scored_dataset=scored, evaluation_path=tmp_path / "evaluation") == 0
    table = pd.read_parquet(scored / "_data.parquet")
    assert set(table["category"]) == {NFD, "thé"}  # as the dataset has it
    rows = pd.read_csv(tmp_path / "evaluation" / "per_class.csv")
    assert rows["label"].tolist() == [NFC, "thé"]  # as the model has it
    assert rows["support"].tolist() == [4, 4]


def test_a_schema_with_both_forms_has_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = with_labels(tmp_path / "data", (NFC, NFD, "thé"), (NFD, NFC, "thé"))
    with caplog.at_level(logging.WARNING):
        images = read_labelled_images(path, PORT)
    assert images.classes == (NFC, "thé")
    assert images.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert "same text in two Unicode forms" in caplog.text
    outputs = {"tgt_train_path": tmp_path / "a", "tgt_test_path": tmp_path / "b", "fraction": 0.5}
    assert run("split-image-directory", tmp_path, src_path=path, **outputs) == 0
    assert [read_labelled_images(tmp_path / part, PORT).labels.tolist() for part in "ab"] == [[0, 0, 1]] * 2
    assert run("convert-to-image-directory", tmp_path, input_path=path, output_path=tmp_path / "out") == 0
    written = {str(item["category"]) for item in read_json_lines(tmp_path / "out" / "images.lst")}
    caplog.clear()
    assert set(read_labelled_images(tmp_path / "out", PORT).classes) == written == {NFD, "thé"}
    assert caplog.text == ""


def test_labels_in_another_form_than_the_categories_are_labels(tmp_path: Path) -> None:
    path = with_labels(tmp_path / "data", (NFD, "thé"), (NFC, "thé"))
    assert read_labelled_images(path, PORT).labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("listed", "on_disk"), [(NFC, NFD), (NFD, NFC)])
def test_a_list_names_files_in_either_form(listed: str, on_disk: str, tmp_path: Path) -> None:
    path = write_image_directory(tmp_path / "data", per_class=2)
    images = path / "image"
    names = {file.name: f"{on_disk}/{on_disk}_{file.name}" for file in images.iterdir()}
    (images / on_disk).mkdir()
    for old, new in names.items():
        (images / old).rename(images / new)
    info = {old: {"file_name": f"image/{listed}/{listed}_{old}"} for old in names}
    edit_items(
        path, lambda items: [item.update(image_info=info[item["image_info"]["file_name"][6:]]) for item in items]
    )
    assert all((path / file).is_file() for file in read_labelled_images(path, PORT).files)
    outputs = {"tgt_train_path": tmp_path / "a", "tgt_test_path": tmp_path / "b", "fraction": 0.5}
    assert run("split-image-directory", tmp_path, src_path=path, **outputs) == 0
    copied = read_json_lines(tmp_path / "a" / "images.lst")
    assert all(listed in str(item["image_info"]["file_name"]) for item in copied)  # type: ignore[index]
    assert all((tmp_path / "a" / file).is_file() for file in read_labelled_images(tmp_path / "a", PORT).files)


def test_an_absolute_name_stays_one(tmp_path: Path) -> None:
    path = write_image_directory(tmp_path / "data", per_class=1)
    edit_items(path, lambda items: items[0]["image_info"].update(file_name=f"/image/{NFD}.png"))
    _, _, items = read_listed_items(path, PORT, labelled=True)
    with pytest.raises(InvalidDatasetError, match="which leaves the directory"):
        list(items())


def test_datasets_whose_classes_only_look_the_same_are_an_error_with_the_difference(tmp_path: Path) -> None:
    train, valid = (
        read_labelled_images(write_class_folders(tmp_path / name, classes, per_class=1), PORT)
        for name, classes in (("train", ["cat", "dog"]), ("valid", ["Cat", "dog "]))
    )
    with pytest.raises(InvalidDatasetError) as error:
        match_classes(train, valid)
    assert "'cat' and 'Cat' differ in case" in str(error.value)
    assert "'dog' and 'dog ' differ in spaces" in str(error.value)


def test_true_labels_that_only_look_like_scored_classes_are_an_error_with_the_difference(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make()
    assert inputs.fit() == 0
    test = write_class_folders(tmp_path / "test", ["Cat", "dog", "owl"], per_class=1)
    paths = {"trained_model": inputs.trained, "dataset": test, "scored_dataset": tmp_path / "scored"}
    assert run("score-image-model", tmp_path, **paths) == 0
    evaluation = {"scored_dataset": tmp_path / "scored", "evaluation_path": tmp_path / "evaluation"}
    assert run("evaluate-model", tmp_path, **evaluation) == 1
    assert "'cat' and 'Cat' differ in case" in error_text(tmp_path / "outputs")


@pytest.mark.parametrize("text", ["", "cat", "Ångström", "한국어", "ﬁ", "e\u0301\u0323", "\udcff", "👩‍👩‍👧"])
def test_a_name_in_any_form_is_the_same_text(text: str) -> None:
    forms = {unicodedata.normalize(form, text) for form in ("NFC", "NFD")}
    assert len({nfc(form) for form in forms}) == 1
    assert set(one_form_each(forms).values()) == {unicodedata.normalize("NFC", text)}
    for form in forms:
        assert appearance(form) == appearance(text)
        assert bool(difference(form, text)) == (form != text)
