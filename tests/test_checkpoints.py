"""Checkpoints as files, when they are written, and which runs go on from them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checking import check
from tests.jobs import results
from tests.making import Inputs, error_text
from train_pytorch_model.checkpoints import writer
from train_pytorch_model.checkpoints.folder import CheckpointFolder, DamagedCheckpointError, read_checkpoint
from train_pytorch_model.checkpoints.resume import why_not
from train_pytorch_model.checkpoints.writer import CheckpointWriter
from train_pytorch_model.distributed.interruption import Interruption
from train_pytorch_model.errors import UserError
from train_pytorch_model.job import output
from train_pytorch_model.job import run as training_run


def names(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert folder.newest() is None
    for number in range(1, 5):
        folder.write({"number": number, "weights": torch.arange(number)})
    assert names(folder.path) == ["checkpoint-00000003.pt", "checkpoint-00000004.pt"]
    newest = folder.newest()
    assert newest is not None
    assert newest["number"] == 4
    assert torch.equal(newest["weights"], torch.arange(4))
    folder.clear()
    assert names(folder.path) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit", "another version", "no dictionary", "code"])
def test_a_damaged_checkpoint_warns_and_the_previous_one_is_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write({"number": 1})
    content: Any = {"number": 2}
    if damage == "no dictionary":
        content = [2]
    if damage == "code":
        content = {"number": _RunsWhenRead(tmp_path / "it has run")}
    path = folder.write(content)
    text = path.read_bytes()
    changed = bytearray(text)
    changed[len(text) // 2] ^= 1
    damaged = {"cut": text[:-100], "empty": b"", "one bit": bytes(changed), "another version": b"TPMCKPT2" + text[8:]}
    path.write_bytes(damaged.get(damage, text))
    newest = folder.newest()
    assert newest is not None
    assert newest["number"] == 1
    assert f"{path} cannot be used" in caplog.text
    assert not (tmp_path / "it has run").exists()
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(path)


class _RunsWhenRead:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_what_a_killed_write_left_is_neither_read_nor_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    (tmp_path / "checkpoint-00000007.writing").write_bytes(b"half")
    (tmp_path / "mine.pt").write_bytes(b"of the user")
    assert folder.newest() is None
    folder.write({"number": 1})
    assert names(tmp_path) == ["checkpoint-00000001.pt", "mine.pt"]
    folder.clear()
    assert names(tmp_path) == ["mine.pt"]


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.write({"number": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        folder.write({"number": 2})
    assert names(tmp_path) == ["checkpoint-00000001.pt"]


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(writer.time, "monotonic", lambda: self.now)


def make_writer(path: Path, minutes: float, **how: Any) -> CheckpointWriter:
    return CheckpointWriter(CheckpointFolder(path), minutes, {}, Interruption(print), **how)


def when_due(
    kept: CheckpointWriter, clock: Clock, seconds: int, *, at_epoch_end: bool, capture: float = 0.0
) -> list[int]:
    """The seconds at which a checkpoint is written, asked every second."""

    def take() -> dict[str, Any]:
        clock.now += capture
        return {"epoch": 1, "iteration": 1}

    due = []
    for second in range(1, seconds + 1):
        clock.now = 1000.0 + second
        if kept.is_due(at_epoch_end=at_epoch_end):
            due.append(second)
            kept.save(take)
            kept.wait()
            clock.now = 1000.0 + second
    return due


@pytest.mark.parametrize(
    ("minutes", "at_epoch_end", "due"),
    [
        (10, False, [600, 1200]),
        (10, True, list(range(30, 1201, 30))),
        (0.75, False, list(range(45, 1201, 45))),
        (0.75, True, list(range(30, 1201, 30))),
        (0.1, False, list(range(6, 1201, 6))),
        (0.1, True, list(range(6, 1201, 6))),
        (0, True, list(range(1, 1201))),
    ],
)
def test_checkpoints_come_at_their_interval_and_at_the_ends_of_epochs_half_a_minute_apart(
    minutes: float, at_epoch_end: bool, due: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(CheckpointFolder, "write", lambda self, content: self.path)
    assert when_due(make_writer(tmp_path, minutes), clock, 1200, at_epoch_end=at_epoch_end) == due


def test_slow_ones_come_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(CheckpointFolder, "write", lambda self, content: self.path)
    kept = make_writer(tmp_path, 10)
    due = when_due(kept, clock, 600, at_epoch_end=True, capture=2.0)
    assert kept.blocked_seconds == pytest.approx(2.0 * len(due))
    # Two seconds of waiting need a hundred of training.
    assert all(later - earlier >= 98 for earlier, later in zip(due, due[1:]))


def test_other_processes_neither_ask_nor_write(tmp_path: Path) -> None:
    kept = make_writer(tmp_path, 0, is_main=False)
    assert not kept.is_due(at_epoch_end=True)
    captured = []
    kept.save(lambda: captured.append(1) or {})
    assert captured == [1]  # what it has goes to the first process
    kept.finish()
    assert names(tmp_path) == []


# --- runs that were interrupted, and the next


FLAGS: dict[str, Any] = {"epochs": 3, "checkpoint_minutes": 0, "precision": "float32"}


@pytest.fixture
def interrupted(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> Inputs:
    """A run that has trained to its end and could not write its model."""
    interrupt(inputs, monkeypatch)
    return inputs


def interrupt(inputs: Inputs, monkeypatch: pytest.MonkeyPatch, **flags: Any) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    class Waiting(CheckpointWriter):
        """Has each checkpoint on the disk before training goes on, so that none is left out for a slow disk."""

        def save(self, *arguments: Any, **named: Any) -> None:
            super().save(*arguments, **named)
            self.wait()

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "CheckpointWriter", Waiting)
        patched.setattr(output, "write_trained_model", fail)
        assert inputs.fit(**{**FLAGS, **flags}) == 1
    assert not inputs.trained.exists()


def test_a_run_resumes_where_the_previous_run_stopped(
    interrupted: Inputs, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = (interrupted.outputs / "metrics.jsonl").read_bytes()
    capfd.readouterr()
    assert interrupted.fit(**FLAGS) == 0
    printed = capfd.readouterr().err
    assert "Resuming from the checkpoint of epoch" in printed
    assert "Epoch 1/3:" not in printed
    assert results(interrupted)[1] == before
    # What is finished leaves nothing behind, and starts anew.
    assert names(interrupted.outputs / "checkpoints") == []
    first = results(interrupted)
    assert interrupted.fit(**FLAGS) == 0
    assert "Resuming" not in capfd.readouterr().err
    assert results(interrupted) == first


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"batch_size": 7}, "batch size was 6 and is 7"),
        ({"learning_rate": 0.01}, "learning rate was 0.001 and is 0.01"),
        ({"random_seed": 2}, "random seed was 1 and is 2"),
        ({"precision": "bfloat16"}, "precision was float32 and is bfloat16"),
        ({"validation_precision": "bfloat16"}, "validation precision was float32 and is bfloat16"),
        ({"warmup_epochs": 1}, "warm-up epochs was 0 and is 1"),
        ({"microbatch_size": 2}, "microbatch size was not set and is 2"),
        ({"epochs": 1}, "it has reached epoch 3, but only 1 epochs are requested"),
    ],
)
def test_a_different_run_starts_from_scratch_and_says_why(
    flags: dict[str, Any], reason: str, interrupted: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    assert interrupted.fit(**{**FLAGS, **flags, "resume": "require"}) == 1
    assert "--resume require: the checkpoint in" in error_text(interrupted.outputs)
    assert reason in error_text(interrupted.outputs)
    assert interrupted.fit(**{**FLAGS, **flags}) == 0
    assert f"belongs to a different run ({reason})" in capfd.readouterr().err
    assert [record["epoch"] for record in interrupted.metrics()] == list(range(1, {**FLAGS, **flags}["epochs"] + 1))


@pytest.mark.parametrize("what", ["an image", "a label", "the weights", "a validation image"])
def test_changed_inputs_start_from_scratch(what: str, interrupted: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    if what == "the weights":
        from tests.making import NETWORK, initialize

        initialize(interrupted.untrained, NETWORK, interrupted.outputs, random_seed=5)
        told = "initial weights differ"
    elif what == "a label":
        lines = (interrupted.train / "images.lst").read_text().splitlines()
        line = json.loads(lines[0])
        line["category"] = "owl" if line["category"] != "owl" else "cat"
        (interrupted.train / "images.lst").write_text("\n".join([json.dumps(line), *lines[1:]]) + "\n")
        told = "training images differ"
    else:
        folder = interrupted.train if what == "an image" else interrupted.valid
        file = next((folder / "image").glob("0_*.png"))
        file.write_bytes(file.read_bytes() + b"\0")
        told = ("training" if what == "an image" else "validation") + " images differ"
    capfd.readouterr()
    assert interrupted.fit(**FLAGS) == 0
    assert told in capfd.readouterr().err


def test_settings_that_change_no_number_do_not_matter(interrupted: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    flags = {"image_store": "none", "print_frequency": 3, "include_samples": "true", "patience": 9, "resume": "require"}
    assert interrupted.fit(**{**FLAGS, **flags}) == 0
    assert "Resuming" in capfd.readouterr().err


def test_epochs_may_be_raised(interrupted: Inputs) -> None:
    before = interrupted.metrics()
    assert interrupted.fit(**{**FLAGS, "epochs": 5, "patience": 9}) == 0
    records = interrupted.metrics()
    assert records[:2] == before[:2]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5]
    # The new schedule: 1e-7 + (0.001 - 1e-7) (1 - 3/5)^2.
    assert records[3]["learning_rate"] == pytest.approx(1e-7 + (0.001 - 1e-7) * 0.16)


def test_resume_never_starts_from_scratch(interrupted: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert interrupted.fit(**{**FLAGS, "resume": "never"}) == 0
    assert "Resuming" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("theirs", "ours", "reason"),
    [
        ({}, {}, ""),
        ({}, {"microbatch size": 4}, "microbatch size was not set and is 4"),
        ({"microbatch size": 4}, {}, "microbatch size was 4 and is not set"),
        ({"microbatch size": 4}, {"microbatch size": 4}, ""),
        ({}, {"recipe": "finetune"}, "recipe was classic and is finetune"),
        (
            {"recipe": "scratch", "model ema": 0.5},
            {},
            "recipe was scratch and is classic; model ema was 0.5 and is not set",
        ),
        ({"class weights": "balanced"}, {}, "class weights was balanced and is not set"),
    ],
)
def test_an_entry_that_version_0_1_did_not_write_has_its_default(
    theirs: dict[str, object], ours: dict[str, object], reason: str, tmp_path: Path
) -> None:
    candidate = {"fingerprint": {"batch size": 8, **theirs}, "epoch": 2, "iteration": 1}
    assert why_not(CheckpointFolder(tmp_path), candidate, {"batch size": 8, **ours}, epochs=3) == reason


@pytest.mark.parametrize("content", [{}, {"fingerprint": "mine"}, {"fingerprint": {"random seed": None}}])
@pytest.mark.parametrize("seed", [1, "none"])
def test_what_is_no_checkpoint_of_a_training_is_named(content: dict[str, Any], seed: object, inputs: Inputs) -> None:
    CheckpointFolder(inputs.outputs / "checkpoints").write(content)
    assert inputs.fit(resume="require", random_seed=seed) == 1
    assert "belongs to a different run (it lacks entries that every checkpoint has)" in error_text(inputs.outputs)


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)  # which root, as who tests may run, is never refused
    with pytest.raises(UserError, match=r"theirs cannot be read: Permission denied. .*--checkpoint-path"):
        CheckpointFolder(tmp_path / "theirs").newest()


def test_require_needs_one(inputs: Inputs) -> None:
    assert inputs.fit(resume="require") == 1
    assert "there is no usable checkpoint in" in error_text(inputs.outputs)
    assert not inputs.trained.exists()


def test_a_folder_of_their_own(inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "elsewhere"
    interrupt(inputs, monkeypatch, checkpoint_path=place)
    assert [name for name in names(place) if name.startswith("checkpoint-")]
    assert not (inputs.outputs / "checkpoints").exists()
    assert inputs.fit(**FLAGS, checkpoint_path=place, resume="require") == 0
    assert names(place) == []
    for wrong in (inputs.trained, inputs.trained / "inside"):
        assert inputs.fit(**FLAGS, checkpoint_path=wrong) == 1
        assert "folder of reports" in error_text(inputs.outputs)
    file = tmp_path / "file"
    file.touch()
    assert inputs.fit(**FLAGS, checkpoint_path=file) == 1
    assert "--checkpoint-path" in error_text(inputs.outputs)


def test_damaged_ones_are_passed_over(interrupted: Inputs, capfd: pytest.CaptureFixture[str]) -> None:
    folder = interrupted.outputs / "checkpoints"
    _, newer = sorted(folder.glob("checkpoint-*.pt"))
    newer.write_bytes(newer.read_bytes()[:-1])
    before = (interrupted.outputs / "metrics.jsonl").read_bytes()
    assert interrupted.fit(**FLAGS) == 0
    printed = capfd.readouterr().err
    assert f"{newer} cannot be used: its checksum is wrong" in printed
    assert "Resuming from the checkpoint of epoch 3" in printed
    assert results(interrupted)[1] == before


def test_a_run_with_only_damaged_checkpoints_starts_from_scratch_unless_resuming_is_required(
    interrupted: Inputs, capfd: pytest.CaptureFixture[str]
) -> None:
    for file in (interrupted.outputs / "checkpoints").glob("checkpoint-*.pt"):
        file.write_bytes(b"nothing")
    assert interrupted.fit(**FLAGS, resume="require") == 1
    assert "there is no usable checkpoint in" in error_text(interrupted.outputs)
    assert interrupted.fit(**FLAGS) == 0
    assert "Epoch 1/3:" in capfd.readouterr().err


def test_a_seed_that_was_drawn_is_drawn_once(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupt(inputs, monkeypatch, random_seed="none")
    drawn = next(line for line in capfd.readouterr().err.splitlines() if "Using random seed" in line).split(" INFO ")[1]
    assert inputs.fit(**FLAGS, random_seed="none") == 0
    printed = capfd.readouterr().err
    assert drawn in printed
    assert "Resuming" in printed


@pytest.mark.parametrize("flags", [{"precision": "float16"}, {"microbatch_size": 2}])
def test_a_run_with_gradient_scaling_or_microbatches_resumes_with_the_same_bits(
    flags: dict[str, Any], inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert inputs.fit(**{**FLAGS, **flags, "epochs": 2}) == 0
    expected = results(inputs)
    stop_after(monkeypatch, inputs, 5, **flags, epochs=2)
    assert inputs.fit(**{**FLAGS, **flags, "epochs": 2, "resume": "require"}) == 0
    assert results(inputs) == expected


def stop_after(monkeypatch: pytest.MonkeyPatch, inputs: Inputs, num_polls: int, **flags: Any) -> None:
    """Stop as SIGTERM does, the `num_polls`-th time that the training looks."""
    looks = []

    class Asked(CheckpointWriter):
        @property
        def is_stop_requested(self) -> bool:
            looks.append(1)
            return len(looks) == num_polls

    with monkeypatch.context() as patched:
        patched.setattr(training_run, "CheckpointWriter", Asked)
        assert inputs.fit(**{**FLAGS, **flags}) == 75


@pytest.mark.parametrize(
    "network",
    ["shufflenet_v2_x0_5", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("mnasnet0_5", "densenet121"))],
)
def test_stopped_at_any_step_and_in_validation_a_run_ends_with_the_same_bits(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(tmp_path).make(network)
    assert inputs.fit(**FLAGS) == 0
    expected = results(inputs)
    # Four steps of training and two of validation an epoch.
    for num_polls in (1, 4, 5, 6, 7) if network == "shufflenet_v2_x0_5" else (3,):
        stop_after(monkeypatch, inputs, num_polls)
        # Another start of the same run is stopped too.
        stop_after(monkeypatch, inputs, 2)
        assert inputs.fit(**FLAGS, resume="require") == 0
        assert results(inputs) == expected


def test_those_of_another_training_outlive_a_run_in_the_same_folder(interrupted: Inputs) -> None:
    theirs = names(interrupted.outputs / "checkpoints")
    before = (interrupted.outputs / "metrics.jsonl").read_bytes()
    assert interrupted.fit(**{**FLAGS, "batch_size": 7, "checkpoint_minutes": 60}) == 0
    assert names(interrupted.outputs / "checkpoints") == theirs
    assert interrupted.fit(**FLAGS, resume="require") == 0
    assert results(interrupted)[1] == before


def test_a_folder_called_best_that_holds_other_files_is_left_alone(inputs: Inputs, tmp_path: Path) -> None:
    note = tmp_path / "models" / "best" / "note.txt"
    note.parent.mkdir(parents=True)
    note.write_text("mine")
    assert inputs.fit(checkpoint_path=tmp_path / "models") == 1
    assert "contains files that are not an earlier output: 'note.txt'" in error_text(inputs.outputs)
    assert note.read_text() == "mine"


def test_a_classic_run_goes_on_where_the_recipe_is_left_to_the_program(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert inputs.fit() == 0
    inputs.trained.rename(inputs.path / "given")
    inputs.untrained = inputs.path / "given"
    interrupt(inputs, monkeypatch, recipe="classic")
    auto = {**FLAGS, "resume": "require"}
    code, found = check(inputs, capfd, **auto)
    assert (code, found["start"][:12]) == (0, "resumes from")
    assert "belongs to a different run" in check(inputs, capfd, **FLAGS, learning_rate=0.5)[1]["start"]
    capfd.readouterr()
    assert inputs.fit(**auto) == 0
    printed = capfd.readouterr().err
    assert "was written with --recipe classic, so training goes on with it" in printed
    assert "Resuming from the checkpoint of epoch" in printed
    # A run with other parameters is another run, to which its recipe does not matter.
    inputs.trained.rename(inputs.path / "before")
    interrupt(inputs, monkeypatch, recipe="classic")
    assert inputs.fit(**FLAGS, learning_rate=0.5) == 0
    assert "so training goes on with it" not in capfd.readouterr().err
    assert inputs.metrics()[0]["epoch"] == 0


def test_a_classic_run_of_few_images_goes_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = Inputs(tmp_path).make(per_class=3)
    assert inputs.fit() == 0
    inputs.trained.rename(inputs.path / "given")
    inputs.untrained = inputs.path / "given"
    interrupt(inputs, monkeypatch, recipe="classic", batch_size=None)
    assert inputs.fit(**FLAGS, batch_size=None, resume="require") == 0
    assert "was written with --recipe classic, so training goes on with it" in capfd.readouterr().err


def test_a_classic_run_with_other_parts_does_not_go_on(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert inputs.fit() == 0
    inputs.trained.rename(inputs.path / "given")
    inputs.untrained = inputs.path / "given"
    interrupt(inputs, monkeypatch, recipe="classic", class_weights="sqrt", image_size=32)
    capfd.readouterr()
    start = check(inputs, capfd, **FLAGS)[1]["start"]
    assert start.startswith("from scratch: ")
    assert "recipe was classic and is finetune" in start
    assert inputs.fit(**FLAGS) == 0
    printed = capfd.readouterr().err
    assert "so training goes on with it" not in printed
    assert "was written with --recipe classic, but by a different run (" in printed
    assert "class weights was sqrt and is not set" in printed
    assert "geometry was {" in printed
    assert inputs.metrics()[0]["epoch"] == 0


def test_fine_tuning_goes_on_with_more_epochs(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert inputs.fit() == 0
    inputs.trained.rename(inputs.path / "given")
    inputs.untrained = inputs.path / "given"
    flags = {**FLAGS, "recipe": "finetune", "learning_rate": 1e-6, "auto_augment": "none"}
    interrupt(inputs, monkeypatch, **{**flags, "epochs": 2})
    before = inputs.metrics()
    # It is on the line of the model that the run has written, and this run goes on to another one.
    before[0].pop("calibrated_valid_loss", None)
    capfd.readouterr()
    assert inputs.fit(**{**flags, "epochs": 4, "resume": "require"}) == 0
    assert "Resuming from the checkpoint of epoch" in capfd.readouterr().err
    records = inputs.metrics()
    assert [record["epoch"] for record in records] == [0, 1, 2, 3, 4]
    assert records[:2] == before[:2]
