"""Which files of a folder are its images: by content where the name does not tell, alike in convert and in training."""

from __future__ import annotations

import logging
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tests import odd_images
from tests.making import error_text, read_json_lines, run_here, write_class_folders
from train_pytorch_model.errors import InvalidDatasetError
from train_pytorch_model.ports.dataset_items import read_listed_items
from train_pytorch_model.ports.labelled_images import read_labelled_images


def convert(source: Path, target: Path, **flags: object) -> int:
    paths = {"input_path": source, "output_path": target, "outputs_path": target.parent / "outputs"}
    return run_here("convert-to-image-directory", **paths, **flags)


def counts_of(path: Path) -> dict[str, int]:
    images = read_labelled_images(path, "Training dataset")
    return dict(Counter(images.classes[label] for label in images.labels))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "photos", ["cat", "dog"], per_class=3)


ENDINGS = {
    "jpeg": ("", ".jfif", ".jpe", ".JPG", ".JPEG", ".jpg_large", ".jpg.download", ".0001", ".png"),
    "png": ("", ".PNG", ".apng", ".dat", ".image"),
    "tiff": ("", ".tif", ".TIF", ".btf"),
    "gif": ("", ".gif"),
    "bmp": ("", ".dib"),
    "ppm": ("", ".pnm", ".ppm"),
    "webp": ("", ".webp", ".WebP"),
}


@pytest.mark.parametrize("packed", [False, True])
def test_images_are_known_by_their_content(packed: bool, folders: Path, tmp_path: Path) -> None:
    count = 3
    for kind, endings in ENDINGS.items():
        for ending in endings:
            (folders / "cat" / f"{kind}{ending}").write_bytes(odd_images.saved(odd_images.noise(), kind))
            count += 1
    for name in ("notes", "film.mp4", "table.dat"):
        (folders / "cat" / name).write_bytes(b"no image at all")
    expected = {"cat": count, "dog": 3}
    assert counts_of(folders) == expected
    source = folders
    if packed:
        source = tmp_path / "photos.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for file in folders.rglob("*.*"):
                archive.write(file, file.relative_to(folders))
            for file in folders.rglob("*"):
                if not file.suffix and file.is_file():
                    archive.write(file, file.relative_to(folders))
    assert convert(source, tmp_path / "out") == 0
    assert counts_of(tmp_path / "out") == expected


def test_flat_images_without_an_extension_are_images_without_labels(folders: Path, tmp_path: Path) -> None:
    for file in (folders / "cat").iterdir():
        file.rename(file.with_suffix(""))
    assert convert(folders / "cat", tmp_path / "out") == 0
    names = [item["image_info"]["file_name"] for item in read_json_lines(tmp_path / "out" / "images.lst")]  # type: ignore[index]
    assert names == ["image/0", "image/1", "image/2"]


LOST_CLASSES: dict[str, tuple[dict[str, bytes], str]] = {
    "empty": ({}, "'emu' is empty"),
    "only hidden files": ({".gitkeep": b"", ".cache/x": b""}, "'emu' is empty"),
    "an archive": ({"emu.zip": b"PK\3\4"}, "emu"),  # convert names the archive, training the folder
    "videos": ({"1.mp4": b"film", "2.mp4": b"film"}, "'emu' has 2 .mp4"),
    "unknown content": ({"1": b"?", "deep/2": b"?"}, "'emu' has 2 without an extension"),
    "arrays": ({"1.npy": b"\x93NUMPY", "read me.txt": b"words"}, "'emu' has 1 .npy"),
}


@pytest.mark.parametrize("lost", LOST_CLASSES)
@pytest.mark.parametrize("below", ["", "photos/"])
def test_a_folder_that_could_be_a_class_but_has_no_images_is_an_error(
    lost: str, below: str, folders: Path, tmp_path: Path
) -> None:
    files, words = LOST_CLASSES[lost]
    if below:
        shutil.copytree(folders, tmp_path / "around" / "photos")
        folders = tmp_path / "around"
    emu = folders / f"{below}emu"
    emu.mkdir()
    for name, content in files.items():
        (emu / name).parent.mkdir(exist_ok=True)
        (emu / name).write_bytes(content)
    assert convert(folders, tmp_path / "out") == 1
    assert words in error_text(tmp_path / "outputs")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidDatasetError, match=words):
        counts_of(folders)
    assert convert(folders, tmp_path / "out", allow_partial=True) == 0
    assert counts_of(tmp_path / "out") == {"cat": 3, "dog": 3}


