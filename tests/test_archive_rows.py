"""The rows of docs/broken-input.md on archives: convert reads what tar and unzip unpack, or gives an error."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pytest

from tests.making import error_text, run_here, write_class_folders
from train_pytorch_model.ports.labelled_images import read_labelled_images

Members = list[tuple[str, Any]]
PETS = {"cat": 3, "dog": 3}


class Row(NamedTuple):
    """One row."""

    outcome: str
    make: Callable[[Path], Path]
    """Makes the input in a folder that has a folder `in` of three cats and three dogs; returns its path."""
    words: str = ""
    """What the user is told."""
    classes: dict[str, int] = PETS
    """The images of each class, unless it is an error."""
    flags: dict[str, object] = {}  # noqa: RUF012  # it is never changed


def images(path: Path, *names: str) -> Members:
    """The name and content of each image in folders of `in`."""
    files = [file for name in names or ("cat", "dog") for file in sorted((path / "in" / name).iterdir())]
    return [(file.relative_to(path / "in").as_posix(), file.read_bytes()) for file in files]


def write_tar(file: Path, members: Members, mode: str = "w", **options: Any) -> Path:
    """Write files, or (type, target) for links and other members."""
    with tarfile.open(file, mode, **options) as archive:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member.type, member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return file


def write_zip(file: Path, members: Members) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file


def tar(change: Callable[[Path, Members], Members], mode: str = "w") -> Callable[[Path], Path]:
    return lambda path: write_tar(path / "in.tar", change(path, images(path)), mode)


def plus(*members: tuple[str, Any]) -> Callable[[Path], Path]:
    """A tar archive of all images and more."""
    return tar(lambda _, files: [*files, *members])


def appended(mode: str, ending: bytes = b"") -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        parts = [write_tar(path / name, images(path, name), mode).read_bytes() for name in ("cat", "dog")]
        (path / "both.tar").write_bytes(b"".join(parts) + ending)
        return path / "both.tar"

    return make


def compressed(codec: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        data = write_tar(path / "plain", images(path)).read_bytes()
        (path / "in.tar").write_bytes(pyarrow.compress(data, codec=codec, asbytes=True))
        return path / "in.tar"

    return make


def stored_twice(path: Path) -> Path:
    files = images(path)
    return write_tar(path / "in.tar", [("cat/0.png", b"an older one"), *files[1:], ("./cat/0.png", files[0][1])])


def newer_labels(path: Path) -> Path:
    names = [name for name, _ in images(path)]
    old, new = ("file,label\n" + "".join(f"{name},{label}\n" for name in names) for label in ("old", "new"))
    return write_tar(
        path / "in.tar",
        [*images(path), ("labels.csv", old.encode()), ("labels.csv", new.encode()), ("notes.json", b'{"by": "me"}')],
    )


def sorted_by_links(path: Path) -> Path:
    names = {name: f"all/{number}.png" for number, (name, _) in enumerate(images(path))}
    files = [(names[name], data) for name, data in images(path)]
    return write_tar(path / "in.tar", [*files, *((name, (LINK, f"../{target}")) for name, target in names.items())])


def renamed(file: Path, names: dict[bytes, bytes], *, unmark: bool = True) -> Path:
    """Replace names in a zip by others of the same length, and clear the bit that says UTF-8."""
    data = bytearray(file.read_bytes())
    for old, new in names.items():
        assert len(old) == len(new)
        data = data.replace(old, new)
    for at in range(len(data) - 4):
        if unmark and data[at : at + 4] in (b"PK\3\4", b"PK\1\2"):
            data[at + (7 if data[at + 2] == 3 else 9)] &= ~8
    file.write_bytes(data)
    return file


def of_a_mac(path: Path) -> Path:
    members = [(unicodedata.normalize("NFD", name.replace("cat", "café")), data) for name, data in images(path)]
    return renamed(write_zip(path / "in.zip", members), {})


def in_code_page(path: Path) -> Path:
    members = [(name.replace("cat", "cafX").replace("dog", "dogX"), data) for name, data in images(path)]
    return renamed(write_zip(path / "in.zip", members), {b"cafX": b"caf\x82", b"dogX": "cé".encode() + b"X"})


def with_unicode_path(path: Path) -> Path:
    with zipfile.ZipFile(path / "in.zip", "w") as archive:
        for name, data in images(path):
            raw, real = name.replace("cat", "cafX"), name.replace("cat", "café").encode()
            entry = zipfile.ZipInfo(raw)
            checksum = zlib.crc32(raw.encode().replace(b"cafX", b"caf\x82"))
            entry.extra = struct.pack("<HHBI", 0x7075, 5 + len(real), 1, checksum) + real
            archive.writestr(entry, data)
    return renamed(path / "in.zip", {b"cafX": b"caf\x82"})


def zip_links(path: Path) -> Path:
    with zipfile.ZipFile(write_zip(path / "in.zip", images(path)), "a") as archive:
        for name, target in (("emu", ".kept"), ("owl/1.png", "../dog/2.png")):
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, 0o120777 << 16
            archive.writestr(entry, target)
        archive.writestr(".kept/1.png", images(path)[0][1])
    return path / "in.zip"


def patched(at_local: int, at_central: int, value: int) -> Callable[[Path], Path]:
    """A zip with another byte in each header."""

    def make(path: Path) -> Path:
        data = bytearray(write_zip(path / "in.zip", images(path)).read_bytes())
        for at in range(len(data) - 4):
            if data[at : at + 4] in (b"PK\3\4", b"PK\1\2"):
                data[at + (at_local if data[at + 2] == 3 else at_central)] = value
        (path / "in.zip").write_bytes(data)
        return path / "in.zip"

    return make


def zips(path: Path) -> list[bytes]:
    return [write_zip(path / f"{name}.zip", images(path, name)).read_bytes() for name in ("cat", "dog")]


def file_of(name: str, content: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        (path / "made").mkdir()
        (path / "made" / name).write_bytes(content(path))
        return path / "made" / name

    return make


def beside(name: str, content: Callable[[Path], bytes]) -> Callable[[Path], Path]:
    """A folder of images, and an archive in it."""

    def make(path: Path) -> Path:
        (path / "in" / name).write_bytes(content(path))
        return path / "in"

    return make


def whole_zip(path: Path) -> bytes:
    return write_zip(path / "whole.zip", images(path)).read_bytes()


def parts_in_a_folder(path: Path) -> Path:
    (path / "parts").mkdir()
    data = whole_zip(path)
    for number in range(2):
        (path / "parts" / f"train.zip.00{number + 1}").write_bytes(data[number * 700 : number * 700 + 700])
    return path / "parts"


HARD, LINK = tarfile.LNKTYPE, tarfile.SYMTYPE
_NOT_READ = "it is not a zip or tar archive but "


def beside_documents(path: Path) -> Path:
    (path / "packed").mkdir()
    write_tar(path / "packed" / "pets.tar", images(path))
    for name in ("README.md", "LICENSE", "README.dataset.txt", "pets.tar.sha256"):
        (path / "packed" / name).write_text("cat/0.png is a cat\n")
    return path / "packed"


def named_like_a_document(path: Path) -> Path:
    (path / "packed").mkdir()
    write_tar(path / "packed" / "license_plates.tar", images(path))
    return path / "packed"


ROWS: dict[str, Row] = {
    "an archive whose name starts as that of a document, such as license_plates.tar": Row(
        "accepted", named_like_a_document
    ),
    "an archive beside a README, a license or a checksum": Row(
        "warning",
        beside_documents,
        "skipped 4 files beside the archive: 'LICENSE', 'README.dataset.txt', 'README.md', 'pets.tar.sha256'",
    ),
    "a tar with hard links": Row("accepted", plus(("dog/copy.png", (HARD, "cat/0.png"))), classes={"cat": 3, "dog": 4}),
    "a compressed tar with hard links": Row(
        "accepted",
        tar(lambda _, files: [files[0], ("emu/1.png", (HARD, "./cat/0.png")), *files[1:]], "w:gz"),
        classes={**PETS, "emu": 1},
    ),
    "a tar or zip with links to files and folders in it": Row(
        "accepted", zip_links, classes={**PETS, "emu": 1, "owl": 1}
    ),
    "a tar with a link out of it": Row("error", plus(("emu", (LINK, "/data/emu"))), "'emu' leads to '/data/emu'"),
    "a tar with a link that leads above it": Row(
        "error", plus(("cat/9.png", (LINK, "../../9.png"))), "'../../9.png', which is out of the archive"
    ),
    "a tar with a link to nothing": Row(
        "error", plus(("cat/9.png", (LINK, "8.png"))), "'8.png', which the archive does not contain"
    ),
    "a tar with a link to a folder above itself": Row(
        "error", plus(("cat/up", (LINK, "../cat"))), "a folder that contains the link"
    ),
    "a tar with a folder of all images that links sort into classes": Row(
        "error",
        sorted_by_links,
        "are read as other classes, too",
    ),
    "a tar with a pipe or a device": Row(
        "warning", plus(("cat/9.png", (tarfile.FIFOTYPE, ""))), "skipped pipes, devices and the like: 'cat/9.png'"
    ),
    "an archive with a name stored twice": Row("accepted", stored_twice),
    "a tar with a file of labels stored twice, and another JSON file": Row(
        "warning", newer_labels, "'notes.json'", classes={"new": 6}
    ),
    "tar archives appended to one another": Row("accepted", appended("w")),
    "compressed tar archives appended to one another": Row("accepted", appended("w:xz")),
    "a tar with other data behind it": Row("error", appended("w", b"<html>"), "other data follows"),
    "a compressed tar with other data behind it": Row("error", appended("w:bz2", b"<html>"), "it cannot be read"),
    "a tar compressed with Zstandard or LZ4": Row("accepted", compressed("zstd")),
    "a tar of another compression than its name says": Row("accepted", tar(lambda _, files: files, "w:gz")),
    "a tar named .zip": Row("accepted", lambda path: write_tar(path / "in.zip", images(path))),
    "names of more than 100 bytes in a tar": Row(
        "accepted",
        lambda path: write_tar(path / "in.tar", [(f"{'x' * 200}/{name}", data) for name, data in images(path)]),
    ),
    "UTF-8 names in a zip that does not say so": Row("accepted", of_a_mac, classes={"café": 3, "dog": 3}),
    "names in a zip with a Unicode path field": Row("accepted", with_unicode_path, classes={"café": 3, "dog": 3}),
    "names in a zip of an unknown encoding": Row("error", in_code_page, "cp437 for 'café/0.png'"),
    "names in a zip of an encoding that is given": Row(
        "accepted", in_code_page, classes={"café": 3, "c├⌐X": 3}, flags={"archive_encoding": "cp437"}
    ),
    "an encoding of names that does not exist": Row(
        "error", of_a_mac, "unknown encoding: none", flags={"archive_encoding": "none"}
    ),
    "backslashes in names of a zip": Row(
        "accepted",
        lambda path: write_zip(path / "in.zip", [(name.replace("/", "\\"), data) for name, data in images(path)]),
    ),
    "an encrypted zip": Row("error", patched(6, 8, 1), "6 of its files are encrypted: 'cat/0.png'"),
    "a zip with an unsupported compression": Row("error", patched(8, 10, 9), "compressed with Deflate64"),
    "a zip behind a program, as in a self-extracting archive": Row(
        "accepted", file_of("in.exe", lambda path: b"#!/bin/sh\nexit\n" + whole_zip(path))
    ),
    "two zip archives, one after the other": Row(
        "error", file_of("in.zip", lambda path: b"".join(zips(path))), "several zip archives, one after another"
    ),
    "a zip whose end is missing": Row(
        "error", file_of("in.zip", lambda path: whole_zip(path)[:-100]), "the end of a zip archive is missing"
    ),
    "parts of a split archive (.zip.001, .z01)": Row(
        "error", parts_in_a_folder, "'train.zip.001': it is a part of a split archive"
    ),
    "a 7z or RAR archive": Row("error", file_of("in.zip", lambda _: b"7z\xbc\xaf\x27\x1c"), f"{_NOT_READ}a 7z archive"),
    "an HTML page named .zip": Row(
        "error", file_of("in.zip", lambda _: b"<html>404</html>"), f"{_NOT_READ}an HTML page"
    ),
    "a compressed file that is not a tar": Row(
        "error", file_of("in.gz", lambda path: gzip.compress(images(path)[0][1])), "no tar archive but an image (PNG)"
    ),
    "an HTML page named .tar.gz": Row(
        "error", file_of("in.tar.gz", lambda _: b"<html>404</html>"), f"{_NOT_READ}an HTML page"
    ),
    "a .tar.gz that was compressed twice": Row(
        "error", file_of("in.tar.gz", lambda _: gzip.compress(gzip.compress(b"tar"))), "no tar archive but a gzip file"
    ),
    "archives in an archive": Row(
        "error",
        lambda path: write_zip(path / "in.zip", [("cat.zip", zips(path)[0]), ("dog.zip", zips(path)[1])]),
        "it contains the archive 'cat.zip': 'cat/0.png' and other files are in it",
    ),
    "an archive beside folders of images": Row(
        "error", beside("more.zip", whole_zip), "it contains the archive 'more.zip': 'cat/0.png'"
    ),
    "an archive beside folders of images, --allow-partial": Row(
        "warning", beside("more.zip", whole_zip), "that are archives: 'more.zip'", flags={"allow_partial": True}
    ),
    "an archive without images beside folders of images": Row(
        "warning",
        beside("code.zip", lambda path: write_zip(path / "code.zip", [("a.py", b"")]).read_bytes()),
        "that are archives: 'code.zip'",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("given", ROWS)
def test_convert_reads_an_archive_as_the_table_says(
    given: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = ROWS[given]
    write_class_folders(tmp_path / "in", ["cat", "dog"], per_class=3)
    paths = {"input_path": row.make(tmp_path), "output_path": tmp_path / "out", "outputs_path": tmp_path / "outputs"}
    code = run_here("convert-to-image-directory", **paths, **row.flags)
    log = capfd.readouterr().err
    assert "Traceback" not in log
    if row.outcome == "error":
        assert code == 1
        assert row.words in error_text(tmp_path / "outputs")
        assert not (tmp_path / "out").exists()
        return
    assert code == 0, log
    assert (" WARNING " in log) == (row.outcome == "warning"), log
    assert row.words in log
    read = read_labelled_images(tmp_path / "out", "Training dataset")
    names = [unicodedata.normalize("NFC", read.classes[label]) for label in read.labels]
    assert Counter(names) == row.classes


@pytest.mark.parametrize("options", ["", "-S --format=gnu", "--format=pax -z", "--format=v7", "-g snapshot"])
def test_what_is_read_is_what_tar_unpacks(options: str, tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("there is no tar")
    folder = write_class_folders(tmp_path / "in", ["cat", "dog"], per_class=3)
    os.link(folder / "cat" / "0.png", folder / "dog" / "copy.png")
    (folder / "dog" / "linked.png").symlink_to("../cat/1.png")
    (tmp_path / "unpacked").mkdir()
    command = f"cd {tmp_path} && tar {options} -cf in.tar -C in . && tar -xf in.tar -C unpacked"
    assert os.system(command) == 0
    for name, source in (("ours", tmp_path / "in.tar"), ("theirs", tmp_path / "unpacked")):
        paths = {"input_path": source, "output_path": tmp_path / name, "outputs_path": tmp_path / "outputs"}
        assert run_here("convert-to-image-directory", **paths) == 0
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs")


def contents(path: Path) -> dict[Path, bytes]:
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
