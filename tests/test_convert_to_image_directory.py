from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import environments
from tests.making import (
    error_code,
    error_text,
    read_json_lines,
    run_here,
    run_retired_tool,
    write_class_folders,
    write_image_directory,
)
from train_pytorch_model.designer_core import load_image_directory
from train_pytorch_model.modules.conversion_summary import LeftOut
from train_pytorch_model.modules.labels_files import read_labels_files
from train_pytorch_model.modules.named_images import NamedImages
from train_pytorch_model.ports.labelled_images import read_labelled_images

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".gz", ".bz2")


def convert(source: Path, target: Path, **flags: object) -> int:
    outputs = target.parent / "outputs"
    return run_here("convert-to-image-directory", input_path=source, output_path=target, outputs_path=outputs, **flags)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def pack(folder: Path, archive: Path) -> Path:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive, "w") as packed:
            for file in sorted(folder.rglob("*")):
                packed.write(file, file.relative_to(folder))
        return archive
    mode = {"gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2"}.get(archive.name.rpartition(".")[2], "w")
    with tarfile.open(archive, mode) as packed:  # type: ignore[call-overload]
        packed.add(folder, arcname=".")
    return archive


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "photos", ["dog", "cat", "10", "2"], per_class=3)


def test_a_folder_becomes_what_designer_core_itself_would_write(folders: Path, tmp_path: Path) -> None:
    assert convert(folders, tmp_path / "ours") == 0
    load_image_directory(folders).dump(str(tmp_path / "theirs"))
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


def test_what_is_written_is_loaded_and_written_again_by_designer_core_as_it_is(folders: Path, tmp_path: Path) -> None:
    assert convert(folders, tmp_path / "ours") == 0
    load_image_directory(tmp_path / "ours").dump(str(tmp_path / "again"))
    assert contents(tmp_path / "ours") == contents(tmp_path / "again")


@pytest.mark.parametrize("ending", ARCHIVES)
@pytest.mark.parametrize("inside_a_folder", [False, True])
def test_an_archive_becomes_what_its_folder_does(
    ending: str, inside_a_folder: bool, folders: Path, tmp_path: Path
) -> None:
    assert convert(folders, tmp_path / "expected") == 0
    (tmp_path / "input").mkdir()
    archive = pack(folders, tmp_path / "input" / f"photos{ending}")
    assert convert(archive.parent if inside_a_folder else archive, tmp_path / "ours") == 0
    assert contents(tmp_path / "ours") == contents(tmp_path / "expected")


def test_folders_around_the_classes_are_passed_through(folders: Path, tmp_path: Path) -> None:
    assert convert(folders, tmp_path / "expected") == 0
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    shutil.copytree(folders, tmp_path / "outer" / "inner" / "photos")
    assert convert(tmp_path / "outer", tmp_path / "ours") == 0
    assert contents(tmp_path / "ours") == contents(tmp_path / "expected")


def test_one_folder_of_images_is_one_class(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "photos", ["only"], per_class=2)
    assert convert(tmp_path / "photos", tmp_path / "ours") == 0
    assert read_labelled_images(tmp_path / "ours", "Training dataset").classes == ("only",)


def test_a_flat_folder_has_no_labels(folders: Path, tmp_path: Path) -> None:
    assert convert(folders / "cat", tmp_path / "ours") == 0
    directory = load_image_directory(tmp_path / "ours")
    assert [column["name"] for column in directory.schema["columnAttributes"]] == ["image", "id"]
    assert len(directory.image_list) == 3


def test_hidden_and_metadata_folders_are_no_classes_and_the_input_stays_as_it_was(
    folders: Path, tmp_path: Path
) -> None:
    for name in (".ipynb_checkpoints", "__MACOSX"):
        shutil.copytree(folders / "cat", folders / name)
    (folders / "cat" / "._0.png").write_bytes(b"resource fork")
    os.mkfifo(folders / "cat" / "pipe.png")
    before = contents(folders)
    assert convert(folders, tmp_path / "ours") == 0
    assert contents(folders) == before
    images = read_labelled_images(tmp_path / "ours", "Training dataset")
    assert images.classes == ("10", "2", "cat", "dog")
    assert len(images) == 12


