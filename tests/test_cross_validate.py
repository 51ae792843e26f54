"""cross-validate: its folds are plain trainings, its predictions out-of-fold, and a killed run goes on."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import train_pytorch_model as tpm
from tests.making import (
    CLASSES,
    NETWORK,
    error_text,
    flags_of,
    initialize,
    run_here,
    write_class_folders,
    write_multilabel_directory,
)
from tests.processes import run_forked

HOW: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 0.0005, "precision": "float32"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, an untrained model, and one cross-validation of them."""
    path = tmp_path_factory.mktemp("made")
    write_class_folders(path / "images", per_class=6)
    initialize(path / "untrained", NETWORK, path / "outputs")
    assert run_here("cross-validate", **flags(path), **HOW) == 0
    return path


def flags(made: Path, place: Path | None = None, **others: object) -> dict[str, Any]:
    place = place or made
    return {
        "untrained_model_path": made / "untrained",
        "data_path": made / "images",
        "cross_validation_path": place / "cross_validation",
        "scored_dataset": place / "scored",
        "outputs_path": place / "outputs",
        "folds": 3,
        **others,
    }


def fold_of_images(place: Path) -> dict[str, int]:
    with (place / "cross_validation" / "folds.csv").open(newline="") as file:
        return {row["image"]: int(row["fold"]) for row in csv.DictReader(file)}


def results(place: Path) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((place / "cross_validation" / "cross_validation.json").read_text())
    return contents


def test_each_image_is_in_one_fold_and_each_class_in_all(made: Path) -> None:
    folds = fold_of_images(made)
    assert sorted(folds) == sorted(f"{name}/{number}.png" for name in CLASSES for number in range(6))
    for name in CLASSES:
        assert sorted(fold for image, fold in folds.items() if image.startswith(name)) == [1, 1, 2, 2, 3, 3]


def test_means_are_those_of_the_folds(made: Path) -> None:
    contents = results(made)
    assert set(contents["metrics"]) >= {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "valid_loss"}
    for name, found in contents["metrics"].items():
        values = [fold["metrics"][name] for fold in contents["folds"]]
        assert found["folds"] == values
        assert found["mean"] == pytest.approx(np.mean(values))
        assert found["std"] == pytest.approx(np.std(values, ddof=1))
    table = pd.read_csv(made / "cross_validation" / "cross_validation.csv", index_col="metric")
    assert table.loc["accuracy", "mean"] == pytest.approx(contents["metrics"]["accuracy"]["mean"])
    assert list(table.columns) == ["mean", "standard deviation", "fold 1", "fold 2", "fold 3"]
    # Score Image Model and the validation of training agree on the images of a fold.
    for fold in contents["folds"]:
        assert fold["metrics"]["log_loss"] == pytest.approx(fold["metrics"]["valid_loss"], abs=1e-5)


