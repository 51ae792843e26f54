"""Steps per second after the first epoch: this package, a textbook loop, torchvision's recipe, and the limit."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Callable

import torch
import torchvision

from benchmarks.datasets import NUM_CLASSES, make_digits, make_photos
from benchmarks.peers import RECIPE, TEXTBOOK, DataLoaderTraining
from benchmarks.results import kind, ratio, table, write_section
from train_pytorch_model.data.image_store import DecodedImages, decode_all
from train_pytorch_model.data.placement import choose_place
from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.distributed.world import World
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.training.callbacks import Callback
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.graph import CapturedStep, use_cuda_graph
from train_pytorch_model.training.loop import train_epoch
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep

_NETWORKS = ("resnet18", "resnet50", "densenet121", "densenet201")
_NUM_ROUNDS = 3
_LEARNING_RATE = 0.01


@dataclass(frozen=True)
class Case:
    """A network with its images and batch size."""

    network: str
    size: int
    batch_size: int
    num_steps: int
    """Number of steps in an epoch."""

    def __str__(self) -> str:
        return f"{self.network} {self.size}x{self.size}, batch {self.batch_size}"


def _make_ours(case: Case, path: Path) -> tuple[Callable[[], int], Callable[[], int]]:
    """Return an epoch of this package's loop, and one of its step on a batch that stays on the device: the limit."""
    device = choose_device()
    world = World(device=device)
    images = read_labelled_images(path / "train_data", "Training dataset")
    place = choose_place("auto", len(images) * case.size**2 * 3, device)
    store, _ = decode_all(images.path_of, images.labels, (case.size, case.size), place=place, device=device)
    runs = []
    for _ in range(2):
        torch.manual_seed(0)
        network = torchvision.models.get_model(case.network, num_classes=NUM_CLASSES).to(device)
        precision = choose_precision("auto", device, network)
        plan = Plan(NUM_CLASSES, 10, case.batch_size, _LEARNING_RATE, 0, 10, 1, 10, precision, torch.channels_last)
        step = TrainingStep(network, NUM_CLASSES, device, plan.memory_format, precision)
        is_graph = use_cuda_graph("auto", device, num_steps=1000, is_known=True)
        runs.append((step, CapturedStep(step, case.batch_size) if is_graph else step, plan))

    def ours() -> int:
        step, run_step, plan = runs[0]
        step.begin_epoch(_LEARNING_RATE)
        train_epoch(TrainingState(step, BestModel(), EarlyStopping(1)), run_step, store, plan, world, Callback())
        return len(store) // case.batch_size

    pixels = torch.randint(0, 256, (case.batch_size, case.size, case.size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, NUM_CLASSES, (case.batch_size,), device=device)
    one = DecodedImages(pixels.permute(0, 3, 1, 2), labels)

    def limit() -> int:
        step, run_step, _ = runs[1]
        step.begin_epoch(_LEARNING_RATE)
        for _ in range(case.num_steps):
            run_step(one.pixels, one.labels, 1.0)
        step.sums.read(world)
        return case.num_steps

    return ours, limit


def _measure(case: Case, path: Path) -> dict[str, list[float]]:
    ours, limit = _make_ours(case, path)
    peers = {
        style.name: DataLoaderTraining(style, case.network, path, case.batch_size, _LEARNING_RATE)
        for style in (TEXTBOOK, RECIPE)
    }
    epochs = {"ours": ours, **{name: peer.epoch for name, peer in peers.items()}, "limit": limit}
    speeds: dict[str, list[float]] = defaultdict(list)
    for number in range(_NUM_ROUNDS + 1):
        for name in list(epochs) if number % 2 else reversed(list(epochs)):
            started = time.perf_counter()
            num_steps = epochs[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:  # the first epoch is a warm-up
                speeds[name].append(num_steps / (time.perf_counter() - started))
    return speeds


def _cases() -> list[tuple[Case, str]]:
    if kind() == "cpu":
        return [(Case(name, 224, 16, 6), "photos") for name in _NETWORKS] + [(Case("resnet18", 64, 16, 60), "digits")]
    cases = [
        (Case(name, 224, batch_size, 4096 // batch_size), "photos")
        for batch_size in (16, 64, 256)
        for name in _NETWORKS
    ]
    return [*cases, (Case("resnet18", 64, 16, 89), "digits")]


def measure(work_path: Path) -> None:
    """Run the benchmark and write its section."""
    num_photos = max(case.batch_size * case.num_steps for case, images in _cases() if images == "photos")
    paths = {"photos": make_photos(work_path / "steps", num_photos, 16), "digits": make_digits(work_path / "digits")}
    rows = []
    for case, images in _cases():
        speeds = _measure(case, paths[images])
        others = [f"{median(speeds[name]):.2f}" for name in ("ours", "textbook", "recipe", "limit")]
        ratios = [ratio(speeds["ours"], speeds[name]) for name in ("textbook", "recipe", "limit")]
        rows.append([str(case), *others, *ratios])
        print(rows[-1], flush=True)
    head = ["network", "ours", "textbook", "recipe", "limit", "ours / textbook", "ours / recipe", "ours / limit"]
    write_section(
        "steps", f"Steps per second, medians of {_NUM_ROUNDS} epochs in alternating order.\n\n" + table(head, rows)
    )
