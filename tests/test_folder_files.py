"""The files of a folder with links and metadata, compared with what find and ImageFolder read."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.making import error_text, run_here, write_class_folders
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.folder_files import files_below
from train_pytorch_model.ports.labelled_images import read_labelled_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, and two folders of images that are no part of the dataset."""
    write_class_folders(tmp_path / "store", ["cat", "dog"], per_class=3)
    return write_class_folders(tmp_path / "in", ["cat", "dog"], per_class=2)


def names_in(folder: Path, **how: bool) -> list[str]:
    return sorted(file.name for file in files_below(folder, "Input", **how))


def found_by_find(folder: Path) -> list[str]:
    command = ["find", "-L", ".", "-type", "f"]
    lines = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(line[2:] for line in lines)


def test_links_inside_the_folder_are_followed(folder: Path) -> None:
    (folder / ".kept").mkdir()
    (folder / "dog").rename(folder / ".kept" / "dog")
    (folder / "dog").symlink_to(".kept/dog")
    (folder / "cat" / "first.png").symlink_to("../dog/0.png")
    (folder / "cat" / "absolute.png").symlink_to(folder / "cat" / "0.png")
    assert names_in(folder) == [name for name in found_by_find(folder) if not name.startswith(".")]
    originals = {file.name: file.original for file in files_below(folder, "Input")}
    assert originals["cat/0.png"] == ""
    assert originals["cat/absolute.png"] == "cat/0.png"
    assert originals["cat/first.png"] == originals["dog/0.png"] == ".kept/dog/0.png"


@pytest.mark.parametrize("kind", ["folder", "file", "each file", "through a link"])
def test_links_out_of_the_folder_are_an_error_or_followed(kind: str, folder: Path, tmp_path: Path) -> None:
    if kind == "file":
        (folder / "dog" / "9.png").symlink_to("../../store/dog/0.png")
    elif kind == "each file":
        for name in ("0.png", "1.png"):
            (folder / "dog" / name).unlink()
            (folder / "dog" / name).symlink_to(tmp_path / "store" / "dog" / name)
    elif kind == "folder":
        (folder / "emu").symlink_to("../store/dog")
    else:
        (tmp_path / "emu").symlink_to("store/dog")
        (folder / "emu").symlink_to("../emu")
    with pytest.raises(InvalidDatasetError, match=r"links lead out of the directory: '(dog|emu).*--follow-links"):
        names_in(folder)
    assert names_in(folder, follow_links=True) == found_by_find(folder)


def test_a_link_to_a_text_elsewhere_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "README.md").symlink_to("/etc/hostname")
    with caplog.at_level(logging.WARNING):
        assert "README.md" not in names_in(folder)
    assert "skipped links that lead out of the directory: 'README.md'" in caplog.text


@pytest.mark.parametrize("follow_links", [False, True])
@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        ("dog/9.png", "nowhere.png", "broken links: 'dog/9.png' leads to"),
        ("emu", "../store/emu", "broken links: 'emu' leads to"),
        ("emu", "emu", "broken links: 'emu' leads to"),
        ("dog/all", "..", "links to folders that contain the link: 'dog/all' leads to"),
        ("dog/all", ".", "links to folders that contain the link: 'dog/all' leads to"),
    ],
)
def test_links_that_lead_nowhere_or_to_themselves_are_an_error(
    name: str, target: str, words: str, follow_links: bool, folder: Path
) -> None:
    (folder / name).symlink_to(target)
    with pytest.raises(InvalidDatasetError, match=words):
        names_in(folder, follow_links=follow_links)


@pytest.mark.parametrize("outside", [False, True])
def test_two_links_to_each_others_folders_are_an_error(outside: bool, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "store" if outside else folder / "dog"
    (folder / "cat" / "other").symlink_to(other)
    (other / "back").symlink_to(folder / "cat")
    with pytest.raises(InvalidDatasetError, match=r"contain the link: '.*(back|other)' leads to"):
        names_in(folder, follow_links=outside)


def test_the_folder_itself_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("in")
    (folder / "cat" / "again.png").symlink_to("../dog/0.png")
    assert names_in(tmp_path / "link") == names_in(folder)


def test_metadata_is_left_out_and_other_hidden_images_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = names_in(folder)
    for name in ("__MACOSX", "@eaDir", "lost+found", ".ipynb_checkpoints", ".git", "$RECYCLE.BIN", "#recycle"):
        write_class_folders(folder / name, ["cat"], per_class=1)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r", "._0.png", ".gitignore", ".amlignore"):
        (folder / "cat" / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert names_in(folder) == expected
    assert caplog.text == ""
    write_class_folders(folder, [".emu"], per_class=1)
    (folder / "cat" / ".5.png").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert names_in(folder) == expected
    assert "skipped hidden files and folders: '.emu'" in caplog.text
    assert "skipped hidden files and folders: 'cat/.5.png'" in caplog.text


def test_a_class_of_links_is_converted(folder: Path, tmp_path: Path) -> None:
    (folder / "emu").symlink_to("../store/dog")
    paths = {"input_path": folder, "output_path": tmp_path / "out", "outputs_path": tmp_path / "outputs"}
    assert run_here("convert-to-image-directory", **paths) == 1
    assert "'emu' leads to" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "out").exists()


def classes_of(folder: Path) -> dict[str, int]:
    """The classes in training; convert finds the same, or the same error."""
    paths = {"input_path": folder, "output_path": folder.parent / "out", "outputs_path": folder.parent / "outputs"}
    if run_here("convert-to-image-directory", **paths) == 1:
        with pytest.raises(InvalidDatasetError) as error:
            read_labelled_images(folder, "Training dataset")
        assert str(error.value).partition("reason: ")[2] in error_text(folder.parent / "outputs")
        raise error.value
    images = read_labelled_images(folder, "Training dataset")
    counts = Counter(images.classes[label] for label in images.labels)
    converted = read_labelled_images(folder.parent / "out", "Training dataset")
    assert counts == Counter(converted.classes[label] for label in converted.labels)
    return dict(counts)


def test_a_link_to_an_image_of_another_class_is_an_image_of_both(folder: Path) -> None:
    (folder / "dog" / "copy.png").symlink_to("../cat/0.png")
    assert classes_of(folder) == {"cat": 2, "dog": 3}


@pytest.mark.parametrize("of_files", [False, True])
def test_a_folder_of_all_images_that_links_sort_into_classes_is_no_class(of_files: bool, folder: Path) -> None:
    kept = write_class_folders(folder / "kept", ["cat", "dog"], per_class=2)
    for name in ("cat", "dog"):
        shutil.rmtree(folder / name)
        if of_files:
            (folder / name).mkdir()
            for number in range(2):
                (kept / name / f"{number}.png").rename(kept / f"{name}{number}.png")
                (folder / name / f"{number}.png").symlink_to(f"../kept/{name}{number}.png")
            (kept / name).rmdir()
        else:
            (folder / name).symlink_to(f"kept/{name}")
    words = (
        "two levels" if not of_files else "all images of 'kept' are read as other classes, too: 'cat/0.png' is a link"
    )
    with pytest.raises(InvalidDatasetError, match=words):
        classes_of(folder)


def test_two_names_of_one_class_are_an_error(folder: Path) -> None:
    (folder / "kitty").symlink_to("cat")
    with pytest.raises(InvalidDatasetError, match=r"'cat' are read as other classes, too: 'kitty/0\.png'"):
        classes_of(folder)
