"""A small network, images and a plan, to call the training loop with."""

from __future__ import annotations

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


def make_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )


def make_images(count: int, seed: int = 0) -> DecodedImages:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 12, 12), dtype=torch.uint8, generator=generator)
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

    def training_resumed(self, records: list[tuple[EpochRecord, EpochTiming]]) -> None:
        self.records = [record for record, _ in records]

    def iteration_done(self, epoch: int, iteration: int, reading: Reading | None) -> None:
        self.losses.append(reading.loss if reading else None)

    def epoch_done(self, record: EpochRecord, timing: EpochTiming) -> None:
        self.records.append(record)


def run(
    network: nn.Module, plan: Plan, train: DecodedImages, valid: DecodedImages, checkpointer: Checkpointer | None = None
) -> tuple[Recorder, BestModel, bool]:
    recorder, best = Recorder(), BestModel()
    stopped = fit(network, train, valid, plan, World(), best, recorder, checkpointer or NoCheckpointer())
    return recorder, best, stopped
