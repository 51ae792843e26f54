"""Gradient accumulation over microbatches, and batches that do not fit in memory."""

from __future__ import annotations

import copy
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.fit_job import make_network as make_plain_network
from tests.jobs import Job
from tests.making import NETWORK, ROOT, Inputs, initialize, write_image_directory
from tests.small_training import CPU, make_images, make_plan, run
from train_pytorch_model.cli.main import main
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.parameters import TrainingParameters
from train_pytorch_model.preflight import command
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.microbatches import (
    BatchTooLargeError,
    find_microbatch_size,
    fixed_microbatch_size,
    out_of_memory,
    run_with_advice,
    set_microbatch_size,
)
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.predictions import predict
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep

BATCH = 64
SIZE = 96
# Bytes that training may use in addition to Python, its libraries, the network and the images: enough for some of a
# batch's activations, but not for all.
ROOM = 80 * 2**20


def make_step(network: nn.Module) -> TrainingStep:
    return TrainingStep(network, make_plan(num_classes=3), CPU)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))


def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        pixels = torch.randint(0, 256, (14, 3, 8, 8), dtype=torch.uint8, generator=generator)
        yield pixels, torch.randint(0, 3, (14,), generator=generator)


@pytest.mark.parametrize("microbatch_size", [13, 7, 4, 3, 2])
def test_a_step_in_microbatches_equals_a_step_of_the_whole_batch(microbatch_size: int) -> None:
    whole = make_step(plain())
    parts = make_step(copy.deepcopy(whole.network))
    parts.microbatch_size = microbatch_size
    for pixels, labels in batches():
        for step in (whole, parts):
            step.begin_epoch(0.1)
            step(pixels, labels)
        assert torch.equal(whole.sums.totals[1:], parts.sums.totals[1:])
        assert parts.sums.totals[0].item() == pytest.approx(whole.sums.totals[0].item(), rel=1e-6)
        assert parts.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    for of_whole, of_parts in zip(whole.network.parameters(), parts.network.parameters()):
        torch.testing.assert_close(of_parts, of_whole, atol=1e-6, rtol=0)


class Hungry(nn.Module):
    """Raises an error for more than `takes` images; records the number of images of each call."""

    def __init__(self, takes: int, error: Exception) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192), nn.Dropout(), nn.Linear(192, 3))
        self.takes = takes
        self.error = error
        self.given: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.given.append(len(images))
        output: torch.Tensor = self.network(images)
        if len(images) > self.takes:
            raise self.error
        return output


def plan(batch_size: int, microbatch_size: int | str = "off") -> Plan:
    return make_plan(batch_size=batch_size, microbatch_size=microbatch_size)


def images() -> DecodedImages:
    pixels, labels = next(batches())
    return DecodedImages(pixels, labels)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")])
@pytest.mark.parametrize(("takes", "expected"), [(14, 14), (13, 7), (7, 7), (5, 4), (2, 2), (1, 0)])
def test_microbatches_are_halved_until_they_fit(takes: int, expected: int, error: Exception) -> None:
    step = make_step(Hungry(takes, error))
    before = copy.deepcopy(step.network.state_dict())
    size, reason = find_microbatch_size(step, images(), 14, CPU)
    assert size == expected
    assert bool(reason) == (takes < 14)
    assert step.microbatch_size is None
    assert all(torch.equal(value, before[key]) for key, value in step.network.state_dict().items())
    assert all(parameter.grad is None for parameter in step.network.parameters())
    if expected:
        set_microbatch_size(step, images(), plan(14, "auto"), World())
        step.begin_epoch(0.1)
        step.network.given.clear()
        step(*next(batches()))
        assert sum(step.network.given) == 14
        assert max(step.network.given) <= takes
    else:
        with pytest.raises(BatchTooLargeError):
            set_microbatch_size(step, images(), plan(14, "auto"), World())


class OneOf(World):
    """One of several processes, which all gather the same value."""

    def gather(self, value: Any) -> list[Any]:
        return [value] * self.world_size


def test_a_process_tries_no_more_than_its_shard_of_a_small_dataset() -> None:
    step = make_step(Hungry(7, MemoryError()))
    # Each of two processes gets 7 of 14 images, for any larger batch size.
    set_microbatch_size(step, images(), plan(64), OneOf(world_size=2), is_tried=True)
    assert step.microbatch_size is None
    with pytest.raises(BatchTooLargeError) as raised:
        set_microbatch_size(step, images(), plan(64), World(), is_tried=True)
    assert raised.value.fitting == 7
    set_microbatch_size(step, images(), plan(64, "auto"), OneOf(world_size=2))
    assert step.microbatch_size == 64  # validation uses it as its batch size


