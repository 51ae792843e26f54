from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from tests import environments
from tests.making import Inputs, error_code, error_text, run_here, run_retired_tool
from tests.scored_tables import write_scored
from train_pytorch_model.evaluation.metrics import calibration_error, compute_metrics


def evaluate(scored: Path, target: Path) -> int:
    outputs = target.parent / "outputs"
    return run_here("evaluate-model", scored_dataset=scored, evaluation_path=target, outputs_path=outputs)


def drawn(num_images: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(num_classes), num_images)
    truth = np.array([random.choice(num_classes, p=row) for row in probabilities])
    return probabilities, truth


def test_metrics_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    report = compute_metrics(np.array([0, 0, 1, 1]), probabilities, ("a", "b"))
    assert report["accuracy"] == 0.75
    assert report["per_class"]["a"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "support": 2})
    assert report["per_class"]["b"] == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2})
    assert report["macro"]["f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert report["log_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.7, 0.4]).mean())
    # Both images of "a" are surer of "a" than both of "b".
    assert report["roc_auc"] == 1
    # Each image has a bin of its own: sure by 0.9, 0.8, 0.7 and 0.6, right but for the last.
    assert report["expected_calibration_error"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.6) / 4)
    assert report["top5_accuracy"] is None


def test_metrics_over_many_classes_equal_scikit_learns_own_averages() -> None:
    probabilities, truth = drawn(400, 8)
    report = compute_metrics(truth, probabilities, tuple("abcdefgh"))
    assert report["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, probabilities, multi_class="ovr"))
    assert report["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, probabilities.argmax(1)))
    assert report["average_precision"] == pytest.approx(
        metrics.average_precision_score(np.eye(8)[truth], probabilities)
    )
    assert report["weighted"]["recall"] == pytest.approx(report["accuracy"])
    in_first_five = (np.argsort(-probabilities)[:, :5] == truth[:, None]).any(1)
    assert report["top5_accuracy"] == pytest.approx(in_first_five.mean())


def test_the_calibration_error_is_that_of_a_plain_loop_and_small_where_chances_are_true() -> None:
    probabilities, truth = drawn(5000, 4)
    expected = 0.0
    for low in range(15):
        inside = [row for row in range(5000) if low / 15 < probabilities[row].max() <= (low + 1) / 15]
        if inside:
            right = np.mean([probabilities[row].argmax() == truth[row] for row in inside])
            sure = np.mean([probabilities[row].max() for row in inside])
            expected += len(inside) / 5000 * abs(right - sure)
    assert calibration_error(truth, probabilities) == pytest.approx(expected)
    assert calibration_error(truth, probabilities) < 0.03
    assert calibration_error((truth + 1) % 4, probabilities) > 0.3


@pytest.mark.parametrize("classes", [["only"], ["a", "b"], [f"class {number}" for number in range(40)]])
def test_an_evaluation_holds_metrics_tables_and_pictures(classes: list[str], tmp_path: Path) -> None:
    probabilities, truth = drawn(60, len(classes))
    scored = write_scored(tmp_path / "scored", probabilities, [classes[index] for index in truth], classes)
    assert evaluate(scored, tmp_path / "evaluation") == 0
    report = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert report["num_images"] == 60
    with (tmp_path / "evaluation" / "confusion_matrix.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == classes
    counts = np.array([[int(cell) for cell in row[1:]] for row in rows[1:]])
    assert counts.sum() == 60
    assert np.trace(counts) / 60 == pytest.approx(report["accuracy"])
    for name in ("confusion_matrix.png", "reliability.png"):
        with Image.open(tmp_path / "evaluation" / name) as picture:
            assert min(picture.size) > 300
            assert len(set(picture.convert("L").tobytes())) > 20


def test_labels_that_look_like_numbers_formulas_or_code_are_text(tmp_path: Path) -> None:
    classes = ["007", "1e3", "$x^2$", "<script>"]
    probabilities, truth = drawn(30, 4)
    scored = write_scored(tmp_path / "scored", probabilities, [classes[index] for index in truth], classes)
    assert evaluate(scored, tmp_path / "evaluation") == 0
    report = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert list(report["per_class"]) == classes


def test_rows_without_a_label_or_probabilities_are_skipped_and_counted(tmp_path: Path) -> None:
    probabilities, truth = drawn(10, 3)
    labels: list[str | None] = ["abc"[index] for index in truth]
    labels[2] = None
    probabilities[5] = np.nan
    scored = write_scored(tmp_path / "scored", probabilities, labels, list("abc"))
    assert evaluate(scored, tmp_path / "evaluation") == 0
    report = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert (report["num_images"], report["num_left_out"]) == (8, 2)


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        ("no labels", "NotLabeledDataset", 24),
        ("unknown label", "InvalidDataset", 18),
        ("nothing", "InvalidDataset", 18),
        ("no row of both", "InvalidDataset", 18),
    ],
)
def test_a_table_that_cannot_be_evaluated_is_named(kind: str, name: str, code: int, tmp_path: Path) -> None:
    probabilities, truth = drawn(6, 3)
    labels: list[str | None] = ["abc"[index] for index in truth]
    if kind == "no labels":
        labels = [None] * 6
    if kind == "no row of both":
        probabilities[:3] = np.nan
        labels[3:] = [None] * 3
    if kind == "unknown label":
        labels[0] = "z"
    if kind != "nothing":
        write_scored(tmp_path / "scored", probabilities, labels, list("abc"))
    assert evaluate(tmp_path / "scored", tmp_path / "evaluation") == 1
    assert error_code(tmp_path / "outputs") == (name, code)
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("_meta.yaml", "DataFrameDirectory", "ImageDirectory", "has type 'ImageDirectory'"),
        ("_meta.yaml", "_data.parquet", "../scored/_data.parquet", "'../scored/_data.parquet' leaves the directory"),
        ("_meta.yaml", "schema/_schema.json", "schema.json", "'schema' of _meta.yaml: 'schema.json' is missing"),
        ("schema/_schema.json", "Scored Probabilities_", "Chances_", "begins with 'Scored Probabilities_'"),
        ("schema/_schema.json", '"True Labels": "category"', '"True Labels": ["category"]', "There is no label column"),
        ("schema/_schema.json", "{", "[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_damaged_table_is_named(file: str, old: str, new: str, words: str, tmp_path: Path) -> None:
    probabilities, truth = drawn(6, 3)
    scored = write_scored(tmp_path / "scored", probabilities, ["abc"[index] for index in truth], list("abc"))
    text = (scored / file).read_text()
    assert old in text
    (scored / file).write_text(text.replace(old, new))
    assert evaluate(scored, tmp_path / "evaluation") == 1
    assert words in error_text(tmp_path / "outputs")
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize("name", ["_data.parquet", "schema/_schema.json", "_meta.yaml", "schema"])
def test_a_link_out_of_a_scored_dataset_is_refused(name: str, tmp_path: Path) -> None:
    probabilities, truth = drawn(6, 3)
    scored = write_scored(tmp_path / "scored", probabilities, ["abc"[index] for index in truth], list("abc"))
    (scored / name).rename(tmp_path / "outside")
    (scored / name).symlink_to(tmp_path / "outside")
    assert evaluate(scored, tmp_path / "evaluation") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "leads out of the directory through a link" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "evaluation").exists()


def test_a_link_within_a_scored_dataset_is_followed(tmp_path: Path) -> None:
    probabilities, truth = drawn(6, 3)
    scored = write_scored(tmp_path / "scored", probabilities, ["abc"[index] for index in truth], list("abc"))
    (scored / "_data.parquet").rename(scored / "table.parquet")
    (scored / "_data.parquet").symlink_to("table.parquet")
    linked = tmp_path / "linked"
    linked.symlink_to(scored)
    assert evaluate(linked, tmp_path / "evaluation") == 0


def test_labels_that_are_lists_are_none_of_the_classes(tmp_path: Path) -> None:
    scored = write_scored(tmp_path / "scored", np.eye(2), [["a"], ["b", "a"]], ["a", "b"])
    assert evaluate(scored, tmp_path / "evaluation") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)


