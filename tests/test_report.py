from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import train_pytorch_model
from train_pytorch_model.data.findings import Files, compare_images, imbalance
from train_pytorch_model.evaluation.plots import drawable_names, in_cells
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming
from train_pytorch_model.report import figures, write
from train_pytorch_model.report.contents import Report, Thumbnail
from train_pytorch_model.report.tables import confused_pairs, time_facts
from train_pytorch_model.report.thumbnails import (
    choose_mistakes,
    choose_samples,
    make_augmented,
    make_jpeg,
    make_mistakes,
    make_samples,
)
from train_pytorch_model.report.write import FIGURES, TABLES, write_report
from train_pytorch_model.text.csv_cells import write_sheet
from train_pytorch_model.text.wording import seconds_in_words

HOSTILE = (
    "<script>alert(1)</script>",
    "=1+1",
    "@x",
    '"><img src=http://x.invalid/a.png onerror=alert(1)>',
    "a;=2+2",
    "$x$ & {{ 7*7 }} {% raw %}",
    "../../evil",
    "line\nbreak\x00",
    "half \udcff",
    "猫",
    "-1",
    "x" * 300,
)


class Page(HTMLParser):
    """What a browser would find in a page."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.raw = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self.feed(self.raw)
        self.close()
        assert not self.open, "an element is left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and "tr" in self.open:
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif data.strip() and inside != "style":
            self.texts.append((inside, data))
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.texts)


def make_records(epochs: int = 3) -> list[EpochRecord]:
    return [
        EpochRecord(epoch, 0.1 / epoch, 2 / epoch, 0.5 / epoch, 2.5 / epoch, 1 - 0.6 / epoch, None, epoch == 2)
        for epoch in range(1, epochs + 1)
    ]


def make_report(classes: tuple[str, ...], num_images: int = 200, seed: int = 0) -> Report:
    random = np.random.default_rng(seed)
    truth = random.integers(0, len(classes), num_images)
    scores = random.normal(0, 1.5, (num_images, len(classes)))
    scores[np.arange(num_images), truth] += 2
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return Report(
        title="Train PyTorch Model",
        facts=[("Parameters", [("epochs", "3"), ("label", classes[0])])],
        records=make_records(),
        timings=[EpochTiming(epoch, 60, 1.5, 100.0 * epoch) for epoch in (1, 2, 3)],
        best_epoch=2,
        stop_reason="All 3 epochs were trained.",
        classes=classes,
        train_counts=random.integers(1, 1000, len(classes)),
        valid_counts=np.bincount(truth, minlength=len(classes)),
        truth=truth,
        probabilities=probabilities,
    )


def some_pixels(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (20, 30, 3)).astype(np.uint8)


def with_thumbnails(report: Report, name: str = "image.png") -> Report:
    how = (report.classes, some_pixels, lambda index: f"{index}_{name}")
    return dataclasses.replace(
        report,
        mistakes=make_mistakes(report.truth, report.probabilities, *how),
        samples=make_samples(report.truth, *how),
    )


def read_sheet(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def as_shown(label: str) -> str:
    visible = re.sub(r"[\x00-\x1f]", lambda found: chr(0x2400 + ord(found[0])), label)
    return visible.encode("utf-8", "backslashreplace").decode()


def numbered(count: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(count))


@dataclasses.dataclass(frozen=True)
class Written:
    report: Report
    folder: Path
    page: Page


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A full report of six classes, written once; its second epoch has no timing."""
    report = with_thumbnails(make_report(numbered(6), num_images=400))
    report = dataclasses.replace(report, timings=[report.timings[0], report.timings[2]])
    folder = tmp_path_factory.mktemp("report")
    return Written(report, folder, Page(write_report(report, folder)))


