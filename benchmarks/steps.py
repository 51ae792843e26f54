"""Steps per second after the first epoch: this package, a textbook loop, torchvision's recipe, and the limit.

This package makes PyTorch deterministic for the whole process, so its programs and those to compare with run in
processes of their own, which take turns. `python -m benchmarks.steps NETWORK SIZE BATCH STEPS PATH GROUP` is such a
process: it prints the names of its programs, then trains an epoch of a program for each name that it reads.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Callable

import torch
import torchvision

from benchmarks.datasets import NUM_CLASSES, make_digits, make_photos
from benchmarks.peers import COMPILED, RECIPE, TEXTBOOK, DataLoaderTraining
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

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUM_ROUNDS = 3
_LEARNING_RATE = 0.01
HEAD = (
    *("network", "ours", "textbook", "recipe", "compiled", "limit"),
    *("ours / textbook", "ours / recipe", "ours / compiled", "ours / limit"),
)


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


def _our_epochs(case: Case, path: Path) -> dict[str, Callable[[], int]]:
    """Return an epoch of this package's loop, and one of its step on a batch that stays on the device: the limit."""
    device = choose_device()
    world = World(device=device)
    images = read_labelled_images(path / "train", "Training dataset")
    place = choose_place("auto", len(images) * case.size**2 * 3, device)
    store, _ = decode_all(images.path_of, images.labels, (case.size, case.size), place=place, device=device)
    torch.manual_seed(0)
    network = torchvision.models.get_model(case.network, num_classes=NUM_CLASSES).to(device)
    precision = choose_precision("auto", device, network)
    plan = Plan(NUM_CLASSES, 10, case.batch_size, _LEARNING_RATE, 0, 10, 1, 10, precision, torch.channels_last)
    step = TrainingStep(network, NUM_CLASSES, device, plan.memory_format, precision)
    is_graph = use_cuda_graph("auto", device, num_steps=1000, is_known=True)
    run_step = CapturedStep(step, case.batch_size) if is_graph else step

    def ours() -> int:
        step.begin_epoch(_LEARNING_RATE)
        train_epoch(TrainingState(step, BestModel(), EarlyStopping(1)), run_step, store, plan, world, Callback())
        return len(store) // case.batch_size

    pixels = torch.randint(0, 256, (case.batch_size, case.size, case.size, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, NUM_CLASSES, (case.batch_size,), device=device)
    one = DecodedImages(pixels.permute(0, 3, 1, 2), labels)

    def limit() -> int:
        step.begin_epoch(_LEARNING_RATE)
        for _ in range(case.num_steps):
            run_step(one.pixels, one.labels, 1.0)
        step.sums.read(world)
        return case.num_steps

    return {"ours": ours, "limit": limit}


def _peer_epochs(case: Case, path: Path) -> dict[str, Callable[[], int]]:
    # Compilation for a CPU takes minutes, and a compiler that not every machine has.
    styles = (TEXTBOOK, RECIPE, COMPILED) if torch.cuda.is_available() else (TEXTBOOK, RECIPE)
    return {
        style.name: DataLoaderTraining(style, case.network, path, case.batch_size, _LEARNING_RATE).epoch
        for style in styles
    }


def _serve() -> None:
    """Train an epoch for each name on the standard input; print the steps per second."""
    network, size, batch_size, num_steps, path, group = sys.argv[1:]
    case = Case(network, int(size), int(batch_size), int(num_steps))
    epochs = (_our_epochs if group == "ours" else _peer_epochs)(case, Path(path))
    print(json.dumps(list(epochs)), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        num_done = epochs[line.strip()]()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        print(num_done / (time.perf_counter() - started), flush=True)


class _Programs:
    """A process that trains epochs on request."""

    def __init__(self, case: Case, path: Path, group: str) -> None:
        command = [sys.executable, "-m", "benchmarks.steps", case.network, case.size, case.batch_size, case.num_steps]
        self._process = subprocess.Popen(
            [*map(str, command), str(path), group], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._names: list[str] | None = None

    @property
    def names(self) -> list[str]:
        """The names of its programs; waits until they are built."""
        if self._names is None:
            self._names = json.loads(self._read())
        return self._names

    def run(self, name: str) -> float:
        """Train an epoch; return the steps per second."""
        if self._process.stdin is None:
            raise AssertionError("the process has no standard input")
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"a process of the benchmark ended with {self._process.wait()}")
        return line

    def end(self) -> None:
        """End the process, which frees its memory."""
        self._process.kill()
        self._process.wait()


@contextmanager
def _started(case: Case, path: Path) -> Iterator[list[_Programs]]:
    groups = [_Programs(case, path, group) for group in ("ours", "peers")]
    try:
        yield groups
    finally:
        for group in groups:
            group.end()


def measure_case(case: Case, path: Path) -> list[str]:
    """Return a row of the table.

    Args:
        case: what to train.
        path: has the images, in the layout of `benchmarks.datasets`.
    """
    speeds: dict[str, list[float]] = defaultdict(list)
    with _started(case, path) as groups:
        programs = [(group, name) for group in groups for name in group.names]
        for number in range(_NUM_ROUNDS + 1):
            for group, name in programs if number % 2 else reversed(programs):
                speed = group.run(name)
                if number:  # the first epoch is a warm-up
                    speeds[name].append(speed)
    names = ("textbook", "recipe", "compiled", "limit")
    medians = [f"{median(speeds[name]):.2f}" if speeds[name] else "" for name in ("ours", *names)]
    return [str(case), *medians, *(ratio(speeds["ours"], speeds[name]) if speeds[name] else "" for name in names)]


def cases() -> list[tuple[Case, str]]:
    """Return the cases for this machine with the kind of their images, the smallest first."""
    if kind() == "cpu":
        networks = ("resnet18", "resnet50", "densenet121", "densenet201")
        return [(Case("resnet18", 64, 16, 60), "digits"), *((Case(name, 224, 16, 6), "photos") for name in networks)]
    return [
        (Case("resnet18", 64, 16, 89), "digits"),
        (Case("resnet50", 224, 16, 96), "photos"),
        (Case("densenet201", 224, 16, 96), "photos"),
        (Case("resnet50", 224, 128, 12), "photos"),
        (Case("densenet201", 224, 128, 12), "photos"),
    ]


def make_images(work_path: Path) -> dict[str, Path]:
    """Write the images of all cases; return their folders."""
    num_photos = max(case.batch_size * case.num_steps for case, images in cases() if images == "photos")
    return {"photos": make_photos(work_path / "steps", num_photos, 16), "digits": make_digits(work_path / "digits")}


def write(rows: list[list[str]]) -> None:
    """Write the section with the rows so far."""
    text = f"Steps per second, medians of {_NUM_ROUNDS} epochs in alternating order.\n\n"
    write_section("steps", text + table(HEAD, rows))


def measure(work_path: Path) -> None:
    """Run the benchmark; write the section after each case, so that results are kept if a later case fails."""
    paths = make_images(work_path)
    rows = []
    for case, images in cases():
        rows.append(measure_case(case, paths[images]))
        print(rows[-1], flush=True)
        write(rows)


if __name__ == "__main__":
    _serve()
