"""Several labels per image: this package and a plain PyTorch loop, on pairs of digits or on photos from weights.

`python -m benchmarks multilabel` makes pairs of scikit-learn's digits. `python -m benchmarks.multilabel --data DIR
--weights FILE` reads photos: `DIR/train`, `DIR/test` and files of labels `DIR/train.csv` and `DIR/test.csv`.
scikit-learn computes all metrics from the probabilities and the labels that the programs give the test images.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from sklearn.model_selection import train_test_split

from benchmarks.accuracy_sets import model_name
from benchmarks.multilabel_peer import Images
from benchmarks.processes import run_watched
from benchmarks.results import table, write_section
from samples.digits import write_pairs
from train_pytorch_model.cli.main import main as run_command

PROGRAMS = ("ours", "loop")
_HEAD = ("network", "program", "mean average precision", "of each seed", "micro F1", "macro F1", "exact", "seconds")
_VALID_FRACTION = 0.2


@dataclass(frozen=True)
class Job:
    """A network, what it trains on, and the arguments of both programs."""

    network: str
    images: Path
    """Has the ImageDirectories `train`, `valid` and `test`."""
    weights: Path | None
    own: tuple[object, ...]
    loop: tuple[object, ...]


@dataclass(frozen=True)
class Result:
    """What came of a run, on the test images."""

    average_precision: float
    micro_f1: float
    macro_f1: float
    exact: float
    """The fraction of images with exactly the true labels."""
    seconds: float
    """From the start of the process to the written model."""


def measure(work_path: Path) -> None:
    """Compare the programs on pairs of digits, from random weights."""
    digits = np.arange(len(load_digits().target))
    parts = train_test_split(digits, test_size=0.2, random_state=0, stratify=load_digits().target)
    for part, indices in zip(("train", "test"), parts):
        write_pairs(work_path / "given" / part, indices.tolist())
    _convert(work_path, "--task", "multilabel")
    fixed = ("--epochs", 6, "--learning-rate", 0.02)
    job = Job("resnet18", work_path, None, ("--recipe", "classic", "--patience", 6, *fixed), fixed)
    results = _run_all(job, (1, 2, 3), work_path)
    text = "Pairs of digits of 64x32, from random weights, 6 epochs with batch size 16. " + _about(work_path, results)
    write_section("multilabel", f"{text}\n\n{table(_HEAD, _rows(job, results))}")


def measure_photos(arguments: argparse.Namespace, work_path: Path) -> None:
    """Compare the programs on photos, from weights: ours with default options, the loop with five epochs."""
    for part in ("train", "test"):
        shutil.copytree(arguments.data / part, work_path / "given" / part)
        shutil.copy(arguments.data / f"{part}.csv", work_path / "given" / part / "labels.csv")
    separator = ("--label-separator", arguments.label_separator) if arguments.label_separator else ()
    _convert(work_path, "--task", "multilabel", *separator)
    network = arguments.weights.name.partition(".")[0]
    job = Job(network, work_path, arguments.weights, (), ("--epochs", 5, "--learning-rate", 0.001))
    results = _run_all(job, arguments.seeds, work_path)
    text = f"Photos of {arguments.data.resolve().name}. " + _about(work_path, results)
    command = "python -m benchmarks.multilabel --data DIR --weights FILE"
    write_section("multilabel photos", f"{text}\n\n{table(_HEAD, _rows(job, results))}", command)


def _convert(work_path: Path, *options: object) -> None:
    """Write ImageDirectories of the given images, and hold back validation images."""
    for part, target in (("train", "all"), ("test", "test")):
        given, output = work_path / "given" / part, work_path / target
        _call("convert-to-image-directory", "--input-path", given, "--output-path", output, *options)
    parts = ("--tgt-train-path", work_path / "train", "--tgt-test-path", work_path / "valid")
    _call("split-image-directory", "--src-path", work_path / "all", "--fraction", 1 - _VALID_FRACTION, *parts)


def _call(*arguments: object) -> None:
    """Run one of our commands in this process."""
    with tempfile.TemporaryDirectory(prefix="multilabel-outputs-") as outputs:
        if run_command([*map(str, arguments), "--outputs-path", outputs, "--quiet"]):
            raise RuntimeError(f"{arguments[0]} failed")


def _run_all(job: Job, seeds: tuple[int, ...], work_path: Path) -> dict[str, list[Result]]:
    weights = ("--weights", job.weights) if job.weights else ()
    initialize = ("initialize-model", "--model-name", model_name(job.network), *weights)
    _call(*initialize, "--untrained-model-path", work_path / "untrained")
    results = defaultdict(list)
    for seed in seeds:
        for program in PROGRAMS if seed % 2 else PROGRAMS[::-1]:
            result = (_run_own if program == "ours" else _run_loop)(job, seed, work_path / f"{program}{seed}")
            print(f"{job.network}, {program}, seed {seed}: {result}", flush=True)
            results[program].append(result)
    return results


def _run_own(job: Job, seed: int, path: Path) -> Result:
    data = job.images
    trained = run_watched(
        [
            *(sys.executable, "-m", "train_pytorch_model", "train", "--untrained-model-path", data / "untrained"),
            *("--train-data-path", data / "train", "--valid-data-path", data / "valid"),
            *("--trained-model-path", path / "trained", "--outputs-path", path / "outputs", "--report", "off"),
            *("--random-seed", seed, *job.own),
        ]
    )
    score = ("score-image-model", "--trained-model", path / "trained", "--dataset", data / "test")
    _call(*score, "--scored-dataset", path / "scored")
    _call("evaluate-model", "--scored-dataset", path / "scored", "--evaluation-path", path / "evaluation")
    test = _test_images(data)
    frame = pd.read_parquet(path / "scored" / "_data.parquet")
    probabilities = frame[[f"Scored Probabilities_{name}" for name in test.names]].to_numpy()
    said = [json.loads(labels) for labels in frame["Scored Labels"]]
    found = np.array([[name in labels for name in test.names] for labels in said])
    result = _result(test.labels, probabilities, found, trained.seconds)
    _compare(result, json.loads((path / "evaluation" / "metrics.json").read_text(encoding="utf-8")))
    return result


def _run_loop(job: Job, seed: int, path: Path) -> Result:
    path.mkdir()
    weights = ("--weights", job.weights) if job.weights else ()
    usage = run_watched(
        [
            *(sys.executable, "-m", "benchmarks.multilabel_peer", "--network", job.network, "--images", job.images),
            *("--model", path / "model", "--random-seed", seed, *weights, *job.loop),
        ]
    )
    answer = json.loads(usage.output.strip().splitlines()[-1])
    test = _test_images(job.images)
    order = [answer["names"].index(name) for name in test.names]
    probabilities = np.array(answer["probabilities"])[:, order]
    return _result(test.labels, probabilities, probabilities >= 0.5, usage.seconds - answer["scoring_seconds"])


def _test_images(images: Path) -> Images:
    return Images(images / "test")


def _result(labels: np.ndarray, probabilities: np.ndarray, found: np.ndarray, seconds: float) -> Result:
    present = labels.any(axis=0)
    return Result(
        average_precision_score(labels[:, present], probabilities[:, present], average="macro"),
        f1_score(labels, found, average="micro", zero_division=0),
        f1_score(labels[:, present], found[:, present], average="macro", zero_division=0),
        accuracy_score(labels, found),
        seconds,
    )


def _compare(result: Result, metrics: dict[str, Any]) -> None:
    """Check that Evaluate Model's metrics are those of scikit-learn."""
    evaluated = (
        metrics["average_precision"],
        metrics["micro"]["f1"],
        metrics["macro"]["f1"],
        metrics["subset_accuracy"],
    )
    expected = (result.average_precision, result.micro_f1, result.macro_f1, result.exact)
    if not np.allclose(evaluated, expected, rtol=0, atol=1e-9):
        raise RuntimeError(f"Evaluate Model computes {evaluated}, and scikit-learn {expected}")