def test_hostile_labels_are_text_on_the_page_and_nothing_else(tmp_path: Path) -> None:
    report = dataclasses.replace(
        with_thumbnails(make_report(HOSTILE), name="<b>&\udcff.png"),
        title="<i>title</i>",
        stop_reason="</p><script>alert(2)</script>",
        warnings=("<script>alert(3)</script>",),
    )
    page = Page(write_report(report, tmp_path / "report"))
    assert [row[1] for row in page.rows if len(row) == 7][1:] == [as_shown(label) for label in HOSTILE]
    for text in ("<i>title</i>", "</p><script>alert(2)</script>", "<script>alert(3)</script>", "<b>&\\udcff.png"):
        assert text in page.text
    assert len(page.scripts) == 1
    assert "alert(" not in page.scripts[0]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "{{ 7*7 }}" in page.text
    assert {path.name for path in tmp_path.rglob("*")} == {"report", "report.html", *FIGURES, *TABLES}


@pytest.mark.parametrize("count", [1, 2, 10, 100, 1000])
def test_the_page_names_every_class_and_needs_nothing_else(tmp_path: Path, count: int) -> None:
    path = write_report(with_thumbnails(make_report(numbered(count), num_images=300)), tmp_path)
    page = Page(path)
    assert [row[1] for row in page.rows if len(row) == 7][1:] == list(numbered(count))
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "background"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, name)
        assert tag not in ("iframe", "object", "embed", "base", "form")
    without_data = re.sub(r"data:[^\"]+", "", page.raw)
    assert "http:" not in without_data
    assert "https:" not in without_data
    assert "url(" not in without_data
    assert "@import" not in without_data
    assert path.stat().st_size < 3e6


def test_every_picture_is_whole_and_has_an_alternative_text(written: Written) -> None:
    pictures = written.page.all("img")
    formats = []
    for attributes in pictures:
        assert (attributes["alt"] or "").strip()
        kind, data = (attributes["src"] or "").split(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert kind == f"data:image/{(image.format or '').lower()}"
            formats.append(image.format)
            if image.format == "JPEG":
                assert max(image.size) <= 160
    assert formats.count("PNG") == 5
    assert formats.count("JPEG") == 24 + 18


def test_the_page_is_made_for_phones_keyboards_and_screen_readers(written: Written) -> None:
    page = written.page
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert len(page.all("table")) == len(page.all("caption")) > 3
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.all("th"))
    sortable = [attributes for attributes in page.all("th") if "aria-sort" in attributes]
    assert [attributes["aria-sort"] for attributes in sortable] == ["ascending"] + ["none"] * 6
    assert len(page.all("button")) == len(sortable)
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert {(attributes["href"] or "")[1:] for attributes in page.all("a")} <= targets
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for attributes in page.all("section")} <= set(ids)


def test_the_policy_of_the_page_allows_its_own_script_alone(written: Written) -> None:
    page = written.page
    policy = next(item["content"] or "" for item in page.all("meta") if "http-equiv" in item)
    digest = hashlib.sha256("".join(page.scripts).encode()).digest()
    assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none'")


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_has_enough_contrast_in_both_color_schemes() -> None:
    style = (Path(write.__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\S+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)]
    assert len(schemes) == 2
    for colours in schemes:
        pairs = [(text, page) for text in ("text", "quiet", "accent") for page in ("page", "card", "head")]
        for text, page in [*pairs, ("warn-text", "warn-page")]:
            darker, lighter = sorted((luminance(colours[text]), luminance(colours[page])))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, page)


def test_tables_hold_scikit_learns_numbers(written: Written) -> None:
    report, page = written.report, written.page
    predicted = report.probabilities.argmax(1)
    expected = np.array(metrics.precision_recall_fscore_support(report.truth, predicted))
    header, *rows = read_sheet(written.folder / "per_class.csv")
    assert header == ["label", "precision", "recall", "f1", "support", "train_images"]
    assert np.allclose(np.array([row[1:5] for row in rows], dtype=float).T, expected, rtol=1e-9)
    assert [int(row[5]) for row in rows] == report.train_counts.tolist()
    header, *rows = read_sheet(written.folder / "confusion_matrix.csv")
    assert header == ["true label", *report.classes]
    assert (
        np.array([row[1:] for row in rows], int).tolist() == metrics.confusion_matrix(report.truth, predicted).tolist()
    )
    shown = [row for row in page.rows if len(row) == 7][1:]
    assert [row[2:5] for row in shown] == [[f"{value:.3f}" for value in column[:3]] for column in expected.T]
    assert f"{100 * metrics.accuracy_score(report.truth, predicted):.1f} %" in page.text
    assert f"{metrics.log_loss(report.truth, report.probabilities):.3f}" in page.text


