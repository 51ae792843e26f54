"""Heat maps of scored images: which images get them, what is written, and what is refused."""

from __future__ import annotations

import filecmp
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.making import CLASSES, Inputs, error_text, run_here, write_multilabel_directory
from tests.served_models import make_multilabel, write_model, write_network
from train_pytorch_model.data.model_task import MULTILABEL, Task
from train_pytorch_model.modules.explanations import choose_explained

pytest.importorskip("captum")


def score(model: Path, data: Path, target: Path, **flags: object) -> int:
    ports = {"trained_model": model, "dataset": data, "scored_dataset": target}
    return run_here("score-image-model", **ports, outputs_path=target.parent / "outputs", **flags)


def index_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "explanations.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("trained")).make()
    assert inputs.fit(epochs=2, learning_rate=0.01) == 0
    return inputs


def test_the_least_certain_images_get_pictures_and_rows(
    trained: Inputs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert score(trained.trained, trained.valid, tmp_path / "plain") == 0
    flags = {"explanations": tmp_path / "explanations", "max_explanations": 5}
    assert score(trained.trained, trained.valid, tmp_path / "scored", **flags) == 0
    assert "Computing heat maps of the 5 least certain of 12 images." in capfd.readouterr().err
    # The table is that of a run without heat maps.
    same = ["_data.parquet", "_meta.yaml", "_samples.json"]
    assert filecmp.cmpfiles(tmp_path / "plain", tmp_path / "scored", same, shallow=False)[0] == same
    scored = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    files = [
        line.split('"file_name": "')[1].split('"')[0]
        for line in (trained.valid / "images.lst").read_text().splitlines()
    ]
    highest = scored[[f"Scored Probabilities_{label}" for label in CLASSES]].max(axis=1)
    index = index_of(tmp_path / "explanations")
    assert list(index) == ["file", "label", "probability", "heat_map"]
    order = np.argsort(highest.to_numpy(), kind="stable")[:5]
    assert index["file"].tolist() == [files[number] for number in order]
    assert index["label"].tolist() == scored["Scored Labels"][order].tolist()
    assert index["probability"].to_numpy() == pytest.approx(highest[order].to_numpy())
    for number, row in enumerate(index.itertuples(), 1):
        assert row.heat_map == f"heat_maps/{number:04d}_{row.label}.png"
        with Image.open(tmp_path / "explanations" / row.heat_map) as picture:
            assert (picture.format, picture.mode) == ("PNG", "RGB")
    assert len(list((tmp_path / "explanations" / "heat_maps").iterdir())) == 5


def test_the_same_run_writes_the_same_pictures_over_earlier_ones(trained: Inputs, tmp_path: Path) -> None:
    for number in (3, 2, 3):
        flags = {"explanations": tmp_path / "explanations", "max_explanations": number}
        assert score(trained.trained, trained.valid, tmp_path / "scored", **flags) == 0
        pictures = sorted((tmp_path / "explanations" / "heat_maps").iterdir())
        assert len(pictures) == number
        if number == 3:
            kept = [picture.read_bytes() for picture in pictures]
    assert [picture.read_bytes() for picture in pictures] == kept


def test_each_label_that_is_found_has_a_picture(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "torchvision.models", "squeezenet1_1", num_classes=2)
    make_multilabel(model, cat=0.0, dog=0.0)
    write_multilabel_directory(tmp_path / "data", [["cat"], []], ("cat", "dog"), size=64)
    assert score(model, tmp_path / "data", tmp_path / "scored", explanations=tmp_path / "explanations") == 0
    index = index_of(tmp_path / "explanations")
    assert index["label"].tolist() == ["cat", "dog"] * 2
    assert index["heat_map"].tolist() == [
        *("heat_maps/0001_0_cat.png", "heat_maps/0001_1_dog.png"),
        *("heat_maps/0002_0_cat.png", "heat_maps/0002_1_dog.png"),
    ]
    assert all((tmp_path / "explanations" / name).is_file() for name in index["heat_map"])


def test_no_number_of_images_writes_nothing_and_needs_no_captum(
    trained: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    (tmp_path / "explanations").mkdir()  # as Azure does
    flags = {"explanations": tmp_path / "explanations", "max_explanations": 0}
    assert score(trained.trained, trained.valid, tmp_path / "scored", **flags) == 0
    assert list((tmp_path / "explanations").iterdir()) == []


def test_a_number_of_images_without_a_folder_is_told_of(
    trained: Inputs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert score(trained.trained, trained.valid, tmp_path / "scored", max_explanations=5) == 0
    assert "--max-explanations 5 has no effect without --explanations." in capfd.readouterr().err


def test_a_missing_captum_is_named_before_any_work(
    trained: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert score(trained.trained, trained.valid, tmp_path / "scored", explanations=tmp_path / "explanations") == 1
    text = error_text(tmp_path / "outputs")
    assert "--explanations cannot be used: heat maps need the package captum, which is not installed" in text
    assert "train-pytorch-model[explain]" in text
    assert not (tmp_path / "scored").exists()
    assert not (tmp_path / "explanations").exists()


@pytest.mark.parametrize("place", ["model", "inside", "scored", "foreign"])
def test_the_folder_must_be_its_own(place: str, trained: Inputs, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    folders = {"model": trained.trained, "inside": trained.valid / "heat", "scored": tmp_path / "scored"}
    folder = folders.get(place, foreign)
    assert score(trained.trained, trained.valid, tmp_path / "scored", explanations=folder) == 1
    assert 'The output "Explanations" cannot be written' in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_a_network_without_gradients_is_named_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    name = write_network(tmp_path, "x = x.round()")
    model = write_model(tmp_path / "model", name, "Network")
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "data" / "1.png")
    source = (tmp_path / f"{name}.py").read_text()
    (tmp_path / f"{name}.py").write_text(source.replace("x.mean((2, 3))", "torch.tensor(x.mean((2, 3)).tolist())"))
    monkeypatch.delitem(sys.modules, name)
    flags = {"explanations": tmp_path / "explanations", "trust_model_code": "true"}
    assert score(model, tmp_path / "data", tmp_path / "scored", **flags) == 1
    assert "--explanations cannot be used: this network has no heat maps" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()
    assert not (tmp_path / "explanations").exists()


def test_an_image_that_cannot_be_read_is_skipped(trained: Inputs, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 40), (60 * number, 0, 90)).save(tmp_path / "data" / f"{number}.png")
    (tmp_path / "data" / "1.png").write_bytes(b"no image")
    flags = {"explanations": tmp_path / "explanations", "skip_unreadable_images": "true"}
    assert score(trained.trained, tmp_path / "data", tmp_path / "scored", **flags) == 0
    assert sorted(index_of(tmp_path / "explanations")["file"]) == ["0.png", "2.png"]


def test_images_that_could_not_be_scored_or_have_no_label_are_not_explained() -> None:
    probabilities = np.array([[0.9, 0.1], [np.nan, np.nan], [0.4, 0.6]])
    assert [image.index for image in choose_explained(probabilities, Task(), 10)] == [2, 0]
    task = Task(MULTILABEL, {"cat": 0.5, "dog": 0.3})
    chosen = choose_explained(np.array([[0.1, 0.1], [0.9, 0.8], [0.45, 0.9], [np.nan, np.nan]]), task, 10)
    assert [(image.index, image.labels) for image in chosen] == [(2, (1,)), (1, (0, 1))]
