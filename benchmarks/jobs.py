"""Whole jobs of five epochs, from process start to end: this package, a textbook loop, the retired Train module."""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.datasets import make_digits, make_photos
from benchmarks.processes import Usage, run_watched
from benchmarks.results import kind, ratio, table, write_section
from tests import environments
from train_pytorch_model.cli.main import main
from train_pytorch_model.data.batches import normalised
from train_pytorch_model.data.decoding import read_size
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import decode_all
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.untrained_model import read_untrained_model

_RETIRED = "azureml.designer.modules.dl.pytorch"
_NUM_ROUNDS = 3
_EPOCHS = 5
_BATCH_SIZE = 16
_LEARNING_RATE = 0.02
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Job:
    """A network, its images and the programs that train it."""

    network: str
    images: Path
    size: int
    contenders: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.network} {self.size}x{self.size}"


@dataclass(frozen=True)
class Result:
    """The result of one run."""

    usage: Usage
    accuracy: float


def _run(job: Job, contender: str, seed: int, path: Path) -> Result:
    """Run a contender; `path` has the untrained models and gets the trained one."""
    common = ["--epochs", _EPOCHS, "--batch-size", _BATCH_SIZE, "--learning-rate", _LEARNING_RATE]
    common += ["--random-seed", seed]
    if contender in ("textbook", "recipe"):
        command = [sys.executable, "-m", "benchmarks.peers", contender, "--network", job.network, "--path", job.images]
        usage = run_watched([*command, *common])
        return Result(usage, json.loads(usage.output.strip().splitlines()[-1])["accuracy"])
    trained = path / "trained_model"
    shutil.rmtree(trained, ignore_errors=True)
    ports = ["--train-data-path", job.images / "train_data", "--valid-data-path", job.images / "valid_data"]
    ports += ["--trained-model-path", trained, "--patience", _EPOCHS]
    if contender == "retired":
        command = [environments.retired(), "-m", f"{_RETIRED}.train.train_pytorch_model"]
        usage = run_watched([*command, "--untrained-model-path", path / "retired", *ports, *common])
    else:
        command = [
            sys.executable,
            "-m",
            "train_pytorch_model",
            "train",
            "--outputs-path",
            path / "outputs",
            "--report",
            "off",
        ]
        precision = "float32" if contender == "ours in float32" else "auto"
        usage = run_watched(
            [*command, "--untrained-model-path", path / "ours", *ports, *common, "--precision", precision]
        )
    return Result(usage, _accuracy(trained, job.images / "valid_data"))


def _accuracy(model: Path, data: Path) -> float:
    """Return the top-1 accuracy of a written model in float32, computed by the same code for all programs."""
    trained = read_untrained_model(model, trust_code=False)
    network = trained.description.build().eval()
    network.load_state_dict(trained.state)
    images = read_labelled_images(data, "Validation dataset")
    store, _ = decode_all(images.path_of, images.labels, Geometry(read_size(images.path_of(0))))
    correct = 0
    with torch.inference_mode():
        for pixels, labels in store.batches(torch.split(torch.arange(len(store)), _BATCH_SIZE), _CPU):
            correct += int((network(normalised(pixels, torch.contiguous_format)).argmax(1) == labels).sum())
    return correct / len(store)


def _make_models(job: Job, path: Path) -> None:
    """Write untrained models of the same network with our module and, if it is a contender, the retired one."""
    arguments = ["initialize-model", "--model-name", job.network, "--untrained-model-path", str(path / "ours")]
    if main([*arguments, "--outputs-path", str(path / "outputs")]):
        raise RuntimeError("the untrained model could not be written")
    if "retired" in job.contenders:
        module = "densenet" if "densenet" in job.network else "resnet"
        run_watched(
            [
                *(environments.retired(), "-m", f"{_RETIRED}.initialize_models.vision.classification.{module}"),
                *("--untrained-model-path", path / "retired", "--model-name", job.network, "--pretrained", "False"),
            ]
        )


def _jobs(work_path: Path) -> list[Job]:
    digits = make_digits(work_path / "digits")
    if kind() == "cpu":
        photos = make_photos(work_path / "jobs", 352, 64)
        contenders = ("ours", "textbook", "retired")
        return [
            Job("resnet18", photos, 224, contenders),
            Job("densenet121", photos, 224, contenders),
            Job("resnet18", digits, 64, (*contenders, "ours in float32")),
        ]
    photos = make_photos(work_path / "jobs", 20_000, 1_000)
    return [Job("resnet50", photos, 224, ("ours", "textbook")), Job("resnet18", digits, 64, ("ours", "textbook"))]


def measure(work_path: Path) -> None:
    """Run all jobs; write the section after each of them, so that results are kept if a later job fails."""
    rows: list[list[str]] = []
    for job in _jobs(work_path):
        path = work_path / "models" / str(job).replace(" ", "_")
        _make_models(job, path)
        results: dict[str, list[Result]] = defaultdict(list)
        for seed in range(1, _NUM_ROUNDS + 1):
            for contender in job.contenders if seed % 2 else reversed(job.contenders):
                result = _run(job, contender, seed, path)
                done = f"{job}, {contender}, seed {seed}"
                print(f"{done}: {result.usage.seconds:.1f} s, {result.accuracy:.4f}", flush=True)
                results[contender].append(result)
        ours = [result.usage.seconds for result in results["ours"]]
        for contender in job.contenders:
            usages = [result.usage for result in results[contender]]
            seconds = [usage.seconds for usage in usages]
            rows.append(
                [
                    str(job),
                    contender,
                    f"{median(seconds):.1f}",
                    f"{min(seconds):.1f} to {max(seconds):.1f}",
                    ratio(seconds, ours),
                    f"{max(usage.host_bytes for usage in usages) / 2**20:,.0f}",
                    f"{max(usage.device_bytes for usage in usages) / 2**20:,.0f}",
                    ", ".join(f"{result.accuracy:.4f}" for result in results[contender]),
                ]
            )
        write_section("jobs", _text(rows))


def _text(rows: list[list[str]]) -> str:
    head = ["job", "program", "seconds (median)", "range", "seconds / ours", "host MiB", "GPU MiB", "accuracy"]
    return (
        f"{_EPOCHS} epochs with batch size {_BATCH_SIZE}, from the start of the process to the written model; "
        f"{_NUM_ROUNDS} runs each, in alternating order. MiB are peaks. Validation accuracy is that of seeds 1, 2 and "
        "3: of the written model in float32, or of the best epoch of the textbook loop, which writes no model.\n\n"
        f"{table(head, rows)}"
    )
