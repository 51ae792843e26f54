"""The rows of docs/broken-input.md on files of labels and splits, each tried with convert."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

from tests.making import error_text, read_json_lines, run_here, write_class_folders

CATS_AND_DOGS = {"cat": 3, "dog": 3}
LABELS = [("cat", "dog")[number % 2] for number in range(6)]


class Row(NamedTuple):
    """One row."""

    outcome: str
    change: Callable[[Path], object]
    """Adds files and folders to the input."""
    words: str = ""
    """What the user is told."""
    classes: dict[Optional[str], int] = CATS_AND_DOGS  # type: ignore[assignment]
    """The images of each class, unless it is an error."""
    flags: dict[str, object] = {}  # noqa: RUF012  # it is never changed


def images(folder: Path, names: list[str] | None = None) -> None:
    """Write six images, or those with these names, into a folder."""
    names = [f"{number}.png" for number in range(6)] if names is None else names
    write_class_folders(folder.parent, [folder.name], per_class=len(names), size=16)
    for number, name in reversed(list(enumerate(names))):
        (folder / f"{number}.png").rename(folder / f".{name}")
    for name in names:
        (folder / f".{name}").rename(folder / name)


def table(path: Path, header: str, row: str, encoding: str = "utf-8") -> None:
    """Write a line for each of the six images."""
    lines = [header]
    for number, label in enumerate(LABELS):
        values = {"i": number, "label": label, "one": number % 2, "zero": 1 - number % 2}
        values["pair"] = number // 2
        values["views"] = (120, 7, 7, 55, 3, 120)[number]
        lines.append(row.format(**values, most=label if number < 4 else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line for line in lines if line) + "\n", encoding=encoding)


def small_class_lost(path: Path) -> None:
    write_class_folders(path, ["cat", "dog"], per_class=15, size=16)
    (path / "emu").mkdir()
    (path / "emu" / "0.png").write_bytes(b"")


def with_table(name: str, header: str, row: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    """Six images in a folder, and a file of labels."""

    def change(path: Path) -> None:
        images(path / "images")
        table(path / name, header, row, encoding)

    return change


def with_json(name: str, document: Callable[[], object]) -> Callable[[Path], None]:
    """Six images in a folder, and a JSON document."""

    def change(path: Path) -> None:
        images(path / "images")
        (path / name).write_text(json.dumps(document()))

    return change


def coco(files: list[str], categories: list[tuple[int, str]], of: Callable[[int], int]) -> dict[str, object]:
    """A document of COCO."""
    return {
        "images": [{"id": number, "file_name": file} for number, file in enumerate(files)],
        "annotations": [{"id": n, "image_id": n, "category_id": of(n)} for n in range(len(files))],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }


def coco_each_split(path: Path) -> None:
    for split, number in (("train", 4), ("valid", 2)):
        files = [f"{n}.png" for n in range(number)]
        images(path / split, files)
        document = coco(files, [(0, "pets"), (1, "cat"), (2, "dog")], lambda n: 1 + n % 2)
        (path / split / "_annotations.coco.json").write_text(json.dumps(document))


def one_split_without_labels(path: Path) -> None:
    coco_each_split(path)
    (path / "valid" / "_annotations.coco.json").unlink()


def competition(path: Path) -> None:
    images(path / "train", [f"{number:06x}.jpg" for number in range(6)])
    images(path / "test", [f"{number:06x}.jpg" for number in range(10, 20)])
    table(path / "labels.csv", "id,breed", "{i:06x},{label}")
    (path / "sample_submission.csv").write_text("id,cat,dog\n" + "".join(f"{n:06x},0.5,0.5\n" for n in range(10, 20)))


def class_folders_of_splits(path: Path) -> None:
    write_class_folders(path / "train", ["cat", "dog"], per_class=2)
    write_class_folders(path / "val", ["cat", "dog"], per_class=1)


def without_labels(path: Path) -> None:
    images(path / "train")
    images(path / "test")


def contradiction(path: Path) -> None:
    with_table("a.csv", "file,label", "{i}.png,{label}")(path)
    table(path / "b.csv", "file,label", "{i}.png,dog")


def agreement(path: Path) -> None:
    with_table("a.csv", "file,label", "{i}.png,{label}")(path)
    table(path / "b.tsv", "image\tclass", "images/{i}.png\t{label}")


def notes(path: Path) -> None:
    write_class_folders(path, ["cat", "dog"], per_class=3)
    (path / "notes.json").write_text('{"made": "by me"}')
    (path / "classes.json").write_text('{"0": "cat", "1": "dog"}')
    (path / "sizes.csv").write_text("name,width\ncat/0.png,32\n")


def counts_beside_folders(path: Path) -> None:
    write_class_folders(path, ["cat", "dog"], per_class=3)
    rows = zip(sorted(path.rglob("*.png")), (120, 7, 7, 55, 3, 120))
    lines = [f"{file.relative_to(path).as_posix()},{views}" for file, views in rows]
    (path / "photos.csv").write_text("\n".join(("image,views", *lines)))


def two_readings(path: Path) -> None:
    write_class_folders(path, ["alice", "bob"], per_class=3)
    rows = [f"{name}/{number}.png,{number % 2}" for name in ("alice", "bob") for number in range(3)]
    (path / "data.csv").write_text("\n".join(["bild,gattung", *rows]))


def ambiguous(path: Path) -> None:
    images(path / "a")
    images(path / "b")
    table(path / "labels.csv", "file,label", "{i}.png,{label}")


def captions_beside(path: Path) -> None:
    with_json("instances.json", repeated_category)(path)
    captions(path)


def captions(path: Path) -> None:
    images(path / "images")
    document = coco([f"{number}.png" for number in range(6)], [], lambda number: number)
    annotations = [{"id": n, "image_id": n, "caption": f"picture {n}"} for n in range(6)]
    (path / "captions.json").write_text(json.dumps({"images": document["images"], "annotations": annotations}))


def folds(path: Path) -> None:
    write_class_folders(path, ["cat", "dog"], per_class=3)
    rows = [f"{name}/{number}.png,{number % 2}" for name in ("cat", "dog") for number in range(3)]
    (path / "folds.csv").write_text("\n".join(["image,fold", *rows]))


def text_file(name: str, text: str) -> Callable[[Path], None]:
    """Six images in a folder, and a text file."""

    def change(path: Path) -> None:
        images(path / "images")
        (path / name).write_text(text)

    return change


def spreadsheet(path: Path) -> None:
    images(path / "images")
    (path / "labels.xlsx").write_bytes(b"PK\3\4")


def voc(path: Path) -> None:
    images(path / "JPEGImages")
    for number, label in enumerate(LABELS):
        table(path / "Annotations" / f"{number}.xml", "", f"<filename>{number}.png</filename><name>{label}</name>")


def repeated_category() -> dict[str, object]:
    categories = [(1, "cat"), (2, "dog"), (3, "cat")]
    return coco([f"{number}.png" for number in range(6)], categories, lambda number: 1 + number % 3)


def label_studio() -> list[dict[str, object]]:
    return [{"image": f"/data/upload/1/{n}.png", "id": n + 3, "choice": label} for n, label in enumerate(LABELS)]


ROWS: dict[str, Row] = {
    "a COCO file in each split": Row("accepted", coco_each_split, classes={"cat": 3, "dog": 3}),
    "a COCO file in each split, --split train": Row(
        "warning", coco_each_split, "skipped 2 images of other splits", {"cat": 2, "dog": 2}, {"split": "train"}
    ),
    "a split without labels beside one with labels": Row(
        "error", one_split_without_labels, "its splits 'valid' have no labels in train/_annotations.coco.json"
    ),
    "a CSV of ids without ending, unlabelled test images, a sample submission": Row(
        "warning", competition, "skipped 10 images in folders without labels"
    ),
    "class folders in each split": Row("accepted", class_folders_of_splits),
    "folders train and test without labels": Row(
        "error", without_labels, "its folders 'test', 'train' are splits, not classes, and no file has labels"
    ),
    "--split with a name that no folder has": Row(
        "error", class_folders_of_splits, "it has no split 'foo': its splits are 'train', 'val'", flags={"split": "foo"}
    ),
    "a labeling tool's JSON with image and choice": Row("accepted", with_json("result.json", label_studio)),
    "a COCO file with two ids for one category name": Row(
        "accepted",
        with_json("c.json", repeated_category),
        classes={"cat": 4, "dog": 2},
    ),
    "a CSV with semicolons in UTF-16": Row(
        "accepted", with_table("l.csv", "Dateiname;Art", "{i}.png;{label}", encoding="utf-16")
    ),
    "a CSV with one column for each class": Row("accepted", with_table("l.csv", "image,dog,cat", "{i},{one},{zero}")),
    "two files of labels that agree": Row("accepted", agreement),
    "two files of labels that contradict each other": Row(
        "error", contradiction, "its files of labels contradict each other: 'images/0.png' is 'cat' in a.csv"
    ),
    "files that name no image beside class folders": Row("warning", notes, "skipped 2 files that name no image"),
    "a CSV with a column that could be the classes beside folders that could": Row(
        "error", two_readings, "the classes could be its column 'gattung' or the folders 'alice', 'bob'"
    ),
    "a CSV with several columns that could be the labels": Row(
        "error", with_table("l.csv", "file,art,ort", "{i}.png,{label},o{one}"), "is known to hold the labels: art, ort"
    ),
    "a file of labels that names images which do not exist": Row(
        "error", with_table("l.csv", "file,label", "x{i}.png,{label}"), "6 labelled files do not exist: 'x0.png'"
    ),
    "a name that several images have": Row("error", ambiguous, "names that several images have: '0.png' may be"),
    "a row of labels with more cells than the header": Row(
        "error", with_table("l.csv", "file,label", "{i}.png,{label},x"), "row 2 has 3 cells, but the first row has 2"
    ),
    "a labels file that is not UTF-8": Row(
        "error", with_table("labels.csv", "file,label", "{i}.png,café", encoding="latin-1"), "save it as UTF-8"
    ),
    "a COCO file of captions beside one with categories": Row(
        "warning", captions_beside, "'captions.json'", {"cat": 4, "dog": 2}
    ),
    "a COCO file of captions beside one folder of images": Row(
        "error", captions, "the labels may be in 'captions.json', which is not read"
    ),
    "a CSV of labels that ends after its header": Row(
        "error", text_file("labels.csv", "image,label\n"), "it has titles but no rows"
    ),
    "an empty CSV beside one folder of images": Row(
        "error", text_file("labels.csv", ""), "the labels may be in 'labels.csv', which is not read"
    ),
    "a CSV of folds, or of numbered splits, and a column of labels": Row(
        "accepted", with_table("l.csv", "image,fold,gattung", "{i}.png,{one},{label}")
    ),
    "a CSV of folds beside class folders": Row("warning", folds, "skipped 1 files without labels: 'folds.csv'"),
    "labels in an Excel file beside one folder of images": Row(
        "error", spreadsheet, "the labels may be in 'labels.xlsx', which is not read"
    ),
    "labels in an XML file for each image beside one folder": Row(
        "error", voc, "the labels may be in 'Annotations/0.xml and 5 other files beside images'"
    ),
    "a column label of different numbers with fractions": Row(
        "error",
        with_table("l.csv", "file,label", "{i}.png,{i}.37"),
        "the numbers in its column 'label' are measurements rather than classes",
    ),
    "a column label of a few numbers with fractions": Row(
        "accepted", with_table("l.csv", "file,label", "{i}.png,{one}.5"), "", {"0.5": 3, "1.5": 3}
    ),
    "a column of unknown title with many integers": Row(
        "error",
        with_table("photos.csv", "image,views", "{i}.png,{views}"),
        "none of its columns is known to hold the labels: views; call the right one 'label'",
    ),
    "a column of unknown title with a few integers, each repeated": Row(
        "accepted", with_table("photos.csv", "image,stage", "{i}.png,{one}"), "", {"0": 3, "1": 3}
    ),
    "a column of unknown title with the digits 0, 1 and 2, of two images each": Row(
        "accepted", with_table("l.csv", "image,digit", "{i}.png,{pair}"), "", {"0": 2, "1": 2, "2": 2}
    ),
    "integers of unknown meaning beside class folders": Row(
        "warning",
        counts_beside_folders,
        "skipped 1 files without a known column of labels: 'photos.csv'",
        {"cat": 3, "dog": 3},
    ),
    "a column label, and its classes as columns label_0, label_1, …": Row(
        "accepted", with_table("l.csv", "file,label,label_0,label_1,label_2", "{i}.png,{label},{zero},{one},0")
    ),
    "a column label, and the corners of a quadrilateral x1, y1, … y4": Row(
        "accepted", with_table("l.csv", "file,label,x1,y1,x3,y3", "{i}.png,{label},1,{views},9,{views}")
    ),
    "columns label and label2": Row(
        "error",
        with_table("l.csv", "file,label,label2", "{i}.png,{label},{views}"),
        "several columns could be the labels, or images have several labels: 'label', 'label2'",
    ),
    "columns label and label2 that stand for each other": Row(
        "accepted", with_table("l.csv", "file,label,label2", "{i}.png,{label},{one}"), "", {"cat": 3, "dog": 3}
    ),
    "more than a tenth of the images without a label": Row(
        "error", with_table("l.csv", "file,label", "{i}.png,{most}"), "2 of 6 images would be left out"
    ),
    "more than a tenth of the images without a label, --allow-partial": Row(
        "warning",
        with_table("l.csv", "file,label", "{i}.png,{most}"),
        "skipped 2 images without a label in l.csv",
        {"cat": 2, "dog": 2},
        {"allow_partial": True},
    ),
    "all images of a class cannot be read, and they are less than a tenth": Row(
        "error", small_class_lost, "all images of 'emu' would be left out"
    ),
    "all images of a class cannot be read, --skip-unreadable-images": Row(
        "warning",
        small_class_lost,
        "skipped 1 of 31 images that cannot be read: 'emu/0.png'",
        {"cat": 15, "dog": 15},
        {"skip_unreadable_images": True},
    ),
}


def counts(directory: Path) -> dict[object, int]:
    return dict(Counter(item.get("category") for item in read_json_lines(directory / "images.lst")))


@pytest.mark.parametrize("given", ROWS)
def test_what_is_given_ends_as_the_table_says(given: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    row = ROWS[given]
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
    assert counts(tmp_path / "out") == row.classes
    assert (" WARNING " in log) == (row.outcome == "warning"), log
    assert row.words in log
