"""A training step as a CUDA graph equals the step without one, and a failed capture leaves no trace."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from tests.gpu.runs import different_weights, make_store, train
from tests.small_training import PARTS, Recorder, StoppedError, Stopping, make_plan
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.epoch import train_epoch
from train_pytorch_model.training.graph import NUM_WARM_UP_STEPS, CapturedStep
from train_pytorch_model.training.mixing import Mixing
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.trivial_augment import TrivialAugment

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("network", ["resnet18", "densenet121", "mobilenet_v3_small", "squeezenet1_1", "vit_b_16"])
def test_a_graph_gives_the_same_weights_as_steps_without_one(
    network: str, precision: str, device: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path, "device", device, size=224 if network == "vit_b_16" else 64)
    with caplog.at_level(logging.INFO):
        plain, captured, again = (
            train(store, device, network, precision, cuda_graph=flag)[1] for flag in (False, True, True)
        )
    assert caplog.text.count("as a CUDA graph") == 2
    assert not different_weights(captured, again)
    assert not different_weights(plain, captured)


# What a recipe can change in a step of resnet18.
_PARTS = {**PARTS, "head_names": frozenset({"fc.weight", "fc.bias"})}


@pytest.mark.parametrize("freeze", [0, 3])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_graph_holds_all_parts_of_a_recipe(
    optimizer: str, precision: str, freeze: int, device: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path, "device", device)
    rate = 0.01 if optimizer == "sgd" else 0.001  # at which the loss falls
    parts = {**_PARTS, "optimizer": optimizer, "learning_rate": rate}
    parts |= {"layers_to_freeze": freeze, "freeze_batch_norm": bool(freeze)}
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*capturable")
        (plain, best), (captured, other) = (
            train(store, device, precision=precision, cuda_graph=flag, **parts) for flag in (False, True)
        )
    assert caplog.text.count("as a CUDA graph") == 1
    assert plain.records == captured.records
    assert plain.records[-1].train_loss < plain.records[0].train_loss
    assert not different_weights(best, other)


# Random views and mixtures, with labels of another form.
_AUGMENTED = {
    "image_size": (56, 56),
    "augmentation": Augmentation((56, 56), operations=TrivialAugment(), erasing=RandomErasing(0.5, (124, 116, 104))),
    "mixing": Mixing(0.2, 1.0),
}


@pytest.mark.parametrize(
    "parts",
    [
        _AUGMENTED,
        {"task": MULTILABEL, "metric_for_best_model": "average_precision", "averages_mirrored": True},
        {"metric_for_best_model": "macro_f1", "freeze_epochs": 1, "epochs": 3},
        {**_AUGMENTED, "fits_head": True, "freeze_batch_norm": True, "layer_decay": 0.7},
    ],
    ids=["augmented", "labels", "head-alone", "finetune"],
)
@pytest.mark.parametrize("place", ["device", "memory"])
def test_a_graph_gives_the_same_weights_whatever_the_images_the_labels_and_the_start(
    place: str, parts: dict[str, Any], device: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path, place, device)
    if parts.get("task") == MULTILABEL:
        assert isinstance(store, DecodedImages)
        store = DecodedImages(store.pixels, store.labels[:, None] <= torch.arange(4, device=store.labels.device))
    with caplog.at_level(logging.INFO):
        (plain, best), (captured, other) = (
            train(store, device, cuda_graph=flag, **{**_PARTS, **parts}) for flag in (False, True)
        )
    assert caplog.text.count("as a CUDA graph") == 1
    assert plain.records == captured.records
    assert not different_weights(best, other)


@pytest.mark.parametrize("stop_after", [2, 9, 14])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_that_is_resumed_goes_on_with_the_same_bits(
    optimizer: str, stop_after: int, device: torch.device, tmp_path: Path
) -> None:
    """Before the capture, in the middle of an epoch and in the next one; with dropout in the graph."""
    store = make_store(tmp_path, "device", device)
    head = frozenset({"classifier.3.weight", "classifier.3.bias"})
    parts = {**_PARTS, **_AUGMENTED, "head_names": head, "optimizer": optimizer, "learning_rate": 0.001, "epochs": 3}

    def run(checkpointer: Stopping | None = None) -> tuple[Recorder, BestModel]:
        return train(store, device, "mobilenet_v3_small", cuda_graph=True, checkpointer=checkpointer, **parts)

    whole, best = run()
    stopping = Stopping(stop_after, is_resuming=False)
    with pytest.raises(StoppedError):
        run(stopping)
    resumed, other = run(Stopping(snapshot=stopping.snapshot, is_resuming=True))
    assert resumed.records == whole.records
    assert not different_weights(best, other)


@pytest.mark.parametrize(("place", "microbatch_size"), [("device", 3), ("memory", "off"), ("none", 3)])
def test_a_graph_gives_the_same_weights_from_any_image_store_and_in_microbatches(
    place: str, microbatch_size: int | str, device: torch.device, tmp_path: Path
) -> None:
    store = make_store(tmp_path, place, device)
    plain, captured = (
        train(store, device, cuda_graph=flag, microbatch_size=microbatch_size)[1] for flag in (False, True)
    )
    assert not different_weights(plain, captured)


def test_a_graph_holds_a_densenet_that_saves_memory(
    device: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It computes activations again in the backward pass, as the designer's initializer has it by default."""
    store = make_store(tmp_path, "device", device)
    with caplog.at_level(logging.INFO):
        plain, captured = (
            train(store, device, "densenet121", cuda_graph=flag, options={"memory_efficient": True})[1]
            for flag in (False, True)
        )
    assert caplog.text.count("as a CUDA graph") == 1
    assert not different_weights(plain, captured)


