"""The rows of docs/broken-input.md on several labels per image, each tried with convert."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Union

import pytest

from tests.making import error_text, read_json_lines, run_here, write_class_folders
from tests.test_label_rows import images
from train_pytorch_model import convert_to_image_directory
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter, make_schema
from train_pytorch_model.ports.labelled_images import read_labelled_images

Labels = Sequence[Union[str, list[str]]]
SETS = [["cat", "dog"], ["cat"], ["bird", "dog"], [], ["bird"], ["bird", "cat", "dog"]]
"""The labels of the images 0.png to 5.png, as each tool below writes them."""
NAMES = ("cat", "dog", "bird")
ONE_OR_NONE = ("cat", "", "cat", "", "dog", "dog")


class Row(NamedTuple):
    """One row."""

    outcome: str
    change: Callable[[Path], object]
    """Adds files and folders to the input."""
    words: str = ""
    """What the user is told."""
    labels: Labels = SETS
    """The labels of the images in the order of their names, unless it is an error."""
    flags: dict[str, object] = {}  # noqa: RUF012  # it is never changed


def text(name: str, content: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    """Six images in a folder, and a text file."""

    def change(path: Path) -> None:
        images(path / "images")
        (path / name).write_text(content, encoding=encoding)

    return change


def cells(
    labels: Sequence[object], header: str = "filename,labels", name: str = "labels.csv"
) -> Callable[[Path], None]:
    """Six images in a folder, and a CSV with these cells beside their names."""
    file = io.StringIO()
    delimiter = ";" if ";" in header else ","
    writer = csv.writer(file, delimiter=delimiter)
    if header:
        writer.writerow(header.split(delimiter))
    writer.writerows((f"{number}.png", cell) for number, cell in enumerate(labels))
    return text(name, file.getvalue())


def joined(separator: str) -> list[str]:
    return [separator.join(labels) for labels in SETS]


def ones(header: str, *, names: Sequence[str] = NAMES, sets: Sequence[Sequence[str]] = SETS) -> str:
    """A table of zeros and ones, as Roboflow writes it: with a blank after each comma."""
    rows = [f"{n}.png, " + ", ".join(str(int(name in labels)) for name in names) for n, labels in enumerate(sets)]
    return "\n".join((header, *rows))


def document(name: str, content: object) -> Callable[[Path], None]:
    return text(name, json.dumps(content, ensure_ascii=False))


def lines(records: Sequence[object]) -> Callable[[Path], None]:
    return text("labels.jsonl", "\n".join(map(json.dumps, records)))


def automl(labels: Sequence[object] = SETS) -> list[dict[str, object]]:
    """Records of Azure's AutoML and data labeling."""
    address = "AmlDatastore://workspaceblobstore/images"
    return [
        {
            "image_url": f"{address}/{n}.png",
            "image_details": {"format": "png", "width": 32, "height": 32},
            "label": label,
        }
        for n, label in enumerate(labels)
    ]


def coco(sets: Sequence[Sequence[str]] = SETS, *, boxes: bool = False) -> dict[str, object]:
    pairs = [(number, NAMES.index(label) + 1) for number, labels in enumerate(sets) for label in labels]
    extra: dict[str, object] = {"bbox": [1, 1, 9, 9]} if boxes else {"area": 0.0}
    return {
        "images": [{"id": n, "file_name": f"images/{n}.png", "width": 32, "height": 32} for n in range(len(sets))],
        "annotations": [
            {"id": n, "image_id": image, "category_id": category, **extra}
            for n, (image, category) in enumerate(pairs, start=1)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES, start=1)],
    }


def label_studio() -> list[dict[str, object]]:
    """The JSON of a project with <Choices choice="multiple">."""
    results = [
        [{"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": labels}}] if labels else []
        for labels in SETS
    ]
    return [
        {
            "id": n,
            "annotations": [{"id": n, "completed_by": 1, "result": result, "was_cancelled": False}],
            "data": {"image": f"/data/upload/1/1a2b3c4d-{n}.png"},
        }
        for n, result in enumerate(results)
    ]


def label_studio_min() -> list[dict[str, object]]:
    """JSON-MIN: one choice is a text, several are an object."""
    records: list[dict[str, object]] = []
    for n, labels in enumerate(SETS):
        choice: object = labels[0] if len(labels) == 1 else {"choices": labels}
        records.append({"image": f"/data/upload/1/1a2b3c4d-{n}.png", "id": n, "choice": choice, "annotator": 1})
    return records