def test_the_calibration_sheet_counts_every_image_once(written: Written) -> None:
    report = written.report
    rows = np.array(read_sheet(written.folder / "calibration.csv")[1:], dtype=float)
    is_right = report.probabilities.argmax(1) == report.truth
    assert rows[:, 2].sum() == 400
    assert rows[:, 1] @ rows[:, 2] == pytest.approx(is_right.sum())
    assert rows[:, 0] @ rows[:, 2] == pytest.approx(report.probabilities.max(1).sum())


def test_the_sheet_of_learning_curves_holds_records_and_timings(written: Written) -> None:
    header, *rows = read_sheet(written.folder / "learning_curves.csv")
    found = [dict(zip(header, row)) for row in rows]
    assert [float(row["valid_loss"]) for row in found] == [record.valid_loss for record in written.report.records]
    assert [float(row["valid_error"]) for row in found] == pytest.approx([0.6, 0.3, 0.2])
    assert [row["train_images_per_second"] for row in found] == ["100.0", "", "300.0"]
    assert {row["valid_top5_error"] for row in found} == {""}


def test_no_cell_of_a_sheet_begins_a_formula(tmp_path: Path) -> None:
    write_report(make_report(HOSTILE), tmp_path)
    begins_formula = ("=", "+", "-", "@", "\t", "\r")
    for name in TABLES:
        for row in read_sheet(tmp_path / name):
            for cell in row:
                assert not cell.startswith(begins_formula) or is_number(cell)
    labels = [row[0] for row in read_sheet(tmp_path / "per_class.csv")[1:]]
    assert labels[1:3] == ["'=1+1", "'@x"]
    # Where a spreadsheet separates cells by semicolons, the quotes hold the label together.
    with (tmp_path / "per_class.csv").open(encoding="utf-8", newline="") as file:
        assert any(row[0].startswith("a;=2+2") for row in csv.reader(file, delimiter=";"))


def is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", " =1", "＝1"])
def test_what_begins_a_formula_gets_an_apostrophe(tmp_path: Path, text: str) -> None:
    write_sheet(tmp_path / "sheet.csv", [text], [[text], ["plain"], [-1.5], [math.nan], [None]])
    assert read_sheet(tmp_path / "sheet.csv") == [[f"'{text}"], [f"'{text}"], ["plain"], ["-1.5"], [""], [""]]


def test_numbers_that_are_missing_or_not_finite_leave_gaps(tmp_path: Path) -> None:
    report = make_report(numbered(3))
    odd = [
        dataclasses.replace(report.records[0], train_loss=math.nan, valid_loss=math.inf, train_error=math.nan),
        report.records[1],
        dataclasses.replace(report.records[2], train_loss=None, top1_acc=None),  # type: ignore[arg-type]
    ]
    page = Page(write_report(dataclasses.replace(report, records=odd, timings=[]), tmp_path))
    rows = read_sheet(tmp_path / "learning_curves.csv")
    assert rows[1][2:5] == ["", "", ""]
    assert rows[3][2] == ""
    assert [row for row in page.rows if len(row) == 9][1][2:5] == ["–", "–", "–"]
    assert "nan" not in page.text


def test_no_throughput_is_shown_if_it_is_not_finite() -> None:
    report = dataclasses.replace(make_report(numbered(3)), timings=[EpochTiming(1, 60, 1.5, math.nan)])
    assert time_facts(report) == [("Epochs timed", "1"), ("Training", "1 min 0 s"), ("Validation", "1.5 s")]


