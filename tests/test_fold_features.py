"""cross-validate --head-only: each image passes through the frozen network once, with the results of single runs."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import train_pytorch_model as tpm
from tests.making import NETWORK, initialize, write_class_folders, write_multilabel_directory
from train_pytorch_model.checkpoints.folder import CheckpointFolder
from train_pytorch_model.data import image_store
from train_pytorch_model.job import frozen_features
from train_pytorch_model.modules import fold_training, image_scorer
from train_pytorch_model.modules.fold_runs import FoldRuns
from train_pytorch_model.ports.untrained_model import read_model

HOW: dict[str, Any] = {"head_only": True, "recipe": "finetune", "batch_size": 6, "folds": 3, "precision": "float32"}
NUM_IMAGES = 54


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made")
    write_class_folders(path / "images", per_class=18)
    initialize(path / NETWORK, NETWORK, path / "outputs")
    initialize(path / "squeezenet1_1", "squeezenet1_1", path / "outputs")  # its head ends with a ReLU
    return path


def cross_validate(made: Path, place: Path, network: str = NETWORK, **others: Any) -> tpm.CrossValidation:
    given = {"data_path": made / "images", **HOW, **others}
    return tpm.cross_validate(
        made / network,
        cross_validation_path=place / "cross_validation",
        scored_dataset=place / "scored",
        outputs_path=place / "outputs",
        **given,
    )


@contextmanager
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each fold compute its own features, validate with the network, and score from the files."""
    with monkeypatch.context() as patch:
        patch.setattr(fold_training, "features_of_folds", lambda *arguments: None)
        yield


