"""The rows of docs/broken-input.md on folders and names: convert and training read the same, or give the same error."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import odd_images
from tests.making import error_text, run_here, write_class_folders
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.labelled_images import read_labelled_images

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


class Row(NamedTuple):
    """One row."""

    outcome: str
    change: Callable[[Path], object]
    """Changes a folder of three cats and three dogs."""
    words: str = ""
    """What the user is told."""
    classes: dict[str, int] = {"cat": 3, "dog": 3}  # noqa: RUF012  # it is never changed
    """The images of each class, unless it is an error."""


def move(name: str, target: str) -> Callable[[Path], object]:
    """Move a folder of the input."""

    def change(path: Path) -> None:
        (path / target).parent.mkdir(parents=True, exist_ok=True)
        (path / name).rename(path / target)

    return change


def more(*names: str) -> Callable[[Path], object]:
    """Add folders of two images."""
    return lambda path: [write_class_folders(path, [name], per_class=2) for name in names]


def puppies(path: Path) -> None:
    move("dog", "puppies")(path)
    move("puppies", "dog/puppies")(path)


def breeds(path: Path) -> None:
    for name in ("cat", "dog"):
        shutil.rmtree(path / name)
    more("cat/manx", "cat/sphynx", "dog/pug", "dog/boxer")(path)


def splits(path: Path) -> None:
    for name in ("cat", "dog"):
        shutil.rmtree(path / name)
    more("train", "test")(path)


def endings(path: Path) -> None:
    content = odd_images.saved(odd_images.noise(), "jpeg")
    for name in ("a.jfif", "b.jpe", "c.JPG", "d"):
        (path / "cat" / name).write_bytes(content)
    (path / "cat" / "e.tif").write_bytes(odd_images.saved(odd_images.noise(), "tiff"))
    (path / "cat" / "f.gif").write_bytes(odd_images.saved(odd_images.noise(), "gif"))


def link_out(path: Path) -> None:
    move("dog", "../elsewhere")(path)
    (path / "dog").symlink_to("../elsewhere")


def link_inside(path: Path) -> None:
    move("dog", ".kept/dog")(path)
    (path / "dog").symlink_to(".kept/dog")


def store_of_all(path: Path) -> None:
    (path / "all").mkdir()
    for name in ("cat", "dog"):
        for number in range(3):
            (path / name / f"{number}.png").rename(path / "all" / f"{name}{number}.png")
            (path / name / f"{number}.png").symlink_to(f"../all/{name}{number}.png")


ROWS: dict[str, Row] = {
    "images one folder below their class (dog/puppies/1.png)": Row("accepted", puppies),
    "folders around the class folders": Row(
        "accepted", lambda path: [move(name, f"a/b/{name}")(path) for name in ("cat", "dog")]
    ),
    "two levels that could be the classes (cat/manx, dog/pug)": Row(
        "error", breeds, "'cat', 'dog' (--class-level 1) or 'boxer', 'manx', 'pug', 'sphynx' (--class-level 2)"
    ),
    "folders that are all called as splits are, without labels": Row("error", splits, "'test', 'train' are splits"),
    "an image beside the class folders": Row(
        "warning",
        lambda path: shutil.copy(path / "cat" / "0.png", path / "1.png") and [more("cat/x")(path), more("dog/x")(path)],
        "skipped 1 images outside of class folders: '1.png'",
        {"cat": 5, "dog": 5},
    ),
    "more than a tenth of the images beside the class folders": Row(
        "error", lambda path: shutil.copy(path / "cat" / "0.png", path / "1.png"), "outside of"
    ),
    "an empty folder beside the class folders": Row("error", lambda path: (path / "emu").mkdir(), "'emu' is empty"),
    "a folder of videos beside the class folders": Row(
        "error",
        lambda path: (path / "emu").mkdir() or (path / "emu" / "1.mp4").write_bytes(b"film"),
        "'emu' has 1 .mp4",
    ),
    "__MACOSX, @eaDir, lost+found, .ipynb_checkpoints, Thumbs.db": Row(
        "accepted",
        lambda path: [
            more("__MACOSX", "@eaDir", "lost+found", "cat/.ipynb_checkpoints")(path),
            (path / "cat" / "Thumbs.db").write_bytes(b"x"),
        ],
    ),
    "another hidden folder": Row("warning", more(".emu"), "skipped hidden files and folders: '.emu'"),
    "images named .jfif, .jpe, .JPG, .tif, .gif or without an extension": Row(
        "accepted", endings, "", {"cat": 9, "dog": 3}
    ),
    "a class folder that is a link out of the folder": Row("error", link_out, "links lead out of the directory: 'dog'"),
    "a class folder that is a link inside the folder": Row(
        "warning", link_inside, "skipped hidden files and folders: '.kept'"
    ),
    "a broken link to a class folder": Row(
        "error", lambda path: (path / "emu").symlink_to("nowhere"), "it has broken links: 'emu'"
    ),
    "a link to a folder above itself": Row(
        "error",
        lambda path: (path / "cat" / "up").symlink_to(".."),
        "it has links to folders that contain the link: 'cat/up'",
    ),
    "a folder of all images that links sort into classes": Row(
        "error", store_of_all, "all images of 'all' are read as other classes, too"
    ),
    "two class folders that are one name in two Unicode forms": Row(
        "warning", more(NFC, NFD), "the same text in two Unicode forms", {"cat": 3, "dog": 3, NFC: 4}
    ),
    "class folders that differ in case": Row("error", more("Cat"), "'Cat' and 'cat' differ in case"),
    "class folders that differ in a space at the end": Row("error", more("cat "), "'cat' and 'cat ' differ in spaces"),
    "class folders that differ in a character that is not shown": Row(
        "error", more("cat\u200b"), r"'cat' and 'cat\u200b' differ in characters that are not shown"
    ),
    "class folders that differ in a letter of another alphabet": Row(
        "error", more("c\u0430t"), r"'cat' and 'c\u0430t' differ in letters of another alphabet"
    ),
    "a name that is not UTF-8": Row(
        "error", lambda path: move("cat", os.fsdecode(b"caf\xe9"))(path), r"the name b'caf\xe9/0.png' is not UTF-8"
    ),
}


@pytest.mark.parametrize("given", ROWS)
def test_convert_and_training_read_a_folder_as_the_table_says(
    given: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = ROWS[given]
    path = write_class_folders(tmp_path / "in", ["cat", "dog"], per_class=3)
    row.change(path)
    paths = {"input_path": path, "output_path": tmp_path / "out", "outputs_path": tmp_path / "outputs"}
    code = run_here("convert-to-image-directory", **paths)
    log = capfd.readouterr().err
    assert "Traceback" not in log
    if row.outcome == "error":
        assert code == 1
        assert row.words in error_text(tmp_path / "outputs")
        assert not (tmp_path / "out").exists()
        with pytest.raises(InvalidDatasetError, match=re.escape(row.words)):
            read_labelled_images(path, "Training dataset")
        return
    assert code == 0, log
    assert (" WARNING " in log) == (row.outcome == "warning"), log
    assert row.words in log
    for read in (path, tmp_path / "out"):
        images = read_labelled_images(read, "Training dataset")
        assert Counter(images.classes[label] for label in images.labels) == row.classes
    assert row.words in capfd.readouterr().err
