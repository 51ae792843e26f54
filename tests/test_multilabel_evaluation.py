"""Evaluate Model on a scored table of several labels per image."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn import metrics

from tests.making import error_code, error_text, run_here
from tests.scored_tables import write_scored_labels
from train_pytorch_model.evaluation import multilabel_plots
from train_pytorch_model.evaluation.multilabel_metrics import compute_multilabel_metrics, precision_recall_curves

LABELS = ("cat", "dog", "owl", "fox", "yak")


def drawn(num_images: int, num_labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.random((num_images, num_labels))
    return random.random((num_images, num_labels)) < probabilities, probabilities


def names_of(truth: np.ndarray, labels: tuple[str, ...] = LABELS) -> list[list[str]]:
    return [[labels[index] for index in np.flatnonzero(row)] for row in truth]


def evaluate(scored: Path) -> int:
    folder = scored.parent
    flags = {"scored_dataset": scored, "evaluation_path": folder / "evaluation", "outputs_path": folder / "outputs"}
    return run_here("evaluate-model", **flags)


def report_of(scored: Path) -> dict[str, Any]:
    assert evaluate(scored) == 0
    report: dict[str, Any] = json.loads((scored.parent / "evaluation" / "metrics.json").read_text())
    return report


def test_metrics_by_hand() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], dtype=bool)
    probabilities = np.array([[0.9, 0.2], [0.4, 0.8], [0.6, 0.7], [0.1, 0.3]])
    report = compute_multilabel_metrics(truth, probabilities >= 0.5, probabilities, ("a", "b"))
    # Of "a", the images are found in the order right, wrong, right; of "b", right, right.
    assert report["per_label"]["a"] == pytest.approx(
        {
            **{"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
            **{"true_positives": 1, "false_positives": 1, "false_negatives": 1, "true_negatives": 1},
            **{"average_precision": (1 + 2 / 3) / 2, "roc_auc": 0.75},
        }
    )
    assert report["per_label"]["b"]["average_precision"] == 1
    assert report["average_precision"] == pytest.approx((5 / 6 + 1) / 2)
    assert report["subset_accuracy"] == 0.5
    assert report["hamming_loss"] == 2 / 8
    assert report["micro"] == pytest.approx({"precision": 0.75, "recall": 0.75, "f1": 0.75})
    assert report["macro"]["f1"] == 0.75
    chances = [0.9, 0.8, 0.4, 0.8, 0.4, 0.7, 0.9, 0.7]
    assert report["log_loss"] == pytest.approx(-np.log(chances).mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_labels", [2, 5, 30])
def test_averages_are_those_of_scikit_learn(num_labels: int, seed: int) -> None:
    truth, probabilities = drawn(80, num_labels, seed)
    thresholds = np.random.default_rng(seed).random(num_labels)
    found = probabilities >= thresholds
    report = compute_multilabel_metrics(truth, found, probabilities, [str(number) for number in range(num_labels)])
    for average in ("micro", "macro", "weighted"):
        expected = metrics.precision_recall_fscore_support(truth, found, average=average, zero_division=0)[:3]
        assert tuple(report[average].values()) == pytest.approx(expected)
    assert report["average_precision"] == pytest.approx(metrics.average_precision_score(truth, probabilities))
    micro = metrics.average_precision_score(truth, probabilities, average="micro")
    assert report["micro_average_precision"] == pytest.approx(micro)
    assert report["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, probabilities))
    assert report["subset_accuracy"] == pytest.approx((truth == found).all(axis=1).mean())
    assert report["hamming_loss"] == pytest.approx((truth != found).mean())
    for number, values in enumerate(report["per_label"].values()):
        assert values["true_positives"] == (truth & found)[:, number].sum()
        assert values["false_positives"] == (~truth & found)[:, number].sum()
        assert values["false_negatives"] == (truth & ~found)[:, number].sum()
        assert values["true_negatives"] == (~truth & ~found)[:, number].sum()
        assert values["support"] == truth[:, number].sum()
        assert values["f1"] == pytest.approx(metrics.f1_score(truth[:, number], found[:, number], zero_division=0))


def test_a_label_that_no_image_has_is_left_out_of_the_means_and_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    truth, probabilities = drawn(60, 5)
    truth[:, 3] = False
    truth[:, 4] = True
    report = report_of(write_scored_labels(tmp_path / "scored", probabilities, names_of(truth), LABELS))
    assert "no image has the label 'fox', which is left out of the means" in capfd.readouterr().err
    present = [0, 1, 2, 4]
    found = probabilities >= 0.5
    assert report["labels_without_images"] == ["fox"]
    assert report["average_precision"] == pytest.approx(
        metrics.average_precision_score(truth[:, present], probabilities[:, present])
    )
    assert report["macro"]["f1"] == pytest.approx(
        metrics.f1_score(truth[:, present], found[:, present], average="macro")
    )
    # What is found of the label nevertheless counts as wrong.
    assert report["micro"]["f1"] == pytest.approx(metrics.f1_score(truth, found, average="micro"))
    assert report["per_label"]["fox"]["average_precision"] is None
    assert report["per_label"]["fox"]["false_positives"] == found[:, 3].sum()
    assert report["per_label"]["yak"]["roc_auc"] is None
    assert report["per_label"]["yak"]["average_precision"] == 1


def test_one_label_is_a_label_and_not_two_classes(tmp_path: Path) -> None:
    truth, probabilities = drawn(50, 1)
    report = report_of(write_scored_labels(tmp_path / "scored", probabilities, names_of(truth), ("cat",)))
    found = probabilities[:, 0] >= 0.5
    assert report["macro"] == report["micro"] == report["weighted"]
    assert report["micro"]["precision"] == pytest.approx(metrics.precision_score(truth[:, 0], found))
    assert report["micro"]["recall"] == pytest.approx(metrics.recall_score(truth[:, 0], found))
    assert report["average_precision"] == report["micro_average_precision"]
    assert report["subset_accuracy"] == pytest.approx(1 - report["hamming_loss"])


@pytest.mark.parametrize("labels", [(), LABELS[:2]])
def test_images_without_labels_are_evaluated(labels: tuple[str, ...], tmp_path: Path) -> None:
    probabilities = np.full((4, 2), 0.2)
    probabilities[0] = 0.8
    truth = [list(labels), [], [], []]
    report = report_of(write_scored_labels(tmp_path / "scored", probabilities, truth, LABELS[:2]))
    assert report["num_images"] == 4
    assert report["subset_accuracy"] == (1 if labels else 0.75)
    assert report["average_precision"] == (1 if labels else None)
    assert report["macro"]["f1"] == (1 if labels else None)


@pytest.mark.parametrize("num_labels", [1, 5, 11, 70])
def test_an_evaluation_has_tables_and_plots(num_labels: int, tmp_path: Path) -> None:
    labels = tuple(f"label $x_{number}$" for number in range(num_labels))
    truth, probabilities = drawn(60, num_labels)
    scored = write_scored_labels(tmp_path / "scored", probabilities, names_of(truth, labels), labels)
    report = report_of(scored)
    folder = tmp_path / "evaluation"
    with (folder / "per_label.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(labels)
    assert [float(row["average_precision"]) for row in rows] == pytest.approx(
        [values["average_precision"] for values in report["per_label"].values()]
    )
    with (folder / "precision_recall.csv").open(newline="") as file:
        points = [row for row in csv.DictReader(file) if row["label"] == labels[-1]]
    recall = [float(row["recall"]) for row in points] + [0]
    # The area under the steps is the average precision.
    area = sum((recall[index] - recall[index + 1]) * float(row["precision"]) for index, row in enumerate(points))
    assert area == pytest.approx(report["per_label"][labels[-1]]["average_precision"])
    for name in ("label_confusion.png", "precision_recall.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 200
            assert len(set(picture.convert("L").tobytes())) > 20
    assert evaluate(scored) == 0  # replaces its own output


def test_curves_of_many_images_are_thinned() -> None:
    truth, probabilities = drawn(5000, 1)
    points = precision_recall_curves(truth, probabilities, ("a",))["a"]
    assert points.shape == (200, 3)
    assert points[0].tolist() == [probabilities.min(), truth.mean(), 1]
    assert points[-1, 0] == probabilities.max()


def test_labels_that_the_font_cannot_draw_go_by_their_number_in_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []

    def save(figure: Figure, path: Path, **options: Any) -> None:
        (axes,) = figure.axes
        texts = [text for legend in figure.legends for text in legend.get_texts()]
        shown.append([text.get_text() for text in (*texts, *axes.get_yticklabels())])

    monkeypatch.setattr(Figure, "savefig", save)
    labels = ("no image", *(f"common {number}" for number in range(multilabel_plots.MAX_BARS)), "猫")
    truth, probabilities = drawn(60, len(labels))
    truth[:, 0], truth[:, -1] = False, probabilities[:, -1] < 0.5  # so that the last label has the most mistakes
    found = probabilities >= 0.5
    per_label = compute_multilabel_metrics(truth, found, probabilities, labels)["per_label"]
    curves = precision_recall_curves(truth, probabilities, labels)
    multilabel_plots.draw_label_confusion(per_label, tmp_path / "bars.png")
    multilabel_plots.draw_precision_recall(curves, per_label, tmp_path / "curves.png")
    bars, named = shown
    assert f"label {len(labels) - 1}" in bars
    assert any(text.startswith(f"label {len(labels) - 1} (") for text in named)


def test_the_labels_that_the_table_names_decide_and_not_a_half(tmp_path: Path) -> None:
    truth, probabilities = drawn(60, 2)
    thresholds = (0.9, 0.05)
    scored = write_scored_labels(tmp_path / "scored", probabilities, names_of(truth), LABELS[:2], thresholds)
    report = report_of(scored)
    found = probabilities >= thresholds
    assert report["micro"]["f1"] == pytest.approx(metrics.f1_score(truth, found, average="micro"))


def test_rows_without_labels_or_probabilities_are_skipped_and_counted(tmp_path: Path) -> None:
    truth, probabilities = drawn(10, 2)
    names: list[list[str] | None] = [*names_of(truth)]
    names[3] = None
    probabilities[5] = np.nan
    report = report_of(write_scored_labels(tmp_path / "scored", probabilities, names, LABELS[:2]))
    assert (report["num_images"], report["num_left_out"]) == (8, 2)


def test_a_true_label_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    truth, probabilities = drawn(6, 2)
    names = [*names_of(truth)[:5], ["dog", "Cat"]]
    assert evaluate(write_scored_labels(tmp_path / "scored", probabilities, names, LABELS[:2])) == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert "the true labels 'Cat' are not among the scored classes 'cat', 'dog'" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "evaluation").exists()


def test_labels_in_another_unicode_form_are_the_same(tmp_path: Path) -> None:
    truth = [["\u0065\u0301t\u00e9"], []]
    probabilities = np.array([[0.9], [0.1]])
    report = report_of(write_scored_labels(tmp_path / "scored", probabilities, truth, ("\u00e9t\u00e9",)))
    assert report["subset_accuracy"] == 1


@pytest.mark.parametrize("value", ["cat", '"cat"', "[1]", '{"cat": 1}', "[", "[" * 100_000, '["cat", null]'])
@pytest.mark.parametrize("column", ["category", "Scored Labels"])
def test_a_cell_that_is_no_list_of_labels_is_named(value: str, column: str, tmp_path: Path) -> None:
    truth, probabilities = drawn(4, 2)
    scored = write_scored_labels(tmp_path / "scored", probabilities, names_of(truth), LABELS[:2])
    import pandas as pd

    table = pd.read_parquet(scored / "_data.parquet")
    table.loc[2, column] = value
    table.to_parquet(scored / "_data.parquet")
    assert evaluate(scored) == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert f"row 3 of '{column}' is" in error_text(tmp_path / "outputs")
    assert "not a list of labels" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "evaluation").exists()