def test_an_archive_beside_the_class_folders_is_an_error_unless_it_is_that_of_a_class(folders: Path) -> None:
    (folders / "cat.zip").write_bytes(b"PK")
    assert counts_of(folders) == {"cat": 3, "dog": 3}
    (folders / "emu.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(InvalidDatasetError, match=r"'emu\.tar\.gz' is an archive"):
        counts_of(folders)


def test_a_text_that_git_writes_in_place_of_a_link_to_a_class_folder_is_an_error(folders: Path, tmp_path: Path) -> None:
    (folders / "LICENSE").write_text("some rights reserved")
    assert counts_of(folders) == {"cat": 3, "dog": 3}
    (folders / "emu").write_text("../store/emu")
    with pytest.raises(InvalidDatasetError, match="'emu' is a text with a path"):
        counts_of(folders)
    assert convert(folders, tmp_path / "out") == 1
    assert "'emu' is a text with a path" in error_text(tmp_path / "outputs")


@pytest.mark.parametrize(
    "name",
    ["docs/read me.md", "models/a.pth", "code/train.py", "labels/1.txt", "read me.txt", "cat/notes/1.txt"],
)
def test_folders_of_texts_are_no_classes(name: str, folders: Path, tmp_path: Path) -> None:
    (folders / name).parent.mkdir(exist_ok=True)
    (folders / name).write_text("words")
    assert convert(folders, tmp_path / "out") == 0
    assert counts_of(tmp_path / "out") == counts_of(folders) == {"cat": 3, "dog": 3}


@pytest.mark.parametrize("is_folder", [False, True])
def test_names_that_are_not_utf8_are_refused_with_their_bytes(is_folder: bool, folders: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    if is_folder:
        (folders / "cat").rename(folders / name)
    else:
        (folders / "cat" / "0.png").rename(folders / "cat" / f"{name}.png")
    assert convert(folders, tmp_path / "out") == 1
    assert r"caf\xe9" in error_text(tmp_path / "outputs")
    assert "is not UTF-8" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidDatasetError, match=r"the name b'ca.*caf\\xe9.* is not UTF-8|the name b'caf\\xe9"):
        counts_of(folders)


def test_images_that_no_decoder_reads_are_reported_as_images(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folders / "emu").mkdir()
    for number in range(3):
        (folders / "emu" / f"{number}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with caplog.at_level(logging.WARNING):
        assert convert(folders, tmp_path / "out") == 1
    assert "all images of 'emu' would be left out (3 that cannot be read" in error_text(tmp_path / "outputs")
    assert counts_of(folders) == {"cat": 3, "dog": 3, "emu": 3}  # reading them is an error of training


@pytest.mark.parametrize(
    "text", ["id,breed\n0,pug\n1,pug\n2,pug\n", "filename;label\ncat/0.png;a\ncat/1.png;b\ncat/2.png;a\n"]
)
def test_one_folder_of_images_beside_a_file_of_labels_is_no_class_in_training(text: str, folders: Path) -> None:
    shutil.rmtree(folders / "dog")
    assert counts_of(folders) == {"cat": 3}
    (folders / "labels.csv").write_text(text)
    with pytest.raises(InvalidDatasetError, match=r"'labels\.csv' names images .*convert-to-image-directory"):
        counts_of(folders)
    (folders / "labels.csv").write_text("width,height\n32,32\n")
    assert counts_of(folders) == {"cat": 3}


def test_folders_that_are_ambiguous_are_scored_without_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = write_class_folders(tmp_path / "raw", ["cat/manx", "cat/sphynx", "dog/pug"], per_class=2)
    with caplog.at_level(logging.WARNING):
        schema, _, items = read_listed_items(raw, "Testing dataset", labelled=False)
    assert len(list(items())) == 6
    assert [column["name"] for column in schema["columnAttributes"]] == ["image", "id"]
    assert "--class-level 1" in caplog.text
    assert "The images are used without labels." in caplog.text
