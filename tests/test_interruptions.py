"""The real command, killed and started again: the weights and the metrics are those of a run that nobody disturbed."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.jobs import Job, results, train_job
from tests.making import Inputs, read_json_lines
from tests.mounts import on_small_disk

EPOCHS = 4
_expected: dict[tuple[int, str], tuple[bytes, bytes]] = {}


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    """Enough images that a training is not over before a signal arrives."""
    return Inputs(tmp_path).make(per_class=30)


def flags_of_run(count: int, precision: str) -> dict[str, object]:
    return {"epochs": EPOCHS, "batch_size": 8 // count, "precision": precision, "checkpoint_minutes": 0}


def undisturbed(inputs: Inputs, count: int, precision: str) -> tuple[bytes, bytes]:
    """What the run comes to when it is left alone."""
    if (count, precision) not in _expected:
        job = train_job(inputs, count, **flags_of_run(count, precision))
        assert job.wait() == [0] * count, job.log()
        _expected[count, precision] = results(inputs)
        shutil.rmtree(inputs.trained)
    return _expected[count, precision]


def start(inputs: Inputs, count: int, precision: str) -> Job:
    return train_job(inputs, count, **flags_of_run(count, precision))


RUNS = [
    (1, "bfloat16"),
    (2, "float32"),
    pytest.param(1, "float32", marks=pytest.mark.thorough),
    pytest.param(2, "bfloat16", marks=pytest.mark.thorough),
    # Of three numbers the sum depends on the order, of two it does not.
    pytest.param(3, "float32", marks=pytest.mark.thorough),
]


@pytest.mark.parametrize(("count", "precision"), RUNS)
def test_killed_at_random_moments_a_run_ends_with_the_same_bits(count: int, precision: str, inputs: Inputs) -> None:
    expected = undisturbed(inputs, count, precision)
    moments = random.Random(f"{count} {precision}")
    for _ in range(2):
        job = start(inputs, count, precision)
        job.until(lambda job=job: "Training shufflenet" in job.log())
        time.sleep(moments.random() * 1.2)
        job.send(signal.SIGKILL)
        job.wait()
    job = start(inputs, count, precision)
    assert job.wait() == [0] * count, job.log()
    assert results(inputs) == expected
    assert [line["epoch"] for line in read_json_lines(inputs.outputs / "metrics.jsonl")] == list(range(1, EPOCHS + 1))


@pytest.mark.parametrize(("count", "to"), [(1, 0), (2, 1)])
def test_asked_to_end_it_keeps_a_checkpoint_and_says_run_me_again(count: int, to: int, inputs: Inputs) -> None:
    expected = undisturbed(inputs, count, "float32")
    # Without checkpoints on the way: the one that SIGTERM asks for is the only one.
    # It has more time than users' runs have, for a machine that stalls.
    limits = (
        "from train_pytorch_model.distributed import interruption\n"
        "interruption._AGREEMENT_SECONDS = interruption._END_SECONDS = 25.0\n"
        "interruption._LAST_SECONDS = 27.0"
    )
    job = train_job(inputs, count, first=limits, **{**flags_of_run(count, "float32"), "checkpoint_minutes": 60})
    assert job.until(lambda: "Epoch 1/4:" in job.log()), job.log()
    asked = time.monotonic()
    job.send(signal.SIGTERM, to)
    assert job.wait() == [75] * count, job.log()
    assert time.monotonic() - asked < 30  # what most services give
    assert "Interrupted by SIGTERM. Saved the checkpoint of epoch" in str(inputs.error())
    assert len(list((inputs.outputs / "checkpoints").glob("checkpoint-*.pt"))) == 1
    assert not inputs.trained.exists()
    job = start(inputs, count, "float32")
    assert job.wait() == [0] * count, job.log()
    assert "Resuming from the checkpoint" in job.log()
    assert results(inputs) == expected


def test_asked_to_end_where_no_checkpoint_can_be_had_it_ends_in_time(inputs: Inputs) -> None:
    # The other process stands still, so the two cannot agree.
    job = start(inputs, 2, "float32")
    assert job.until(lambda: "Epoch 1/4:" in job.log()), job.log()
    job.send(signal.SIGSTOP, 1)
    job.send(signal.SIGTERM, 0)
    assert job.processes[0].wait(30) == 75
    assert "The last checkpoint, if there is one, is unchanged." in str(inputs.error())


def test_a_disk_too_small_for_checkpoints_warns_and_training_continues(inputs: Inputs, tmp_path: Path) -> None:
    expected = undisturbed(inputs, 1, "float32")
    place = tmp_path / "small"
    flags = {**flags_of_run(1, "float32"), "checkpoint_path": place}
    # One checkpoint of four and a half megabytes fits, the second beside it does not.
    job = train_job(inputs, prefix=on_small_disk(place, "6m"), **flags)
    assert job.wait() == [0], job.log()
    assert "Checkpoint of epoch 1" in job.log()
    assert "A checkpoint could not be written: [Errno 28] No space left on device. Training continues." in job.log()
    assert results(inputs) == expected


@pytest.mark.parametrize("place", ["small", "small/trained"], ids=["the output", "around the output"])
def test_a_disk_too_small_for_the_model_is_reported_and_the_next_run_writes_it_at_once(
    place: str, inputs: Inputs, tmp_path: Path
) -> None:
    expected = undisturbed(inputs, 1, "float32")
    inputs.trained = tmp_path / place
    job = train_job(inputs, prefix=on_small_disk(tmp_path / "small", "512k"), **flags_of_run(1, "float32"))
    assert job.wait() == [1], job.log()
    error = inputs.error()
    assert error is not None
    assert (error["ErrorId"], error["ErrorCode"]) == ("ModuleOutOfMemory", 138)
    assert "The disk is full" in str(error["Message"])
    assert (inputs.outputs / "checkpoints" / "best" / "model").read_bytes() == expected[0]
    job = start(inputs, 1, "float32")
    assert job.wait() == [0], job.log()
    assert "Resuming from the checkpoint of epoch" in job.log()
    assert "Epoch 1/4:" not in job.log()
    assert results(inputs) == expected