def label_studio_csv() -> str:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("annotation_id", "annotator", "choice", "created_at", "id", "image", "lead_time", "updated_at"))
    for n, labels in enumerate(SETS):
        choice = labels[0] if len(labels) == 1 else json.dumps({"choices": labels}) if labels else ""
        writer.writerow((n, 1, choice, "2024-01-01", n, f"/data/upload/1/1a2b3c4d-{n}.png", 1.2, "2024-01-01"))
    return file.getvalue()


def custom_vision() -> list[dict[str, object]]:
    """What GetTaggedImages answers."""
    return [
        {
            "id": f"{n}",
            "created": "2024-01-01T00:00:00",
            "width": 32,
            "height": 32,
            "resizedImageUri": f"https://example.blob.core.windows.net/i-1/r-{n}?sv=1",
            "originalImageUri": f"https://example.blob.core.windows.net/i-1/{n}.png?sv=1",
            "tags": [{"tagId": f"00-{label}", "tagName": label, "created": "2024-01-01"} for label in labels],
            "regions": None,
        }
        for n, labels in enumerate(SETS)
    ]


def roboflow(path: Path) -> None:
    """A `_classes.csv` in each split; in valid, every image has one label."""
    images(path / "train", ["0.png", "1.png", "2.png", "3.png"])
    images(path / "valid", ["4.png", "5.png"])
    rows = ones("filename, cat, dog, bird", sets=[*SETS[:4], ["bird"], ["dog"]]).splitlines()
    (path / "train" / "_classes.csv").write_text("\n".join(rows[:5]))
    (path / "valid" / "_classes.csv").write_text("\n".join((rows[0], *rows[5:])))


def check_boxes() -> dict[str, object]:
    """A project of the VGG Image Annotator with an attribute of check boxes."""
    return {
        f"{n}.png99": {"filename": f"{n}.png", "regions": [], "file_attributes": {"label": dict.fromkeys(labels, True)}}
        for n, labels in enumerate([*SETS[:3], ["dog"], *SETS[4:]])
    }


def folders(path: Path) -> None:
    write_class_folders(path, ["cat", "dog"], per_class=3, size=16)


def flags_beside_folders(path: Path) -> None:
    folders(path)
    rows = [f"{name}/{n}.png,{n % 2},1" for name in ("cat", "dog") for n in range(3)]
    (path / "photos.csv").write_text("\n".join(("image,flash,indoor", *rows)))


def twelve(path: Path) -> None:
    """COCO of 12 images, of which one is of two categories."""
    images(path / "images", [f"{n}.png" for n in range(12)])
    (path / "c.json").write_text(json.dumps(coco([["cat"], ["dog"]] * 5 + [["cat"], ["cat", "dog"]])))


def two_people() -> list[dict[str, object]]:
    """Label Studio's JSON of images that two people have labelled."""
    results = [
        [{"result": [{"value": {"choices": [label]}}]} for label in pair] for pair in (("cat", "cat"), ("cat", "dog"))
    ]
    return [{"annotations": results[n % 2], "data": {"image": f"{n}.png"}} for n in range(6)]


def image_directory(
    labels: Sequence[object], *, multilabel: bool, names: Sequence[str] = NAMES
) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        images(path / "image")
        with ImageDirectoryWriter(path, make_schema(names, multilabel=multilabel)) as writer:
            for n, label in enumerate(labels):
                writer.add({"image_info": {"file_name": f"image/{n}.png"}, "category": label, "id": n})

    return change


def in_names_order(labels: Sequence[list[str]]) -> list[list[str]]:
    """The labels in the order of COCO's categories."""
    return [[name for name in NAMES if name in own] for own in labels]


THOUSAND = [sorted(f"label {k}" for k in range(1000) if k % 6 != n) for n in range(6)]
MARKED = [labels or ["Unlabeled"] for labels in SETS]
SETS_OF = list(enumerate(SETS))
TWO = ["cat", "dog"] * 3
SPELLINGS = ["cat;dog", "Cat", "dog", "cat", "dog;Cat", "dog"]
UNTIDY = ["cat ; dog;", " cat", "bird;dog;dog ;; bird", ";", "bird", "dog;cat; bird"]
BARE = ["[cat, dog]", "[cat]", "[bird]", "[]", "[bird]", "[cat]"]
PYTHON = ["['cat', 'dog']", "['cat']", "('bird', 'dog')", "[]", "['bird']", "['bird' 'cat' 'dog']"]
LONG = "\n".join(("file,label", *(f"{n}.png,{label}" for n, own in enumerate(SETS) for label in own or [""])))
OWN_CELLS = "\n".join(("filename,labels", *(",".join((f"{n}.png", *own)) for n, own in enumerate(SETS))))
MANY = "\n".join(("file,label,label2", *(f"{n}.png,{','.join([*own, '', ''][:2])}" for n, own in enumerate(SETS))))
SOFT = ones("image, cat, dog, bird").replace(" 1, 1, 1", " 1, 1, 0.5")
MULTILABEL = {"task": "multilabel"}