def test_other_errors_are_not_mistaken_for_a_lack_of_memory() -> None:
    hungry = Hungry(1, ValueError("of its own"))
    with pytest.raises(ValueError, match="of its own"):
        find_microbatch_size(make_step(hungry), images(), 14, CPU)
    with pytest.raises(ValueError, match="of its own"):
        predicted(hungry)


def predicted(network: nn.Module) -> np.ndarray:
    return predict(network, images(), torch.arange(14), 14, CPU, torch.contiguous_format)


def test_predictions_use_the_largest_batch_that_fits() -> None:
    hungry = Hungry(5, MemoryError())
    given = predicted(hungry)
    assert hungry.given == [14, 7, 4, 4, 4, 2]
    hungry.takes = 14
    np.testing.assert_allclose(given, predicted(hungry), rtol=1e-6)
    hungry.takes = 0
    with pytest.raises(MemoryError):
        predicted(hungry)


@pytest.mark.parametrize(("now", "then", "expected"), [(14, 3, 3), (2, 3, 2), (None, 3, None), (14, None, 14)])
def test_a_resumed_run_uses_the_microbatches_of_the_checkpoint_if_they_fit(
    now: int | None, then: int | None, expected: int | None
) -> None:
    states = [TrainingState(make_step(plain()), BestModel(), EarlyStopping(3)) for _ in range(2)]
    states[0].step.microbatch_size, states[1].step.microbatch_size = then, now
    states[1].restore(states[0].snapshot(World()), World())
    assert states[1].step.microbatch_size == expected


@pytest.mark.parametrize(
    ("fitting", "words"),
    [(0, "Not even 2 images fit"), (4, "to 4, which fits"), (None, "Lower the batch size (it is 14), or use")],
)
def test_the_error_says_what_would_fit(fitting: int | None, words: str) -> None:
    assert words in str(out_of_memory(BatchTooLargeError("no more", fitting), 14))


@pytest.mark.parametrize(
    ("fitting", "words"),
    [
        (0, "Not even 2 images fit (the microbatch size is 8)"),
        (4, "Lower the microbatch size (it is 8) to 4, which fits, or set --microbatch-size auto"),
        (None, "Lower the microbatch size (it is 8), or use"),
    ],
)
def test_the_error_names_the_microbatch_size_that_the_user_set(fitting: int | None, words: str) -> None:
    assert words in str(out_of_memory(BatchTooLargeError("no more", fitting, 8), 14))


@pytest.mark.parametrize(("size", "given"), [(1, [1] * 7), (2, [3, 2, 2]), (3, [3, 2, 2]), (6, [4, 3]), (7, [7])])
def test_no_microbatch_is_larger_than_set_or_a_single_image_by_surprise(size: int, given: list[int]) -> None:
    step = make_step(Hungry(14, MemoryError()))
    step.network.network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    set_microbatch_size(step, images(), plan(7, size), World())
    step.begin_epoch(0.1)
    pixels, labels = next(batches())
    step(pixels[:7], labels[:7])
    assert step.network.given == given


def test_a_fixed_microbatch_size_is_tried_where_processes_cannot_try_it_later() -> None:
    step = make_step(Hungry(4, MemoryError()))
    set_microbatch_size(step, images(), plan(14, 4), OneOf(world_size=2), is_tried=True)
    assert step.microbatch_size == 4
    with pytest.raises(BatchTooLargeError) as raised:
        set_microbatch_size(step, images(), plan(14, 7), OneOf(world_size=2), is_tried=True)
    assert (raised.value.fitting, raised.value.microbatch_size) == (4, 7)

    def work() -> None:
        raise MemoryError

    with pytest.raises(BatchTooLargeError) as raised:
        run_with_advice(work, step, images(), plan(14, 7), World())
    assert (raised.value.fitting, raised.value.microbatch_size) == (4, 7)


@pytest.mark.parametrize(("wanted", "fixed"), [("off", None), ("auto", None), (7, 7), (8, None), (100, None)])
def test_a_microbatch_size_of_a_whole_batch_is_the_same_as_off(wanted: int | str, fixed: int | None) -> None:
    assert fixed_microbatch_size(plan(8, wanted)) == fixed


def test_an_epoch_in_microbatches_equals_an_epoch_of_whole_batches_and_itself() -> None:
    def train(microbatch_size: int | str) -> tuple[list[float], dict[str, torch.Tensor]]:
        network = make_plain_network()
        settings = make_plan(epochs=1, batch_size=16, microbatch_size=microbatch_size)
        recorder, _, _ = run(network, settings, make_images(70), make_images(21, seed=1))
        record = recorder.records[0]
        return [record.train_loss, record.train_error, record.valid_loss, record.top1_acc], network.state_dict()

    (whole, whole_weights), (micro, weights), (again, weights_again) = train("off"), train(4), train(4)
    assert micro == pytest.approx(whole, abs=1e-6)
    assert micro == again
    assert micro != whole or any(not torch.equal(weights[key], whole_weights[key]) for key in weights)
    for key, value in weights.items():
        torch.testing.assert_close(value, whole_weights[key], atol=1e-6, rtol=0)
        assert torch.equal(value, weights_again[key])


