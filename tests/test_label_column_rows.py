"""The rows of docs/broken-input.md on columns of 0 and 1, lists in names, and parts without a label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.making import read_json_lines
from tests.test_label_rows import images
from tests.test_multilabel_rows import (
    MULTILABEL,
    NAMES,
    SETS,
    Row,
    automl,
    coco,
    document,
    image_directory,
    label_studio,
    lines,
    ones,
    text,
    try_row,
)
from train_pytorch_model import convert_to_image_directory
from train_pytorch_model.ports.image_list import read_columns, read_schema

ONE_EACH = [["cat"], ["dog"], ["cat"], ["dog"], ["dog"], ["cat"]]
DIGITS = [[str(number), str(number + 1)] for number in range(6)]
LISTS = [["cat", "dog"], ["dog"], ["bird"], ["bird", "cat", "dog"]]
RARE = [*[["cat", "dog"], ["cat"], ["dog"]] * 2, ["cat", "dog"], *[["cat"]] * 11]
JOINED = ["cat;dog", "dog", "bird", "dog;cat;bird"] * 2


def flags(header: str, sets: Sequence[Sequence[str]] = SETS, name: str = "l.csv", names: Sequence[str] = NAMES) -> Row:
    """A row of an accepted table of zeros and ones."""
    return Row("accepted", text(name, ones(header, names=names, sets=sets)))


def renamed(**names: str) -> list[list[str]]:
    """The labels of the images, under other names."""
    return [sorted(names[label] for label in labels) for labels in SETS]


def list_folders(path: Path) -> None:
    for name in JOINED[:4]:
        images(path / name, [f"{name}.png"])


def in_splits(path: Path, valid: Sequence[Sequence[str]], header: str = "filename, cat, dog, bird") -> None:
    """A `_classes.csv` of Roboflow's in each split, of two and of four images."""
    rows = ones(header, sets=[*SETS[:2], *valid]).splitlines()
    for split, numbers in (("train", range(2)), ("valid", range(2, 2 + len(valid)))):
        images(path / split, [f"{number}.png" for number in numbers])
        (path / split / "_classes.csv").write_text("\n".join((rows[0], *(rows[1 + number] for number in numbers))))


def rare_in_valid(path: Path) -> None:
    """COCO of whole images in two splits: several categories are usual in train, and rare in valid."""
    for split, sets in (("train", RARE[:6]), ("valid", RARE[6:])):
        images(path / split, [f"{number}.png" for number in range(len(sets))])
        content = json.dumps(coco(sets)).replace("images/", "")
        (path / split / "_annotations.coco.json").write_text(content)


def skipped_task() -> list[dict[str, object]]:
    tasks = label_studio()
    tasks[3]["annotations"] = [{"id": 3, "completed_by": 1, "result": [], "was_cancelled": True}]
    return tasks


def negatives_beside(path: Path) -> None:
    """JSON Lines with labels, and a file of the images that have none."""
    lines(automl([["cat", "dog"], ["cat"], ["dog"]]))(path)
    records = [{"image_url": f"AmlDatastore://store/{number}.png", "label": []} for number in (3, 4, 5)]
    (path / "negatives.jsonl").write_text("\n".join(map(json.dumps, records)))


UNQUOTED = "\n".join(("filename,labels", *(f"{n}.png,{json.dumps(own)}" for n, own in enumerate(SETS))))
PERSON = ones("image, person, city", names=["cat", "dog"])
OTHER = renamed(cat="disease", dog="healthy", bird="rust")

