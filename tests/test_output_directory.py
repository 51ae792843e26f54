from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.making import ROOT
from tests.model_folders import META, write_model
from train_pytorch_model.errors import InvalidModelDirectoryError, ModuleOutOfMemoryError, UserError
from train_pytorch_model.ports.directory_kinds import IMAGES, TRAINED
from train_pytorch_model.ports.output_directory import OutputDirectory


def output(path: Path) -> OutputDirectory:
    return OutputDirectory(path, "Trained model", TRAINED)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.parametrize("found", ["absent", "deep", "empty", "earlier model"])
def test_the_complete_model_is_written_and_nothing_else(found: str, tmp_path: Path) -> None:
    path = tmp_path / ("a/b/model" if found == "deep" else "model")
    if found in ("empty", "earlier model"):
        path.mkdir()
    if found == "earlier model":
        write_model(path, "old")
        (path / "score.py").write_text("")
    output(path).check()
    with output(path).writing() as folder:
        write_model(folder)
    assert names(path) == ["_meta.yaml", "index_to_label.csv", "model"]
    assert (path / "model").read_text() == "new"
    assert names(path.parent) == ["model"]
    (tmp_path / "other").mkdir()
    assert path.stat().st_mode & 0o777 == (tmp_path / "other").stat().st_mode & 0o777


@pytest.mark.parametrize("found", ["absent", "empty"])
def test_a_failure_while_writing_leaves_what_was_there(found: str, tmp_path: Path) -> None:
    path = tmp_path / "model"
    if found == "empty":
        path.mkdir()

    def fail_half_way() -> None:
        with output(path).writing() as folder:
            write_model(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.exists() is (found == "empty")
    assert names(tmp_path) == (["model"] if found == "empty" else [])
    assert not path.exists() or names(path) == []


def test_a_failure_while_filling_a_mounted_folder_empties_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    copied: list[str] = []

    def copyfile(source: Path, target: Path) -> Any:
        copied.append(target.name)
        if target.name == "_meta.yaml":
            raise OSError(28, "No space left on device")
        return copy(source, target)

    copy = shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(ModuleOutOfMemoryError, match="The disk is full"), output(path).writing() as folder:
        write_model(folder)
    assert copied[-1] == "_meta.yaml"  # no reader takes a directory without it, so it comes last
    assert len(copied) == 3
    assert names(path) == []


def test_the_folder_of_metrics_is_never_taken_for_the_model(tmp_path: Path) -> None:
    for path in (tmp_path / "outputs", tmp_path):
        with pytest.raises(InvalidModelDirectoryError, match="is or contains the folder of reports"):
            output(path).check((), tmp_path / "outputs")
    output(tmp_path / "outputs" / "model").check((), tmp_path / "outputs")


def test_files_that_came_during_the_training_are_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    output(path).check()
    (path / "notes.txt").write_text("mine")

    def write() -> None:
        with output(path).writing() as folder:
            write_model(folder)

    with pytest.raises(InvalidModelDirectoryError, match="not an earlier output"):
        write()
    assert names(path) == ["notes.txt"]


def test_what_a_killed_process_left_in_a_mounted_folder_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    code = (
        "import os, shutil, sys; from pathlib import Path\n"
        "from train_pytorch_model.ports.directory_kinds import TRAINED\n"
        "from train_pytorch_model.ports.output_directory import OutputDirectory\n"
        "from tests.model_folders import write_model\n"
        "copy = shutil.copyfile\n"
        "shutil.copyfile = lambda a, b: (copy(a, b), os.kill(os.getpid(), 9))\n"
        "with OutputDirectory(Path(sys.argv[1]), 'x', TRAINED).writing() as folder: write_model(folder)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, path], cwd=ROOT)
    assert killed.returncode == -9
    assert len(names(path)) == 2
    assert "_meta.yaml" not in names(path)
    output(path).check()
    with output(path).writing() as folder:
        write_model(folder)
    assert names(path) == ["_meta.yaml", "index_to_label.csv", "model"]


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": ""},
        {"_meta.yaml": META, "model": "", "index_to_label.csv": "", "notes.txt": ""},
        {"_meta.yaml": "type: ImageDirectory\n", "index_to_label.csv": ""},
        {"_meta.yaml": META, "model_spec.yaml": "", "model": ""},
        {"model": ""},
        {"_meta.yaml": "[", "index_to_label.csv": ""},
    ],
    ids=["other files", "a model and other files", "another directory", "an untrained model", "no meta", "damaged"],
)
def test_a_folder_that_holds_anything_else_is_refused_and_untouched(files: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    for name, content in files.items():
        (path / name).write_text(content)
    with pytest.raises(InvalidModelDirectoryError, match="not an earlier output"):
        output(path).check()
    assert {entry.name: entry.read_text() for entry in path.iterdir()} == files


def test_inputs_files_and_folders_below_files_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "file").write_text("")
    for path in (data, data / "model", tmp_path):
        with pytest.raises(InvalidModelDirectoryError, match="is, contains or is inside the input"):
            output(path).check((data,))
    for path in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(InvalidModelDirectoryError, match="is a file"):
            output(path).check((data,))


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(InvalidModelDirectoryError, match="cannot be written to"):
        output(Path("/proc/model")).check()


def test_a_name_too_long_to_be_written_beside_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelDirectoryError, match="cannot be written to: File name too long"):
        output(tmp_path / ("x" * 245)).check()
    (tmp_path / ("x" * 245)).mkdir()  # as it is filled where it stands
    output(tmp_path / ("x" * 245)).check()
    with output(tmp_path / ("x" * 245)).writing() as folder:
        write_model(folder)
    assert len(names(tmp_path / ("x" * 245))) == 3


def test_a_file_that_appears_at_the_output_path_is_reported(tmp_path: Path) -> None:
    output(tmp_path / "models" / "model").check()
    (tmp_path / "models").write_text("")
    with (
        pytest.raises(InvalidModelDirectoryError, match="could not be written"),
        output(tmp_path / "models" / "model").writing(),
    ):
        raise AssertionError("there is nothing to write into")


def test_a_fault_while_images_are_written_in_place_empties_the_folder_again(tmp_path: Path) -> None:
    images = OutputDirectory(tmp_path, "Image directory", IMAGES)

    def write() -> None:
        with images.writing() as folder:
            (folder / "images.lst").write_text("{}")
            shutil.copyfile(folder / "0.png", folder / "1.png")

    with pytest.raises(UserError, match=r"could not be written: .*0\.png.* No incomplete output remains"):
        write()
    assert names(tmp_path) == []


def test_what_killed_processes_left_beside_the_output_is_removed(tmp_path: Path) -> None:
    remains = tmp_path / ".out.writing-abc"
    remains.mkdir()
    (remains / "model").write_bytes(b"half")
    (tmp_path / ".output.writing-abc").mkdir()
    with OutputDirectory(tmp_path / "out", "Trained model", TRAINED).writing() as folder:
        (folder / "_meta.yaml").write_text("type: ModelDirectory")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".output.writing-abc", "out"]
