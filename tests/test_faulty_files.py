"""Mounted storage that lacks a call: what no output needs is forgiven, the rest is told, and no model is lost."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from tests.every_command import COMMANDS
from tests.faulty_files import ERRORS, OPTIONAL_CALLS, failing
from tests.jobs import train_job
from tests.making import ROOT, Inputs, error_text, run_module, write_class_folders
from tests.processes import run_forked
from train_pytorch_model.cli.main import main

# They contain the time or a random number.
_CHANGING = ("graph.svg", "model_spec.yaml", "finished.json")


def contents(folder: Path) -> dict[str, str]:
    """The digest of every file that the commands wrote, but reports."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _CHANGING]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if "outputs" not in path.relative_to(folder).parts[:1]
    }


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("photos"), per_class=4)


@pytest.fixture(scope="module")
def expected(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands write where nothing fails."""
    return run_all(photos, tmp_path_factory.mktemp("undisturbed"), "")


def run_all(photos: Path, folder: Path, first: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    finished = run_forked(["tests.every_command", str(photos)], environment, folder, first)
    assert "Traceback" not in finished.stderr
    assert json.loads(finished.stdout.splitlines()[-1]) == dict.fromkeys(COMMANDS, 0), finished.stderr
    return contents(folder)


# Each call with one error; `make test-rest` tries two more with each. All pairs would take half an hour.
PAIRS = [(call, ERRORS[number % len(ERRORS)]) for number, call in enumerate(OPTIONAL_CALLS)]
REST = [(call, ERRORS[(number + step) % len(ERRORS)]) for number, call in enumerate(OPTIONAL_CALLS) for step in (4, 8)]


@pytest.mark.parametrize(
    ("call", "error"), [*PAIRS, *(pytest.param(*pair, marks=pytest.mark.thorough) for pair in REST)]
)
def test_every_command_does_without(
    call: str, error: str, photos: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    assert run_all(photos, tmp_path, failing(call, error)) == expected


@pytest.mark.parametrize("call", ["fcntl.flock", "fcntl.fcntl"])
def test_a_file_system_without_locks_is_told_and_blames_no_other_run(call: str, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make()
    finished = run_module(*inputs.arguments(), cwd=tmp_path, first=failing(call, "ENOLCK"))
    assert finished.returncode == 0, finished.stderr
    assert ("cannot be locked (No locks available)" in finished.stderr) is (call == "fcntl.flock")
    assert "Another" not in finished.stderr


def test_two_trainings_do_not_share_a_folder_of_reports(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make()
    descriptor = os.open(inputs.outputs, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert inputs.fit() == 1
    finally:
        os.close(descriptor)
    assert f"Another training is using {inputs.outputs}. Wait until it ends" in error_text(inputs.outputs)
    assert not inputs.trained.exists()
    assert inputs.fit() == 0


@pytest.mark.parametrize("is_lost_too", [False, True], ids=["checkpoints", "a temporary folder"])
def test_a_model_that_cannot_be_written_at_the_end_is_saved_elsewhere(is_lost_too: bool, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make()
    # From the end of the epoch on, no folder can be made below the folder of the output, or below all of them.
    folder = tmp_path if is_lost_too else inputs.trained
    first = (
        "import os\nfrom train_pytorch_model.job import history\n"
        "end, make = history.History.epoch_done, os.mkdir\n"
        "def fail(path, *rest, **named):\n"
        f"    if os.path.abspath(path).replace('.trained', 'trained').startswith({str(folder)!r}):\n"
        "        raise OSError(5, 'Input/output error', str(path))\n"
        "    return make(path, *rest, **named)\n"
        "def done(*values):\n    os.mkdir = fail\n    return end(*values)\n"
        "history.History.epoch_done = done\n"
    )
    finished = run_module(*inputs.arguments(), cwd=tmp_path, first=first)
    assert finished.returncode == 1, finished.stderr
    words = error_text(inputs.outputs)
    assert "Input/output error" in words
    saved = Path(words.split("is saved in ")[1].rstrip("."))
    assert (saved / "model").stat().st_size > 10**6
    assert (saved / "_meta.yaml").is_file()
    assert saved.is_relative_to(tmp_path) is not is_lost_too
    assert not inputs.trained.exists()


@pytest.mark.parametrize("call", ["torch.from_file", "statvfs", "posix_fallocate"])
def test_a_disk_that_cannot_hold_decoded_images(call: str, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make()
    name = call if call.startswith("torch") else f"os.{call}"
    arguments = inputs.arguments(image_store="disk")
    finished = run_module(*arguments, cwd=tmp_path, first=failing(name, "ENODEV" if "torch" in call else "EOPNOTSUPP"))
    if call == "torch.from_file":
        assert finished.returncode == 1
        assert "cannot be mapped into memory" in error_text(inputs.outputs)
        assert "Set TMPDIR to a folder on a local disk" in error_text(inputs.outputs)
        assert "Traceback" not in finished.stderr
    else:
        assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(("name", "count"), [("SIGINT", 1), ("SIGHUP", 1), ("SIGUSR1", 1), ("SIGINT", 2)])
def test_a_signal_keeps_a_checkpoint(name: str, count: int, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make(per_class=30)
    flags = {"epochs": 500, "patience": 500, "batch_size": 4, "checkpoint_minutes": 60, "precision": "float32"}
    job = train_job(inputs, count, **flags)
    assert job.until(lambda: "Epoch 1/500:" in job.log()), job.log()
    job.send(signal.Signals[name])
    assert job.wait() == [75] * count, job.log()
    words = error_text(inputs.outputs)
    assert f"Interrupted by {name}. Saved the checkpoint of epoch" in words
    assert "Run the same command again to resume." in words
    assert len(list((inputs.outputs / "checkpoints").glob("checkpoint-*.pt"))) == 1


def test_the_signal_that_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    inputs = Inputs(tmp_path).make(per_class=30)
    first = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    job = train_job(inputs, first=first, epochs=3, batch_size=4)
    assert job.until(lambda: "Epoch 1/3:" in job.log()), job.log()
    job.send(signal.SIGHUP)
    assert job.wait() == [0], job.log()


def test_handlers_are_those_of_before_after_a_command(tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    inputs = Inputs(tmp_path).make()
    assert inputs.fit() == 0
    assert main(["train", "--untrained-model-path", str(tmp_path), *inputs.arguments()[3:]]) == 1
    assert [signal.getsignal(number) for number in numbers] == before
