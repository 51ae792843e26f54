"""The benchmark of accuracy: which images are held back, and which goals are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.accuracy_sets import find_sets, find_weights, model_name
from benchmarks.accuracy_tables import Result, Run, goals_of


def write_images(path: Path, count: int) -> None:
    path.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (4, 4)).save(path / f"{index}.png")


def names_in(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*.png")}


def test_a_fifth_of_each_class_becomes_the_validation_set(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("test", 2)):
        for label in ("cat", "dog"):
            write_images(tmp_path / "pets" / part / label, count)
    (photos,) = find_sets(tmp_path)
    first, again, other = (photos.write(tmp_path / f"run{run}", seed) for run, seed in enumerate((1, 1, 2)))
    train, valid = names_in(first / "train"), names_in(first / "valid")
    assert train | valid == names_in(tmp_path / "pets" / "train")
    assert not train & valid
    assert [sum(name.startswith(label) for name in valid) for label in ("cat", "dog")] == [2, 2]
    assert names_in(first / "test") == names_in(tmp_path / "pets" / "test")
    assert names_in(again / "valid") == valid != names_in(other / "valid")


def test_class_folders_without_a_test_set_keep_the_same_test_images_in_every_run(tmp_path: Path) -> None:
    for label, count in (("cat", 10), ("dog", 5), ("emu", 1)):
        write_images(tmp_path / "pets" / label, count)
    (photos,) = find_sets(tmp_path / "pets")
    runs = [photos.write(tmp_path / f"run{seed}", seed) for seed in (1, 2)]
    assert names_in(runs[0] / "test") == names_in(runs[1] / "test")
    for run in runs:
        parts = [names_in(run / part) for part in ("train", "valid", "test")]
        assert set.union(*parts) == names_in(tmp_path / "pets")
        assert [len(part) for part in parts] == [6 + 3 + 1, 2 + 1, 2 + 1]


def test_folders_without_classes_are_no_sets(tmp_path: Path) -> None:
    write_images(tmp_path / "unlabelled", 3)
    write_images(tmp_path / "one" / "train" / "cat", 3)
    (tmp_path / "weights").mkdir()
    assert find_sets(tmp_path) == []


def test_weights_are_named_after_their_network(tmp_path: Path) -> None:
    for name in ("resnet18.pth", "tf_efficientnet_lite0.f16.pth", "notes.txt"):
        (tmp_path / name).touch()
    assert list(find_weights(tmp_path)) == ["resnet18", "tf_efficientnet_lite0"]
    assert model_name("resnet18") == "resnet18"
    assert model_name("tf_efficientnet_lite0") == "timm/tf_efficientnet_lite0"
    with pytest.raises(ValueError, match="resnet17"):
        model_name("resnet17")


def results_of(**accuracies: float) -> dict[Run, Result]:
    """Results of two seeds, in which auto takes 10 s and other programs 30 s."""
    return {
        Run("data", "pets", "resnet18", seed, program): Result(
            accuracy, accuracy, 10.0 if program == "auto" else 30.0, 0.0, (8, 2, 10)
        )
        for program, accuracy in accuracies.items()
        for seed in (1, 2)
    }


def test_goals_are_kept_at_their_limits() -> None:
    goals = goals_of(results_of(auto=0.90, classic=0.85, head=0.91, fastai=0.87))
    assert [verdict for *_, verdict in goals] == ["kept"] * 4
    assert goals[2][1] == "0.33 in 2 runs each"


def test_goals_are_broken_beyond_their_limits() -> None:
    results = results_of(auto=0.90, classic=0.851, head=0.911, fastai=0.871)
    results[Run("data", "pets", "resnet18", 1, "fastai")] = Result(0.871, 0.871, 29.0, 0.0, (8, 2, 10))
    assert [verdict for *_, verdict in goals_of(results)] == ["broken"] * 4


def test_goals_without_results_are_not_run() -> None:
    assert [verdict for *_, verdict in goals_of(results_of(auto=0.9))] == ["not run"] * 4