@pytest.mark.parametrize(
    ("parts", "place"),
    [
        ({}, "device"),
        ({**_PARTS, "optimizer": "adamw"}, "device"),
        ({**_PARTS, **_AUGMENTED}, "device"),
        ({**_PARTS, **_AUGMENTED}, "memory"),
    ],
    ids=["classic", "parts", "augmented", "augmented-in-memory"],
)
@pytest.mark.parametrize("is_captured", [False, True])
def test_the_host_waits_only_at_the_end_of_an_epoch(
    is_captured: bool, parts: dict[str, Any], place: str, device: torch.device, tmp_path: Path
) -> None:
    store = make_store(tmp_path, place, device)
    network = torchvision.models.resnet18(num_classes=4).to(device)
    precision = choose_precision("auto", device, network)
    plan = make_plan(print_frequency=1000, memory_format=torch.channels_last, precision=precision, **parts)
    step = TrainingStep(network, plan, device)
    run_step = CapturedStep(step, 8) if is_captured else step
    waits: list[str] = []
    for epoch in (1, 2):  # the first epoch prepares kernels and captures the graph
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
    # The last loss and the sums of the epoch.
    assert len(waits) == 2, waits


class Waiting(torch.nn.Module):
    """No graph can hold this network: the host reads a value in the middle of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3 * 8 * 8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.dropout(images.flatten(1), training=self.training)
        scale = images.mean().item()
        result: torch.Tensor = self.linear(hidden)
        return result + scale


def _train_waiting(device: torch.device, *, is_captured: bool) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = Waiting().to(device)
    step = TrainingStep(network, make_plan(precision=choose_precision("float32", device, network)), device)
    run_step = CapturedStep(step, 8) if is_captured else step
    step.begin_epoch(0.01)
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, device=device)
    for _ in range(3 * NUM_WARM_UP_STEPS):
        run_step(pixels, torch.zeros(8, dtype=torch.int64, device=device))
    assert step.loss.isfinite()
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_a_capture_that_fails_leaves_the_process_as_it_was(
    device: torch.device, caplog: pytest.LogCaptureFixture
) -> None:
    plain = _train_waiting(device, is_captured=False)
    after = _train_waiting(device, is_captured=True)
    assert "continues without it" in caplog.text
    for name, value in plain.items():
        assert torch.equal(after[name], value)
    # Memory can still be returned to the GPU.
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    block = torch.empty(2**30, dtype=torch.uint8, device=device)
    assert torch.cuda.memory_reserved(device) >= before + 2**30
    del block
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved(device) == before
    # And another step can be captured.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 4)).to(device)
        step = TrainingStep(network, make_plan(precision=choose_precision("float32", device, network)), device)
        run_step = CapturedStep(step, 8)
        step.begin_epoch(0.01)
        for _ in range(NUM_WARM_UP_STEPS + 2):
            run_step(
                torch.zeros((8, 3, 8, 8), dtype=torch.uint8, device=device),
                torch.zeros(8, dtype=torch.int64, device=device),
            )
    assert "as a CUDA graph" in caplog.text
    assert step.loss.isfinite()
