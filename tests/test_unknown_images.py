"""score-image-model --unknown-below, and what evaluate-model says of such a table."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import train_pytorch_model as tpm
from tests.making import (
    CLASSES,
    Inputs,
    error_code,
    error_text,
    run_here,
    write_class_folders,
    write_multilabel_directory,
)
from train_pytorch_model.errors import NotInRangeValueError, UserError
from train_pytorch_model.evaluation.answered import answered_curve, threshold_for


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = Inputs(tmp_path_factory.mktemp("trained")).make(per_class=12)
    assert inputs.fit(learning_rate=0.005) == 0
    return inputs


def score(inputs: Inputs, target: Path, **flags: object) -> int:
    paths = {"trained_model": inputs.trained, "dataset": inputs.valid, "scored_dataset": target}
    return run_here("score-image-model", **paths, **flags, outputs_path=target.parent / "outputs")


def probabilities_of(table: pd.DataFrame) -> np.ndarray:
    found: np.ndarray = table[[f"Scored Probabilities_{name}" for name in CLASSES]].to_numpy()
    return found


def test_images_below_the_probability_are_unknown_and_evaluation_says_how_many(
    trained: Inputs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert score(trained, tmp_path / "plain") == 0
    plain = pd.read_parquet(tmp_path / "plain" / "_data.parquet")
    highest = probabilities_of(plain).max(1)
    # An image with exactly this probability is known.
    below = float(np.unique(highest)[len(np.unique(highest)) // 2])
    flags = {"unknown_below": repr(below), "unknown_label": "ask a person", "csv": "true"}
    assert score(trained, tmp_path / "scored", **flags) == 0
    found = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    expected = plain["Scored Labels"].where(highest >= below, "ask a person")
    assert found["Scored Labels"].tolist() == expected.tolist()
    assert found.drop(columns="Scored Labels").equals(plain.drop(columns="Scored Labels"))
    assert pd.read_csv(tmp_path / "scored" / "_data.csv")["Scored Labels"].tolist() == expected.tolist()
    num_unknown = int((highest < below).sum())
    assert 0 < num_unknown < len(found)
    assert f"{num_unknown} of {len(found)} images have the label 'ask a person'" in capfd.readouterr().err

    reports = []
    for name in ("plain", "scored"):
        folders = {"scored_dataset": tmp_path / name, "evaluation_path": tmp_path / f"{name}_evaluation"}
        assert run_here("evaluate-model", **folders, outputs_path=tmp_path / "outputs") == 0
        reports.append(json.loads((folders["evaluation_path"] / "metrics.json").read_text()))
    before, after = reports
    is_right = (plain["Scored Labels"] == plain["category"])[highest >= below]
    added = {
        "unknown_label": "ask a person",
        "answered_fraction": pytest.approx(1 - num_unknown / len(found)),
        "answered_accuracy": pytest.approx(is_right.mean()),
    }
    assert {key: after.pop(key) for key in added} == added
    assert after == before


@pytest.mark.parametrize("below", [0, 1])
def test_the_ends_of_the_range(below: float, trained: Inputs, tmp_path: Path) -> None:
    table = tpm.score(trained.trained, trained.valid, tmp_path / "scored", unknown_below=below, outputs_path=tmp_path)
    is_unknown = (table["Scored Labels"] == "Unknown").to_numpy()
    assert (is_unknown == (probabilities_of(table).max(1) < below)).all()
    report = tpm.evaluate(tmp_path / "scored", tmp_path / "evaluation", outputs_path=tmp_path)
    assert report["answered_fraction"] == 1 - is_unknown.mean()
    assert (report["answered_accuracy"] is None) == is_unknown.all()


@pytest.mark.parametrize(
    ("below", "label", "error"),
    [
        (1.01, "Unknown", NotInRangeValueError),
        (-0.1, "Unknown", NotInRangeValueError),
        (float("nan"), "Unknown", NotInRangeValueError),
        ("half", "Unknown", UserError),
        (True, "Unknown", UserError),
        (0.5, "dog", UserError),
        (0.5, " dog ", UserError),
        (0.5, " ", UserError),
        (0.5, "a\nb", UserError),
        (0.5, "\udcff", UserError),
    ],
)
def test_values_that_cannot_be_used_are_errors(
    below: object, label: str, error: type[Exception], trained: Inputs, tmp_path: Path
) -> None:
    with pytest.raises(error):
        tpm.score(
            trained.trained,
            trained.valid,
            tmp_path / "scored",
            unknown_below=below,  # type: ignore[arg-type]
            unknown_label=label,
            outputs_path=tmp_path,
        )
    assert not (tmp_path / "scored").exists()


def test_unreadable_images_are_not_unknown(trained: Inputs, tmp_path: Path) -> None:
    inputs = trained.copied(tmp_path)
    inputs.trained = trained.trained
    broken = sorted((inputs.valid).rglob("*.png"))[0]
    broken.write_bytes(b"no image")
    assert score(inputs, tmp_path / "scored", unknown_below=1, skip_unreadable_images="true") == 0
    table = pd.read_parquet(tmp_path / "scored" / "_data.parquet")
    assert table["Scored Labels"].isna().sum() == 1


def test_a_model_of_several_labels_is_refused_by_name(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make()
    for folder in (inputs.train, inputs.valid):
        folder.rename(folder.with_name(folder.name + "_one"))
        write_multilabel_directory(folder)
    assert inputs.fit() == 0
    assert score(inputs, tmp_path / "scored", unknown_below=0.5) == 1
    assert "--unknown-below is for models of one class per image" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "scored").exists()


def evaluated(scored: Path, name: str) -> tuple[int, Path]:
    target = scored.parent / name
    folders = {"scored_dataset": scored, "evaluation_path": target, "outputs_path": scored.parent / "outputs"}
    return run_here("evaluate-model", **folders), target


@pytest.mark.parametrize("label", ["Unknown", "none of these"])
def test_images_of_no_class_are_counted_apart(
    label: str, trained: Inputs, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    known = write_class_folders(tmp_path / "known", CLASSES, seed=2)
    mixed = write_class_folders(shutil.copytree(known, tmp_path / "mixed"), [label], per_class=6, seed=3)
    probabilities = probabilities_of(tpm.score(trained.trained, mixed, outputs_path=tmp_path))
    # In other batches, the probabilities would differ by a rounding.
    flags = {"unknown_below": float(np.median(probabilities.max(1))), "unknown_label": label, "batch_size": 1}
    reports = []
    for dataset in (known, mixed):
        scored = tmp_path / f"scored_{dataset.name}"
        paths = {"trained_model": trained.trained, "dataset": dataset, "scored_dataset": scored}
        assert run_here("score-image-model", **paths, **flags, outputs_path=tmp_path / "outputs") == 0
        code, evaluation = evaluated(scored, f"evaluation_{dataset.name}")
        assert code == 0
        reports.append(json.loads((evaluation / "metrics.json").read_text()))
    table = pd.read_parquet(tmp_path / "scored_mixed" / "_data.parquet")
    is_rejected = table["Scored Labels"][table["category"] == label] == label
    assert len(is_rejected) == 6
    before, after = reports
    assert (after.pop("num_unknown_images"), after.pop("rejected_fraction")) == (6, is_rejected.mean())
    assert after == before
    assert before["num_images"] == 24
    for name in ("confusion_matrix.csv", "per_class.csv", "confusion_matrix.png", "reliability.png"):
        both = [(tmp_path / f"evaluation_{kind}" / name).read_bytes() for kind in ("known", "mixed")]
        assert both[0] == both[1], name
    log = f"{is_rejected.sum()} of 6 images whose true label is {label!r} were given this label"
    assert capfd.readouterr().err.count(log) == 1


@pytest.mark.parametrize(
    ("folders", "flags", "words"),
    [
        ([*CLASSES, "fox"], {}, "call their label 'Unknown' and score them with --unknown-below"),
        ([*CLASSES, "Unknown"], {}, "call their label 'Unknown' and score them with --unknown-below"),
        ([*CLASSES, "fox"], {"unknown_below": 0.5}, "call their label 'Unknown', the label of unknown images"),
        ([*CLASSES, "unknown"], {"unknown_below": 0.5}, "call their label 'Unknown', the label of unknown images"),
        (["Unknown"], {"unknown_below": 0.5}, "all images have the true label 'Unknown', which is no class"),
    ],
)
def test_labels_of_no_class_are_errors_with_a_remedy(
    folders: list[str], flags: dict[str, object], words: str, trained: Inputs, tmp_path: Path
) -> None:
    dataset = write_class_folders(tmp_path / "images", folders, per_class=1)
    paths = {"trained_model": trained.trained, "dataset": dataset, "scored_dataset": tmp_path / "scored"}
    assert run_here("score-image-model", **paths, **flags, outputs_path=tmp_path / "outputs") == 0
    code, evaluation = evaluated(tmp_path / "scored", "evaluation")
    assert (code, evaluation.exists()) == (1, False)
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert words in error_text(tmp_path / "outputs")


@pytest.mark.parametrize("decimals", [1, 2, 16])
def test_the_threshold_answers_the_most_images_with_the_accuracy(decimals: int) -> None:
    random = np.random.default_rng(decimals)
    probabilities = random.dirichlet(np.full(4, 0.3), 300).round(decimals)
    is_right = random.random(300) < probabilities.max(1) ** 0.3
    truth = np.where(is_right, probabilities.argmax(1), (probabilities.argmax(1) + 1) % 4)
    curve = answered_curve(truth, probabilities)
    for wanted in (0.5, 0.95, 0.99, 1.0):
        best = 0
        for below in np.unique(probabilities.max(1)):
            is_answered = probabilities.max(1) >= below
            if is_answered.sum() >= 20 and is_right[is_answered].mean() >= wanted:
                best = max(best, is_answered.sum())
        found = threshold_for(curve, wanted)
        assert (found is None) == (best == 0)
        if found is not None:
            is_answered = probabilities.max(1) >= found.below
            assert is_answered.sum() == best
            assert found.fraction == pytest.approx(is_answered.mean())
            assert found.accuracy == pytest.approx(is_right[is_answered].mean())
            assert len(f"{found.below:.10g}") <= 9


def test_all_images_may_be_answered_and_few_say_nothing() -> None:
    probabilities = np.tile([[0.6, 0.4]], (30, 1))
    whole = threshold_for(answered_curve(np.zeros(30, dtype=int), probabilities), 0.99)
    assert whole is not None
    assert (whole.below, whole.fraction) == (0, 1)
    assert threshold_for(answered_curve(np.zeros(19, dtype=int), probabilities[:19]), 0.95) is None


def test_the_report_names_the_thresholds(inputs: Inputs) -> None:
    inputs.valid = inputs.train
    assert inputs.fit(epochs=2, learning_rate=0.005, report="basic") == 0
    folder = inputs.outputs / "report"
    page = (folder / "report.html").read_text()
    assert "Unknown below" in page
    with (folder / "answered.csv").open() as file:
        rows = list(csv.DictReader(file))
    scored = tpm.score(inputs.trained, inputs.valid, outputs_path=inputs.outputs)
    counts, probabilities = ([float(row[name]) for row in rows] for name in ("num_images", "probability"))
    assert counts == sorted(set(counts))
    assert probabilities == sorted(set(probabilities), reverse=True)
    assert probabilities[0] == pytest.approx(probabilities_of(scored).max(), abs=1e-5)
    assert (float(rows[-1]["fraction"]), counts[-1]) == (1, len(scored))
    assert float(rows[-1]["accuracy"]) == pytest.approx((scored["Scored Labels"] == scored["category"]).mean())
