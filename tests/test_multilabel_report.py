"""The report of a training with several labels per image."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.making import NETWORK, Inputs, initialize, run_here
from tests.multilabel_data import write_multilabel_directory
from tests.test_report import HOSTILE, Page
from train_pytorch_model.evaluation.multilabel_metrics import compute_multilabel_metrics
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
from train_pytorch_model.report.contents import LABEL_FIGURES, LABEL_TABLES, Report, remove_report
from train_pytorch_model.report.thumbnails import choose_samples, make_label_mistakes, make_samples, name_labels
from train_pytorch_model.report.write import write_report


def pixels(index: int) -> np.ndarray:
    return np.full((8, 12, 3), index % 256, dtype=np.uint8)


def make_report(labels: tuple[str, ...], num_images: int = 60, *, has_images: bool = True, seed: int = 0) -> Report:
    random = np.random.default_rng(seed)
    probabilities = random.random((num_images, len(labels)))
    truth = random.random(probabilities.shape) < probabilities
    thresholds = tuple(random.uniform(0.2, 0.8, len(labels)).tolist())
    records = [
        EpochRecord(
            **{"epoch": epoch, "learning_rate": 0.1, "train_loss": 1 / epoch, "train_error": 0.5, "top5_acc": None},
            **{"valid_loss": 2 / epoch, "top1_acc": 0.4 + epoch / 10, "is_best": epoch == 2},
            **{"average_precision": 0.5 + epoch / 10, "micro_f1": 0.4 + epoch / 10, "macro_f1": 0.3},
        )
        for epoch in (1, 2, 3)
    ]
    wrongly_found, missed = make_label_mistakes(truth, probabilities, labels, thresholds, pixels, str)
    return Report(
        title=f"net, {len(labels)} labels",
        facts=[("Model", [("Network", "net")])],
        records=records,
        timings=[EpochTiming(1, 1.0, 0.5, 30.0)],
        best_epoch=2,
        stop_reason="Completed all 3 epochs.",
        classes=labels,
        train_counts=random.integers(0, 90, len(labels)),
        valid_counts=truth.sum(axis=0),
        truth=truth,
        probabilities=probabilities,
        thresholds=thresholds,
        wrongly_found=wrongly_found if has_images else (),
        missed=missed if has_images else (),
        samples=make_samples(truth, labels, pixels, str) if has_images else (),
    )


@pytest.mark.parametrize("labels", [("only",), ("cat", "dog", "owl"), tuple(f"label {n}" for n in range(70))])
def test_a_report_shows_every_label_and_has_all_files(labels: tuple[str, ...], tmp_path: Path) -> None:
    report = make_report(labels)
    page = Page(write_report(report, tmp_path / "report"))
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.html", *LABEL_FIGURES, *LABEL_TABLES}
    found = report.probabilities >= np.array(report.thresholds)
    metrics = compute_multilabel_metrics(report.truth, found, report.probabilities, labels)
    assert f"{metrics['average_precision']:.3f}" in page.text
    assert f"{metrics['micro']['f1']:.3f}" in page.text
    rows = {row[1]: row for row in page.rows if len(row) == 11}
    for number, label in enumerate(labels):
        values = metrics["per_label"][label]
        shown = [values[name] for name in ("average_precision", "precision", "recall", "f1")]
        assert rows[label][2:6] == [f"{value:.3f}" for value in shown]
        assert rows[label][6:8] == [str(values["false_positives"]), str(values["false_negatives"])]
        assert rows[label][8] == f"{report.thresholds[number]:.3f}"  # type: ignore[index]
        assert rows[label][9:] == [str(values["support"]), str(report.train_counts[number])]
    wrong = (report.truth != found).any(axis=1).sum()
    assert f"{wrong} of 60 validation images have at least one mistake" in page.text
    for name in LABEL_FIGURES:
        with Image.open(tmp_path / "report" / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20
    with (tmp_path / "report" / "learning_curves.csv").open(newline="") as file:
        assert [float(row["valid_average_precision"]) for row in csv.DictReader(file)] == pytest.approx([0.6, 0.7, 0.8])
    with (tmp_path / "report" / "per_label.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == list(labels)
    remove_report(tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_hostile_labels_stay_text(tmp_path: Path) -> None:
    page = Page(write_report(make_report(HOSTILE), tmp_path / "report"))
    assert len(page.scripts) == 1
    assert all(str(image["src"]).startswith("data:image/") for image in page.all("img"))
    assert any("<script>alert(1)</script>" in row[1] for row in page.rows if len(row) == 11)


def test_mistakes_are_the_most_confident_ones_both_ways() -> None:
    truth = np.array([[1, 0], [0, 0], [1, 1], [1, 0]], dtype=bool)
    probabilities = np.array([[0.2, 0.9], [0.7, 0.95], [0.9, 0.05], [0.8, 0.55]])
    found, missed = make_label_mistakes(truth, probabilities, ("a", "b"), (0.75, 0.6), pixels, str)
    assert [(each.file_name, each.label, each.probability, each.true_labels) for each in found] == [
        ("1", "b", 0.95, "no label"),
        ("0", "b", 0.9, "a"),
    ]
    assert [(each.file_name, each.label, each.probability, each.true_labels) for each in missed] == [
        ("2", "b", 0.05, "a, b"),
        ("0", "a", 0.2, "a"),
    ]
    assert [each.threshold for each in missed] == [0.6, 0.75]
    found, missed = make_label_mistakes(truth, probabilities, ("a", "b"), (0.0, 0.0), pixels, str, limit=1)
    assert (len(found), len(missed)) == (1, 0)


def test_samples_show_each_label_and_each_image_once() -> None:
    truth = np.zeros((30, 3), dtype=bool)
    truth[:10, 0] = truth[5:20, 1] = True
    chosen = choose_samples(truth, 3)
    assert len(set(chosen.tolist())) == len(chosen)
    assert truth[chosen].any(axis=0).tolist() == [True, True, False]
    assert name_labels(truth[6], ("a", "b", "c")) == "a, b"
    assert name_labels(truth[29], ("a", "b", "c")) == "no label"
    assert choose_samples(np.zeros((4, 2), dtype=bool), 2).tolist() == []


def test_a_report_without_images_says_how_to_get_them(tmp_path: Path) -> None:
    page = Page(write_report(make_report(("a", "b"), has_images=False), tmp_path / "report"))
    assert "A basic report does not show images of your data" in page.text


def test_training_evaluation_and_report_agree(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    write_multilabel_directory(inputs.train, num_images=48, seed=1)
    write_multilabel_directory(inputs.valid, num_images=48, seed=2)
    initialize(inputs.untrained, NETWORK, inputs.outputs)
    assert inputs.fit(epochs=4, learning_rate=0.05, report="full") == 0
    data = {"trained_model": inputs.trained, "dataset": inputs.valid}
    assert run_here("score-image-model", **data, scored_dataset=tmp_path / "scored", outputs_path=inputs.outputs) == 0
    folders = {"scored_dataset": tmp_path / "scored", "evaluation_path": tmp_path / "evaluation"}
    assert run_here("evaluate-model", **folders, outputs_path=inputs.outputs) == 0
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    best = max(inputs.metrics(), key=lambda record: (record["average_precision"], -record["valid_loss"]))  # type: ignore[arg-type, return-value]
    assert metrics["average_precision"] == pytest.approx(best["average_precision"], abs=1e-6)
    assert metrics["log_loss"] == pytest.approx(best["valid_loss"], abs=1e-4)
    thresholds = json.loads((inputs.trained / "task.json").read_text())["thresholds"]
    with (inputs.outputs / "report" / "per_label.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"]: float(row["threshold"]) for row in rows} == thresholds
    for row in rows:
        values = metrics["per_label"][row["label"]]
        assert float(row["f1"]) == pytest.approx(values["f1"])
        assert float(row["average_precision"]) == pytest.approx(values["average_precision"])
    page = Page(inputs.outputs / "report" / "report.html")
    assert f"{metrics['average_precision']:.3f}" in page.text
    assert "3 labels" in page.text


@pytest.mark.parametrize("kind", ["without mistakes", "without labels"])
def test_a_report_of_unusual_data_is_written(kind: str, tmp_path: Path) -> None:
    report = make_report(("a", "b"), has_images=False)
    truth = report.probabilities >= np.array(report.thresholds)
    if kind == "without labels":
        truth = np.zeros_like(truth)
    page = Page(write_report(dataclasses.replace(report, truth=truth), tmp_path / "report"))
    if kind == "without mistakes":
        assert "All labels of all validation images were found, and no others." in page.text
    else:
        assert [row[2] for row in page.rows if len(row) == 11][1:] == ["–", "–"]