def test_a_fold_is_a_plain_training_run_to_the_bit_and_its_images_get_that_models_scores(
    made: Path, tmp_path: Path
) -> None:
    for image, fold in fold_of_images(made).items():
        target = tmp_path / ("valid" if fold == 2 else "train") / image
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "images" / image, target)
    result = tpm.train(
        made / "untrained",
        tmp_path / "train",
        tmp_path / "valid",
        tmp_path / "trained",
        report="off",
        outputs_path=tmp_path / "outputs",
        **HOW,
    )
    fold_folder = made / "outputs" / "folds" / "fold-2"
    expected, found = (
        torch.load(folder / "model", weights_only=True)
        for folder in (result.trained_model_path, fold_folder / "trained_model")
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    scores = tpm.score(result.trained_model_path, tmp_path / "valid", outputs_path=tmp_path / "outputs")
    all_scores = pd.read_parquet(made / "scored" / "_data.parquet")
    rows = [number for number, fold in enumerate(fold_of_images(made).values()) if fold == 2]
    of_fold = all_scores.iloc[rows].reset_index(drop=True)
    pd.testing.assert_frame_equal(of_fold.drop(columns="id"), scores.drop(columns="id"))


def test_folds_of_few_images_need_no_batch_size(made: Path, tmp_path: Path) -> None:
    how = {**HOW, "epochs": 1}
    del how["batch_size"]
    result = tpm.cross_validate(**flags(made, tmp_path), **how)
    assert [fold["num_train_images"] for fold in result.folds] == [12, 12, 12]
    again = tpm.cross_validate(**flags(made, tmp_path), **how, resume="require")
    assert again.metrics == result.metrics


def test_evaluate_model_takes_the_out_of_fold_predictions(made: Path, tmp_path: Path) -> None:
    metrics = tpm.evaluate(made / "scored", tmp_path / "evaluation", outputs_path=tmp_path)
    assert metrics["num_images"] == 18
    assert metrics["num_left_out"] == 0
    contents = results(made)
    assert metrics["accuracy"] == contents["out_of_fold"]["accuracy"]
    assert metrics["accuracy"] == pytest.approx(statistics.fmean(contents["metrics"]["accuracy"]["folds"]))


def test_finished_folds_are_kept_and_a_changed_setting_is_named(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made / "outputs", tmp_path / "outputs")
    model = tmp_path / "outputs" / "folds" / "fold-1" / "trained_model" / "model"
    before = model.stat().st_mtime_ns
    result = tpm.cross_validate(**flags(made, tmp_path), **HOW)
    assert model.stat().st_mtime_ns == before
    assert result.metrics == results(made)["metrics"]
    changed = {**HOW, "learning_rate": 0.001}
    with pytest.raises(tpm.ModuleError, match="it differs in: learning rate"):
        tpm.cross_validate(**flags(made, tmp_path), **changed, resume="require")
    caplog.clear()
    tpm.cross_validate(**flags(made, tmp_path), **changed)
    assert "it differs in: learning rate" in caplog.text
    assert model.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("changed", "words"), [("images", "it differs in: images"), ("untrained", "it differs in: untrained model")]
)
def test_folds_of_other_inputs_do_not_count(changed: str, words: str, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "made")
    file = next(path for path in sorted((tmp_path / "made" / changed).rglob("*")) if path.is_file())
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(tpm.ModuleError, match=words):
        tpm.cross_validate(**flags(tmp_path / "made"), **HOW, resume="require")


def test_a_killed_run_goes_on_and_ends_with_the_same_results(made: Path, tmp_path: Path) -> None:
    killed = (
        "import os, signal\n"
        "from train_pytorch_model.modules.fold_runs import FoldRuns\n"
        "finish = FoldRuns.finish\n"
        "def kill(runs, fold, values):\n"
        "    finish(runs, fold, values)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "FoldRuns.finish = kill"
    )
    words = ["train_pytorch_model", "cross-validate", *flags_of({**flags(made, tmp_path), **HOW})]
    assert run_forked(words, os.environ, tmp_path, first=killed).returncode == -signal.SIGKILL
    first = tmp_path / "outputs" / "folds" / "fold-1" / "fold.json"
    assert not (tmp_path / "scored").exists()
    assert not (tmp_path / "outputs" / "folds" / "fold-2" / "fold.json").exists()
    kept = first.stat().st_mtime_ns
    assert run_here("cross-validate", **flags(made, tmp_path), **HOW) == 0
    assert first.stat().st_mtime_ns == kept
    assert results(tmp_path) == results(made)
    parts = (place / "scored" / "_data.parquet" for place in (made, tmp_path))
    pd.testing.assert_frame_equal(*map(pd.read_parquet, parts))