@pytest.mark.environment
def test_the_retired_modules_table_is_evaluated_like_ours(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make("resnet18", classes=("0", "1", "2"), size=64)
    assert inputs.fit(epochs=2, learning_rate=0.01) == 0
    run_retired_tool(
        environments.retired(),
        "dl.pytorch.score.score_image_model.module_invoker",
        *("--trained-model", inputs.trained, "--dataset", inputs.valid, "--scored-dataset", tmp_path / "theirs"),
    )
    data = {"trained_model": inputs.trained, "dataset": inputs.valid}
    assert run_here("score-image-model", **data, scored_dataset=tmp_path / "ours", outputs_path=inputs.outputs) == 0
    reports = []
    for name in ("ours", "theirs"):
        assert evaluate(tmp_path / name, tmp_path / f"evaluation_of_{name}") == 0
        reports.append(json.loads((tmp_path / f"evaluation_of_{name}" / "metrics.json").read_text()))
    assert reports[0]["per_class"] == reports[1]["per_class"]
    assert reports[0]["log_loss"] == pytest.approx(reports[1]["log_loss"], abs=1e-5)
    # The model written is the best epoch's, and what it scored there it scores here.
    assert reports[0]["accuracy"] == max(record["top1_acc"] for record in inputs.metrics())  # type: ignore[type-var]