ROWS: dict[str, Row] = {
    "columns of 0 and 1 for labels that are digits, beside images called 0.png and 1.png": flags(
        "filename," + ",".join(map(str, range(10))), DIGITS, names=[str(number) for number in range(10)]
    )._replace(labels=DIGITS),
    "columns of 0 and 1, one of which has a title such as h": flags("image, N, D, h")._replace(
        labels=renamed(cat="N", dog="D", bird="h"), words="columns of 0 and 1 are read as labels: 'h'"
    ),
    "a column of 0 and 1 of unknown title, and one with a title such as city": Row(
        "error", text("l.csv", PERSON), "person, city; call the right one 'label', or give --task multilabel"
    ),
    "a column of 0 and 1 of unknown title, and one with a title such as city, --task multilabel": Row(
        "accepted",
        text("l.csv", PERSON),
        "",
        [sorted({"cat": "person", "dog": "city"}[one] for one in own if one != "bird") for own in SETS],
        MULTILABEL,
    ),
    "columns of 0 and 1, all with titles such as text and number": Row(
        "error",
        text("l.csv", ones("image, text, title, number")),
        "call the right one 'label', or give --task multilabel",
    ),
    "columns of 0 and 1, one of which is called sex": Row(
        "warning",
        text("l.csv", ones("image, cat, dog, sex")),
        "columns of 0 and 1 are not read as labels: 'sex'. If they are labels, leave only",
        [[label for label in own if label != "bird"] for own in SETS],
    ),
    "objects of 0 and 1 in JSON, one of whose keys is sex": Row(
        "warning",
        document(
            "l.json",
            [{"file": f"{n}.png", "labels": {"cat": n % 2, "dog": 1, "sex": int(n > 3)}} for n in range(6)],
        ),
        "columns of 0 and 1 are not read as labels: 'labels.sex'. If they are labels, give them other names",
        [["dog"], ["cat", "dog"]] * 3,
    ),
    "columns of 0 and 1 called label and male": Row(
        "warning",
        text("l.csv", ones("image, label, male", names=["cat", "dog"])),
        "columns of 0 and 1 are not read as labels: 'male'. If they are labels, give --task multilabel",
        [str(int("cat" in own)) for own in SETS],
    ),
    "columns of 0 and 1 called healthy and disease, each row with one 1": flags(
        "image, disease, healthy", ONE_EACH, names=["cat", "dog"]
    )._replace(labels=[{"cat": "disease", "dog": "healthy"}[one] for (one,) in ONE_EACH]),
    "columns of 0 and 1, one of which has a title such as disease": Row(
        "error", text("l.csv", ones("image, disease, healthy, rust")), "several columns could be the labels"
    ),
    "columns of 0 and 1, one of which has a title such as disease, --task multilabel": Row(
        "accepted", text("l.csv", ones("image, disease, healthy, rust")), "", OTHER, MULTILABEL
    ),
    "columns of 0 and 1 with titles such as target, tag and species, --task multilabel": Row(
        "accepted",
        text("l.csv", ones("image, target, tag, species")),
        "",
        renamed(cat="target", dog="tag", bird="species"),
        MULTILABEL,
    ),
    "a _classes.csv of one label": flags("filename, cat", name="_classes.csv", names=["cat"])._replace(
        labels=[[label for label in own if label == "cat"] for own in SETS], words="'cat' is the only column of labels"
    ),
    "a _classes.csv of zeros in a split": Row(
        "accepted", lambda path: in_splits(path, [[]] * 4), "The task is multilabel", [*SETS[:2], *[[]] * 4]
    ),
    "JSON Lines of empty lists beside another file of labels": Row(
        "accepted", negatives_beside, "", [["cat", "dog"], ["cat"], ["dog"], [], [], []]
    ),
    "JSON Lines of empty lists alone, --task multilabel": Row(
        "error", lines(automl([[]] * 6)), "no image has a label in 'labels.jsonl'", flags=MULTILABEL
    ),
    "COCO annotations of whole images in each split, few of which are of several categories in valid": Row(
        "accepted",
        rare_in_valid,
        "2 of 6 labelled images are of several",
        RARE,
    ),
    "Label Studio's JSON with a skipped task": Row(
        "error", document("r.json", skipped_task()), "without a label or an empty list in r.json: 'images/3.png'"
    ),
    "JSON lists in the cells of a CSV, without the quotes of CSV": Row("accepted", text("l.csv", UNQUOTED)),
    "--label-separator that only the name of a label in a list has": Row(
        "warning",
        lines(automl([["a;b", "c"], ["c"]] * 3)),
        "the labels in lists and columns are taken as they are: 'a;b' has the separator ';' and is one label",
        [["a;b", "c"], ["c"]] * 3,
        {"label_separator": ";"},
    ),
    "class folders such as cat;dog": Row("accepted", list_folders, "The task is multiclass", sorted(JOINED[:4])),
    "class folders such as cat;dog, --task multilabel": Row(
        "accepted",
        list_folders,
        "",
        [sorted(name.split(";")) for name in sorted(JOINED[:4])],
        MULTILABEL,
    ),
    "an ImageDirectory with classes such as cat;dog, --label-separator ;": Row(
        "accepted",
        image_directory(JOINED[:6], multilabel=False, names=tuple(dict.fromkeys(JOINED))),
        "labels are separated by ';'",
        [sorted(name.split(";")) for name in JOINED[:6]],
        {"label_separator": ";"},
    ),
    "an ImageDirectory with lists of labels, --label-separator": Row(
        "warning",
        image_directory(SETS, multilabel=True),
        "it has lists of labels, which are taken as they are",
        flags={"label_separator": ";"},
    ),
}


