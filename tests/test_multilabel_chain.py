"""From images and a CSV of several labels to an evaluation, an endpoint, MLflow and ONNX, by the commands alone."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from tests.endpoints import as_json, image_files, post, served
from tests.making import Inputs, initialize, run_here
from tests.serving_sources import served_model

LABELS = ("cat", "dog", "owl")


def write_photos(path: Path, count: int = 48, size: int = 32) -> Path:
    """Photos of which the red, green and blue parts are bright where they have the first, second and third label."""
    random = np.random.default_rng(0)
    path.mkdir(parents=True)
    with (path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "labels"])
        for number in range(count):
            has = [bool(number >> bit & 1) for bit in range(3)]
            pixels = np.where(has, 200, 50) + random.normal(0, 20, (size, size, 3))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path / f"{number}.png")
            rows.writerow([f"{number}.png", ";".join(label for label, given in zip(LABELS, has) if given)])
    return path


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """What the commands of a pipeline leave: convert, split, initialize, train, score and evaluate."""
    path = tmp_path_factory.mktemp("chain")
    inputs = Inputs(path)
    outputs = inputs.outputs
    given = {"input_path": write_photos(path / "photos"), "output_path": path / "all", "outputs_path": outputs}
    assert run_here("convert-to-image-directory", **given) == 0
    parts = {"src_path": path / "all", "tgt_train_path": inputs.train, "tgt_test_path": inputs.valid}
    assert run_here("split-image-directory", **parts, fraction=0.7, outputs_path=outputs) == 0
    initialize(inputs.untrained, "resnet18", outputs)
    assert inputs.fit(epochs=3, learning_rate=0.02, export="onnx", report="full") == 0
    ports = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": path / "scored"}
    assert run_here("score-image-model", **ports, outputs_path=outputs, csv="true") == 0
    ports = {"scored_dataset": path / "scored", "evaluation_path": path / "evaluation"}
    assert run_here("evaluate-model", **ports, outputs_path=outputs) == 0
    return inputs


@pytest.fixture(scope="module")
def scored(chain: Inputs) -> pd.DataFrame:
    frame: pd.DataFrame = pd.read_parquet(chain.path / "scored" / "_data.parquet")
    return frame


def truth_of(chain: Inputs) -> np.ndarray:
    """Which labels the validation images have, from the file of labels. Images are known by their bytes."""
    photos = chain.path / "photos"
    with (photos / "labels.csv").open(newline="") as file:
        labels = {(photos / row["file"]).read_bytes(): row["labels"].split(";") for row in csv.DictReader(file)}
    return np.array([[label in labels[image] for label in LABELS] for image in image_files(chain)])


def probabilities_of(scored: pd.DataFrame) -> np.ndarray:
    values: np.ndarray = scored[[f"Scored Probabilities_{label}" for label in LABELS]].to_numpy()
    return values


def found_in(scored: pd.DataFrame) -> np.ndarray:
    return np.array([[label in json.loads(text) for label in LABELS] for text in scored["Scored Labels"]])


def test_images_with_none_one_and_several_labels_come_through(chain: Inputs, scored: pd.DataFrame) -> None:
    truth = truth_of(chain)
    assert {0, 1, 2} <= set(truth.sum(axis=1).tolist())
    assert len(scored) == len(truth)
    from_csv = pd.read_csv(chain.path / "scored" / "_data.csv", keep_default_na=False)
    assert [json.loads(text) for text in from_csv["Scored Labels"]] == [
        json.loads(text) for text in scored["Scored Labels"]
    ]


def test_the_evaluation_is_scikit_learns_of_the_file_of_labels(chain: Inputs, scored: pd.DataFrame) -> None:
    truth, found = truth_of(chain), found_in(scored)
    metrics = json.loads((chain.path / "evaluation" / "metrics.json").read_text())
    assert metrics["average_precision"] == pytest.approx(average_precision_score(truth, probabilities_of(scored)))
    assert metrics["micro"]["f1"] == pytest.approx(f1_score(truth, found, average="micro"))
    assert metrics["subset_accuracy"] == pytest.approx(accuracy_score(truth, found))
    best = max(line["average_precision"] for line in chain.metrics())  # type: ignore[type-var]
    assert metrics["average_precision"] == pytest.approx(best)


def test_labels_are_those_that_reach_the_thresholds_of_the_model(chain: Inputs, scored: pd.DataFrame) -> None:
    task = json.loads((chain.trained / "task.json").read_text())
    thresholds = [task["thresholds"][label] for label in LABELS]
    assert (found_in(scored) == (probabilities_of(scored) >= thresholds)).all()


def pictures(chain: Inputs) -> list[Image.Image]:
    return [Image.open(io.BytesIO(file)).convert("RGB") for file in image_files(chain)]


def check_answer(answer: dict[str, list[list[object]]], scored: pd.DataFrame) -> None:
    assert answer["columns"] == [*(f"Scored Probabilities_{label}" for label in LABELS), "Scored Labels"]
    for row, probabilities, labels in zip(answer["result"], probabilities_of(scored), scored["Scored Labels"]):
        assert row[:-1] == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert row[-1] == json.loads(labels)
    assert len(answer["result"]) == len(scored)


def test_a_served_model_gives_the_labels_of_the_table(chain: Inputs, scored: pd.DataFrame) -> None:
    check_answer(served_model.ServedModel(chain.trained).answer(pictures(chain)), scored)


@pytest.mark.environment
def test_an_endpoint_gives_the_labels_of_the_table(chain: Inputs, scored: pd.DataFrame, tmp_path: Path) -> None:
    with served(chain.trained, tmp_path) as address:
        status, answer = post(address, json.dumps(as_json(image_files(chain))).encode())
    assert status == 200
    check_answer(answer, scored)


def test_onnx_gives_the_probabilities_of_the_table_and_names_the_task(chain: Inputs, scored: pd.DataFrame) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(chain.trained / "model.onnx"), providers=["CPUExecutionProvider"])
    properties = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert properties["labels"] == list(LABELS)
    task = json.loads((chain.trained / "task.json").read_text())
    assert {key: properties[key] for key in task} == task
    pixels = np.stack([np.asarray(picture) for picture in pictures(chain)]).transpose(0, 3, 1, 2)
    (given,) = session.run(None, {"images": pixels})
    assert np.abs(given - probabilities_of(scored)).max() < 1e-4


def test_mlflow_gives_the_labels_of_the_table_as_text(chain: Inputs, scored: pd.DataFrame, tmp_path: Path) -> None:
    trained = {"trained_model_path": tmp_path / "trained", "outputs_path": tmp_path / "outputs"}
    assert chain.fit(**trained, epochs=3, learning_rate=0.02, export="mlflow") == 0  # the bits of the same model
    images = [entry["image"] for entry in as_json(image_files(chain))]
    (tmp_path / "images.json").write_text(json.dumps(images))
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if '__editable__' not in str(f)]\n"
        "sys.path = [p for p in sys.path if not p.endswith('/src')]\n"
        "import json, mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "model.predict(pandas.DataFrame({'image': json.load(open(sys.argv[2]))})).to_csv(sys.argv[3], index=False)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "trained" / "mlflow_model"]
    finished = subprocess.run(
        [*command, tmp_path / "images.json", tmp_path / "predictions.csv"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": ""},
    )
    assert finished.returncode == 0, finished.stderr
    predicted = pd.read_csv(tmp_path / "predictions.csv")
    assert list(predicted["Scored Labels"]) == list(scored["Scored Labels"])
    assert np.abs(probabilities_of(predicted) - probabilities_of(scored)).max() < 1e-6