ROWS: dict[str, Row] = {
    "a CSV of labels separated by semicolons": Row("accepted", cells(joined(";")), "The task is multilabel: 3 of 5"),
    "a CSV of labels separated by vertical bars": Row(
        "accepted", cells(joined("|")), "3 of 5 labelled images have labels that are separated by"
    ),
    "a CSV with semicolons as delimiter, of labels separated by vertical bars": Row(
        "accepted", cells(joined(" | "), "Datei;Label", "l.csv")
    ),
    "a CSV without a header, of labels separated by semicolons": Row("accepted", cells(joined(";"), "")),
    "labels separated by blanks, --label-separator blank": Row(
        "accepted", cells(joined(" ")), flags={"label_separator": "blank"}
    ),
    "labels separated by commas, --label-separator comma": Row(
        "accepted", cells(joined(",")), flags={"label_separator": "comma"}
    ),
    "labels in a cell each, --label-separator comma": Row(
        "accepted", text("l.csv", OWN_CELLS), flags={"label_separator": "comma"}
    ),
    "labels separated by commas": Row(
        "warning",
        cells(["cat,dog", "cat", "dog"] * 2),
        "If it is a list of labels, give --label-separator ','",
        ["cat,dog", "cat", "dog"] * 2,
    ),
    "labels with a ; in one name, which is not a list": Row(
        "accepted", cells(["dog; small", "cat", "bird"] * 2), "is read as one class", ["dog; small", "cat", "bird"] * 2
    ),
    "labels with a blank in their names": Row(
        "accepted",
        cells(["golden retriever", "tabby cat", "labrador retriever"] * 2),
        "The task is multiclass: each image has one label",
        ["golden retriever", "tabby cat", "labrador retriever"] * 2,
    ),
    "labels with a ; of which it is not clear whether they are lists": Row(
        "error", cells(["dog;puppy", "dog"] * 3), "'dog;puppy' may be one class, or labels that are separated by ';'"
    ),
    "labels with a ; of which it is not clear whether they are lists, --task multiclass": Row(
        "accepted", cells(["dog;puppy", "dog"] * 3), "", ["dog;puppy", "dog"] * 3, {"task": "multiclass"}
    ),
    "labels separated by semicolons and by vertical bars": Row(
        "error", cells(["cat;dog", "cat|dog", "cat", "dog", "dog", "cat"]), "give --label-separator"
    ),
    "--label-separator that no label has": Row(
        "warning", cells(TWO), "no label has the separator ' '", [[label] for label in TWO], {"label_separator": " "}
    ),
    "--label-separator and --task multiclass": Row(
        "error",
        cells(TWO),
        "--label-separator is for images of several labels",
        flags={"label_separator": " ", "task": "multiclass"},
    ),
    "blanks around labels, labels that stand twice, a ; at the end": Row("accepted", cells(UNTIDY)),
    "labels of two spellings": Row("error", cells(SPELLINGS), "'Cat' and 'cat' differ in case"),
    "JSON lists in the cells of a CSV": Row("accepted", cells(list(map(json.dumps, SETS)))),
    "Python lists, tuples and arrays in the cells of a CSV": Row("accepted", cells(PYTHON)),
    "lists without quotes in the cells of a CSV": Row("error", cells(BARE), "has lists without quotes, such as [cat"),
    "lists of 0 and 1 in place of names": Row(
        "error", lines(automl([[1, 0, 1], [0, 0, 1]] * 3)), "lists of 0 and 1 without the names of the labels"
    ),
    "a ; in the name of a label in a list": Row(
        "accepted", lines(automl([["a;b", "c"], ["c"]] * 3)), "", [["a;b", "c"], ["c"]] * 3
    ),
    "a _classes.csv of Roboflow's in each split": Row(
        "accepted", roboflow, "The task is multilabel: 2 of 3", [*SETS[:4], ["bird"], ["dog"]]
    ),
    "a _classes.csv with labels called text, label and year": Row(
        "accepted",
        text("_classes.csv", ones("filename, text, label, year")),
        "",
        [["label", "text"], ["text"], ["label", "year"], [], ["year"], ["label", "text", "year"]],
    ),
    "a CSV with a column of 0 and 1 for each label": Row("accepted", text("l.csv", ones("image, cat, dog, bird"))),
    "a CSV with a column of 0 and 1 for each class, of which each row has one 1": Row(
        "accepted",
        text("l.csv", ones("image, cat, dog, bird", sets=[[name] for name in NAMES] * 2)),
        "The task is multiclass",
        [*NAMES] * 2,
    ),
    "a CSV with a column for each label, in one of which there is 0.5": Row(
        "error", text("l.csv", SOFT), "correct or remove the column 'bird', which has '0.5'"
    ),
    "a CSV with one column of 0 and 1, --task multilabel": Row(
        "accepted",
        text("l.csv", ones("image, cat", names=["cat"])),
        "",
        [["cat"], ["cat"], [], [], [], ["cat"]],
        MULTILABEL,
    ),
    "a CSV with a column of 1 and blanks for each label": Row(
        "accepted", text("l.csv", ones("image, cat, dog, bird").replace(" 0", " ")), "1 of 6 images have no label", SETS
    ),
    "labels separated by commas, --task multilabel": Row(
        "warning",
        cells(["cat,dog", "cat", "dog"] * 2),
        "'cat,dog' is read as one label. If it is a list of labels, give --label-separator ','",
        [["cat,dog"], ["cat"], ["dog"]] * 2,
        MULTILABEL,
    ),
    "labels in a cell each, without --label-separator": Row(
        "error", text("l.csv", "0.png,cat\n1.png,dog\n2.png,cat,dog\n"), "give --label-separator ','"
    ),
    "a CSV with one label or an empty cell for each image": Row(
        "error", cells(ONE_OR_NONE), "If an image may have no label, give --task multilabel."
    ),
    "a CSV with one label or an empty cell for each image, --task multilabel": Row(
        "accepted",
        cells(ONE_OR_NONE),
        "2 of 6 images have no label",
        [["cat"], [], ["cat"], [], ["dog"], ["dog"]],
        MULTILABEL,
    ),
    "columns of 0 and 1 with several 1 in a row beside class folders": Row(
        "error", flags_beside_folders, "the labels could be its 2 columns, one for each class, or the folders 'cat'"
    ),
    "columns of 0 and 1 with a column Unlabeled": Row(
        "accepted",
        text("_classes.csv", ones("filename, cat, dog, bird, Unlabeled", names=[*NAMES, "Unlabeled"], sets=MARKED)),
    ),
    "columns of 0 and 1 without titles": Row(
        "error", text("l.csv", ones("").lstrip()), "put the names of the labels in a first row"
    ),
    "columns of 0 and 1 with -1 beside 0": Row(
        "error", text("l.csv", ones("image, cat, dog, bird").replace("1, 0, 0", "1, -1, 0")), "which may mean uncertain"
    ),
    "objects of 0 and 1 in JSON": Row(
        "accepted",
        document("l.json", [{"file": f"{n}.png", "labels": {k: int(k in own) for k in NAMES}} for n, own in SETS_OF]),
    ),
    "check boxes of the VGG Image Annotator": Row(
        "accepted", document("via.json", check_boxes()), "", [*SETS[:3], ["dog"], *SETS[4:]]
    ),
    "labels in a text file, separated by blanks, --label-separator blank": Row(
        "accepted", text("labels.txt", OWN_CELLS.replace(",", " ")), flags={"label_separator": "blank"}
    ),
    "lists that are all different in a column of unknown title": Row("accepted", cells(joined(";"), "image,findings")),
    "COCO annotations of whole images, of several categories": Row(
        "accepted", document("c.json", coco()), "3 of 5 labelled images are of several", in_names_order(SETS)
    ),
    "COCO annotations of whole images, one of which is of two categories": Row(
        "error", twelve, "'images/11.png' is 'cat' and 'dog'; give each image one category, or give --task multilabel"
    ),
    "COCO boxes of several categories in an image": Row(
        "error", document("c.json", coco(boxes=True)), "or give --task multilabel if an image may have several labels"
    ),
    "COCO boxes of several categories in an image, --task multilabel": Row(
        "accepted", document("c.json", coco(boxes=True)), "", in_names_order(SETS), MULTILABEL
    ),
    "JSON Lines with lists of labels": Row("accepted", lines(automl()), "The task is multilabel: 3 of 5"),
    "JSON Lines with null for more than a tenth of the images": Row(
        "error",
        lines(automl([*SETS[:3], None, *SETS[4:]])),
        "without a label or an empty list in labels.jsonl: 'images/3.png'",
    ),
    "JSON Lines with lists of labels, --task multiclass": Row(
        "error", lines(automl()), "'images/0.png' is 'cat' and 'dog'", flags={"task": "multiclass"}
    ),
    "Label Studio's JSON of several choices": Row("accepted", document("r.json", label_studio())),
    "Label Studio's JSON-MIN of several choices": Row("accepted", document("r.json", label_studio_min())),
    "Label Studio's CSV of several choices": Row("accepted", text("project.csv", label_studio_csv())),
    "images that two people have labelled differently": Row(
        "error", document("r.json", two_people()), "'images/1.png' is 'cat' and 'dog'"
    ),
    "the tagged images of Custom Vision": Row("accepted", document("images.json", custom_vision())),
    "a row for each label of an image": Row("error", text("l.csv", LONG), "or give --task multilabel if an image may"),
    "a row for each label of an image, --task multilabel": Row("accepted", text("l.csv", LONG), "", SETS, MULTILABEL),
    "two rows of an image with different lists": Row(
        "error",
        lines(automl([["cat", "dog"]] * 6) + automl([["cat", "bird"]])),
        "images with different lists of labels: 'images/0.png' is ['cat', 'dog'] and ['cat', 'bird']",
    ),
    "columns label and label2, --task multilabel": Row(
        "accepted", text("l.csv", MANY), "", [*SETS[:5], ["bird", "cat"]], MULTILABEL
    ),
    "1,000 labels": Row("accepted", cells(list(map(";".join, THOUSAND))), "", THOUSAND),
    "class folders, --task multilabel": Row("accepted", folders, "", [["cat"]] * 3 + [["dog"]] * 3, MULTILABEL),
    "one folder of images without a file of labels, --task multilabel": Row(
        "error", lambda path: images(path / "photos"), "and no file has their labels", flags=MULTILABEL
    ),
    "an ImageDirectory with lists of labels": Row("accepted", image_directory(SETS, multilabel=True)),
    "an ImageDirectory with lists of labels, --task multiclass": Row(
        "error",
        image_directory(SETS, multilabel=True),
        "is an ImageDirectory with a list of labels per image",
        flags={"task": "multiclass"},
    ),
    "an ImageDirectory with one class per image, --task multilabel": Row(
        "accepted", image_directory(TWO, multilabel=False), "", [[label] for label in TWO], MULTILABEL
    ),
}


