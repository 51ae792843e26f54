"""What only a GPU can show. `make test-gpu` runs it where there is one."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from tests.making import write_class_folders
from tests.test_loop import Recorder, make_plan
from train_pytorch_model.data.image_store import ImageStore, decode_all
from train_pytorch_model.device import choose_device
from train_pytorch_model.training.captured_step import CapturedStep
from train_pytorch_model.training.loop import fit, train_epoch
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.selection import BestModel
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
    fit(built, store, store, make_plan(**values), device, best, recorder)
    return recorder, best


def test_every_store_gives_the_same_batches(tmp_path: Path) -> None:
    device = choose_device()
    batches = [torch.tensor([3, 1, 2]), torch.tensor([5])]
    given = [
        list(make_store(tmp_path, place, device).batches(batches, device))
        for place in ("device", "memory", "disk", "none")
    ]
    for other in given[1:]:
        for (pixels, labels), (expected, expected_labels) in zip(other, given[0]):
            assert pixels.is_cuda
            assert torch.equal(pixels, expected)
            assert torch.equal(labels, expected_labels)


@pytest.mark.parametrize("network", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_a_graph_gives_the_same_weights_as_steps_one_by_one(network: str, tmp_path: Path) -> None:
    device = choose_device()
    store = make_store(tmp_path, "device", device)
    plain, captured, again = (run(store, device, network, captured=flag)[1] for flag in (False, True, True))
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
                train_epoch(step, run_step, store, plan, device, epoch, Recorder())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits = [str(warning.message) for warning in caught if "synchronizing" in str(warning.message)]
    # The last loss and the sums of the epoch; eleven steps went before.
    assert len(waits) <= 2, waits