@pytest.mark.parametrize("odd", ["nothing finite", "one epoch", "another best epoch"])
def test_learning_curves_are_drawn_of_odd_records_too(tmp_path: Path, odd: str) -> None:
    records = make_records()
    if odd == "nothing finite":
        records = [dataclasses.replace(record, train_loss=math.nan, valid_loss=math.nan) for record in records]
    if odd == "one epoch":
        records = records[:1]
    figures.draw_learning_curves(records, 99 if odd == "another best epoch" else 1, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.load()


def test_classes_without_validation_images_have_dashes_and_zeros(tmp_path: Path) -> None:
    truth = np.array([0, 0, 2])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.1, 0.2, 0.7]])
    report = dataclasses.replace(make_report(numbered(3)), truth=truth, probabilities=probabilities)
    page = Page(write_report(report, tmp_path))
    assert [row[2:6] for row in page.rows if len(row) == 7][2] == ["–", "–", "–", "0"]
    assert read_sheet(tmp_path / "per_class.csv")[2][1:5] == ["0.0", "0.0", "0.0", "0"]
    assert "1 of 3 validation images was predicted wrongly" in page.text


def test_a_basic_report_shows_no_image_and_says_how_to_get_them(tmp_path: Path) -> None:
    page = Page(write_report(make_report(numbered(3)), tmp_path))
    assert all((image["src"] or "").startswith("data:image/png") for image in page.all("img"))
    assert "--report full" in page.text
    assert "Samples" not in page.text


def test_a_model_without_mistakes_is_said_to_have_none(tmp_path: Path) -> None:
    report = dataclasses.replace(make_report(numbered(3)), truth=np.arange(3), probabilities=np.eye(3) * 0.7 + 0.1)
    page = Page(write_report(report, tmp_path))
    assert "No validation image was predicted wrongly." in page.text
    assert "confused" not in page.text.replace("confused most often are named", "")


