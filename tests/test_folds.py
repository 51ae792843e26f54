"""Folds have the properties of scikit-learn's: each image once, stratified, groups whole, and the same for a seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from train_pytorch_model.errors import InvalidDatasetError, UserError
from train_pytorch_model.modules.folds import assign_folds
from train_pytorch_model.modules.image_groups import read_groups

CLASSES = ("cat", "dog", "owl")


def random_labels(num_images: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(3, num_images, p=(0.6, 0.3, 0.1)).astype(np.int64)


@pytest.mark.parametrize("num_folds", [2, 3, 5, 10])
def test_each_class_is_split_within_one_image(num_folds: int) -> None:
    labels = random_labels(203)
    folds = assign_folds(labels, None, CLASSES, num_folds, 1, "data")
    assert set(folds) == set(range(num_folds))
    for number in range(3):
        counts = np.bincount(folds[labels == number], minlength=num_folds)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= 3
    assert np.array_equal(folds, assign_folds(labels, None, CLASSES, num_folds, 1, "data"))
    assert not np.array_equal(folds, assign_folds(labels, None, CLASSES, num_folds, 2, "data"))


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_whole_and_as_balanced_as_scikit_learns(seed: int) -> None:
    labels = random_labels(400, seed)
    groups = np.random.default_rng(seed).integers(0, 60, 400)
    groups = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    folds = assign_folds(labels, groups, CLASSES, 5, seed, "data")
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))

    def imbalance(folds: np.ndarray) -> float:
        counts = np.zeros((5, 3))
        np.add.at(counts, (folds, labels), 1)
        return float((counts / counts.sum(axis=0)).std(axis=0).mean())

    others = np.empty(400, dtype=np.int64)
    for fold, (_, members) in enumerate(StratifiedGroupKFold(5).split(labels, labels, groups)):
        others[members] = fold
    assert imbalance(folds) <= imbalance(others) + 0.02
    assert imbalance(folds) < 0.05


def test_the_rule_for_groups_is_scikit_learns_if_no_two_groups_are_alike() -> None:
    sizes = [(9, 0, 1), (0, 8, 2), (5, 1, 0), (1, 6, 1), (0, 0, 7), (4, 4, 1), (2, 0, 0), (3, 9, 9), (12, 1, 2)]
    labels = np.concatenate([np.repeat(np.arange(3), counts) for counts in sizes]).astype(np.int64)
    groups = np.repeat(np.arange(len(sizes)), [sum(counts) for counts in sizes]).astype(np.int64)
    folds = assign_folds(labels, groups, CLASSES, 3, 1, "data")
    for fold, (_, members) in enumerate(StratifiedGroupKFold(3).split(labels, labels, groups)):
        assert set(folds[members]) == {fold}


def test_several_labels_are_split_with_and_without_groups() -> None:
    random = np.random.default_rng(0)
    labels = random.random((300, 4)) < (0.5, 0.3, 0.1, 0.05)
    groups = np.repeat(np.arange(75), 4).astype(np.int64)
    for of_images, tolerance in ((None, 2), (groups, 8)):
        folds = assign_folds(labels, of_images, (*CLASSES, "rat"), 5, 1, "data")
        assert np.bincount(folds).tolist() == [60] * 5 or of_images is not None
        for label in range(4):
            counts = np.bincount(folds[labels[:, label]], minlength=5)
            assert np.abs(counts - counts.mean()).max() <= tolerance
        if of_images is not None:
            assert all(len(set(folds[groups == group])) == 1 for group in range(75))


def test_fewer_images_of_a_class_or_groups_than_folds_are_named() -> None:
    labels = np.array([0] * 8 + [1] * 3, dtype=np.int64)
    with pytest.raises(InvalidDatasetError, match=r"5 folds, but fewer images of 'dog' \(3\)"):
        assign_folds(labels, None, CLASSES, 5, 1, "data")
    with pytest.raises(InvalidDatasetError, match="3 groups, but there are 4 folds"):
        assign_folds(np.zeros(9, np.int64), np.arange(9) // 3, CLASSES, 4, 1, "data")
    assert set(assign_folds(labels, None, CLASSES, 3, 1, "data")) == {0, 1, 2}  # no image of owl is no fault


FILES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]
PATIENTS = dict(zip(FILES, "abab"))
RECORDS = [{"file": file, "patient": patient} for file, patient in PATIENTS.items()]


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("one.csv", "image,patient\ncat/1.png,a\ncat/2.png,b\ndog/1.png,a\ndog/2.png,b\n", None),
        ("no header.csv", "cat/1.png,a\ncat/2.png,b\ndog/1.png,a\ndog/2.png,b\n", None),
        ("order.tsv", "Site\tPath\na\t/data/cat/1.png\na\tdog/1.png\nb\tcat/2.png\nb\tdog/2.png\nc\tother.png\n", None),
        ("chosen.csv", "age;file;Patient\n9;cat/1.png;a\n8;cat\\2.png;b\n7;dog/1.png;a\n6;dog/2.png;b\n", "patient"),
        (
            "lines.jsonl",
            "\n".join(f'{{"image": "{file}", "patient": "{"ab"[number % 2]}"}}' for number, file in enumerate(FILES)),
            None,
        ),
    ],
)
def test_groups_are_read_from_the_tables_that_people_have(
    name: str, text: str, column: str | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    groups, names = read_groups(tmp_path / name, column, FILES)
    assert [names[group] for group in groups] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("document", "column"),
    [
        (PATIENTS, None),
        ({file: {"patient": patient} for file, patient in PATIENTS.items()}, None),
        ({file: {"patient": patient, "age": 9} for file, patient in PATIENTS.items()}, "patient"),
        ({"images": RECORDS}, None),
        ({"info": {"year": 2026, "cover": "cat/1.png"}, "images": RECORDS}, "patient"),
        ({"data": {"images": [{"file": file, "of": {"id": patient}} for file, patient in PATIENTS.items()]}}, None),
        ({"train": RECORDS[:3], "valid": RECORDS[3:]}, None),
        ({"a": FILES[::2], "b": FILES[1::2]}, None),
        ({file: [patient] for file, patient in PATIENTS.items()}, None),
        ([["file", "patient"], *map(list, PATIENTS.items())], None),
    ],
)
def test_groups_are_read_from_the_json_that_people_have(document: object, column: str | None, tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(json.dumps(document))
    groups, names = read_groups(tmp_path / "groups.json", column, FILES)
    assert [names[group] for group in groups] == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (5, "no column with the names of the images"),
        ({"images": [{"file": "other.png", "patient": "a"}]}, "no column with the names of the images"),
        ({"images": [{"file": file} for file in FILES]}, "but needs one of groups"),
        ({"images": [{**record, "patient": []} for record in RECORDS[:1]] + RECORDS[1:]}, "no group for 1 of 4 images"),
        ({"train": RECORDS[:3]}, "no group for 1 of 4 images: 'dog/2.png'"),
        ({"images": 5, "annotations": [], "categories": []}, "cannot be read"),
    ],
)
def test_json_without_one_group_per_image_is_named(document: object, words: str, tmp_path: Path) -> None:
    (tmp_path / "groups.json").write_text(json.dumps(document))
    with pytest.raises(UserError) as raised:
        read_groups(tmp_path / "groups.json", None, FILES)
    assert words in raised.value.message


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        (
            "image,patient\ncat/1.png,a\ncat/2.png,\ndog/1.png,a\n",
            None,
            "no group for 2 of 4 images: 'cat/2.png', 'dog",
        ),
        (
            "image,patient\n" + "".join(f"{file},a\n" for file in FILES) + "cat/1.png,b\n",
            None,
            "the groups 'a' and 'b'",
        ),
        ("image,patient\n1.png,a\n2.png,b\n", None, "'1.png' could be 'cat/1.png', 'dog/1.png'"),
        (
            "image,patient,site\n" + "".join(f"{file},a,b\n" for file in FILES),
            None,
            "--group-column: 'patient', 'site'",
        ),
        (
            "image,patient\n" + "".join(f"{file},a\n" for file in FILES),
            "sex",
            "no such column besides that of the images",
        ),
        ("image\n" + "".join(f"{file}\n" for file in FILES), None, "but needs one of groups"),
        ("patient,site\na,b\n", None, "no column with the names of the images, such as 'cat/1.png'"),
        ("", None, "it is empty"),
    ],
)
def test_a_table_without_one_group_per_image_is_named(
    text: str, column: str | None, words: str, tmp_path: Path
) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(UserError) as raised:
        read_groups(tmp_path / "groups.csv", column, FILES)
    assert words in raised.value.message
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_groups(tmp_path / "none.csv", None, FILES)
