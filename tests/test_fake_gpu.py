"""Whole trainings on a GPU that computes nothing: devices agree, and the host waits only where it must."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tests.fake_gpu import DEVICE, FakeGpu, fake_gpu
from tests.small_training import PARTS, Recorder, make_images, make_network, make_plan
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.data.model_task import MULTILABEL
from train_pytorch_model.distributed.world import World
from train_pytorch_model.models.heads import find_head
from train_pytorch_model.training import head_fit
from train_pytorch_model.training.augmentation import Augmentation, augmented
from train_pytorch_model.training.callbacks import NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import fit
from train_pytorch_model.training.mixing import Mixing, shown_in_epoch
from train_pytorch_model.training.out_of_fold import out_of_fold_probabilities
from train_pytorch_model.training.predictions import predict, predict_logits
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.trivial_augment import TrivialAugment

ALL = {
    **PARTS,
    "image_size": (8, 8),
    "augmentation": Augmentation((8, 8), operations=TrivialAugment(), erasing=RandomErasing(0.5, (1, 2, 3))),
    "mixing": Mixing(0.2, 1.0),
    "mean": (0.4, 0.5, 0.6),
    "std": (0.2, 0.3, 0.4),
    "print_frequency": 1000,
}
CASES: dict[str, dict[str, Any]] = {
    "classic": {},
    "all": {**ALL, "optimizer": "adamw", "layer_decay": 0.7, "averages_mirrored": True},
    "labels": {**PARTS, "task": MULTILABEL, "metric_for_best_model": "average_precision"},
    "classes": {**PARTS, "metric_for_best_model": "macro_f1", "validation_precision": "tf32"},
    "head": {**PARTS, "freeze_epochs": 1},
    "finetune": {**ALL, "fits_head": True, "freeze_batch_norm": True, "layers_to_freeze": 1, "microbatch_size": 3},
}


@pytest.mark.parametrize(
    ("case", "place"), [*((case, "device") for case in CASES), ("all", "memory"), ("head", "memory")]
)
def test_a_training_runs_on_a_gpu_and_the_host_waits_only_where_it_must(
    case: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(**CASES[case])
    train, valid = (make_images(count, seed, plan.task) for seed, count in enumerate((84, 20)))
    recorder = Recorder()
    with fake_gpu(monkeypatch) as gpu:
        if place == "device":
            train, valid = (DecodedImages(each.pixels.to(DEVICE), each.labels.to(DEVICE)) for each in (train, valid))
        with DEVICE:
            network = make_network()
        gpu.waits.clear()
        best = BestModel(plan.metric_for_best_model)
        fit(network, train, valid, plan, World(device=DEVICE), best, recorder, NoCheckpointer())
    assert [record.epoch for record in recorder.records] == [*([0] if plan.fits_head else []), 1, 2]
    assert {"convolution", "_fused_adamw_" if plan.optimizer == "adamw" else "_fused_sgd_"} <= gpu.names
    # At the end of an epoch, the last loss and the sums of the epoch.
    assert _inside(gpu, "train_epoch") == {(), ("read", "sum")}
    # The first validation may hand over features.
    assert _inside(gpu, "add_batch") <= {("_add_part", "output_for", "look")}


def test_a_dry_run_takes_the_memory_of_the_average_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for parts in ({}, {"model_ema": 0.9}):
        with fake_gpu(monkeypatch) as gpu:
            with DEVICE:
                network = make_network()
            step = TrainingStep(network, make_plan(**parts), DEVICE)
            step.dry_run(torch.zeros(8, 3, 12, 12, dtype=torch.uint8, device=DEVICE), torch.arange(8, device=DEVICE))
        seen.append("_foreach_sub" in gpu.names)
    assert seen == [False, True]


def test_a_head_that_a_gpu_cannot_hold_is_fitted_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def standardise(rows: torch.Tensor, *, centres: bool) -> Any:
        if rows.is_cuda:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return head_fit_standardise(rows, centres=centres)

    head_fit_standardise = head_fit.standardise
    monkeypatch.setattr(head_fit, "standardise", standardise)
    plan = make_plan(fits_head=True)
    images = make_images(20)
    with fake_gpu(monkeypatch):
        with DEVICE:
            network = make_network()
        head = find_head(network, images.size)
        assert not isinstance(head, str)
        fitted = head_fit.fit_head(network, head, images, plan, World(device=DEVICE))
    assert "The head is fitted on the CPU" in caplog.text
    assert fitted.state["5.weight"].device.type == "cpu"


@pytest.mark.parametrize("place", ["device", "memory"])
def test_what_runs_beside_the_training_loop_runs_on_a_gpu(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labelled, everything = make_images(60), make_images(60, task=MULTILABEL), torch.arange(60)
    world = World(device=DEVICE)
    with fake_gpu(monkeypatch):
        if place == "device":
            images, labelled = (DecodedImages(of.pixels.to(DEVICE), of.labels.to(DEVICE)) for of in (images, labelled))
        with DEVICE:
            network = make_network()
            rectified = nn.Sequential(
                *(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            )
        scored = (images, everything, 16, DEVICE, torch.channels_last, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        assert predict(network, *scored, averages_mirrored=True).shape == (60, 4)
        assert predict_logits(network, *scored).shape == (60, 4)
        plan = make_plan(**ALL)
        assert shown_in_epoch(augmented(images, plan, 1), plan, 1, 3, 1, DEVICE).shape == (3, 8, 8)
        features = torch.rand(60, 16, device=DEVICE)
        assert out_of_fold_probabilities(features, make_images(60).labels, 4, 1).shape == (60, 4)
        head = find_head(network, images.size)
        assert not isinstance(head, str)
        weighted = make_plan(task=MULTILABEL, class_weights=(1.0, 2.0, 3.0, 1.0))
        assert head_fit.fit_head(network, head, labelled, weighted, world).state.keys() == {"5.weight", "5.bias"}
        head = replace(head, name="1", shape=(4, 8, 1, 1), is_rectified=True)
        assert head_fit.fit_head(rectified, head, images, make_plan(), world).state.keys() == {"1.weight", "1.bias"}


def _inside(gpu: FakeGpu, name: str) -> set[tuple[str, ...]]:
    """Return where the host waits within a function."""
    return {wait[wait.index(name) + 1 :] for wait in gpu.waits if name in wait}


def test_what_would_fail_or_wait_on_a_gpu_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this, the other test could not fail."""
    with fake_gpu(monkeypatch) as gpu:
        values = torch.rand(4, device=DEVICE)
        (values * 2).sigmoid_().add_(torch.arange(4, device=DEVICE))
        assert not gpu.waits
        with pytest.raises(RuntimeError, match="two different devices"):
            values + torch.rand(4)
        with pytest.raises(AssertionError, match="cumsum"):
            values.cumsum(0)
        for wait in (
            lambda: values.sum().item(),
            lambda: values.cpu(),
            lambda: values[values > 0.5],
            lambda: torch.tensor([1.0], device=DEVICE),
            lambda: values.copy_(torch.rand(4)),
        ):
            gpu.waits.clear()
            wait()
            assert gpu.waits
