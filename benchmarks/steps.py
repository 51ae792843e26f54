"""Steps per second after the first epoch: this package, a textbook loop, torchvision's recipe, and the limit.

This package makes PyTorch deterministic for the whole process, so its programs and those to compare with run in
processes of their own, which take turns. `python -m benchmarks.steps NETWORK SIZE BATCH STEPS PATH GROUP` is such a
process: it prints the names of its programs, then trains an epoch of a program for each name that it reads.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Callable

import numpy as np
import torch
import torchvision

from benchmarks.datasets import NUM_CLASSES, write_digits, write_photos
from benchmarks.peers import COMPILED, RECIPE, TEXTBOOK, DataLoaderTraining, Style
from benchmarks.results import kind, ratio, table, write_section
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import DecodedImages, decode_all
from train_pytorch_model.data.placement import choose_place
from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.callbacks import Callback
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.epoch import train_epoch
from train_pytorch_model.training.graph import CapturedStep, use_cuda_graph
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep

_NUM_ROUNDS = 3
# The others are measured without the compiled program if its compilation takes longer, as that of densenet201 does.
_COMPILE_SECONDS = 120.0
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
    images = sorted((path / "train").glob("*/*"))
    classes = sorted({image.parent.name for image in images})
    labels = np.array([classes.index(image.parent.name) for image in images])
    place = choose_place("auto", len(images) * case.size**2 * 3, device)
    store, _ = decode_all(
        lambda index: images[index], labels, Geometry((case.size, case.size)), place=place, device=device
    )
    torch.manual_seed(0)
    network = torchvision.models.get_model(case.network, num_classes=NUM_CLASSES).to(device)
    precision = choose_precision("auto", device, network)
    plan = Plan(NUM_CLASSES, 10, case.batch_size, _LEARNING_RATE, 0, 10, 1, 10, precision, torch.channels_last)
    step = TrainingStep(network, plan, device)
    is_graph = use_cuda_graph("auto", device, num_steps=1000, is_known=True)
    run_step = CapturedStep(step, case.batch_size) if is_graph else step

    def ours() -> int:
        step.begin_epoch(_LEARNING_RATE)
        train_epoch(TrainingState(step, BestModel(), EarlyStopping(1)), run_step, store, plan, world, Callback())
        return len(store) // case.batch_size

    pixels = torch.randint(0, 256, (case.batch_size, case.size, case.size, 3), dtype=torch.uint8, device=device)
    one = DecodedImages(pixels.permute(0, 3, 1, 2), torch.randint(0, NUM_CLASSES, (case.batch_size,), device=device))

    def limit() -> int:
        step.begin_epoch(_LEARNING_RATE)
        for _ in range(case.num_steps):
            run_step(one.pixels, one.labels, 1.0)
        step.sums.read(world)
        return case.num_steps

    return {"ours": ours, "limit": limit}


def _peer_epochs(case: Case, path: Path) -> dict[str, Callable[[], int]]:
    return {style.name: _peer_epoch(style, case, path) for style in (TEXTBOOK, RECIPE)}


def _compiled_epochs(case: Case, path: Path) -> dict[str, Callable[[], int]]:
    # Compilation for a CPU takes minutes, and a compiler that not every machine has.
    return {COMPILED.name: _peer_epoch(COMPILED, case, path)} if torch.cuda.is_available() else {}


def _peer_epoch(style: Style, case: Case, path: Path) -> Callable[[], int]:
    return DataLoaderTraining(style, case.network, path, case.batch_size, _LEARNING_RATE).epoch


# Each in a process of its own.
_GROUPS = {"ours": _our_epochs, "peers": _peer_epochs, "compiled": _compiled_epochs}


def _serve() -> None:
    """Train an epoch for each name on the standard input; print the steps per second."""
    network, size, batch_size, num_steps, path, group = sys.argv[1:]
    case = Case(network, int(size), int(batch_size), int(num_steps))
    epochs = _GROUPS[group](case, Path(path))
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
        words = [case.network, case.size, case.batch_size, case.num_steps, path, group]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.steps", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def warm_up(self) -> list[str]:
        """Train an epoch of each program; return their names."""
        names: list[str] = json.loads(self._read() or "[]")
        return [name for name in names if self.run(name) is not None]

    def run(self, name: str) -> float | None:
        """Train an epoch; return the steps per second, or None if the process has ended."""
        if self._process.stdin is None:
            raise AssertionError("the process has no standard input")
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{name}\n")
            self._process.stdin.flush()
        line = self._read()
        return float(line) if line else None

    def _read(self) -> str:
        return self._process.stdout.readline() if self._process.stdout else ""

    def end(self) -> None:
        """End the process, which frees its memory."""
        self._process.kill()
        self._process.wait()


def _end(groups: list[_Programs]) -> None:
    for group in groups:
        group.end()


def measure_case(case: Case, path: Path, seconds: float | None = None) -> list[str]:
    """Return a row of the table. A program that fails has empty cells.

    Args:
        case: what to train.
        path: has the images, in the layout of `benchmarks.datasets`.
        seconds: the time after which programs that have not finished are ended.
    """
    speeds: dict[str, list[float]] = defaultdict(list)
    groups = [_Programs(case, path, group) for group in _GROUPS]
    timer = threading.Timer(seconds or threading.TIMEOUT_MAX, _end, [groups])
    compilation = threading.Timer(_COMPILE_SECONDS, _end, [groups[list(_GROUPS).index("compiled") :]])
    timer.start()
    compilation.start()
    try:
        with ThreadPoolExecutor(len(groups)) as pool:  # side by side, because compilation takes minutes
            warm = zip(groups, pool.map(_Programs.warm_up, groups))
            programs = [(group, name) for group, names in warm for name in names]
        compilation.cancel()
        for number in range(_NUM_ROUNDS):
            for group, name in programs if number % 2 else reversed(programs):
                speed = group.run(name)
                if speed is not None:
                    speeds[name].append(speed)
    finally:
        timer.cancel()
        compilation.cancel()
        _end(groups)
    names = ("textbook", "recipe", "compiled", "limit")
    medians = [f"{median(speeds[name]):.2f}" if speeds[name] else "" for name in ("ours", *names)]
    ratios = [ratio(speeds["ours"], speeds[name]) if speeds["ours"] and speeds[name] else "" for name in names]
    return [str(case), *medians, *ratios]


def cases() -> list[tuple[Case, str]]:
    """Return the cases for this machine with the kind of their images, the smallest first."""
    if kind() == "cpu":
        networks = ("resnet18", "resnet50", "densenet121", "densenet201")
        return [(Case("resnet18", 64, 16, 60), "digits"), *((Case(name, 224, 16, 6), "photos") for name in networks)]
    return [
        (Case("resnet18", 64, 16, 89), "digits"),
        (Case("resnet50", 224, 16, 64), "photos"),
        (Case("resnet50", 224, 128, 12), "photos"),
        (Case("densenet201", 224, 16, 64), "photos"),
        (Case("densenet201", 224, 128, 12), "photos"),
    ]


def make_images(work_path: Path) -> dict[str, Path]:
    """Write the images of all cases; return their folders."""
    num_photos = max(case.batch_size * case.num_steps for case, images in cases() if images == "photos")
    return {"photos": write_photos(work_path / "steps", num_photos, 16), "digits": write_digits(work_path / "digits")}


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