def test_groups_are_in_one_fold_each(made: Path, tmp_path: Path) -> None:
    rows = [f"{name}/{number}.png,site {number // 2}" for name in CLASSES for number in range(6)]
    (tmp_path / "sites.csv").write_text("\n".join(["file,site", *rows]))
    result = tpm.cross_validate(
        **flags(made, tmp_path, groups_path=tmp_path / "sites.csv"), epochs=1, batch_size=4, precision="float32"
    )
    folds = fold_of_images(tmp_path)
    sites = [{folds[f"{name}/{number + part}.png"] for name in CLASSES for part in (0, 1)} for number in (0, 2, 4)]
    assert sorted(map(sorted, sites)) == [[1], [2], [3]]
    assert len(result.folds) == 3
    table = pd.read_csv(tmp_path / "cross_validation" / "folds.csv")
    assert table["image"].add("," + table["group"]).tolist() == sorted(rows)


def test_several_labels(made: Path, tmp_path: Path) -> None:
    write_multilabel_directory(tmp_path / "images")
    result = tpm.cross_validate(
        **{**flags(made, tmp_path), "data_path": tmp_path / "images"}, epochs=1, batch_size=4, precision="float32"
    )
    assert set(result.metrics) >= {"average_precision", "micro_f1", "subset_accuracy", "valid_loss"}
    metrics = tpm.evaluate(tmp_path / "scored", tmp_path / "evaluation", outputs_path=tmp_path)
    assert metrics["num_images"] == 24
    table = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    lines = (tmp_path / "images" / "images.lst").read_text().splitlines()
    assert [json.loads(text) for text in table["category"]] == [json.loads(line)["category"] for line in lines]


def test_images_without_a_label_are_in_no_fold(made: Path, tmp_path: Path) -> None:
    lists = [None if number % 5 == 4 else [CLASSES[number % 3]] for number in range(20)]
    write_multilabel_directory(tmp_path / "images", lists)
    tpm.cross_validate(**{**flags(made, tmp_path, folds=2), "data_path": tmp_path / "images"}, epochs=1, batch_size=4)
    assert len(fold_of_images(tmp_path)) == 16
    table = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    assert table["category"].tolist() == [json.dumps(labels) for labels in lists if labels is not None]


def test_the_head_alone_is_fitted_in_no_epoch(made: Path, tmp_path: Path) -> None:
    result = tpm.cross_validate(**flags(made, tmp_path), head_only=True, recipe="finetune", batch_size=4)
    assert [fold["best_epoch"] for fold in result.folds] == [0, 0, 0]
    untrained, trained = (
        torch.load(path / "model", weights_only=True)
        for path in (made / "untrained", tmp_path / "outputs" / "folds" / "fold-1" / "trained_model")
    )
    differing = {name for name in trained if not torch.equal(trained[name], untrained.get(name, trained[name]))}
    assert differing <= {"fc.weight", "fc.bias"}
    assert trained["fc.weight"].shape[0] == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"folds": 1}, '"Folds" value should be greater than or equal to 2'),
        ({"folds": 7}, "there are 7 folds, but fewer images of 'cat' (6)"),
        ({"head_only": True}, "--head-only true needs pretrained weights"),
        ({"group_column": "site"}, "--groups-path, which was not given"),
        ({"groups_path": "none.csv"}, "--groups-path none.csv cannot be read"),
        ({"epochs": 0}, '"Epochs" has value "0" which should be greater than 0'),
    ],
)
def test_faults_are_named_and_nothing_is_written(given: dict[str, Any], words: str, made: Path, tmp_path: Path) -> None:
    assert run_here("cross-validate", **{**flags(made, tmp_path), **HOW, **given}) == 1
    assert words in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()
    assert not (tmp_path / "cross_validation").exists()


def test_it_runs_in_one_process(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(tpm.ModuleError, match="runs in one process"):
        tpm.cross_validate(**flags(made, tmp_path), **HOW)


def test_the_folder_of_folds_is_not_in_an_input(made: Path, tmp_path: Path) -> None:
    with pytest.raises(tpm.ModuleError, match="is inside the input"):
        tpm.cross_validate(**flags(made, tmp_path, folds_path=made / "images" / "folds"), **HOW)
    assert not (made / "images" / "folds").exists()
