"""Splits of images with several labels each."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from tests.image_directories import edit_items
from tests.making import error_code, error_text, read_json_lines, run_here, write_multilabel_directory
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.modules.label_stratification import stratified_choice_of_labels
from train_pytorch_model.ports.labelled_images import read_labelled_images


def split(source: Path, path: Path, **flags: object) -> int:
    targets = {"tgt_train_path": path / "first", "tgt_test_path": path / "second"}
    return run_here("split-image-directory", src_path=source, **targets, outputs_path=path / "outputs", **flags)


def correlated_labels(num_images: int, num_labels: int, seed: int) -> np.ndarray:
    """Rare and frequent labels, some of which occur together: bool of shape (N, C)."""
    random = np.random.default_rng(seed)
    causes = random.normal(size=(num_images, 3)) @ random.normal(size=(3, num_labels))
    values = causes + random.normal(size=causes.shape)
    frequencies = random.beta(0.5, 3, num_labels)
    labels: np.ndarray = values > [np.quantile(value, 1 - f) for value, f in zip(values.T, frequencies)]
    return labels


def imbalance(labels: np.ndarray, is_first: np.ndarray, fraction: float) -> float:
    """How many images of a label are too many or too few in the first part: the root of the mean square."""
    return float(np.sqrt(np.square(labels[is_first].sum(axis=0) - labels.sum(axis=0) * fraction).mean()))


@pytest.mark.parametrize("fraction", [0.5, 0.8, 0.9])
@pytest.mark.parametrize(("num_images", "num_labels"), [(1000, 20), (2000, 100)])
def test_labels_are_better_balanced_than_in_random_splits(num_images: int, num_labels: int, fraction: float) -> None:
    labels = correlated_labels(num_images, num_labels, seed=num_labels)
    is_first = stratified_choice_of_labels(labels, fraction, seed=3)
    assert is_first.sum() == round(num_images * fraction)
    random = np.random.default_rng(0)
    others = [random.permutation(is_first) for _ in range(200)]
    assert imbalance(labels, is_first, fraction) < min(imbalance(labels, other, fraction) for other in others)


@pytest.mark.parametrize("seed", range(10))
def test_a_small_dataset_is_split_almost_as_well_as_it_can_be(seed: int) -> None:
    labels = np.random.default_rng(seed).random((12, 4)) < 0.4
    splits = [np.isin(np.arange(12), chosen) for chosen in itertools.combinations(range(12), 9)]
    assert len(splits) == 220
    best = np.sort([imbalance(labels, is_first, 0.75) for is_first in splits])
    assert imbalance(labels, stratified_choice_of_labels(labels, 0.75, seed), 0.75) <= best[22]


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.8, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_a_label_of_two_images_is_in_both_parts(fraction: float, seed: int) -> None:
    labels = correlated_labels(400, 30, seed)
    labels[:, 0] = np.arange(400) < 2
    labels[:, 1] = np.arange(400) == 7
    is_first = stratified_choice_of_labels(labels, fraction, seed)
    for part in (is_first, ~is_first):
        assert labels[part].any(axis=0)[labels.sum(axis=0) > 1].all()
    assert is_first.sum() == round(400 * fraction)


def test_one_label_each_is_split_as_scikit_learn_splits_classes() -> None:
    classes = np.repeat([0, 1, 2, 3], [50, 30, 15, 5])
    is_first = stratified_choice_of_labels(np.eye(4, dtype=bool)[classes], 0.8, seed=1)
    theirs, _ = train_test_split(classes, train_size=0.8, stratify=classes, random_state=0)
    assert np.bincount(classes[is_first]).tolist() == np.bincount(theirs).tolist()


def test_the_choice_follows_the_seed() -> None:
    labels = correlated_labels(200, 10, seed=0)
    first, again, other = (stratified_choice_of_labels(labels, 0.7, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    "labels",
    [np.zeros((10, 3), bool), np.zeros((10, 0), bool), np.ones((10, 3), bool), np.eye(10, dtype=bool)],
    ids=["no image has a label", "no labels", "all labels in every image", "each label in one image"],
)
def test_labels_that_cannot_be_balanced_are_split_by_the_fraction(labels: np.ndarray) -> None:
    assert stratified_choice_of_labels(labels, 0.7, seed=1).sum() == 7


def test_both_parts_have_images_whatever_the_labels_are() -> None:
    random = np.random.default_rng(0)
    for seed in range(500):
        num_images = int(random.integers(2, 15))
        labels = random.random((num_images, int(random.integers(0, 6)))) < random.random()
        is_first = stratified_choice_of_labels(labels, int(random.integers(1, num_images)) / num_images, seed)
        assert 0 < is_first.sum() < num_images


def test_labels_of_few_images_are_in_both_parts_rather_than_the_fraction_exact() -> None:
    labels = np.repeat(np.eye(5, dtype=bool), 2, axis=0)
    is_first = stratified_choice_of_labels(labels, 0.9, seed=1)
    assert labels[is_first].sum(axis=0).tolist() == labels[~is_first].sum(axis=0).tolist() == [1] * 5


def test_a_thousand_labels_are_split() -> None:
    labels = np.random.default_rng(0).random((2000, 1000)) < 0.01
    is_first = stratified_choice_of_labels(labels, 0.8, seed=1)
    assert imbalance(labels, is_first, 0.8) < 1.2


def test_two_directories_hold_every_image_once_with_its_list(tmp_path: Path) -> None:
    lists = [["cat", "dog"], ["dog", "cat"], [], ["owl"], None] * 8
    source = write_multilabel_directory(tmp_path / "source", lists)
    assert split(source, tmp_path, fraction=0.75) == 0
    first, second = (read_json_lines(tmp_path / part / "images.lst") for part in ("first", "second"))
    assert [len(first), len(second)] == [30, 10]
    items = sorted([*first, *second], key=lambda item: int(str(item["id"])))
    assert items == read_json_lines(source / "images.lst")
    assert sum(item["category"] is None for item in first) == 6
    for part in ("first", "second"):
        assert (tmp_path / part / "_schema.json").read_bytes() == (source / "_schema.json").read_bytes()
        load_image_directory(tmp_path / part).dump(str(tmp_path / f"{part}_again"))
        assert (tmp_path / f"{part}_again" / "images.lst").read_bytes() == (tmp_path / part / "images.lst").read_bytes()
    assert read_labelled_images(tmp_path / "first", "Training dataset").counts().tolist() == [12, 12, 6]


def test_a_label_of_one_image_warns(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = write_multilabel_directory(tmp_path / "source", [["cat"], ["cat", "dog"], [], ["owl", "cat"], ["owl"], []])
    assert split(source, tmp_path, fraction=0.5) == 0
    assert "output has no image of 'dog'." in capfd.readouterr().err


def test_a_label_that_is_not_a_list_is_an_error(tmp_path: Path) -> None:
    source = write_multilabel_directory(tmp_path / "source")
    edit_items(source, lambda items: items[3].update(category="cat"))
    assert split(source, tmp_path, fraction=0.5) == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "item 4 (image/3.png) is labelled 'cat'" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "first").exists()