def test_writing_again_replaces_what_is_there(tmp_path: Path) -> None:
    write_report(make_report(numbered(3)), tmp_path)
    page = Page(write_report(make_report(("a", "b")), tmp_path))
    assert "class 0" not in page.text
    assert len(read_sheet(tmp_path / "per_class.csv")) == 3


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    report = make_report(numbered(3))
    with pytest.raises(ValueError, match=r"Expected `probabilities` to be of shape \(200, 3\), but got \(200, 2\)"):
        write_report(dataclasses.replace(report, probabilities=report.probabilities[:, :2]), tmp_path)
    with pytest.raises(ValueError, match="at least one"):
        write_report(dataclasses.replace(report, records=[]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_copied_folder_of_sources_writes_reports(tmp_path: Path) -> None:
    copied = tmp_path / "code" / "train_pytorch_model"
    shutil.copytree(Path(train_pytorch_model.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "report.pickle").write_bytes(pickle.dumps(make_report(("a", "b"))))
    program = (
        "import pickle; from pathlib import Path; from train_pytorch_model.report import write; "
        "report = pickle.loads(Path('report.pickle').read_bytes()); "
        "print(write.__file__, write.write_report(report, Path('written')))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "code")},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    assert str(copied) in found
    assert Page(tmp_path / "written" / "report.html").all("img")


def test_pairs_are_those_that_sorting_all_mistakes_gives() -> None:
    random = np.random.default_rng(0)
    confusion = random.integers(0, 30, (8, 8))
    classes = tuple("abcdefgh")
    expected = sorted(
        (-confusion[row, column], -confusion[row, column] / confusion[row].sum(), classes[row], classes[column])
        for row in range(8)
        for column in range(8)
        if row != column and confusion[row, column]
    )[:20]
    found = confused_pairs(confusion, classes)
    assert [(pair.label, pair.predicted) for pair in found] == [item[2:] for item in expected]
    assert [pair.fraction for pair in found] == pytest.approx([-item[1] for item in expected])


@pytest.mark.parametrize("count", [61, 120, 121, 1000])
def test_cells_of_a_large_matrix_are_means_over_the_classes_that_occur(count: int) -> None:
    random = np.random.default_rng(count)
    fractions = random.dirichlet(np.ones(count), count)
    is_present = random.random(count) > 0.3
    fractions[~is_present] = 0
    cells, width = in_cells(fractions, is_present)
    assert len(cells) <= 120
    assert (count <= 120) == (width == 1)
    rows = np.flatnonzero(is_present[:width])
    assert cells[0, 1] == pytest.approx(np.mean([fractions[row, width : 2 * width].sum() for row in rows]))
    held = [is_present[start : start + width].any() for start in range(0, count, width)]
    assert cells.sum(axis=1) == pytest.approx(np.array(held, dtype=float))


def test_names_that_the_font_cannot_draw_go_by_number() -> None:
    assert drawable_names(["猫", "cat", "a\nb", "half \udcff", "$5"]) == [
        "class 0",
        "cat",
        "class 2",
        "class 3",
        r"\$5",
    ]
    assert drawable_names(["x" * 25]) == ["x" * 22 + "…"]
    assert drawable_names(["cat", "猫"], "label") == ["cat", "label 1"]


def test_mistakes_are_the_surest_ones() -> None:
    report = make_report(numbered(5), num_images=300)
    predicted = report.probabilities.argmax(1)
    wrong = [index for index in range(300) if predicted[index] != report.truth[index]]
    expected = sorted(wrong, key=lambda index: -report.probabilities[index].max())
    assert choose_mistakes(report.truth, report.probabilities).tolist() == expected[:24]
    first = make_mistakes(report.truth, report.probabilities, report.classes, some_pixels, str)[0]
    assert isinstance(first, Thumbnail)
    assert (first.label, first.predicted) == (f"class {report.truth[expected[0]]}", f"class {predicted[expected[0]]}")
    assert (first.confidence, first.file_name) == (report.probabilities[expected[0]].max(), str(expected[0]))


def test_augmented_images_have_a_column_for_each_epoch(tmp_path: Path) -> None:
    report = make_report(("a", "b", "c", "d", "e"))
    calls: list[tuple[int, int]] = []

    def pixels_of(index: int, epoch: int) -> np.ndarray:
        calls.append((index, epoch))
        return some_pixels(index + 1000 * epoch)

    samples = make_augmented(report.truth, report.classes, range(1, 4), pixels_of, lambda index: f"{index}<b>.png")
    assert len(samples) == 4
    assert len({sample.label for sample in samples}) == min(4, len(report.classes))
    assert [epoch for _, epoch in calls] == [0, 1, 2, 3] * 4
    page = write_report(dataclasses.replace(report, augmented=samples, image_size=(20, 30)), tmp_path).read_text(
        "utf-8"
    )
    sheet = page[page.index('id="augmented"') : page.index('id="training"')]
    assert re.findall(r'<th scope="col">([^<]+)</th>', sheet) == [
        "Image",
        "Without augmentation",
        *("Epoch 1", "Epoch 2", "Epoch 3"),
    ]
    assert sheet.count("data:image/jpeg;base64,") == 16
    assert "<b>.png" not in sheet
    assert 'id="augmented"' not in write_report(report, tmp_path).read_text("utf-8")


@pytest.mark.parametrize(("num_classes", "expected"), [(1, 3), (3, 9), (20, 60), (25, 50), (60, 60), (1000, 60)])
def test_samples_are_few_of_each_class(num_classes: int, expected: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(num_classes), 5))
    chosen = choose_samples(labels, num_classes)
    assert len(chosen) == len(set(chosen.tolist())) == expected
    assert np.bincount(labels[chosen]).max() <= 3
    assert (np.diff(labels[chosen]) >= 0).all()


def test_classes_with_one_image_or_none_have_as_many_samples() -> None:
    assert choose_samples(np.array([2, 0, 2, 2, 2, 2]), 4).tolist() == [1, 0, 3, 5]
    assert choose_samples(np.array([], dtype=np.int64), 3).tolist() == []


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (1000, 20), (3, 5000), (400, 300)])
def test_thumbnails_are_small_and_carry_no_metadata(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 90, dtype=np.uint8)
    jpeg = make_jpeg(pixels[:, ::-1])
    assert b"Exif" not in jpeg
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        assert max(image.size) == min(160, max(shape))
        assert not image.getexif()
        assert not {"exif", "comment", "icc_profile", "xmp"} & set(image.info)
        assert np.abs(np.asarray(image).astype(int) - 90).max() <= 2


def write_files(folder: Path, contents: list[bytes]) -> Files:
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
    return Files(lambda number: folder / str(number), np.array([len(content) for content in contents]))


def test_identical_files_are_found_and_different_ones_of_equal_size_are_not(tmp_path: Path) -> None:
    train = write_files(tmp_path / "train", [b"one", b"two", b"alone!", b"one", b"x" * 3_000_000])
    valid = write_files(tmp_path / "valid", [b"six", b"one", b"longer one", b"x" * 3_000_000, b"one"])
    comparison = compare_images(train, valid, 60)
    assert comparison.pairs == [(0, 1), (4, 3), (0, 4)]
    assert (comparison.num_candidates, comparison.num_read) == (8, 8)
    (text,) = comparison.warnings("abcde".__getitem__)
    assert text.startswith("3 of 5 validation images are identical to training images, byte for byte: 'b', 'd', 'e'.")


def test_files_of_a_size_that_one_set_alone_has_are_never_opened(tmp_path: Path) -> None:
    comparison = compare_images(*(Files(lambda number: tmp_path / "missing", np.array([size])) for size in (7, 8)), 60)
    assert (comparison.pairs, comparison.num_candidates, comparison.warnings()) == ([], 0, [])


def test_a_search_out_of_time_says_so(tmp_path: Path) -> None:
    train = write_files(tmp_path / "train", [b"one"] * 3)
    comparison = compare_images(train, train, deadline=0)
    assert comparison.pairs == []
    assert "ran out of time after 0 of 6 files" in comparison.warnings()[0]


def test_files_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    train = write_files(tmp_path / "train", [b"one", b"two"])
    (tmp_path / "train" / "0").unlink()
    comparison = compare_images(train, Files(lambda number: train.path_of(1 - number), train.sizes[::-1]), 60)
    assert comparison.pairs == [(1, 0)]
    assert comparison.warnings()[1] == "The search for images in both datasets could not read 2 files."


def test_imbalance_names_small_classes() -> None:
    counts = np.array([100, 10, 9, 0])
    classes = ("a", "b", "c", "d")
    (text,) = imbalance(counts, classes)
    assert text.startswith(
        "2 of 4 classes have fewer than a tenth of the training images of 'a' (100): 'c' (9); 'd' (0)."
    )
    assert imbalance(np.array([100, 10]), ("a", "b")) == []
    assert imbalance(np.array([7]), ("a",)) == []


def test_times_are_shown_in_words() -> None:
    assert [seconds_in_words(seconds) for seconds in (4.21, 59.94, 200, 7500)] == [
        "4.2 s",
        "59.9 s",
        "3 min 20 s",
        "2 h 5 min",
    ]


def test_no_warning_of_a_library_leaves_the_report(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(make_report(("猫",)), tmp_path)


def test_the_page_says_whether_the_model_is_the_one_before_fine_tuning_or_a_mixture(tmp_path: Path) -> None:
    report = make_report(numbered(3))
    before = dataclasses.replace(report.records[0], epoch=0)
    mixed = dataclasses.replace(report.records[2], interpolation=0.25)
    records = [before, *report.records[:2], mixed]
    texts = []
    for epoch in (0, 2, 3):
        path = write_report(dataclasses.replace(report, records=records, best_epoch=epoch), tmp_path / str(epoch))
        texts.append(" ".join(Page(path).text.split()))
    assert "The model of epoch 0 was saved, which is that before fine-tuning." in texts[0]
    assert "The model of epoch 2 was saved. All" in texts[1]
    assert "The model of epoch 3 was saved; its weights lie 25 % of the way from epoch 0 to epoch 3." in texts[2]
    assert "over 3 epochs" in (tmp_path / "0" / "report.html").read_text()