def labels_of(directory: Path) -> list[object]:
    return [item.get("category") for item in read_json_lines(directory / "images.lst")]


def try_row(row: Row, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Convert the input of a row, and check the labels, the messages and the exit code."""
    (tmp_path / "in").mkdir()
    row.change(tmp_path / "in")
    capfd.readouterr()
    paths = {"input_path": tmp_path / "in", "output_path": tmp_path / "out", "outputs_path": tmp_path / "outputs"}
    code = run_here("convert-to-image-directory", **paths, **row.flags)
    log = capfd.readouterr().err
    assert "Traceback" not in log
    if row.outcome == "error":
        assert code == 1, log
        assert row.words in error_text(tmp_path / "outputs")
        assert not (tmp_path / "out").exists()
        return
    assert code == 0, log
    assert labels_of(tmp_path / "out") == list(row.labels)
    assert (" WARNING " in log) == (row.outcome == "warning"), log
    assert row.words in log


@pytest.mark.parametrize("given", ROWS)
def test_what_is_given_ends_as_the_table_says(given: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try_row(ROWS[given], tmp_path, capfd)


def test_the_output_and_its_summary_say_the_task(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    cells(joined("|"))(tmp_path / "in")
    converted = convert_to_image_directory(tmp_path / "in", tmp_path / "out", outputs_path=tmp_path / "outputs")
    assert (converted.task, converted.classes) == ("multilabel", ("bird", "cat", "dog"))
    summary = json.loads((tmp_path / "outputs" / "conversion.json").read_text())
    assert (summary["task"], summary["label_separator"], summary["num_images_without_label"]) == ("multilabel", "|", 1)
    assert summary["classes"] == {"bird": 3, "cat": 3, "dog": 3}
    read = read_labelled_images(tmp_path / "out", "Training dataset")
    assert [read.label_of(number) for number in range(6)] == SETS
    load_image_directory(tmp_path / "out").dump(str(tmp_path / "again"))
    for name in ("images.lst", "_schema.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_summary_of_one_label_per_image_is_as_before(tmp_path: Path) -> None:
    folders(tmp_path / "in")
    assert convert_to_image_directory(tmp_path / "in", tmp_path / "out", outputs_path=tmp_path).task == "multiclass"
    summary = json.loads((tmp_path / "conversion.json").read_text())
    assert list(summary) == [
        *("num_images", "classes", "labels_from", "split", "left_out_images", "left_out_files"),
    ]
