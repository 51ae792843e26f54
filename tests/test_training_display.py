"""What a person, or a machine, sees of a training while it runs."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
from rich.console import Console

from tests.jobs import train_job
from tests.making import Inputs, run_module
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming, Reading
from train_pytorch_model.job import display as training_display
from train_pytorch_model.job.display import TrainingDisplay
from train_pytorch_model.training.early_stopping import EarlyStopping

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


def shown(display: TrainingDisplay, width: int) -> list[str]:
    """The lines of the live display, without its colours."""
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(display.render())
    return [line.rstrip() for line in console.export_text().splitlines()]


def make_display(epochs: int = 4, patience: int = 3) -> TrainingDisplay:
    console = Console(file=io.StringIO(), force_terminal=True)
    return TrainingDisplay(console, epochs, EarlyStopping(patience), torch.device("cpu"))


def record(epoch: int, valid_loss: float, accuracy: float, *, is_best: bool) -> EpochRecord:
    return EpochRecord(epoch, 0.001, 0.7, 0.3, valid_loss, accuracy, None, is_best)


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_how_far_and_how_well(width: int) -> None:
    display = make_display()
    for epoch, loss, accuracy in ((1, 0.5, 0.91), (2, 0.6, 0.9)):
        display.epoch_started(epoch, 10)
        display.iteration_done(epoch, 10, Reading(0.4321, 0.8765, 0.00056, 1234.5))
        display.validation_done(epoch, 2, 2)
        display.epoch_done(record(epoch, loss, accuracy, is_best=epoch == 1), EpochTiming(epoch, 60.0, 20.0, 100.0))
    display.epoch_started(3, 10)
    display.iteration_done(3, 5, Reading(0.1234, 0.9876, 0.00025, 1234.5))
    display.iteration_done(3, 10, None)
    lines = shown(display, width)
    assert all(len(line) <= width for line in lines)
    # 2.75 of 4 epochs at 80 s each: training is three quarters of one.
    assert re.fullmatch(r"Epochs +━.* 3/4 +0:01:40 left", lines[0])
    assert re.fullmatch(r"Training ━.* 10/10 0:00:00 left", lines[1])
    assert lines[2] == "loss 0.1234  accuracy 0.9876  1,234 images/s  lr 0.00025"
    assert lines[3] == "best: epoch 1, accuracy 0.9100, loss 0.5000  patience 2 of 3 epochs"


def test_several_labels_have_other_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    display = TrainingDisplay(
        Console(file=io.StringIO(), force_terminal=True), 4, EarlyStopping(3), torch.device("cpu"), "multilabel"
    )
    display.epoch_started(1, 10)
    display.iteration_done(1, 10, Reading(0.4321, 0.8765, 0.00056, 1234.5))
    of_labels = {"average_precision": 0.91, "micro_f1": 0.8, "macro_f1": 0.7}
    best = EpochRecord(1, 0.001, 0.7, 0.3, 0.5, 0.6, None, is_best=True, **of_labels)
    display.epoch_done(best, EpochTiming(1, 60.0, 20.0, 100.0))
    lines = shown(display, 80)
    assert lines[2] == "loss 0.4321  subset accuracy 0.8765  1,234 images/s  lr 0.00056"
    assert lines[3] == "best: epoch 1, average precision 0.9100, loss 0.5000  patience 3 of 3 epochs"
    assert "Epoch 1/4: loss 0.7000, validation loss 0.5000, average precision 0.9100 (best)" in caplog.text


@pytest.mark.parametrize(
    ("metric", "of_labels", "words"),
    [
        (None, {}, "accuracy 0.6000"),
        ("accuracy", {}, "accuracy 0.6000"),
        ("loss", {}, "accuracy 0.6000"),
        ("balanced_accuracy", {"balanced_accuracy": 0.8, "macro_f1": 0.7}, "balanced accuracy 0.8000"),
        ("macro_f1", {"balanced_accuracy": 0.8, "macro_f1": 0.7}, "macro f1 0.7000"),
        (None, {"average_precision": 0.9, "micro_f1": 0.8, "macro_f1": 0.7}, "average precision 0.9000"),
        ("loss", {"average_precision": 0.9, "micro_f1": 0.8, "macro_f1": 0.7}, "average precision 0.9000"),
        ("micro_f1", {"average_precision": 0.9, "micro_f1": 0.8, "macro_f1": 0.7}, "micro f1 0.8000"),
        ("accuracy", {"average_precision": 0.9, "micro_f1": 0.8, "macro_f1": 0.7}, "subset accuracy 0.6000"),
    ],
)
def test_a_terminal_shows_the_metric_that_decides(
    metric: str | None, of_labels: dict[str, float], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    console = Console(file=io.StringIO(), force_terminal=True)
    display = TrainingDisplay(console, 4, EarlyStopping(3), torch.device("cpu"), metric=metric)
    best = EpochRecord(1, 0.001, 0.7, 0.3, 0.5, 0.6, None, is_best=True, **of_labels)
    display.epoch_done(best, EpochTiming(1, 60.0, 20.0, 100.0))
    assert shown(display, 80)[-1] == f"best: epoch 1, {words}, loss 0.5000  patience 3 of 3 epochs"
    assert f"Epoch 1/4: loss 0.7000, validation loss 0.5000, {words} (best)" in caplog.text


def test_long_numbers_fit_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_display, "gpu_memory", lambda device: (int(139.12 * 2**30), int(139.8 * 2**30)))
    display = make_display(epochs=10_000, patience=1000)
    display.epoch_started(1, 1_000_000)
    display.iteration_done(1, 1_000_000, Reading(1234.56789, 0.12345678, 1.23456e-05, 12345.8))
    display.epoch_done(record(9999, 1.23456789e30, 0.12345, is_best=True), EpochTiming(1, 1e6, 1e6, 1.0))
    lines = shown(display, 80)
    assert len(lines) == 4
    assert "…" not in "".join(lines)
    assert lines[2].endswith("GPU 139.1/140 GiB")
    assert lines[3].endswith("patience 1000 of 1000 epochs")


def test_a_resumed_training_shows_the_earlier_best_epoch() -> None:
    display = make_display()
    timing = EpochTiming(1, 60.0, 20.0, 100.0)
    display.training_resumed(
        [(record(1, 0.5, 0.9, is_best=True), timing), (record(2, 0.7, 0.8, is_best=False), timing)]
    )
    assert shown(display, 80)[-1] == "best: epoch 1, accuracy 0.9000, loss 0.5000  patience 2 of 3 epochs"


def test_time_left_is_unknown_until_there_is_something_to_tell_it_by() -> None:
    display = make_display()
    display.epoch_started(1, 10)
    display.iteration_done(1, 1, None)
    lines = shown(display, 80)
    assert [line.split()[-2:] for line in lines[:2]] == [["-:--:--", "left"]] * 2


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(inputs: Inputs) -> None:
    command = [sys.executable, "-m", "train_pytorch_model", *inputs.arguments(print_frequency=2)]
    finished = subprocess.run(
        ["script", "-qec", shlex.join(command), "/dev/null"],
        capture_output=True,
        text=True,
        env={**os.environ, "TERM": "dumb"},
    )
    assert finished.returncode == 0
    assert "Epoch 1/1, iteration 2/4: loss" in finished.stdout
    assert "\x1b" not in finished.stdout


def test_a_log_has_plain_lines_at_the_print_frequency(inputs: Inputs) -> None:
    finished = run_module(*inputs.arguments(epochs=2, print_frequency=2), OMP_NUM_THREADS="1", FORCE_COLOR="1")
    assert finished.returncode == 0
    assert not CONTROL.search(finished.stderr)
    assert finished.stdout == ""
    lines = re.findall(
        r"Epoch (\d)/2, iteration (\d)/4: loss [\d.]+, accuracy ([\d.]+), [\d.]+ images/s\n", finished.stderr
    )
    assert [line[:2] for line in lines] == [("1", "2"), ("1", "4"), ("2", "2"), ("2", "4")]
    # After the last iteration of an epoch it is that of the whole epoch.
    assert [float(lines[number][2]) for number in (1, 3)] == pytest.approx(
        [1 - float(str(epoch["train_error"])) for epoch in inputs.metrics()], abs=5e-5
    )


def test_quiet_means_nothing_but_what_is_wrong(inputs: Inputs) -> None:
    finished = run_module(*inputs.arguments(), "--quiet")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    failed = run_module(*inputs.arguments(batch_size=1000), "--quiet")
    assert failed.returncode == 1
    assert 'ERROR LessThanOrEqualTo: Parameter "Batch size"' in failed.stderr
    assert "INFO" not in failed.stderr


def test_machines_read_an_object_a_line(inputs: Inputs) -> None:
    finished = run_module(*inputs.arguments(epochs=2, print_frequency=2), "--log-format", "json")
    assert finished.returncode == 0
    lines = [json.loads(line) for line in finished.stderr.splitlines()]
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    epochs = [line for line in lines if line.get("event") == "epoch"]
    assert [{name: line[name] for name in record} for line, record in zip(epochs, inputs.metrics())] == inputs.metrics()
    assert not {"interpolation", "balanced_accuracy", "macro_f1"} & {name for line in epochs for name in line}
    iterations = [line for line in lines if line.get("event") == "iteration"]
    assert [(line["epoch"], line["iteration"], line["num_iterations"]) for line in iterations] == [
        (1, 2, 4),
        (1, 4, 4),
        (2, 2, 4),
        (2, 4, 4),
    ]
    assert all(line["images_per_second"] > 0 and line["learning_rate"] > 0 for line in iterations)
    failed = run_module(*inputs.arguments(batch_size=1000), "--log-format", "json")
    error = json.loads(failed.stderr.splitlines()[-1])
    assert error["level"] == "ERROR"
    assert error["message"].startswith("LessThanOrEqualTo")


def test_of_two_processes_one_speaks_for_both(inputs: Inputs) -> None:
    job = train_job(inputs, count=2, print_frequency=1, report="basic")
    assert job.wait() == [0, 0]
    # PyTorch itself may print what its sockets meet at the end.
    assert not re.findall(r"(?m)^\d{4}-\d\d-\d\d .*|^\d\d:\d\d:\d\d .*|^Traceback.*", job.log(1))
    assert "Epoch 1/1, iteration 1/2: loss" in job.log(0)
    # Images of both are counted, once.
    assert "on 12 validation images of 3 classes" in (inputs.outputs / "report" / "report.html").read_text()
