"""Score Image Model with a model of several labels per image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import train_pytorch_model as tpm
from tests.image_directories import edit_items, edit_schema
from tests.making import Inputs, error_code, error_text, read_json_lines, run_here, write_class_folders
from tests.multilabel_data import LABELS, write_multilabel_directory, write_multilabel_model
from train_pytorch_model.ports.untrained_model import read_untrained_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_multilabel_directory(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    probabilities = plain_probabilities(write_multilabel_model(folder / "first", data), data)
    # Between two images each, so that rounding decides nothing.
    thresholds = np.sort(probabilities, axis=0)[4:6].mean(axis=0)
    return write_multilabel_model(folder / "model", data, thresholds=tuple(map(float, thresholds)))


def score(model: Path, data: Path, target: Path, **flags: object) -> int:
    ports = {"trained_model": model, "dataset": data, "scored_dataset": target}
    return run_here("score-image-model", **ports, outputs_path=target.parent / "outputs", **flags)


def table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path / "_data.parquet")


def plain_probabilities(model: Path, data: Path) -> np.ndarray:
    """Sigmoids of a plain forward pass of each image."""
    read = read_untrained_model(model, trust_code=False)
    network = read.description.build().eval()
    network.load_state_dict(read.state)
    rows = []
    for item in read_json_lines(data / "images.lst"):
        with Image.open(data / item["image_info"]["file_name"]) as image:  # type: ignore[index]
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            rows.append(torch.sigmoid(network((pixels - 0.5) / 0.5))[0].numpy())
    return np.array(rows)


def test_probabilities_are_the_sigmoids_of_a_plain_network(model: Path, data: Path, tmp_path: Path) -> None:
    assert score(model, data, tmp_path / "scored", batch_size=5, csv=True) == 0
    scored = table(tmp_path / "scored")
    expected = plain_probabilities(model, data)
    thresholds = list(json.loads((model / "task.json").read_text())["thresholds"].values())
    probabilities = scored[[f"Scored Probabilities_{label}" for label in LABELS]]
    assert list(scored) == ["category", "id", *probabilities, "Scored Labels"]
    assert set(probabilities.dtypes) == {np.dtype(np.float64)}
    assert probabilities.to_numpy() == pytest.approx(expected, abs=1e-6)
    found = [[label for label, is_there in zip(LABELS, row) if is_there] for row in expected >= thresholds]
    assert sum(map(len, found)) == 3 * 7
    assert [json.loads(text) for text in scored["Scored Labels"]] == found
    truth = [item["category"] for item in read_json_lines(data / "images.lst")]
    assert [json.loads(text) for text in scored["category"]] == truth
    sheet = pd.read_csv(tmp_path / "scored" / "_data.csv")
    assert sheet["Scored Labels"].tolist() == scored["Scored Labels"].tolist()
    assert sheet["category"].tolist() == scored["category"].tolist()
    schema = json.loads((tmp_path / "scored" / "schema" / "_schema.json").read_text())
    assert schema["scoreColumns"] == {
        **{name: name for name in probabilities},
        "Multi Label Assigned Labels": "Scored Labels",
    }
    assert schema["labelColumns"] == {"True Labels": "category"}


def test_a_probability_at_the_threshold_gives_the_label(data: Path, tmp_path: Path) -> None:
    first = plain_probabilities(write_multilabel_model(tmp_path / "first", data), data)
    thresholds = tuple(map(float, first[0]))
    model = write_multilabel_model(tmp_path / "model", data, thresholds=thresholds)
    (tmp_path / "one").mkdir()
    with Image.open(data / "image" / "0.png") as image:
        image.save(tmp_path / "one" / "0.png")
    assert score(model, tmp_path / "one", tmp_path / "scored") == 0
    row = table(tmp_path / "scored").iloc[0]
    reached = [label for label, least in zip(LABELS, thresholds) if row[f"Scored Probabilities_{label}"] >= least]
    assert json.loads(row["Scored Labels"]) == reached


def test_true_labels_have_the_order_of_the_model_and_occur_once(tmp_path: Path) -> None:
    train = write_multilabel_directory(tmp_path / "train", ("b", "ünï", "a"), rows=[["a", "b", "ünï"]])
    model = write_multilabel_model(tmp_path / "model", train)
    rows = [["a", "new", "b"], [], None, ["a", "a"], ["ünï"]]
    test = write_multilabel_directory(tmp_path / "test", ("new", "a", "ünï", "b"), rows=rows)
    assert score(model, test, tmp_path / "scored") == 0
    given = table(tmp_path / "scored")["category"]
    assert given.fillna("none").tolist() == ['["b", "a", "new"]', "[]", "none", '["a"]', '["ünï"]']


def test_images_without_labels_are_scored(model: Path, data: Path, tmp_path: Path) -> None:
    assert score(model, data / "image", tmp_path / "scored") == 0
    assert "category" not in table(tmp_path / "scored")
    assert len(table(tmp_path / "scored")) == 12


def test_folders_of_images_are_scored_and_are_no_true_labels(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = write_class_folders(tmp_path / "folders", ("monday", "tuesday"), per_class=2)
    assert score(model, folders, tmp_path / "scored") == 0
    assert "the classes of its images are not used as true labels" in capfd.readouterr().err
    schema = json.loads((tmp_path / "scored" / "schema" / "_schema.json").read_text())
    assert schema["labelColumns"] == {}
    assert run_here("evaluate-model", scored_dataset=tmp_path / "scored", evaluation_path=tmp_path / "evaluation") == 1


def test_labels_of_the_other_task_are_named(model: Path, data: Path, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make(per_class=4)
    assert score(model, inputs.valid, tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "one class per image, but the model predicts a list of labels per image" in error_text(tmp_path / "outputs")
    assert inputs.fit() == 0
    assert score(inputs.trained, data, tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "a list of labels per image, but the model predicts one class per image" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()


@pytest.mark.parametrize("value", ["cat", [1], [["cat"]], {"cat": 1}, ["Cat"]])
def test_true_labels_that_are_no_list_are_named(value: object, model: Path, tmp_path: Path) -> None:
    data = write_multilabel_directory(tmp_path / "data")
    edit_items(data, lambda items: items[2].update(category=value))
    assert score(model, data, tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "item 3 (image/2.png) is labelled" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()


def test_unreadable_images_become_rows_without_labels(model: Path, tmp_path: Path) -> None:
    data = write_multilabel_directory(tmp_path / "data")
    (data / "image" / "2.png").write_bytes(b"no image")
    assert score(model, data, tmp_path / "scored", skip_unreadable_images=True) == 0
    scored = table(tmp_path / "scored")
    assert scored["Scored Labels"].isna().tolist() == scored["Error"].notna().tolist() == [n == 2 for n in range(12)]
    metrics = tpm.evaluate(tmp_path / "scored", tmp_path / "evaluation", outputs_path=tmp_path / "outputs")
    assert (metrics["num_images"], metrics["num_left_out"]) == (11, 1)


def test_a_model_with_other_outputs_than_thresholds_is_named(data: Path, tmp_path: Path) -> None:
    model = write_multilabel_model(tmp_path / "model", data)
    spec = model / "model_spec.yaml"
    spec.write_text(spec.read_text().replace("num_classes: 3", "num_classes: 4"))
    state = torch.load(model / "model", weights_only=True)
    state.update({name: torch.cat([state[name], state[name][:1]]) for name in ("fc.weight", "fc.bias")})
    torch.save(state, model / "model")
    assert score(model, data, tmp_path / "scored") == 1
    assert "the network has 4 outputs, but there are 3 thresholds" in error_text(tmp_path / "outputs")


def test_the_api_gives_the_table_and_the_metrics(model: Path, data: Path, tmp_path: Path) -> None:
    scored = tpm.score(model, data, tmp_path / "scored", outputs_path=tmp_path / "outputs")
    metrics = tpm.evaluate(tmp_path / "scored", tmp_path / "evaluation", outputs_path=tmp_path / "outputs")
    same = [json.loads(found) == json.loads(true) for found, true in zip(scored["Scored Labels"], scored["category"])]
    assert metrics["subset_accuracy"] == pytest.approx(np.mean(same))
    assert list(metrics["per_label"]) == list(LABELS)


def test_a_damaged_category_list_is_named(model: Path, tmp_path: Path) -> None:
    data = write_multilabel_directory(tmp_path / "data")
    edit_schema(data, lambda columns: columns[2]["properties"].update(categories=[]))
    assert score(model, data, tmp_path / "scored") == 1
    assert "the schema lists no categories" in error_text(tmp_path / "outputs")
