from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.image_directories import append_to, edit_items, edit_schema, set_categories
from tests.making import CLASSES, ROOT, paths_of, write_class_folders, write_image_directory
from train_pytorch_model import designer_core
from train_pytorch_model.errors import InvalidDatasetError, NotLabeledDatasetError
from train_pytorch_model.ports.classes import match_classes
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.file_names import FileNames
from train_pytorch_model.ports.labelled_images import LabelledImages, read_labelled_images

PORT = "Training dataset"


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_directory(tmp_path_factory.mktemp("made") / "data", per_class=3)


@pytest.fixture
def directory(_made: Path, tmp_path: Path) -> Path:
    shutil.copytree(_made, tmp_path / "data")
    return tmp_path / "data"


def set_first(key: str, value: object) -> Callable[[Path], None]:
    return lambda path: edit_items(path, lambda items: items[0]["image_info"].update({key: value}))


def replace_in(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = (path / name).read_text()
        assert old in text
        (path / name).write_text(text.replace(old, new, 1))

    return change


def lead_out(name: str) -> Callable[[Path], None]:
    """A link to a file beside the directory."""

    def change(path: Path) -> None:
        (path / name).rename(path.parent / name)
        (path / name).symlink_to(path.parent / name)

    return change


def test_an_image_directory_is_read(directory: Path) -> None:
    images = read_labelled_images(directory, PORT)
    assert images.classes == CLASSES
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert all(path.is_file() for path in paths_of(images))
    assert images.image_column == "image"


def test_folders_of_images_are_read_alike(directory: Path, tmp_path: Path) -> None:
    raw = read_labelled_images(write_class_folders(tmp_path / "raw", per_class=3), PORT)
    whole = read_labelled_images(directory, PORT)
    assert (raw.classes, raw.labels.tolist(), raw.schema) == (whole.classes, whole.labels.tolist(), whole.schema)
    assert [path.read_bytes() for path in paths_of(raw)] == [path.read_bytes() for path in paths_of(whole)]


@pytest.mark.parametrize("labelled", [False, True])
def test_raw_images_are_the_items_that_designer_core_reads(labelled: bool, tmp_path: Path) -> None:
    raw = write_class_folders(tmp_path / "raw", ["dog", "Cat", "10", "2"], per_class=11)
    path = raw if labelled else raw / "dog"
    shutil.copy(raw / "dog" / "0.png", path / "dog" / "1.tar.PNG" if labelled else path / "1.tar.PNG")
    schema, _, items = read_listed_items(path, PORT, labelled=labelled)
    theirs = designer_core.load_image_directory(path)
    assert schema == theirs.schema
    pairs = ((item["image_info"], item.get("category")) for item in items())
    expected = [(item["image_info"], item.get("category")) for item in theirs.image_list]
    assert list(pairs) == (expected if labelled else sorted(expected, key=lambda pair: str(pair[0]["base_file_name"])))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no meta": (lambda path: (path / "_meta.yaml").unlink(), "_meta.yaml is missing"),
    "meta without image_list": (
        replace_in("_meta.yaml", "image_list", "other"),
        "'image_list' of _meta.yaml: None",
    ),
    "meta of another type": (replace_in("_meta.yaml", "ImageDirectory", "DataFrameDirectory"), "DataFrameDirectory"),
    "meta no yaml": (append_to("_meta.yaml", b"\n: : ["), "_meta.yaml cannot be read"),
    "meta a list": (lambda path: (path / "_meta.yaml").write_text("[1]"), "_meta.yaml is not a mapping"),
    "schema led out": (lead_out("_schema.json"), "'_schema.json' leads out of the directory"),
    "meta leaves": (replace_in("_meta.yaml", "images.lst", "../images.lst"), "leaves the directory"),
    "no list": (lambda path: (path / "images.lst").unlink(), "'images.lst' is missing"),
    "empty list": (lambda path: (path / "images.lst").write_text(""), "lists no image"),
    "blank line": (append_to("images.lst", b"\n"), "images.lst line 10 is blank"),
    "no json": (append_to("images.lst", b"{\n"), "images.lst line 10 is not JSON"),
    "no object": (append_to("images.lst", b"[]\n"), "images.lst line 10 is not a JSON object"),
    "no utf-8": (append_to("images.lst", b"\xff\n"), "images.lst cannot be read"),
    "a line without end": (append_to("images.lst", b"x" * (2**24 + 1)), "line 10 has more than 16777216 characters"),
    "a line nested without end": (append_to("images.lst", b"[" * 100_000 + b"\n"), "images.lst line 10 is not JSON"),
    "NUL bytes": (append_to("images.lst", bytes(1000) + b"\n"), "images.lst line 10 is not JSON"),
    "a number without end": (append_to("images.lst", b'{"id": ' + b"9" * 10_000 + b"}\n"), "line 10 is not JSON"),
    "meta nested without end": (
        append_to("_meta.yaml", b"\nx: " + b"[" * 200_000),
        "has values nested more",
    ),
    "meta of more than it needs": (append_to("_meta.yaml", b"\nx: [" + b"a, " * 50_000), "more than 10000 values"),
    "meta too large": (append_to("_meta.yaml", b"#" * 2**20), "_meta.yaml has 104"),
    "schema nested without end": (
        lambda path: (path / "_schema.json").write_text("[" * 100_000),
        "_schema.json is not JSON",
    ),
    "no schema": (lambda path: (path / "_schema.json").unlink(), "'_schema.json' is missing"),
    "schema no json": (append_to("_schema.json", b"}"), "_schema.json is not JSON"),
    "schema without columns": (replace_in("_schema.json", "columnAttributes", "x"), "columnAttributes"),
    "columns of one name": (
        lambda path: edit_schema(path, lambda columns: columns.append(columns[1])),
        "_schema.json has several columns named 'id'",
    ),
    "a column that says more": (
        lambda path: edit_schema(path, lambda columns: columns[1].update(unit="cm")),
        "designer-core reads other items than its files contain",
    ),
    "no image column": (replace_in("_schema.json", "image/png", "image/jpeg"), "no image column"),
    "objects, not classes": (
        replace_in("_schema.json", "COCO_classification", "COCO_object_detection"),
        "COCO_object_detection",
    ),
    "no categories": (set_categories([]), "no categories"),
    "id text": (set_categories([{"id": "0", "name": "cat"}]), "category id '0'"),
    "id negative": (set_categories([{"id": -1, "name": "cat"}]), "category id -1"),
    "id twice": (set_categories([{"id": 0, "name": "cat"}, {"id": 0, "name": "dog"}]), "id 0 occurs twice"),
    "name twice": (set_categories([{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}]), "'cat' occurs twice"),
    "name no text": (set_categories([{"id": 0, "name": 5}]), "category name 5"),
    "unknown label": (replace_in("images.lst", '"category": "cat"', '"category": "cow"'), "labelled 'cow'"),
    "climbs out": (set_first("file_name", "../secret.png"), "leaves the directory"),
    "absolute": (set_first("file_name", "/etc/passwd"), "leaves the directory"),
    "base name climbs out": (set_first("base_file_name", "../secret.png"), "leaves the directory"),
    "no name": (set_first("file_name", ""), "line 1 names no file"),
    "base name a number": (set_first("base_file_name", 5), "line 1 names no file"),
    "a hidden folder for a class": (
        set_categories([{"id": number, "name": name} for number, name in enumerate([*CLASSES, ".ipynb_checkpoints"])]),
        "the category '.ipynb_checkpoints' is a hidden folder that was read as a class",
    ),
    "address": (
        lambda path: edit_items(
            path, lambda items: items[0].update(image_info={"file_name": "a.png", "coco_url": "http://127.0.0.1/a.png"})
        ),
        "address instead of a file",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_never_read_as_something_else(kind: str, directory: Path) -> None:
    damage, words = DAMAGES[kind]
    damage(directory)
    with pytest.raises(InvalidDatasetError) as raised:
        read_labelled_images(directory, PORT)
    assert words in raised.value.message
    assert str(directory) in raised.value.message
    assert raised.value.code == 18


def test_a_link_out_of_the_directory_is_refused(directory: Path, tmp_path: Path) -> None:
    first = read_labelled_images(directory, PORT).path_of(0)
    first.rename(tmp_path / "outside.png")
    first.symlink_to(tmp_path / "outside.png")
    with pytest.raises(InvalidDatasetError, match="leads out of the directory through a link"):
        read_labelled_images(directory, PORT)
    shutil.move(str(directory / "image"), str(tmp_path / "elsewhere"))
    (directory / "image").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidDatasetError, match="leads out of the directory through a link"):
        read_labelled_images(directory, PORT)


def test_an_address_beside_a_file_that_is_there_does_no_harm(directory: Path) -> None:
    set_first("coco_url", "http://127.0.0.1/a.png")(directory)
    assert len(read_labelled_images(directory, PORT)) == 9


@pytest.mark.parametrize("missing", [True, False])
def test_without_a_label_column_there_are_no_labels(missing: bool, directory: Path, tmp_path: Path) -> None:
    if missing:
        edit_schema(directory, lambda columns: columns.pop())
        path = directory
    else:
        path = write_class_folders(tmp_path / "raw") / "cat"  # a flat folder
    with pytest.raises(NotLabeledDatasetError) as raised:
        read_labelled_images(path, PORT)
    assert raised.value.code == 24
    assert raised.value.message.startswith(f'NotLabeledDataset: There is no label column in "{PORT} {path}".')


def test_images_without_a_label_are_skipped_and_reported(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit_items(directory, lambda items: items[0].update(category=None))
    with caplog.at_level(logging.WARNING):
        assert len(read_labelled_images(directory, PORT)) == 8
    assert "1 of 9 images have no label" in caplog.text
    edit_items(directory, lambda items: [item.update(category="") for item in items])  # type: ignore[func-returns-value]
    with pytest.raises(NotLabeledDatasetError):
        read_labelled_images(directory, PORT)


def test_gaps_between_category_ids_make_no_classes(directory: Path) -> None:
    set_categories([{"id": 7, "name": "owl"}, {"id": 0, "name": "cat"}, {"id": 3, "name": "dog"}])(directory)
    assert read_labelled_images(directory, PORT).classes == ("cat", "dog", "owl")


def test_another_name_of_the_image_column_is_kept(directory: Path) -> None:
    replace_in("_schema.json", '"name": "image"', '"name": "photo"')(directory)
    assert read_labelled_images(directory, PORT).image_column == "photo"


def test_a_list_too_large_for_designer_core_is_read_without_it(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_items(directory, lambda items: [item.update(note="x" * 2**23) for item in items])  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO):
        images = read_labelled_images(directory, PORT)
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "is too large to be read with designer-core" in caplog.text


def test_no_memory_for_a_dataset_is_no_fault_of_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(designer_core, "load_image_directory", fail)
    with pytest.raises(MemoryError):
        read_labelled_images(directory, PORT)


@pytest.mark.parametrize("found", ["absent", "file", "empty", "x" * 300, "a folder of notes"])
def test_a_path_that_is_no_dataset_is_named(found: str, tmp_path: Path) -> None:
    path = tmp_path / ("data" if len(found) < 255 else found)
    if found == "file":
        path.write_text("")
    if found in ("empty", "a folder of notes"):
        path.mkdir()
    if found == "a folder of notes":
        (path / "notes.txt").write_text("")
    with pytest.raises(InvalidDatasetError, match=str(path)):
        read_labelled_images(path, PORT)
    with pytest.raises(InvalidDatasetError, match=str(path)):
        read_listed_items(path, PORT, labelled=False)


def test_a_hidden_folder_does_not_become_a_class(tmp_path: Path) -> None:
    raw = write_class_folders(tmp_path / "raw", [*CLASSES, ".ipynb_checkpoints"])
    assert read_labelled_images(raw, PORT).classes == tuple(CLASSES)


def test_other_files_among_raw_images_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = write_class_folders(tmp_path / "raw", per_class=2)
    (raw / "cat" / "broken.png").write_bytes(b"no image")
    shutil.copy(raw / "cat" / "0.png", raw / "dog" / "without_an_extension")
    (raw / "owl" / "notes.txt").write_text("text")
    (raw / "owl" / "data").write_text("text")
    write_class_folders(raw / "cat", ["deeper"], per_class=1)
    with caplog.at_level(logging.WARNING):
        images = read_labelled_images(raw, PORT)
    assert Counter(images.classes[label] for label in images.labels) == {"cat": 4, "dog": 3, "owl": 2}
    assert {"cat/broken.png", "cat/deeper/0.png", "dog/without_an_extension"} < set(images.files)
    assert "skipped 2 files of other kinds: 'owl/data', 'owl/notes.txt'" in caplog.text


def test_annotations_without_end_are_not_read(tmp_path: Path) -> None:
    raw = write_class_folders(tmp_path / "raw", per_class=1)
    (raw / "coco.json").touch()
    os.truncate(raw / "coco.json", 2**28 + 1)
    with pytest.raises(InvalidDatasetError, match=r"'coco\.json' has more than 268435456 bytes"):
        read_labelled_images(raw, PORT)


def test_object_annotations_in_coco_json_are_no_classes(tmp_path: Path) -> None:
    raw = write_class_folders(tmp_path / "raw", ["images"], per_class=1)
    annotations = {
        "images": [{"id": 1, "file_name": "images/0.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (raw / "coco.json").write_text(json.dumps(annotations))
    with pytest.raises(InvalidDatasetError, match="COCO_object_detection"):
        read_labelled_images(raw, PORT)


def labelled(path: Path, classes: tuple[str, ...], labels: tuple[int, ...]) -> LabelledImages:
    return LabelledImages(PORT, path, FileNames("x" for _ in labels), np.array(labels), classes, "image", {})


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    train = labelled(tmp_path, ("cat", "dog", "owl"), (0, 1, 2))
    valid = labelled(tmp_path, ("owl", "cat", "dog"), (0, 1, 2, 2))
    matched = match_classes(train, valid)
    assert matched.classes == train.classes
    assert matched.labels.tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize(
    ("classes", "words"), [(("cat",), "it lacks 'dog'"), (("cat", "dog", "cow"), "the training dataset lacks 'cow'")]
)
def test_different_categories_are_an_error_either_way(classes: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDatasetError, match=words):
        match_classes(labelled(tmp_path, ("cat", "dog"), (0,)), labelled(tmp_path, classes, (0,)))


def test_a_list_of_many_rows_takes_little_memory(tmp_path: Path) -> None:
    num_rows = 200_000
    few = write_image_directory(tmp_path / "few", per_class=1)
    with (few / "images.lst").open("a", encoding="utf-8") as file:
        for index in range(3, num_rows):
            info = {"file_name": f"image/{index % 3}_{index}.png"}
            file.write(json.dumps({"image_info": info, "category": CLASSES[index % 3], "id": index}) + "\n")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from benchmarks.processes import own_anonymous_bytes\n"
        "from train_pytorch_model.designer_core import load_image_directory\n"
        "from train_pytorch_model.ports.labelled_images import read_labelled_images\n"
        f"load_image_directory({str(write_class_folders(tmp_path / 'raw', per_class=1))!r})\n"
        "before = own_anonymous_bytes()\n"
        f"images = read_labelled_images(Path({str(few)!r}), 'Training dataset')\n"
        "print(len(images), own_anonymous_bytes() - before)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    rows, held_bytes = map(int, finished.stdout.split())
    assert rows == num_rows
    # A million rows may hold 200 MB.
    assert held_bytes < num_rows * 200


@pytest.mark.parametrize("name", ["image/a.png", "", "ünï/日本.jpg", "\ud800", "a\udcff.png"])
def test_file_names_come_back_as_they_were(name: str) -> None:
    names = FileNames(["first", name, "last"])
    assert list(names) == ["first", name, "last"]
    with pytest.raises(IndexError):
        names[3]
