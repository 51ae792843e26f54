"""Compares several processes with one, and measures the cost of checkpoints, by the timings of the real command."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from statistics import median

import torch

from benchmarks.datasets import make_digits
from benchmarks.processes import run_watched
from benchmarks.results import kind, ratio, table, write_section
from train_pytorch_model.cli.main import main

_NUM_ROUNDS = 2
_EPOCHS = 3
_EPOCHS_WITH_CHECKPOINTS = 8
_NETWORKS = ("resnet18",)


def _train(images: Path, work_path: Path, network: str, num_processes: int, *flags: object) -> tuple[list[float], str]:
    """Train; return the images per second of each epoch except the first, and the log."""
    outputs = work_path / "outputs"
    for path in (outputs, work_path / "trained"):
        shutil.rmtree(path, ignore_errors=True)
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={num_processes}"] if num_processes > 1 else []
    command: list[object] = [
        *(sys.executable, *launcher, "-m", "train_pytorch_model", "train"),
        *("--untrained-model-path", work_path / network, "--trained-model-path", work_path / "trained"),
        *("--train-data-path", images / "train_data", "--valid-data-path", images / "valid_data"),
        *("--outputs-path", outputs, "--patience", 1000, "--report", "off", *flags),
    ]
    log = run_watched(command).output
    lines = (outputs / "timings.jsonl").read_text(encoding="utf-8").splitlines()
    return [float(line.split('"train_images_per_second": ')[1].rstrip("}")) for line in lines][1:], log


def measure(work_path: Path) -> None:
    """Run the benchmark and write its section."""
    images = make_digits(work_path / "digits")
    num_processes = max(2, torch.cuda.device_count())
    contenders = {"one process": 1, f"{num_processes} processes": num_processes}
    rows = []
    for network in _NETWORKS:
        if main(["initialize-model", "--model-name", network, "--untrained-model-path", str(work_path / network)]):
            raise RuntimeError("the untrained model could not be written")
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(_NUM_ROUNDS):
            for name in list(contenders) if number % 2 else reversed(list(contenders)):
                found, _ = _train(images, work_path, network, contenders[name], "--epochs", _EPOCHS)
                speeds[name] += found
        one = speeds["one process"]
        rows += [[network, name, f"{median(found):.0f}", ratio(found, one)] for name, found in speeds.items()]
    text = (
        f"Images per second after the first epoch, at 64x64 and batch size 16 per process, {_NUM_ROUNDS} runs in "
        f"alternating order.{'' if kind() == 'gpu' else ' All runs use all cores. Two processes use gloo.'}"
    )
    _, log = _train(images, work_path, "resnet18", 1, "--epochs", _EPOCHS_WITH_CHECKPOINTS)
    waited = re.search(r"Training waited .*", log)
    shown = waited[0] if waited else "The run was too short for a checkpoint."
    num_written = log.count("Checkpoint of epoch")
    head = ["network", "processes", "images per second", "relative to one process"]
    run = f"{_EPOCHS_WITH_CHECKPOINTS} epochs of resnet18 with default options"
    checkpoints = f"Checkpoints in {run}: {num_written}. {shown}"
    write_section("distributed", f"{text}\n\n{table(head, rows)}\n\n{checkpoints}")
