from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests import environments
from tests.making import (
    CLASSES,
    NETWORK,
    Inputs,
    error_code,
    error_text,
    initialize,
    run_here,
    run_retired_tool,
    write_class_folders,
    write_image_directory,
)
from tests.untrained_models import CODE, write_model_with_code
from train_pytorch_model.ports.untrained_model import read_untrained_model


def score(model: Path, data: Path, target: Path, **flags: object) -> int:
    ports = {"trained_model": model, "dataset": data, "scored_dataset": target}
    return run_here("score-image-model", **ports, outputs_path=target.parent / "outputs", **flags)


def table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path / "_data.parquet")


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("trained")).make()
    assert inputs.fit(epochs=2, learning_rate=0.01) == 0
    return inputs


def test_probabilities_are_those_of_a_plain_network(trained: Inputs, tmp_path: Path) -> None:
    assert score(trained.trained, trained.valid, tmp_path / "scored", batch_size=5) == 0
    scored = table(tmp_path / "scored")
    model = read_untrained_model(trained.trained, trust_code=False)
    network = model.description.build().eval()
    network.load_state_dict(model.state)
    items = [json.loads(line) for line in (trained.valid / "images.lst").read_text().splitlines()]
    for row, item in zip(scored.to_dict("records"), items):
        pixels = np.array(Image.open(trained.valid / item["image_info"]["file_name"]).convert("RGB"))
        with torch.no_grad():
            logits = network((torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5)
        expected = logits.softmax(1)[0]
        given = [row[f"Scored Probabilities_{label}"] for label in CLASSES]
        assert given == pytest.approx(expected.tolist(), abs=1e-6)
        assert row["Scored Labels"] == CLASSES[int(expected.argmax())]
        assert (row["category"], row["id"]) == (item["category"], item["id"])


def test_images_of_several_sizes_and_without_labels_are_scored(trained: Inputs, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, side in enumerate((32, 40, 32, 48)):
        Image.new("RGB", (side, side), (number * 50, 0, 0)).save(flat / f"{number}.png")
    assert score(trained.trained, flat, tmp_path / "scored", csv=True) == 0
    scored = table(tmp_path / "scored")
    assert list(scored) == [
        "id",
        *(f"Scored Probabilities_{label}" for label in CLASSES),
        "Scored Labels",
    ]
    sums = scored[[name for name in scored if name.startswith("Scored Prob")]].sum(axis=1)
    assert sums.tolist() == pytest.approx([1] * 4)
    in_text = pd.read_csv(tmp_path / "scored" / "_data.csv")
    assert in_text["Scored Labels"].tolist() == scored["Scored Labels"].tolist()


@pytest.mark.parametrize("damage", ["header", "data"])
def test_unreadable_images_end_the_run_or_become_rows_with_an_error(
    damage: str, trained: Inputs, tmp_path: Path
) -> None:
    write_image_directory(tmp_path / "data", per_class=2)
    broken = tmp_path / "data" / "image" / "1_2.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image" if damage == "header" else whole[: len(whole) // 2])
    assert score(trained.trained, tmp_path / "data", tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "1_2.png" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()
    assert score(trained.trained, tmp_path / "data", tmp_path / "scored", skip_unreadable_images=True) == 0
    scored = table(tmp_path / "scored")
    assert [bool(text) for text in scored["Error"].fillna("")] == [False, False, True, False, False, False]
    assert math.isnan(scored["Scored Probabilities_cat"][2])
    assert scored["Scored Labels"].isna().tolist() == [False, False, True, False, False, False]


def test_a_model_that_cannot_be_scored_is_named(trained: Inputs, tmp_path: Path) -> None:
    assert score(tmp_path / "nothing", trained.valid, tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidModelDirectory", 159)
    assert score(trained.trained, trained.valid, tmp_path / "scored", batch_size=0) == 1
    assert error_code(tmp_path / "outputs") == ("GreaterThan", 4)


@pytest.mark.environment
@pytest.mark.parametrize(
    ("network", "classes"),
    [
        pytest.param("resnet18", ("cat", "dog"), marks=pytest.mark.thorough),
        pytest.param("densenet121", ("007", "1e3", "a,b"), marks=pytest.mark.thorough),
        ("mobilenet_v3_small", ("True", "ünï")),
    ],
)
def test_the_table_is_the_retired_modules(network: str, classes: tuple[str, ...], tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make(network, classes=classes, size=64)
    assert inputs.fit(epochs=2, learning_rate=0.01) == 0
    assert score(inputs.trained, inputs.valid, tmp_path / "ours") == 0
    run_retired_tool(
        environments.retired(),
        "dl.pytorch.score.score_image_model.module_invoker",
        *("--trained-model", inputs.trained, "--dataset", inputs.valid, "--scored-dataset", tmp_path / "theirs"),
    )
    ours, theirs = table(tmp_path / "ours"), table(tmp_path / "theirs")
    assert list(ours) == list(theirs)
    for name in ours:
        if name.startswith("Scored Probabilities_"):
            assert ours[name].tolist() == pytest.approx(theirs[name].tolist(), abs=1e-6)
        else:
            assert ours[name].tolist() == theirs[name].tolist()
    for file in ("schema/_schema.json", "_meta.yaml"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "theirs" / file).read_bytes()
    for file in ("_data.visualization", "_samples.json"):
        ours_shown, theirs_shown = (json.loads((tmp_path / who / file).read_text()) for who in ("ours", "theirs"))
        assert rounded(ours_shown) == rounded(theirs_shown)


def test_a_raw_folder_tells_of_the_images_that_cannot_be_read(trained: Inputs, tmp_path: Path) -> None:
    raw = write_class_folders(tmp_path / "raw", per_class=2)
    (raw / "dog" / "broken.png").write_bytes(b"no image")
    assert score(trained.trained, raw, tmp_path / "scored") == 1
    assert "dog/broken.png" in error_text(tmp_path / "outputs")
    assert score(trained.trained, raw, tmp_path / "scored", skip_unreadable_images=True) == 0
    scored = table(tmp_path / "scored")
    assert len(scored) == 7
    assert scored["category"].tolist() == ["cat", "cat", "dog", "dog", "dog", "owl", "owl"]
    assert scored["Error"].notna().tolist() == [number == 4 for number in range(7)]


def test_images_of_a_size_that_the_network_cannot_take_are_named_before_scoring(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("vit_b_32", per_class=2, size=224)
    assert inputs.fit(batch_size=2) == 0
    write_image_directory(tmp_path / "small", per_class=2, size=64)
    assert score(inputs.trained, tmp_path / "small", tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "64x64" in error_text(tmp_path / "outputs")


@pytest.mark.parametrize(
    ("trouble", "error_id", "words"),
    [
        (
            "raise ValueError('odd sides only')",
            "InvalidDataset",
            "the network does not support images of 40x40: odd sides only",
        ),
        ("torch.empty(2**50)", "ModuleOutOfMemory", "memory"),
        ("raise RuntimeError('CUDA error: an illegal memory access')", "RuntimeError", "an illegal memory access"),
        ("raise RuntimeError('cuDNN error: CUDNN_STATUS_EXECUTION_FAILED')", "RuntimeError", "CUDNN_STATUS"),
        ("assert x.device.type == 'meta', 'no kernel'", "AssertionError", "no kernel"),
    ],
)
def test_errors_of_a_network_while_scoring_are_reported(
    trouble: str, error_id: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    code = CODE.replace("return self", f"if x.shape[3] == 40: {trouble}\n        return self").strip()
    write_model_with_code(tmp_path / "model", f"import torch\n{code}", f"net_of_{tmp_path.name}")
    (tmp_path / "flat").mkdir()
    for number, side in enumerate((32, 40, 32, 48)):  # tried beforehand: the most frequent, the least, the greatest
        Image.new("RGB", (side, side)).save(tmp_path / "flat" / f"{number}.png")
    assert score(tmp_path / "model", tmp_path / "flat", tmp_path / "scored", trust_model_code=True) == 1
    assert error_code(tmp_path / "outputs")[0] == error_id
    assert words in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()


def test_a_model_without_normalisation_and_labels_takes_plain_pixels_and_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    initialize(tmp_path / "model", "squeezenet1_1", tmp_path / "outputs")
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (32, 32), (255, 0, 0)).save(tmp_path / "flat" / "0.png")
    assert score(tmp_path / "model", tmp_path / "flat", tmp_path / "scored") == 0
    assert "The model has no input 'image', so the pixels are not normalised" in capfd.readouterr().err
    model = read_untrained_model(tmp_path / "model", trust_code=False)
    network = model.description.build().eval()
    network.load_state_dict(model.state)
    with torch.no_grad():
        expected = network(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)).softmax(1)[0]
    row = table(tmp_path / "scored").iloc[0]
    given = [row[f"Scored Probabilities_{index}"] for index in range(1000)]
    assert given == pytest.approx(expected.tolist(), abs=1e-6)
    assert row["Scored Labels"] == str(int(expected.argmax()))


def test_two_outputs_of_one_name_are_refused(trained: Inputs, tmp_path: Path) -> None:
    model = shutil.copytree(trained.trained, tmp_path / "model")
    labels = model / "index_to_label.csv"
    labels.write_text(labels.read_text().replace("dog", "cat"))
    assert score(model, trained.valid, tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidModelDirectory", 159)
    assert "several outputs have the label ['cat']" in error_text(tmp_path / "outputs")


@pytest.mark.parametrize(
    ("damage", "code"), [("class: ImageNormalizer", "class: Other"), ("- 0.5", "- much")], ids=["class", "number"]
)
def test_a_normalisation_that_is_not_known_is_named(damage: str, code: str, trained: Inputs, tmp_path: Path) -> None:
    model = shutil.copytree(trained.trained, tmp_path / "model")
    spec = model / "model_spec.yaml"
    spec.write_text(spec.read_text().replace(damage, code))
    assert score(model, trained.valid, tmp_path / "scored") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidModelDirectory", 159)


def test_no_cell_of_a_sheet_begins_a_formula(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    labels = ("=1+1", "-2", "@sum", "plain")
    for name, seed in (("train", 0), ("valid", 1)):
        write_image_directory(tmp_path / name, classes=labels, per_class=6, seed=seed)
    initialize(inputs.untrained, NETWORK, inputs.outputs)
    assert inputs.fit() == 0
    assert score(inputs.trained, inputs.valid, tmp_path / "scored", csv=True) == 0
    flags = {"scored_dataset": tmp_path / "scored", "evaluation_path": tmp_path / "evaluation"}
    assert run_here("evaluate-model", **flags, outputs_path=inputs.outputs) == 0
    for sheet in (tmp_path / "scored" / "_data.csv", *sorted((tmp_path / "evaluation").glob("*.csv"))):
        with sheet.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r")], sheet
        assert any(cell == "'=1+1" for row in rows for cell in row), sheet
    # What machines read has the labels as they are.
    assert set(table(tmp_path / "scored")["Scored Labels"]) <= set(labels)