class Counter:
    """Counts the images that networks see in batches, and those that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen = self.decoded = 0
        forward, decode = nn.Conv2d.forward, image_store.decode

        def counted(layer: nn.Conv2d, given: torch.Tensor) -> torch.Tensor:
            # Checks of a network take one or two random images, or shapes alone.
            if layer.in_channels == 3 and len(given) > 2 and given.device.type != "meta":
                self.seen += len(given)
            return forward(layer, given)

        def decoding(*arguments: Any) -> Any:
            self.decoded += 1
            return decode(*arguments)

        monkeypatch.setattr(nn.Conv2d, "forward", counted)
        monkeypatch.setattr(image_store, "decode", decoding)
        monkeypatch.setattr(image_scorer, "decode", decoding)


def scored(place: Path) -> tuple[np.ndarray, list[object]]:
    table = pd.read_parquet(place / "scored" / "_data.parquet")
    names = [name for name in table if name.startswith("Scored Probabilities")]
    assert names
    return table[names].to_numpy(), table["Scored Labels"].tolist()


@pytest.mark.parametrize("network", [NETWORK, "squeezenet1_1"])
def test_each_image_is_decoded_once_and_seen_once(
    network: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = Counter(monkeypatch)
    cross_validate(made, tmp_path, network)
    assert counter.decoded == NUM_IMAGES
    assert counter.seen == NUM_IMAGES


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("network", "how"),
    [
        (NETWORK, {}),
        (NETWORK, {"test_time_augmentation": "flip"}),
        ("squeezenet1_1", {}),
        ("squeezenet1_1", {"precision": "bfloat16"}),
    ],
)
def test_the_results_are_those_of_folds_that_compute_on_their_own(
    network: str, how: dict[str, Any], made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = cross_validate(made, tmp_path / "together", network, **how)
    with alone(monkeypatch):
        apart = cross_validate(made, tmp_path / "apart", network, **how)
    for name, found in apart.metrics.items():
        assert together.metrics[name]["folds"] == pytest.approx(found["folds"], abs=1e-4)
    (probabilities, labels), (expected, expected_labels) = map(scored, (tmp_path / "together", tmp_path / "apart"))
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert labels == expected_labels


@pytest.mark.thorough
@pytest.mark.parametrize("network", [NETWORK, "squeezenet1_1"])
def test_the_written_models_give_the_scores(network: str, made: Path, tmp_path: Path) -> None:
    cross_validate(made, tmp_path, network)
    with (tmp_path / "cross_validation" / "folds.csv").open() as file:
        table = pd.read_csv(file)
    probabilities, _ = scored(tmp_path)
    for fold in (1, 2, 3):
        rows = (table["fold"] == fold).to_numpy()
        for image in table["image"][rows]:
            target = tmp_path / f"images-{fold}" / image
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made / "images" / image, target)
        model = tmp_path / "outputs" / "folds" / f"fold-{fold}" / "trained_model"
        found = tpm.score(model, tmp_path / f"images-{fold}", outputs_path=tmp_path / "outputs")
        names = [name for name in found if name.startswith("Scored Probabilities")]
        np.testing.assert_allclose(found[names].to_numpy(), probabilities[rows], atol=1e-5)


def test_several_labels(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_multilabel_directory(tmp_path / "images")
    how = {"data_path": tmp_path / "images", "batch_size": 4}
    together = cross_validate(made, tmp_path / "together", **how)
    with alone(monkeypatch):
        apart = cross_validate(made, tmp_path / "apart", **how)
    for name, found in apart.metrics.items():
        assert together.metrics[name]["folds"] == pytest.approx(found["folds"], abs=1e-4)


def test_a_fold_whose_images_become_another_size_computes_its_own(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_class_folders(tmp_path / "images", per_class=4)
    # Random weights take the size of the training images if they have one, and 224x224 otherwise.
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "cat" / "0.png")
    how = {"data_path": tmp_path / "images", "batch_size": 4, "folds": 2}
    together = cross_validate(made, tmp_path / "together", **how)
    with alone(monkeypatch):
        apart = cross_validate(made, tmp_path / "apart", **how)
    folders = [tmp_path / "together" / "outputs" / "folds" / f"fold-{fold}" / "trained_model" for fold in (1, 2)]
    assert len({read_model(folder, "", "", trust_code=False).geometry for folder in folders}) == 2
    for name, found in apart.metrics.items():
        assert together.metrics[name]["folds"] == pytest.approx(found["folds"], abs=1e-4)


def test_unreadable_images_are_skipped_as_by_single_runs(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made / "images", tmp_path / "images")
    cut, empty = (tmp_path / "images" / name for name in ("cat/3.png", "dog/5.png"))
    cut.write_bytes(cut.read_bytes()[:-200])  # its header can be read
    empty.write_bytes(b"")
    how = {"data_path": tmp_path / "images", "skip_unreadable_images": True}
    together = cross_validate(made, tmp_path / "together", **how)
    with alone(monkeypatch):
        apart = cross_validate(made, tmp_path / "apart", **how)
    for name, found in apart.metrics.items():
        assert together.metrics[name]["folds"] == pytest.approx(found["folds"], abs=1e-4)
    tables = [pd.read_parquet(tmp_path / place / "scored" / "_data.parquet") for place in ("together", "apart")]
    assert tables[0]["Error"].tolist() == tables[1]["Error"].tolist()
    assert tables[0]["Error"].notna().sum() == 2
    for fold in (1, 2, 3):
        lists = [
            json.loads((tmp_path / place / "outputs" / "folds" / f"fold-{fold}" / "unreadable_images.json").read_text())
            for place in ("together", "apart")
        ]
        assert lists[0] == lists[1]
        assert sum(map(len, lists[0].values())) == 2


@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_run_that_goes_on_has_the_features(
    is_damaged: bool, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish: Callable[..., Any] = FoldRuns.finish
    features = tmp_path / "outputs" / "folds" / "features"

    def killed(runs: Any, fold: int, values: dict[str, Any]) -> None:
        finish(runs, fold, values)
        if fold == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FoldRuns, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            cross_validate(made, tmp_path)
    (file,) = features.iterdir()
    if is_damaged:
        file.write_bytes(file.read_bytes()[:-100])
    counter = Counter(monkeypatch)
    found = cross_validate(made, tmp_path)
    assert counter.seen == counter.decoded == (NUM_IMAGES if is_damaged else 0)
    assert (f"{file} cannot be used" in caplog.text) == is_damaged
    assert found.metrics == cross_validate(made, tmp_path / "whole").metrics
    assert not features.exists()


def test_a_full_disk_costs_no_more_than_the_kept_features(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: CheckpointFolder, content: dict[str, Any]) -> Path:
        if folder.path.name == "features":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(folder, content)

    write = CheckpointFolder.write
    monkeypatch.setattr(CheckpointFolder, "write", full)
    cross_validate(made, tmp_path, folds=2)
    assert "No space left on device. If the run is ended, they are computed again." in caplog.text


def test_flags_without_effect_are_named(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cross_validate(made, tmp_path, epochs=3, learning_rate=0.01, folds=2)
    assert "trains no epoch, so these flags have no effect: --epochs, --learning-rate." in caplog.text


def test_features_that_take_too_much_memory_are_computed_by_each_fold(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(frozen_features, "_MAX_BYTES", 1000)
    found = cross_validate(made, tmp_path / "large")
    assert "too much to keep" in caplog.text
    monkeypatch.undo()
    for name, expected in cross_validate(made, tmp_path / "small").metrics.items():
        assert found.metrics[name]["folds"] == pytest.approx(expected["folds"], abs=1e-4)
