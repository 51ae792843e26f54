"""The classes of images by their folders, compared with torchvision's ImageFolder where it has an answer."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.class_folders import read_class_folders

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def names_of(counts: dict[str, int]) -> list[str]:
    return [f"{folder}/{number}.png".lstrip("/") for folder, count in counts.items() for number in range(count)]


def classes_of(counts: dict[str, int], level: int | None = None) -> dict[str | None, int]:
    found = read_class_folders("Input", names_of(counts), level)
    assert found is not None
    return dict(Counter(found.labels))


AS_IMAGE_FOLDER: dict[str, dict[str, int]] = {
    "one folder a class": {"cat": 3, "dog": 2},
    "images of one class one folder further down": {"cat": 6, "dog/puppies": 4},
    "images in a class folder and below it": {"cat": 6, "dog": 4, "dog/puppies": 3, "dog/puppies/small": 2},
    "the name of the class again": {"cat/cat": 3, "dog/dog": 2},
    "the name of the class and more": {"cat/cat_images": 3, "dog/dog_images": 2},
    "the same folder in each class": {"cat/images": 3, "dog/images": 2},
    "splits in each class": {"cat/train": 3, "cat/test": 2, "dog/train": 3, "dog/test": 1},
    "a few images of many in two folders": {"cat": 30, "dog": 30, "emu/old": 2, "emu/new": 3},
    "a split among classes": {"bus": 2, "car": 3, "train": 4},
    "names in upper and lower case": {"Cat": 2, "dog": 2},
    "classes that are called as tools call folders": {"images": 2, "labels": 3},
}


@pytest.mark.parametrize("layout", AS_IMAGE_FOLDER)
def test_classes_are_those_of_image_folder(layout: str, tmp_path: Path) -> None:
    counts = AS_IMAGE_FOLDER[layout]
    for name in names_of(counts):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = ImageFolder(str(tmp_path))
    assert classes_of(counts) == dict(Counter(folder.classes[label] for label in folder.targets))


PASSED_THROUGH: dict[str, tuple[dict[str, int], dict[str | None, int]]] = {
    "a folder around the classes": ({"photos/cat": 3, "photos/dog": 2}, {"cat": 3, "dog": 2}),
    "several": ({"a/b/cat": 3, "a/b/dog": 1, "a/b/dog/old": 1}, {"cat": 3, "dog": 2}),
    "one class": ({"photos/cat": 3}, {"cat": 3}),
    "one class and one image beside it": ({"": 1, "cat": 15}, {None: 1, "cat": 15}),
    "an image beside the classes": ({"": 1, "cat": 10, "dog": 5}, {None: 1, "cat": 10, "dog": 5}),
    "an image beside the folder around": ({"": 1, "in/cat": 10, "in/dog": 5}, {None: 1, "cat": 10, "dog": 5}),
    "a class with a folder of its own": ({"dog": 6, "dog/puppies": 4}, {"dog": 10}),
}


@pytest.mark.parametrize("layout", PASSED_THROUGH)
def test_folders_around_the_classes_have_no_meaning(layout: str) -> None:
    counts, classes = PASSED_THROUGH[layout]
    assert classes_of(counts) == classes


AMBIGUOUS: dict[str, tuple[dict[str, int], dict[int, dict[str | None, int]]]] = {
    "species and breeds": (
        {"cat/manx": 2, "cat/sphynx": 3, "dog/pug": 4, "dog/boxer": 5},
        {1: {"cat": 5, "dog": 9}, 2: {"manx": 2, "sphynx": 3, "pug": 4, "boxer": 5}},
    ),
    "and a folder around": (
        {"in/cat/manx": 2, "in/cat/sphynx": 3, "in/dog/pug": 4},
        {2: {"cat": 5, "dog": 4}, 3: {"manx": 2, "sphynx": 3, "pug": 4}},
    ),
    "and an image beside the breeds": (
        {"cat/manx": 20, "cat/sphynx": 30, "dog/pug": 40, "dog/boxer": 50, "dog": 1},
        {1: {"cat": 50, "dog": 91}, 2: {"manx": 20, "sphynx": 30, "pug": 40, "boxer": 50, None: 1}},
    ),
    "two datasets": (
        {"first/cat": 2, "first/dog": 2, "second/cat": 2, "second/dog": 3},
        {1: {"first": 4, "second": 5}, 2: {"cat": 4, "dog": 5}},
    ),
    "one folder in each": ({"a/cat": 2, "b/dog": 3}, {1: {"a": 2, "b": 3}, 2: {"cat": 2, "dog": 3}}),
    "classes beside other images": (
        {"photos/cat": 5, "photos/dog": 6, "others": 3},
        {1: {"photos": 11, "others": 3}, -1: {"cat": 5, "dog": 6, "others": 3}},
    ),
    "years below": (
        {"cat/2020": 5, "cat/2021": 6, "dog/2020": 3, "dog/2021": 4},
        {1: {"cat": 11, "dog": 7}, 2: {"2020": 8, "2021": 10}},
    ),
    "breeds further down": (
        {"cat/all/manx": 2, "cat/all/sphynx": 3, "dog/all/pug": 4, "dog/all/boxer": 5},
        {1: {"cat": 5, "dog": 9}, 3: {"manx": 2, "sphynx": 3, "pug": 4, "boxer": 5}},
    ),
}


@pytest.mark.parametrize("layout", AMBIGUOUS)
def test_two_levels_that_could_be_classes_are_an_error_with_a_choice(layout: str) -> None:
    counts, readings = AMBIGUOUS[layout]
    with pytest.raises(InvalidDatasetError) as error:
        classes_of(counts)
    for level, classes in readings.items():
        assert f"--class-level {level}" in str(error.value)
        assert all(repr(name) in str(error.value) for name in classes if name)
        assert classes_of(counts, level) == classes


def test_images_in_no_folder_have_no_classes() -> None:
    assert read_class_folders("Input", ["1.png", "2.png"]) is None


@pytest.mark.parametrize("below", ["{}", "in/{}", "{}/images", "{}/old"])
def test_two_unicode_forms_are_one_class(below: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        counts = {below.format(NFC): 4, below.format(NFD): 3, below.format("tea"): 2}
        assert classes_of(counts) == {NFC: 7, "tea": 2}
    assert r"'cafe\u0301' and 'caf\xe9'" in caplog.text


def test_a_name_is_written_as_it_is_found() -> None:
    assert classes_of({NFD: 4, "tea": 2}) == {NFD: 4, "tea": 2}


LOOK_THE_SAME = [
    ("Cat", "cat", "differ in case"),
    ("STRASSE", "straße", "differ in case"),
    ("cat ", "cat", "differ in spaces"),
    ("big cat", "big\u00a0cat", "differ in spaces"),
    ("cat", "c\u200bat", "differ in characters that are not shown"),
    ("\ufeffcat", "cat", "differ in characters that are not shown"),
    ("c\u0430t", "cat", "differ in letters of another alphabet"),
    ("Cat ", "cat", "differ in case, spaces"),
    ("\uff43\uff41\uff54", "cat", "differ in the width of letters"),
    ("\uff76\uff92", "\u30ab\u30e1", "differ in the width of letters"),
    (NFD.upper(), NFC, "differ in case"),
]


@pytest.mark.parametrize(("name", "other", "words"), LOOK_THE_SAME)
def test_two_classes_that_look_the_same_are_an_error_with_the_difference(name: str, other: str, words: str) -> None:
    with pytest.raises(InvalidDatasetError, match=words) as error:
        classes_of({name: 2, other: 3})
    assert ascii(name) in str(error.value)
    assert ascii(other) in str(error.value)


def test_letters_are_classes_in_both_cases() -> None:
    assert classes_of({"A": 2, "a": 3, "b": 1}) == {"A": 2, "a": 3, "b": 1}


def test_names_that_are_like_others_but_do_not_look_the_same_are_classes() -> None:
    names = ["cat", "cats", "c at", "cat_", "cät", "猫", "貓", "m2", "m²", "кот", "кит", "ρ", "p"]
    assert classes_of(dict.fromkeys(names, 2)) == dict.fromkeys(names, 2)


@pytest.mark.parametrize("level", [0, 3, -3])
def test_a_level_that_no_image_has_is_an_error(level: int) -> None:
    with pytest.raises(InvalidDatasetError, match=f"no image has a folder of --class-level {level}"):
        classes_of({"cat/manx": 2, "dog/pug": 3}, level)


def test_images_that_lack_the_level_have_no_class() -> None:
    assert classes_of({"cat/manx": 2, "dog": 3, "": 1}, 2) == {"manx": 2, None: 4}
    assert classes_of({"cat/manx": 2, "dog": 3, "": 1}, -1) == {"manx": 2, "dog": 3, None: 1}


@pytest.mark.parametrize("below", ["", "/cat"])
def test_splits_are_not_classes(below: str) -> None:
    with pytest.raises(InvalidDatasetError, match="'test', 'train' are splits of a dataset, not classes"):
        classes_of({f"train{below}": 2, f"test{below}": 3})


def test_folders_of_any_depth_are_read() -> None:
    deep = "/".join("ab" * 5000)
    assert classes_of({f"{deep}/cat": 1, f"{deep}/dog/{deep}": 2}) == {"cat": 1, "dog": 2}
    with pytest.raises(InvalidDatasetError, match="--class-level -1"):
        classes_of({"cat": 1, f"dog/{deep}/pug": 2, f"dog/{deep}/boxer": 2})
