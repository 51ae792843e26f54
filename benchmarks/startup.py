"""Time from process start to the first training step, without imports and decoding."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from benchmarks.datasets import make_photos
from benchmarks.results import table, write_section
from train_pytorch_model.cli.main import main

_NETWORKS = ("resnet18", "densenet201")
_NUM_ROUNDS = 5


def _until_training(network: str, images: Path, work_path: Path) -> float:
    """Return the seconds from process start to the log line before the first step, without decoding."""
    trained = work_path / "startup_trained"
    shutil.rmtree(trained, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "train_pytorch_model", "train", "--untrained-model-path", work_path / network),
        *("--report", "off"),
        *("--train-data-path", images / "train_data", "--valid-data-path", images / "valid_data"),
        *("--trained-model-path", trained, "--outputs-path", work_path / "startup_outputs", "--epochs", 1),
    ]
    started = time.perf_counter()
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as process:
        decoding = 0.0
        for line in process.stderr or ():
            found = re.search(r"images decoded in ([\d.]+) s", line)
            decoding += float(found[1]) if found else 0
            if re.search(r" INFO Training \S+ on \d+ images", line):
                seconds = time.perf_counter() - started
                process.kill()
                return seconds - decoding
    raise RuntimeError("training did not start")


def _import_seconds() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, torchvision"], check=True)
    return time.perf_counter() - started


def measure(work_path: Path) -> None:
    """Run the benchmark and write its section."""
    images = make_photos(work_path / "startup", 64, 16)
    seconds: dict[str, list[float]] = defaultdict(list)
    for network in _NETWORKS:
        arguments = ["initialize-model", "--model-name", network, "--untrained-model-path", str(work_path / network)]
        if main([*arguments, "--outputs-path", str(work_path / "startup_outputs")]):
            raise RuntimeError("the untrained model could not be written")
    for _ in range(_NUM_ROUNDS):
        seconds["import"].append(_import_seconds())
        for network in _NETWORKS:
            seconds[network].append(_until_training(network, images, work_path))
    imports = median(seconds["import"])
    rows = [
        [network, f"{median(seconds[network]):.2f}", f"{imports:.2f}", f"{median(seconds[network]) - imports:.2f}"]
        for network in _NETWORKS
    ]
    head = ["network", "start to first step, without decoding", "import torch, torchvision", "difference"]
    write_section("startup", f"Seconds, medians of {_NUM_ROUNDS} runs in alternating order.\n\n{table(head, rows)}")