@pytest.mark.parametrize("given", ROWS)
def test_what_is_given_ends_as_the_table_says(given: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try_row(ROWS[given], tmp_path, capfd)


def classes_of(path: Path) -> tuple[str, ...]:
    """The labels that the schema of an ImageDirectory lists."""
    schema, _ = read_schema(path, "the output")
    return read_columns(schema, "the output").categories


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_split_that_is_converted_alone_has_all_labels_of_its_columns(split: str, tmp_path: Path) -> None:
    in_splits(tmp_path / "in", [["dog"], ["dog", "bird"], [], ["bird"]])
    convert_to_image_directory(tmp_path / "in", tmp_path / "a", outputs_path=tmp_path, split=split)
    convert_to_image_directory(tmp_path / "in" / split, tmp_path / "b", outputs_path=tmp_path)
    assert classes_of(tmp_path / "a") == classes_of(tmp_path / "b") == ("bird", "cat", "dog")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", ones("image, cat, dog, bird", sets=ONE_EACH)),  # one label per image
        ("l.csv", ones("image, cat, dog, bird", sets=[["cat", "dog"], *ONE_EACH[1:]]).replace(" 0", "")),
        (
            "l.json",
            json.dumps(
                [{"file": f"{n}.png", "labels": {k: int(k in own) for k in NAMES}} for n, own in enumerate(ONE_EACH)]
            ),
        ),
    ],
    ids=["one label", "blanks", "JSON"],
)
def test_a_label_that_no_image_has_is_listed(name: str, content: str, tmp_path: Path) -> None:
    text(name, content)(tmp_path / "in")
    convert_to_image_directory(tmp_path / "in", tmp_path / "out", outputs_path=tmp_path)
    assert classes_of(tmp_path / "out") == ("bird", "cat", "dog")


def test_a_label_with_a_single_1_beside_blanks_is_read(tmp_path: Path) -> None:
    content = ones("image, cat, dog, bird", sets=[["cat", "dog"], *ONE_EACH[1:5], ["bird"]]).replace(" 0", "")
    text("l.csv", content)(tmp_path / "in")
    convert_to_image_directory(tmp_path / "in", tmp_path / "out", outputs_path=tmp_path)
    assert read_json_lines(tmp_path / "out" / "images.lst")[5]["category"] == ["bird"]


def test_the_split_names_of_an_image_directory_are_its_categories(tmp_path: Path) -> None:
    image_directory(JOINED[:6], multilabel=False, names=tuple(dict.fromkeys(JOINED)))(tmp_path / "in")
    converted = convert_to_image_directory(tmp_path / "in", tmp_path / "out", outputs_path=tmp_path, task="multilabel")
    assert converted.classes == classes_of(tmp_path / "out") == ("cat", "dog", "bird")
    summary = json.loads((tmp_path / "conversion.json").read_text())
    assert summary["classes"] == {"bird": 2, "cat": 3, "dog": 5}


def test_columns_of_zeros_beside_the_labels_of_the_same_images_are_facts(tmp_path: Path) -> None:
    lines(automl())(tmp_path / "in")
    (tmp_path / "in" / "photos.csv").write_text("image,flash,blurry\n" + "".join(f"{n}.png,0,0\n" for n in range(6)))
    converted = convert_to_image_directory(tmp_path / "in", tmp_path / "out", outputs_path=tmp_path)
    assert converted.classes == ("bird", "cat", "dog")
    assert converted.labels_from == ("labels.jsonl",)


def test_the_findings_of_a_set_of_x_rays_are_its_labels(tmp_path: Path) -> None:
    found = ["Effusion", "Effusion|Mass", "No Finding", "Mass", "Mass|Effusion", "Mass"]
    rows = [f"{number}.png,{labels},0,PA" for number, labels in enumerate(found)]
    text("Data_Entry.csv", "\n".join(["Image Index,Finding Labels,Follow-up #,View Position", *rows]))(tmp_path / "in")
    converted = convert_to_image_directory(tmp_path / "in", tmp_path / "out", outputs_path=tmp_path)
    assert converted.classes == ("Effusion", "Mass", "No Finding")
