"""Which file of a directory a name may lead to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from train_pytorch_model.ports.named_files import find_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub" / "file").touch()
    (tmp_path / "inside-too").mkdir()
    (tmp_path / "inside-too" / "file").touch()
    os.mkfifo(inside / "pipe")
    (inside / "link").symlink_to("sub/file")
    (inside / "link out").symlink_to("../inside-too/file")
    (inside / "folder out").symlink_to("../inside-too")
    (inside / "loop").symlink_to("loop")
    return inside


@pytest.mark.parametrize("name", ["sub/file", "./sub/file", "link"])
def test_a_file_inside_the_folder_is_found(name: str, folder: Path) -> None:
    assert find_file(folder, name) == folder / name


@pytest.mark.parametrize("name", ["sub/file", "link"])
def test_the_folder_itself_may_be_reached_through_a_link(name: str, folder: Path) -> None:
    mounted = folder.parent / "mounted"
    mounted.symlink_to(folder)
    assert find_file(mounted, name) == mounted / name


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        (None, "the data: None is not a file name"),
        (["x"], "the data: ['x'] is not a file name"),
        ("", "the data: '' is not a file name"),
        ("a\0", "is not a possible file name"),
        ("\ud800", "is not a possible file name"),
        ("../inside-too/file", "leaves the directory"),
        ("sub/../../inside-too/file", "leaves the directory"),
        ("..\\inside-too\\file", "leaves the directory"),
        ("/etc/passwd", "leaves the directory"),
        ("link out", "leads out of the directory through a link"),
        ("folder out/file", "leads out of the directory through a link"),
        ("sub/other", "the data: 'sub/other' is missing"),
        ("x" * 5000, "is missing"),
        ("loop", "is missing"),
        ("sub", "is not a regular file"),
        (".", "is not a regular file"),
        ("pipe", "is not a regular file"),
    ],
)
def test_any_other_name_is_refused(name: object, fault: str, folder: Path) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        find_file(folder, name, "the data")
    assert fault in str(raised.value)


def test_a_fixed_name_needs_no_role(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^_meta\.yaml is missing$"):
        find_file(folder, "_meta.yaml")
