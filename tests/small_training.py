"""A small network, images and a plan, to call the training loop with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.evaluation.records import EpochRecord, EpochTiming, Reading
from train_pytorch_model.training.callbacks import Callback, Checkpointer, NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import fit
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.precision import Precision

CPU = torch.device("cpu")

# Everything that a recipe can change in the training step of `make_network`.
PARTS: dict[str, Any] = {
    "decays_one_dimensional": False,
    "weight_decay": 0.01,
    "lr_schedule": "cosine",
    "warmup_steps": 4,
    "head_learning_rate_factor": 10.0,
    "head_names": frozenset({"5.weight", "5.bias"}),
    "label_smoothing": 0.1,
    "class_weights": (0.5, 1.0, 1.5, 1.25),
    "clip_grad_norm": 0.5,
    "model_ema": 0.9,
}


def make_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


def make_images(count: int, seed: int = 0, task: str = "multiclass") -> DecodedImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=generator)
    if task == "multilabel":
        return DecodedImages(pixels, torch.rand(count, 4, generator=generator) < torch.tensor([0.1, 0.4, 0.5, 0.8]))
    return DecodedImages(pixels, torch.randint(0, 4, (count,), generator=generator))


def make_plan(**values: Any) -> Plan:
    defaults: dict[str, Any] = {
        "num_classes": 4,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.05,
        "warmup_epochs": 0,
        "patience": 100,
        "seed": 3,
        "print_frequency": 1,
        "precision": Precision(torch.float32, "cpu"),
    }
    return Plan(**{**defaults, **values})


class Recorder(Callback):
    def __init__(self) -> None:
        self.losses: list[float | None] = []
        self.records: list[EpochRecord] = []
        self.final: EpochRecord | None = None

    def training_resumed(self, records: Sequence[tuple[EpochRecord, EpochTiming]]) -> None:
        self.records = [record for record, _ in records]

    def iteration_done(self, epoch: int, iteration: int, reading: Reading | None) -> None:
        self.losses.append(reading.loss if reading else None)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        self.records.append(record)

    def best_validated(self, record: EpochRecord) -> None:
        self.final = record


class StoppedError(Exception):
    """The training has been stopped."""


class Stopping(NoCheckpointer):
    """Stops a training after so many steps and validation batches, and resumes it."""

    def __init__(self, stop_after: int = 0, snapshot: dict[str, Any] | None = None, *, is_resuming: bool) -> None:
        self.snapshot = self.resume_from = snapshot
        self.is_resuming = is_resuming
        self._remaining = stop_after

    @property
    def is_stop_requested(self) -> bool:  # type: ignore[override]
        self._remaining -= 1
        return self._remaining == 0

    def save_and_stop(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        self.snapshot = snapshot()
        raise StoppedError


def run(
    network: nn.Module, plan: Plan, train: DecodedImages, valid: DecodedImages, checkpointer: Checkpointer | None = None
) -> tuple[Recorder, BestModel, bool]:
    recorder, best = Recorder(), BestModel(plan.metric_for_best_model)
    stopped = fit(network, train, valid, plan, World(), best, recorder, checkpointer or NoCheckpointer())
    return recorder, best, stopped