def test_nothing_in_an_archive_escapes_the_output(folders: Path, tmp_path: Path) -> None:
    image = next(folders.rglob("*.png"))
    archive = tmp_path / "hostile.tar"
    with tarfile.open(archive, "w") as packed:
        for name in ("../outside/a.png", "/absolute/b.png", "cat/../../dog/c.png", "cat/d.png"):
            member = tarfile.TarInfo(name)
            member.size = image.stat().st_size
            packed.addfile(member, io.BytesIO(image.read_bytes()))
    before = set(tmp_path.rglob("*"))
    assert convert(archive, tmp_path / "ours") == 0
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "ours") or path.is_relative_to(tmp_path / "outputs") for path in new)
    assert read_labelled_images(tmp_path / "ours", "Training dataset").classes == ("absolute", "cat", "dog", "outside")


def test_unreadable_images_are_skipped_and_listed_with_reasons(folders: Path, tmp_path: Path) -> None:
    (folders / "cat" / "0.png").write_bytes(b"no image")
    half = (folders / "dog" / "1.png").read_bytes()
    (folders / "dog" / "1.png").write_bytes(half[: len(half) // 2])
    assert convert(folders, tmp_path / "ours") == 1
    assert "2 of 12 images would be left out (2 that cannot be read: 'cat/0.png', 'dog/1.png')" in error_text(
        tmp_path / "outputs"
    )
    assert convert(folders, tmp_path / "ours", skip_unreadable_images=True) == 0
    assert len(read_labelled_images(tmp_path / "ours", "Training dataset")) == 10
    listed = json.loads((tmp_path / "outputs" / "unreadable_images.json").read_text())["Input"]
    assert [entry["file_name"] for entry in listed] == ["cat/0.png", "dog/1.png"]
    assert all(entry["reason"] for entry in listed)


def annotate(folders: Path, kind: str) -> dict[str, str]:
    """Write labels that are not the folders'; give them by file."""
    files = sorted(str(path.relative_to(folders)) for path in folders.rglob("*.png"))
    labels = {file: "odd" if number % 2 else "even" for number, file in enumerate(files)}
    if kind == "coco":
        ids = {"odd": 7, "even": 3}
        document = {
            "images": [{"id": number, "file_name": file} for number, file in enumerate(files)],
            "annotations": [{"id": n, "image_id": n, "category_id": ids[labels[file]]} for n, file in enumerate(files)],
            "categories": [{"id": number, "name": name} for name, number in ids.items()],
        }
        (folders / "labels.json").write_text(json.dumps(document))
    elif kind == "export":
        address = "AmlDatastore://workspaceblobstore/UI/my%20\u2028photos/"  # whose line break ends no line of a file
        entries = [{"image_url": address + file, "label": label} for file, label in labels.items()]
        lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
        (folders / "labels.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    else:
        rows = [f"{file},{label}" for file, label in labels.items()]
        (folders / "labels.csv").write_text("\n".join(["file,label", *rows]))
    return labels


@pytest.mark.parametrize("kind", ["coco", "export", "csv"])
def test_labels_may_come_from_a_file_of_annotations(kind: str, folders: Path, tmp_path: Path) -> None:
    labels = annotate(folders, kind)
    assert convert(folders, tmp_path / "ours") == 0
    images = read_labelled_images(tmp_path / "ours", "Training dataset")
    assert images.classes == ("even", "odd")
    given = [images.classes[label] for label in images.labels]
    assert given == [labels[file] for file in sorted(labels)]


COCO = {
    "images": [{"id": 0, "file_name": "cat/0.png"}],
    "annotations": [{"id": 5, "image_id": 0, "category_id": 1}],
    "categories": [{"id": 1, "name": "cat"}],
}
BROKEN_ANNOTATIONS: dict[str, tuple[str, str, str]] = {
    "a file that is not there": ("labels.csv", "file,label\ncat/9.png,a\n", "do not exist: 'cat/9.png'"),
    "a category that is not there": (
        "labels.json",
        json.dumps({**COCO, "categories": []}),
        "annotation 5 refers to an undefined category or image",
    ),
    "a category without a number": ("labels.json", json.dumps({**COCO, "categories": [{}]}), "KeyError: 'id'"),
    "several labels of an image": (
        "labels.jsonl",
        '\n{"image_url": "cat/0.png", "label": "a"}\n{"image_url": "cat/0.png", "label": "b"}',
        "'cat/0.png' is 'a' and 'b'; give each image one category",
    ),
    "a line that is no JSON": ("labels.jsonl", '\n\n{"image_url"', "line 3 is not JSON"),
    "no JSON": ("labels.json", "{", "labels.json cannot be used: Expecting"),
    "no UTF-8": ("labels.csv", "file,label\ncat/0.png,\udcff", "labels.csv cannot be used: 'utf-8'"),
}


@pytest.mark.parametrize("fault", BROKEN_ANNOTATIONS)
def test_annotations_that_cannot_be_used_are_an_error_that_says_why(fault: str, folders: Path, tmp_path: Path) -> None:
    name, text, words = BROKEN_ANNOTATIONS[fault]
    (folders / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    assert convert(folders, tmp_path / "ours") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert words in error_text(tmp_path / "outputs")
    assert not (tmp_path / "ours").exists()


def test_a_file_of_annotations_of_more_than_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "labels.json").open("wb") as file:
        file.truncate(2**30 + 1)
    files = read_labels_files(NamedImages(["0.png"]), {"labels.json": tmp_path / "labels.json"}, LeftOut())
    assert files.unusable == {"labels.json": "it is larger than 1,073,741,824 bytes"}


def test_texts_that_are_no_annotations_leave_the_folders_labels(
    folders: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert convert(folders, tmp_path / "expected") == 0
    (folders / "settings.json").write_text('{"images": 3}')
    (folders / "sizes.csv").write_text("name,width\ncat/0.png,3\n")
    assert convert(folders, tmp_path / "ours") == 0
    assert contents(tmp_path / "ours") == contents(tmp_path / "expected")
    said = capfd.readouterr().err
    assert "skipped 1 files that name no image: 'settings.json'" in said
    assert "skipped 1 files without labels: 'sizes.csv'" in said


def test_annotations_of_several_categories_an_image_are_refused(folders: Path, tmp_path: Path) -> None:
    annotate(folders, "coco")
    document = json.loads((folders / "labels.json").read_text())
    document["annotations"].append({"id": 99, "image_id": 0, "category_id": 7})
    (folders / "labels.json").write_text(json.dumps(document))
    assert convert(folders, tmp_path / "ours") == 1
    assert "give each image one category" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    "kind",
    [
        *("missing", "empty", "several archives", "damaged zip", "damaged tar", "no image", "broken images", "a pipe"),
        "images without folder",
    ],
)
def test_what_cannot_be_converted_is_a_named_error_and_leaves_nothing(kind: str, folders: Path, tmp_path: Path) -> None:
    source = tmp_path / "input"
    if kind == "a pipe":
        os.mkfifo(source)
    elif kind != "missing":
        source.mkdir()
    if kind == "several archives":
        for name in ("a.zip", "b.tar"):
            pack(folders, source / name)
    if kind.startswith("damaged"):
        archive = pack(folders, source / f"photos.{kind[-3:]}")
        data = archive.read_bytes()
        archive.write_bytes(data[: len(data) // 2])
    if kind == "no image":
        (source / "notes.txt").write_text("nothing")
    if kind == "broken images":
        (source / "cat").mkdir()
        (source / "cat" / "0.png").write_bytes(b"no image")
    if kind == "images without folder":
        shutil.copytree(folders / "cat", source, dirs_exist_ok=True)
        shutil.copytree(folders / "dog", source / "dog")
        (source / "dog" / "2.png").unlink()
    assert convert(source, tmp_path / "ours") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert not (tmp_path / "ours").exists()


def test_an_earlier_output_is_replaced_whole(folders: Path, tmp_path: Path) -> None:
    assert convert(folders, tmp_path / "ours") == 0
    shutil.rmtree(folders / "dog")
    assert convert(folders, tmp_path / "ours") == 0
    assert (
        len(list((tmp_path / "ours" / "image").iterdir()))
        == len(read_json_lines(tmp_path / "ours" / "images.lst"))
        == 9
    )


@pytest.mark.environment
@pytest.mark.parametrize("packed", [False, True])
def test_the_retired_module_writes_the_same(packed: bool, folders: Path, tmp_path: Path) -> None:
    source = pack(folders, tmp_path / "photos.zip") if packed else folders
    module = "computer_vision.preprocess.convert_to_image_directory.convert_to_image_directory"
    run_retired_tool(environments.retired(), module, "--input-path", source, "--output-path", tmp_path / "theirs")
    assert convert(source, tmp_path / "ours") == 0
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tgz", ".tar.bz2"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])  # of a tar, the last part is padding
def test_an_archive_that_is_cut_anywhere_is_an_error(ending: str, share: float, folders: Path, tmp_path: Path) -> None:
    archive = pack(folders, tmp_path / f"photos{ending}")
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    assert convert(archive, tmp_path / "ours") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
    assert not (tmp_path / "ours").exists()


def test_a_tar_that_is_cut_between_two_files_is_an_error(folders: Path, tmp_path: Path) -> None:
    archive = pack(folders, tmp_path / "photos.tar")
    with tarfile.open(archive) as packed:
        cut = [member.offset for member in packed.getmembers() if member.isfile()][4]
    archive.write_bytes(archive.read_bytes()[:cut])
    assert convert(archive, tmp_path / "ours") == 1
    assert "it is truncated" in error_text(tmp_path / "outputs")
    assert not (tmp_path / "ours").exists()


def test_zeros_after_the_end_of_a_tar_belong_to_it(folders: Path, tmp_path: Path) -> None:
    assert convert(folders, tmp_path / "expected") == 0
    archive = pack(folders, tmp_path / "photos.tar")
    with archive.open("ab") as file:
        file.write(bytes(3 * 2**20))
    assert convert(archive, tmp_path / "ours") == 0
    assert contents(tmp_path / "ours") == contents(tmp_path / "expected")


def test_images_whose_names_are_too_long_for_a_file_are_kept_under_shorter_names(folders: Path, tmp_path: Path) -> None:
    images = [(folders / name / "0.png").read_bytes() for name in ("cat", "dog")]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        for number, image in enumerate(images):
            packed.writestr(f"{'猫' * 100}{number}.png", image)
    assert convert(tmp_path / "photos.zip", tmp_path / "ours") == 0
    names = [item["image_info"]["file_name"] for item in read_json_lines(tmp_path / "ours" / "images.lst")]  # type: ignore[index]
    assert [(tmp_path / "ours" / name).read_bytes() for name in names] == images


@pytest.mark.parametrize(
    ("name", "words"),
    [("x.png", None), ("x.csv", "x.csv cannot be read: "), ("x" * 200 + "/a.png", "a folder cannot be read: ")],
)
def test_paths_too_deep_to_open_are_reported(
    name: str, words: str | None, folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders / "0"  # before all images: there may be labels of any
    folder.mkdir()
    monkeypatch.chdir(folder)
    while len(str(folder)) + 201 < 4096:  # Linux opens no longer path
        folder /= "d" * 200
        Path(folder.name).mkdir()
        monkeypatch.chdir(folder.name)
    file = Path(name).with_name("x" * 195 + Path(name).name)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"whatever it holds")
    assert convert(folders, tmp_path / "ours", allow_partial=True) == (0 if words is None else 1)
    if words is None:
        (listed,) = json.loads((tmp_path / "outputs" / "unreadable_images.json").read_text())["Input"]
        assert listed["file_name"].endswith("x.png")
        assert "File name too long" in listed["reason"]
    else:
        assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)
        assert words in error_text(tmp_path / "outputs")


@pytest.mark.parametrize("flags", [{}, {"skip_unreadable_images": True}, {"allow_partial": True}])
@pytest.mark.parametrize("is_labelled", [True, False])
def test_an_unreadable_image_of_an_image_directory_is_left_out_as_of_a_folder(
    flags: dict[str, object], is_labelled: bool, tmp_path: Path
) -> None:
    if is_labelled:
        write_image_directory(tmp_path / "directory", per_class=3)
    else:
        write_class_folders(tmp_path / "images", ["cat"], per_class=3)
        assert (
            run_here(
                "convert-to-image-directory",
                input_path=tmp_path / "images" / "cat",
                output_path=tmp_path / "directory",
                outputs_path=tmp_path / "first",
            )
            == 0
        )
    directory = tmp_path / "directory"
    names = [item["image_info"]["file_name"] for item in read_json_lines(directory / "images.lst")]
    (directory / names[0]).write_bytes(b"")
    expected = 0 if flags else 1
    assert convert(directory, tmp_path / "ours", **flags) == expected
    if not flags:
        assert f"{names[0]!r}" in error_text(tmp_path / "outputs")
        assert not (tmp_path / "ours").exists()
        return
    left = [item["image_info"]["file_name"] for item in read_json_lines(tmp_path / "ours" / "images.lst")]
    assert left == names[1:]
    assert not (tmp_path / "ours" / names[0]).exists()
    (listed,) = json.loads((tmp_path / "outputs" / "unreadable_images.json").read_text())["Input"]
    assert listed["file_name"] == names[0]


def test_a_damaged_image_in_a_zip_is_an_error_by_its_checksum(folders: Path, tmp_path: Path) -> None:
    archive = pack(folders, tmp_path / "photos.zip")
    data = bytearray(archive.read_bytes())
    data[200] ^= 255
    archive.write_bytes(data)
    assert convert(archive, tmp_path / "ours") == 1
    assert error_code(tmp_path / "outputs") == ("InvalidDataset", 18)


def test_nothing_in_a_zip_escapes_the_output(folders: Path, tmp_path: Path) -> None:
    image = next(folders.rglob("*.png")).read_bytes()
    with zipfile.ZipFile(tmp_path / "hostile.zip", "w") as packed:
        for name in ("../outside/a.png", "/absolute/b.png", "..\\windows\\c.png", "cat/d.png"):
            packed.writestr(name, image)
    before = set(tmp_path.rglob("*"))
    assert convert(tmp_path / "hostile.zip", tmp_path / "ours") == 0
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "ours") or path.is_relative_to(tmp_path / "outputs") for path in new)
    assert read_labelled_images(tmp_path / "ours", "Training dataset").classes == (
        *("absolute", "cat", "outside", "windows"),
    )


def test_flat_images_keep_their_names_as_designer_core_keeps_them(folders: Path, tmp_path: Path) -> None:
    assert convert(folders / "cat", tmp_path / "ours") == 0
    load_image_directory(folders / "cat").dump(str(tmp_path / "theirs"))
    ours, theirs = (
        {item["image_info"]["file_name"] for item in read_json_lines(tmp_path / who / "images.lst")}  # type: ignore[index]
        for who in ("ours", "theirs")
    )
    assert ours == theirs == {"image/0.png", "image/1.png", "image/2.png"}


def test_labels_beside_flat_images_in_a_folder_of_a_zip_are_found(folders: Path, tmp_path: Path) -> None:
    photos = tmp_path / "input" / "photos"
    shutil.copytree(folders / "cat", photos)
    (photos / "labels.csv").write_text("file,label\n0.png, yes\n1.png,no\n2.png,\n")
    archive = pack(tmp_path / "input", tmp_path / "photos.zip")
    assert convert(archive, tmp_path / "ours") == 1
    assert "(1 without a label in photos/labels.csv: 'photos/2.png')" in error_text(tmp_path / "outputs")
    assert convert(archive, tmp_path / "ours", allow_partial=True) == 0
    images = read_labelled_images(tmp_path / "ours", "Training dataset")
    assert images.classes == ("no", "yes")
    assert [images.classes[label] for label in images.labels] == ["yes", "no"]


def test_coco_names_files_without_their_folder(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "coco").mkdir()
    shutil.copytree(folders / "cat", tmp_path / "coco" / "images")
    document = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(3)],
        "annotations": [{"id": number, "image_id": number, "category_id": 1} for number in range(3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (tmp_path / "coco" / "instances.json").write_text(json.dumps(document))
    assert convert(tmp_path / "coco", tmp_path / "ours") == 0
    images = read_labelled_images(tmp_path / "ours", "Training dataset")
    assert images.classes == ("cat", "dog")
    assert set(images.labels) == {0}


def test_one_file_with_two_labels_is_refused(folders: Path, tmp_path: Path) -> None:
    (folders / "labels.csv").write_text("file,label\ntrain/cat/0.png,a\ntest/cat/0.png,b\n")
    assert convert(folders, tmp_path / "ours") == 1
    assert "'cat/0.png' is 'a' and 'b'" in error_text(tmp_path / "outputs")


def test_an_image_directory_is_passed_on(folders: Path, tmp_path: Path) -> None:
    assert convert(folders, tmp_path / "first") == 0
    assert convert(tmp_path / "first", tmp_path / "ours") == 0
    assert contents(tmp_path / "ours") == contents(tmp_path / "first")
    assert convert(pack(tmp_path / "first", tmp_path / "first.zip"), tmp_path / "again") == 1
    assert "images.lst" in error_text(tmp_path / "outputs")


def test_class_folders_in_two_places_and_images_beside_them_are_reported(
    folders: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folders, tmp_path / "two" / "old")
    shutil.copytree(folders, tmp_path / "two" / "new")
    assert convert(tmp_path / "two", tmp_path / "ours") == 1
    assert "'new', 'old'" in error_text(tmp_path / "outputs")
    shutil.copy(folders / "cat" / "0.png", folders / "cover.png")
    (folders / "cat" / "moving.mp4").write_bytes(b"film")
    assert convert(folders, tmp_path / "ours") == 0
    said = capfd.readouterr().err
    assert "skipped 1 images outside of class folders: 'cover.png'." in said
    assert "skipped 1 files of other kinds: 'cat/moving.mp4'" in said
    assert len(read_labelled_images(tmp_path / "ours", "Training dataset")) == 12


def test_an_empty_folder_that_is_given_is_filled_or_left_empty(folders: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "empty").mkdir()
    assert convert(tmp_path / "empty", tmp_path / "ours") == 1
    assert list((tmp_path / "ours").iterdir()) == []
    assert convert(folders, tmp_path / "ours") == 0
    load_image_directory(folders).dump(str(tmp_path / "theirs"))
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


def test_the_output_may_not_be_the_folder_of_reports(folders: Path, tmp_path: Path) -> None:
    assert convert(folders, tmp_path / "outputs") == 1
    assert "folder of reports" in error_text(tmp_path / "outputs")


def test_images_without_labels_keep_apart_on_a_file_system_without_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_class_folders(tmp_path / "in", ["photos"], per_class=3) / "photos"
    for number, name in enumerate(("A.png", "A_2.png", "a.png")):
        (source / f"{number}.png").rename(source / name)

    def lexists(path: Path) -> bool:
        return path.parent.is_dir() and path.name.lower() in {name.lower() for name in os.listdir(path.parent)}

    monkeypatch.setattr(os.path, "lexists", lexists)
    assert convert(source, tmp_path / "out") == 0
    assert sorted(file.name for file in (tmp_path / "out" / "image").iterdir()) == ["A.png", "A_2.png", "a_2_2.png"]
