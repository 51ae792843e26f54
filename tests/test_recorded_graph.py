"""Every part of a recipe in steps that are replayed without Python, as a CUDA graph replays them."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from tests.recorded_graph import RecordedGraph, build_optimizer_of_gpu
from tests.small_training import PARTS as PARTS_OF_STEP
from tests.small_training import make_images, make_network, make_plan, run
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.training import loop, precision, step
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.graph import NUM_WARM_UP_STEPS, CapturedStep
from train_pytorch_model.training.mixing import Mixing
from train_pytorch_model.training.precision import Precision
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.trivial_augment import TrivialAugment

AUGMENTED = {
    "image_size": (8, 8),
    "augmentation": Augmentation((8, 8), operations=TrivialAugment(), erasing=RandomErasing(0.5, (1, 2, 3))),
    "mixing": Mixing(0.2, 1.0),
}
# The head of `_network`.
PARTS = {**PARTS_OF_STEP, "head_names": frozenset({"6.weight", "6.bias"})}
ALL = {**PARTS, **AUGMENTED}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {**ALL, "optimizer": "sgd"},
        {**ALL, "optimizer": "adamw", "layer_decay": 0.7},
        {**ALL, "optimizer": "adamw", "microbatch_size": 3},
        {**PARTS, "task": MULTILABEL, "metric_for_best_model": "average_precision"},
        {**PARTS, "layers_to_freeze": 1, "freeze_batch_norm": True, "averages_mirrored": True},
        {**PARTS, "freeze_epochs": 1, "epochs": 3},
        {**ALL, "fits_head": True, "optimizer": "adamw"},
        {**PARTS, "precision": Precision(torch.float16, "cpu"), "optimizer": "sgd"},
        {**PARTS, "precision": Precision(torch.float16, "cpu"), "optimizer": "adamw", "clip_grad_norm": None},
    ],
    ids=[
        *("classic", "sgd", "adamw-layer-decay", "adamw-microbatches", "several-labels", "frozen-layers"),
        *("freeze-epochs", "fitted-head", "float16-sgd", "float16-adamw"),
    ],
)
def test_replayed_training_equals_training_without_a_graph(
    parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The scaler of float16 works on CPUs too; convolutions in float16 may not.
    if "precision" in parts:
        monkeypatch.setattr(Precision, "context", lambda self: nullcontext())
        # So large that gradients overflow, and the first steps are skipped.
        monkeypatch.setattr(precision, "_FIRST_SCALE", 2.0**127)
    plan = make_plan(**parts)
    train, valid = (make_images(count, seed, plan.task) for seed, count in enumerate((84, 20)))
    graphs: list[RecordedGraph] = []

    def capturing(inner: step.TrainingStep, batch_size: int, world: Any) -> CapturedStep:
        graphs.append(RecordedGraph(inner))
        return CapturedStep(inner, batch_size, graphs[0], world)

    monkeypatch.setattr(step, "build_optimizer", build_optimizer_of_gpu)
    expected, best, _ = run(_network(), plan, train, valid)
    monkeypatch.setattr(loop, "use_graph", lambda *_: True)
    monkeypatch.setattr(loop, "CapturedStep", capturing)
    with caplog.at_level(logging.INFO):
        given, other, _ = run(_network(), plan, train, valid)
    # 84 images make 10 full batches and one of 4 an epoch. While the head is trained alone, there is no graph.
    assert graphs[0].num_replays == 10 * (plan.epochs - plan.freeze_epochs) - NUM_WARM_UP_STEPS
    assert "as a CUDA graph" in caplog.text
    assert given.losses == expected.losses
    assert given.records == expected.records
    assert all(torch.equal(other.state[name], value) for name, value in best.state.items())


def _network() -> nn.Module:
    """A small network, with random numbers in its forward pass."""
    network = make_network()
    assert isinstance(network, nn.Sequential)
    network.insert(5, nn.Dropout(0.2))
    return network


def test_a_learning_rate_that_is_a_number_shows_as_wrong_weights() -> None:
    """Without this, the other test could not fail."""
    images = make_images(8)
    steps = [step.TrainingStep(make_network(), make_plan(), torch.device("cpu")) for _ in range(2)]
    runs = [steps[0], CapturedStep(steps[1], 8, RecordedGraph(steps[1]))]
    for each, work in zip(steps, runs):
        for number in range(NUM_WARM_UP_STEPS + 3):
            each.begin_epoch(0.1 / (number + 1))
            work(images.pixels, images.labels)
    one, other = (each.network.state_dict()["0.weight"] for each in steps)
    assert not torch.equal(one, other)