def _about(images: Path, results: dict[str, list[Result]]) -> str:
    counts = ", ".join(str(len(Images(images / part))) for part in ("train", "valid", "test"))
    num_labels = len(_test_images(images).names)
    return (
        f"{num_labels} labels; {counts} images for training, validation and test. Metrics are of the written model on "
        f"the test images, means of {len(results['ours'])} seeds; exact is the fraction of images with exactly the "
        "true labels. Seconds are from the start of the process to the written model."
    )


def _rows(job: Job, results: dict[str, list[Result]]) -> list[list[str]]:
    rows = []
    for program in PROGRAMS:
        of_seeds = results[program]
        means = [fmean(getattr(result, name) for result in of_seeds) for name in ("micro_f1", "macro_f1", "exact")]
        rows.append(
            [
                *(job.network, program, f"{fmean(result.average_precision for result in of_seeds):.3f}"),
                ", ".join(f"{result.average_precision:.3f}" for result in of_seeds),
                *(f"{mean:.3f}" for mean in means),
                f"{fmean(result.seconds for result in of_seeds):.1f}",
            ]
        )
    return rows


def main() -> None:
    """Run the benchmark on photos."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.multilabel", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="Has train, test, train.csv and test.csv.")
    parser.add_argument("--weights", type=Path, required=True, help="Of a network of torchvision or timm: NETWORK.pth.")
    parser.add_argument("--label-separator", help="What is between several labels of an image in the files of labels.")
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3))
    with tempfile.TemporaryDirectory(prefix="multilabel-") as work_path:
        measure_photos(parser.parse_args(), Path(work_path))


if __name__ == "__main__":
    main()
