"""The images to check in the report of a training: planted wrong labels and copies, through the command."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from html import unescape
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

from tests.making import CLASSES, Inputs, initialize, write_class_folders, write_multilabel_directory
from tests.test_report import HOSTILE, Page, make_report
from train_pytorch_model.evaluation import label_issues
from train_pytorch_model.job import label_judgement, suspicious
from train_pytorch_model.models import heads
from train_pytorch_model.report.contents import remove_report
from train_pytorch_model.report.suspicious import (
    BOTH_DATASETS,
    COLUMNS,
    LABEL,
    MAX_SHOWN,
    REPEATED,
    TWO_LABELS,
    AlikeClasses,
    ImageName,
    Suspect,
    Suspicions,
)
from train_pytorch_model.report.write import write_report

pytestmark = pytest.mark.usefixtures("unhurried_reports")


def made(path: Path, per_class: int = 8) -> Inputs:
    """Class folders, whose images have names that are easy to follow, and an untrained model."""
    inputs = Inputs(path)
    write_class_folders(inputs.train, per_class=per_class)
    write_class_folders(inputs.valid, per_class=4, seed=1)
    initialize(inputs.untrained, "shufflenet_v2_x0_5", inputs.outputs)
    return inputs


def rows_of(inputs: Inputs, kind: str | None = None) -> list[dict[str, str]]:
    with (inputs.outputs / "report" / "suspicious_images.csv").open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if kind in (None, row["kind"])]


def section_of(inputs: Inputs) -> str:
    page = unescape((inputs.outputs / "report" / "report.html").read_text(encoding="utf-8"))
    return page[page.index('id="suspicious"') : page.index('id="training"')]


@pytest.fixture
def planted(tmp_path: Path) -> Inputs:
    """A copy of a cat among the dogs, a copy of a training owl in validation, and an owl that is there twice."""
    inputs = made(tmp_path)
    shutil.copy(inputs.train / "cat" / "1.png", inputs.train / "dog" / "copy.png")
    shutil.copy(inputs.train / "owl" / "2.png", inputs.valid / "owl" / "3.png")
    shutil.copy(inputs.train / "owl" / "4.png", inputs.train / "owl" / "twice.png")
    return inputs


def test_planted_copies_are_listed_and_shown_and_logged(planted: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    assert planted.fit(report="full") == 0
    (two,) = rows_of(planted, TWO_LABELS)
    paths = {two["path"]: two["given_label"], two["other_path"]: two["other_label"]}
    assert paths == {"cat/1.png": "cat", "dog/copy.png": "dog"}
    assert two["suggested_label"] == two["other_label"]
    assert (two["dataset"], two["other_dataset"], two["score"], two["match"]) == (
        *("training", "training", "1.0", "identical files"),
    )
    (both,) = rows_of(planted, BOTH_DATASETS)
    assert [both[name] for name in ("dataset", "path", "other_dataset", "other_path")] == [
        *("validation", "owl/3.png", "training", "owl/2.png"),
    ]
    (repeated,) = rows_of(planted, REPEATED)
    assert {repeated["path"], repeated["other_path"]} == {"owl/4.png", "owl/twice.png"}
    section = section_of(planted)
    assert section.count("data:image/jpeg") >= 6
    for title in ("The same image with two labels", "Images in both datasets", "Images that are there twice"):
        assert title in section
    log = capfd.readouterr().err
    page = (planted.outputs / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count("1 pair of identical images with two labels: ") == 1
    assert "1 pair of identical images with two labels: " in log
    assert "1 of 12 validation images are identical to training images, byte for byte: 'owl/3.png'" in log


def test_a_basic_report_names_the_images_and_shows_none(planted: Inputs) -> None:
    assert planted.fit(report="basic") == 0
    section = section_of(planted)
    assert "data:image" not in section
    for name in ("cat/1.png", "dog/copy.png", "owl/3.png", "owl/twice.png"):
        assert name in section


@pytest.mark.parametrize("classes", [CLASSES, ("bat", "cat")])
def test_wrong_labels_are_the_most_suspicious(classes: tuple[str, ...], tmp_path: Path) -> None:
    inputs = made(tmp_path, per_class=30)
    first = Inputs(tmp_path / "first")
    write_class_folders(first.train, classes)
    write_class_folders(first.valid, classes, seed=1)
    first.untrained = inputs.untrained
    assert first.fit(epochs=3, precision="float32") == 0
    inputs.untrained = first.trained
    wrong = {"dog/wrong.png": "cat", "owl/wrong.png": "dog", "cat/wrong.png": "owl"}
    for name, label in wrong.items():
        (inputs.train / label / "5.png").rename(inputs.train / name)
    (inputs.valid / "cat" / "0.png").rename(inputs.valid / "owl" / "wrong.png")
    assert inputs.fit(report="full", precision="float32") == 0
    rows = rows_of(inputs, LABEL)
    found = {(row["dataset"], row["path"]): row["suggested_label"] for row in rows[:6]}
    planted = {**{("training", name): label for name, label in wrong.items()}, ("validation", "owl/wrong.png"): "cat"}
    assert planted.items() <= found.items()
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    section = section_of(inputs)
    assert "The labels of 90 of 90 training images and 12 of 12 validation images were judged" in section
    assert "The features are those of the network before training." in section


def test_the_report_says_that_a_trained_network_has_seen_the_labels(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    assert inputs.fit(report="basic") == 0  # from random weights
    assert "The features are those of the trained network. It has seen the labels" in section_of(inputs)


def test_the_trained_model_does_not_depend_on_the_search(tmp_path: Path) -> None:
    inputs = made(tmp_path)
    weights = []
    for report in ("off", "full"):
        assert inputs.fit(report=report, random_seed=3) == 0
        weights.append((inputs.trained / "model").read_bytes())
    assert weights[0] == weights[1]


def test_without_cleanlab_copies_are_found_and_the_report_says_what_is_left_out(
    planted: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_issues, "find_spec", lambda name: None if name == "cleanlab" else util.find_spec(name))
    assert planted.fit(report="full") == 0
    assert "Labels that look wrong were not searched for, because cleanlab is not installed" in section_of(planted)
    assert {row["kind"] for row in rows_of(planted)} == {TWO_LABELS, BOTH_DATASETS, REPEATED}
    assert rows_of(planted, TWO_LABELS)[0]["suggested_label"] == ""


@pytest.mark.parametrize(
    ("module", "function", "what", "found"),
    [
        (label_judgement, "out_of_fold_probabilities", "Labels that look wrong", TWO_LABELS),
        (suspicious, "find_duplicates", "Images that are there twice", LABEL),
    ],
)
def test_an_error_of_a_search_does_not_cost_the_report(
    planted: Inputs, monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str, what: str, found: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a fault of a library")

    monkeypatch.setattr(module, function, fail)
    assert planted.fit(report="full") == 0
    expected = f"{what} were not searched for, because of an error: ValueError: a fault of a library"
    assert expected in section_of(planted)
    assert {row["kind"] for row in rows_of(planted)} >= {found}


def test_a_network_without_a_known_head_judges_validation_images(
    planted: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "_last_linear", lambda network, images: ("", 3))
    assert planted.fit(report="full", calibration="off") == 0
    assert "so only the labels of validation images were judged, by the trained network" in section_of(planted)
    assert all(row["dataset"] == "validation" for row in rows_of(planted, LABEL))


def test_no_time_is_said(planted: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_pytorch_model.job.report._SUSPICIONS_FRACTION", 0.0)
    assert planted.fit(report="full") == 0
    section = section_of(planted)
    assert "There was no time to judge the labels of the images." in section
    assert "ran out of time after 0 of 38 images" in section
    assert rows_of(planted) == []


def test_several_labels_an_image_have_copies_and_no_judgement(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path)
    write_multilabel_directory(inputs.train)
    write_multilabel_directory(inputs.valid, seed=1)
    initialize(inputs.untrained, "shufflenet_v2_x0_5", inputs.outputs)
    shutil.copy(inputs.train / "image" / "3.png", inputs.valid / "image" / "5.png")
    assert inputs.fit(report="full") == 0
    section = section_of(inputs)
    assert "not searched for where an image may have several labels" in section
    (row,) = rows_of(inputs, TWO_LABELS)
    assert {row["given_label"], row["other_label"]} == {"cat, dog", "cat, owl"}


def suspicions(*, has_images: bool) -> Suspicions:
    """More than the page shows, with hostile names."""
    jpeg = b"\xff\xd8" if has_images else None
    image = ImageName("training", "=<b>&\udcff.png", HOSTILE[1], jpeg)
    return Suspicions(
        [
            Suspect(TWO_LABELS, image, 1.0, HOSTILE[0], "identical files", image),
            *[Suspect(LABEL, image, 0.9, HOSTILE[0])] * (MAX_SHOWN + 3),
        ],
        [AlikeClasses(HOSTILE[0], HOSTILE[1], 0.5, 0.4)],
        ["<script>alert(4)</script>"],
    )


@pytest.mark.parametrize("has_images", [False, True])
def test_hostile_names_are_text_on_the_page_and_in_the_table(tmp_path: Path, has_images: bool) -> None:
    report = dataclasses.replace(make_report(HOSTILE), suspicions=suspicions(has_images=has_images))
    page = Page(write_report(report, tmp_path / "report"))
    assert len(page.scripts) == 1
    assert "<script>alert(4)</script>" in page.text
    assert "=<b>&\\udcff.png" in page.text
    assert "These are the first 24 of 27." in " ".join(page.text.split())
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    with (tmp_path / "report" / "suspicious_images.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    assert tuple(header) == COLUMNS
    assert len(rows) == MAX_SHOWN + 4
    assert not [cell for row in rows for cell in row if re.match(r"[=+@-]", cell)]
    remove_report(tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_report_without_the_search_has_no_section(tmp_path: Path) -> None:
    page = Page(write_report(make_report(("a", "b")), tmp_path / "report"))
    assert "suspicious" not in {attributes.get("id") for _, attributes in page.tags}
    assert not (tmp_path / "report" / "suspicious_images.csv").exists()