def test_microbatches_and_synchronized_batch_normalization_exclude_each_other() -> None:
    faults = TrainingParameters(microbatch_size="auto", sync_batch_norm=True).faults()
    assert [fault.message for fault in faults] == [
        "UserError: --sync-batch-norm true needs whole batches, but --microbatch-size auto splits them. "
        "Set --sync-batch-norm false or --microbatch-size off."
    ]


@pytest.fixture
def large(tmp_path: Path) -> Inputs:
    inputs = Inputs(tmp_path)
    write_image_directory(inputs.train, per_class=24, size=SIZE)
    write_image_directory(inputs.valid, per_class=4, size=SIZE, seed=1)
    initialize(inputs.untrained, NETWORK, inputs.outputs)
    return inputs


def run_in_little_memory(inputs: Inputs, **flags: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command with a limit of `ROOM` bytes above its memory at the start of training."""
    code = (
        "import resource, sys, torch\n"
        "torch.backends.mkldnn.enabled = False\n"  # which crashes where it finds no memory for its own code
        "from train_pytorch_model.training import step\n"
        "from train_pytorch_model.cli.main import main\n"
        "made = step.TrainingStep.__init__\n"
        "def make(*arguments, **options):\n"
        "    made(*arguments, **options)\n"
        f"    used = int(open('/proc/self/statm').read().split()[0]) * {resource.getpagesize()}\n"
        f"    resource.setrlimit(resource.RLIMIT_AS, (used + {ROOM}, resource.RLIM_INFINITY))\n"
        "step.TrainingStep.__init__ = make\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = inputs.arguments(precision="float32", **{"batch_size": BATCH, **flags})
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        # Return freed memory at once, as on a GPU; fragments of a heap would count as used.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"},
    )


def test_the_error_for_exhausted_host_memory_names_a_batch_size_that_fits(large: Inputs) -> None:
    finished = run_in_little_memory(large)
    assert finished.returncode == 1, finished.stderr
    error = large.error()
    assert error is not None
    assert (error["ErrorId"], error["ErrorCode"]) == ("ModuleOutOfMemory", 138)
    found = re.search(r"Lower the batch size \(it is 64\) to (\d+), which fits", str(error["Message"]))
    assert found, error["Message"]
    assert "Traceback" not in finished.stderr
    assert not large.trained.exists()
    assert 2 <= int(found[1]) < BATCH
    finished = run_in_little_memory(large, batch_size=int(found[1]))
    assert finished.returncode == 0, finished.stderr


def test_microbatches_train_where_the_whole_batch_does_not_fit(large: Inputs) -> None:
    finished = run_in_little_memory(large, microbatch_size="auto")
    assert finished.returncode == 0, finished.stderr
    assert re.search(
        r"A batch of 64 images does not fit in memory. It is split into microbatches of \d+ images", finished.stderr
    )
    assert (large.trained / "model").is_file()


def test_check_names_a_batch_size_that_fits(
    inputs: Inputs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise BatchTooLargeError("CUDA out of memory", 2)

    monkeypatch.setattr(command, "try_steps", too_large)
    arguments = ["check", *inputs.arguments()[1:]]
    assert main(arguments) == 1
    assert "Lower the batch size (it is 6) to 2, which fits" in " ".join(capsys.readouterr().out.split())


LIMITED = """
import os, sys
from train_pytorch_model.cli.main import main
from train_pytorch_model.training.step import TrainingStep
add_gradients = TrainingStep._add_gradients
def add_or_fail(step, forward, pixels, labels, weight):
    # The second process has less memory than the first.
    if os.environ["RANK"] == "1" and (step.microbatch_size or len(labels)) > 3:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")
    add_gradients(step, forward, pixels, labels, weight)
TrainingStep._add_gradients = add_or_fail
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_use_the_microbatch_size_that_fits_in_the_smaller_memory(inputs: Inputs) -> None:
    (inputs.path / "limited.py").write_text(LIMITED, encoding="utf-8")
    job = Job(inputs.path, ["limited", *inputs.arguments(microbatch_size="auto")], 2)
    assert job.wait() == [0, 0], job.log()
    assert "microbatches of 3 images" in job.log()
    assert (inputs.trained / "model").is_file()
    job = Job(inputs.path, ["limited", *inputs.arguments(trained_model_path=inputs.path / "other", resume="never")], 2)
    assert job.wait() == [1, 1], job.log()
    error = inputs.error()
    assert error is not None
    assert (error["ErrorId"], error["ErrorCode"]) == ("ModuleOutOfMemory", 138)
    assert "Lower the batch size (it is 6) to 3, which fits" in str(error["Message"])
