"""What only a GPU can show. `make test-gpu` runs it where there is one."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from tests.making import write_class_folders
from tests.small_training import Recorder, make_plan
from train_pytorch_model.data.batches import normalised
from train_pytorch_model.data.image_store import ImageStore, decode_all
from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.callbacks import NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.graph import CapturedStep
from train_pytorch_model.training.loop import fit, train_epoch
from train_pytorch_model.training.microbatches import BatchTooLargeError
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep

pytestmark = pytest.mark.gpu


def make_store(path: Path, place: str, device: torch.device) -> ImageStore:
    paths = sorted(write_class_folders(path, ["a", "b", "c", "d"], per_class=21, size=64).glob("*/*.png"))
    labels = np.array(["abcd".index(path.parent.name) for path in paths])
    return decode_all(lambda index: paths[index], labels, (64, 64), place=place, device=device)[0]


def run(
    store: ImageStore, device: torch.device, network: str = "resnet18", **plan: object
) -> tuple[Recorder, BestModel]:
    torch.manual_seed(0)
    built = torchvision.models.get_model(network, num_classes=4).to(device)
    values = {"precision": choose_precision("auto", device, built), "memory_format": torch.channels_last, **plan}
    recorder, best = Recorder(), BestModel()
    fit(built, store, store, make_plan(**values), World(device=device), best, recorder, NoCheckpointer())
    return recorder, best


def test_every_store_gives_the_same_batches(tmp_path: Path) -> None:
    device = choose_device()
    batches = [torch.tensor([3, 1, 2]), torch.tensor([5])]
    given = [
        list(make_store(tmp_path, place, device).batches(batches, device))
        for place in ("device", "memory", "disk", "none")
    ]
    for other in given[1:]:
        assert len(other) == len(given[0])
        for (pixels, labels), (expected, expected_labels) in zip(other, given[0]):
            assert pixels.is_cuda
            assert torch.equal(pixels, expected)
            assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize("network", ["resnet18", "densenet121", "mobilenet_v3_small"])
@pytest.mark.parametrize(
    ("place", "microbatch_size"), [("device", "off"), ("device", 3), ("memory", "off"), ("none", 3)]
)
def test_a_graph_gives_the_same_weights_as_steps_without_one(
    network: str, place: str, microbatch_size: int | str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    device = choose_device()
    store = make_store(tmp_path, place, device)
    with caplog.at_level(logging.INFO):
        plain, captured, again = (
            run(store, device, network, cuda_graph=flag, microbatch_size=microbatch_size)[1]
            for flag in (False, True, True)
        )
    assert caplog.text.count("as a CUDA graph") == 2
    for key, value in plain.state.items():
        assert torch.equal(captured.state[key], value)
        assert torch.equal(captured.state[key], again.state[key])


@pytest.mark.parametrize("captured", [False, True])
def test_the_host_waits_at_the_end_of_an_epoch_alone(captured: bool, tmp_path: Path) -> None:
    device = choose_device()
    store = make_store(tmp_path, "device", device)
    network = torchvision.models.resnet18(num_classes=4).to(device)
    step = TrainingStep(network, 4, device, torch.channels_last, choose_precision("auto", device, network))
    run_step = CapturedStep(step, 8) if captured else step
    plan = make_plan(print_frequency=1000)
    waits = []
    for epoch in (1, 2):  # the first does what is done once in a process
        step.begin_epoch(0.01)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                state = TrainingState(step, BestModel(), EarlyStopping(9), epoch)
                train_epoch(state, run_step, store, plan, World(device=device), Recorder())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits = [str(warning.message) for warning in caught if "synchronizing" in str(warning.message)]
    # The last loss and the sums of the epoch; eleven steps went before.
    assert len(waits) == 2, waits


def test_pixels_on_the_gpu_equal_what_score_sees_to_the_bit() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    on_gpu = normalised(pixels.to(choose_device()), torch.channels_last)
    assert torch.equal(on_gpu.cpu(), normalised(pixels, torch.channels_last))


def test_what_no_graph_can_hold_trains_on_step_by_step(caplog: pytest.LogCaptureFixture) -> None:
    class Waiting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3 * 8 * 8, 4)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scale = images.mean().item()  # the host waits
            result: torch.Tensor = self.linear(torch.nn.functional.dropout(images.flatten(1), training=self.training))
            return result + scale

    device = choose_device()
    network = Waiting().to(device)
    step = TrainingStep(network, 4, device, torch.contiguous_format, choose_precision("float32", device, network))
    run_step = CapturedStep(step, 8)
    step.begin_epoch(0.01)
    pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, device=device)
    for _ in range(8):
        run_step(pixels, torch.zeros(8, dtype=torch.int64, device=device))
    assert step.loss.isfinite()
    assert "training continues without it" in caplog.text


@pytest.mark.parametrize("captured", [False, True])
def test_a_batch_that_does_not_fit_is_an_error_or_split_into_microbatches(captured: bool, tmp_path: Path) -> None:
    device = choose_device()
    store = make_store(tmp_path, "memory", device)
    large = {"batch_size": 84, "epochs": 1, "cuda_graph": captured}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run(store, device, **large)
    enough = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(0.75 * enough / total, device)
    try:
        with pytest.raises(BatchTooLargeError) as caught:
            run(store, device, **large)
        assert caught.value.fitting is not None
        assert 0 < caught.value.fitting < 84
        torch.cuda.empty_cache()
        _, best = run(store, device, microbatch_size="auto", **large)
        assert best.epoch == 1
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
