"""The modules around training: scaling with the number of images, and comparisons with limits and retired modules."""

from __future__ import annotations

import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch
import torchvision

from benchmarks.datasets import make_photos
from benchmarks.processes import Usage, run_watched
from benchmarks.results import kind, ratio, table, write_section
from tests import environments
from train_pytorch_model.data.batches import normalised
from train_pytorch_model.data.decoding import decode
from train_pytorch_model.data.threads import in_threads
from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.models.memory_format import preferred_memory_format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_COUNTS = (5_000, 20_000)
_SIZE = 64
_NUM_ROUNDS = 3
_NUM_PHOTOS = 1_000
_PHOTO_SIZE = 224
_BATCH_SIZE = 16
_NETWORK = "resnet18"
_RETIRED = "azureml.designer.modules"
_CONVERT = f"{_RETIRED}.computer_vision.preprocess.convert_to_image_directory.convert_to_image_directory"
_SPLIT = f"{_RETIRED}.computer_vision.preprocess.split_image_directory.split_image_directory"
_APPLY = f"{_RETIRED}.computer_vision.transform.apply_image_transformation.apply_image_transformation"
_SCORE = f"{_RETIRED}.dl.pytorch.score.score_image_model.module_invoker"


def _ours(command: str, outputs: Path, *arguments: object) -> Usage:
    line = [sys.executable, "-m", "train_pytorch_model", command, *arguments, "--outputs-path", outputs]
    return run_watched(line, interval_seconds=1.0)


def _seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _copy(files: Sequence[Path], target: Path) -> None:
    target.mkdir()
    for _ in in_threads(lambda number: shutil.copyfile(files[number], target / str(number)), len(files)):
        pass


def _decode(files: Sequence[Path]) -> None:
    for _ in in_threads(lambda number: decode(files[number]), len(files)):
        pass


def _forward(count: int, size: int) -> None:
    """Run the forward passes that scoring needs, on a batch that stays on the device."""
    device = choose_device()
    network = torchvision.models.get_model(_NETWORK, num_classes=10).eval().to(device)
    memory_format = preferred_memory_format(network, (size, size), device)
    pixels = torch.zeros(_BATCH_SIZE, 3, size, size, dtype=torch.uint8, device=device)
    with torch.no_grad():
        for _ in range(count // _BATCH_SIZE):
            network(normalised(pixels, memory_format))
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _write_model(path: Path) -> None:
    """Write a trained model, after one epoch on a tiny dataset."""
    images = make_photos(path / "few", 32, 32, size=_SIZE)
    untrained = path / "untrained_model"
    _ours("initialize-model", path, "--model-name", _NETWORK, "--untrained-model-path", untrained)
    _ours(
        "train",
        path,
        "--untrained-model-path",
        untrained,
        "--trained-model-path",
        path / "trained_model",
        "--train-data-path",
        images / "train_data",
        "--valid-data-path",
        images / "valid_data",
        "--epochs",
        1,
    )


def _grow(work_path: Path) -> list[list[str]]:
    rows = []
    for count in _COUNTS:
        path = work_path / str(count)
        photos = make_photos(path, count, 10, size=_SIZE)
        files = sorted((photos / "train").rglob("*.jpg"))
        convert = _ours(
            "convert-to-image-directory", path, "--input-path", photos / "train", "--output-path", path / "made"
        )
        parts = ("--tgt-train-path", path / "first", "--tgt-test-path", path / "second")
        split = _ours("split-image-directory", path, "--src-path", path / "made", *parts)
        score = _ours(
            "score-image-model",
            path,
            "--trained-model",
            work_path / "trained_model",
            "--dataset",
            path / "made",
            "--scored-dataset",
            path / "scored",
        )
        copying = _seconds_of(lambda path=path, files=files: _copy(files, path / "copy"))  # type: ignore[misc]
        decoding = _seconds_of(lambda files=files: _decode(files))  # type: ignore[misc]
        forward = _seconds_of(lambda count=count: _forward(count, _SIZE))  # type: ignore[misc]
        for name, usage, limit, what in (
            ("convert", convert, copying + decoding, "copy and decode"),
            ("split", split, copying, "copy"),
            ("score", score, forward, "forward passes"),
        ):
            rows.append(
                [
                    name,
                    f"{count:,}",
                    f"{usage.seconds:.1f}",
                    f"{limit:.1f} ({what})",
                    f"{limit / usage.seconds:.2f}",
                    f"{usage.anonymous_bytes / 2**20:,.0f}",
                ]
            )
            print(rows[-1], flush=True)
        shutil.rmtree(path)
    return rows


def _compare_with_retired(work_path: Path) -> list[list[str]]:
    """Compare the times of equal command lines, of this package and of the retired modules, in alternating order."""
    photos = make_photos(work_path / "photos", _NUM_PHOTOS, 10, size=_PHOTO_SIZE)
    how = work_path / "transformation"
    flags = ("--random-resized-crop", True, "--random-horizontal-flip", True)
    _ours("init-image-transformation", work_path, "--output-path", how, *flags)
    data = photos / "train_data"
    target, second = work_path / "target", work_path / "second_target"
    scoring = ("--trained-model", work_path / "trained_model", "--dataset", data, "--scored-dataset", target)
    jobs: dict[str, tuple[str, str, tuple[object, ...]]] = {
        "convert": (
            "convert-to-image-directory",
            _CONVERT,
            ("--input-path", photos / "train", "--output-path", target),
        ),
        "split": (
            "split-image-directory",
            _SPLIT,
            ("--src-path", data, "--tgt-train-path", target, "--tgt-test-path", second),
        ),
        "apply transformation": (
            "apply-image-transformation",
            _APPLY,
            (
                "--mode",
                "For training",
                "--input-image-transform-path",
                how,
                "--input-image-dir-path",
                data,
                "--output-path",
                target,
            ),
        ),
        "score": ("score-image-model", _SCORE, scoring),
        "score, ours with --precision auto": ("score-image-model", _SCORE, scoring),
    }
    rows = []
    for name, (command, module, arguments) in jobs.items():
        seconds: dict[str, list[float]] = defaultdict(list)
        for number in range(_NUM_ROUNDS):
            for who in ("ours", "retired") if number % 2 else ("retired", "ours"):
                for path in (target, second):
                    shutil.rmtree(path, ignore_errors=True)
                if who == "ours":
                    more = ("--precision", "auto") if name.endswith("auto") else ()
                    usage = _ours(command, work_path, *arguments, *more)
                else:
                    usage = run_watched([environments.retired(), "-m", module, *arguments], interval_seconds=1.0)
                seconds[who].append(usage.seconds)
        medians = [f"{median(seconds[who]):.1f}" for who in ("ours", "retired")]
        rows.append([name, f"{_NUM_PHOTOS:,}", *medians, ratio(seconds["retired"], seconds["ours"])])
        print(rows[-1], flush=True)
    return rows


def measure(work_path: Path) -> None:
    """Run the benchmark and write its section."""
    _write_model(work_path)
    head = ["module", "images", "seconds", "limit in seconds", "limit / seconds", "RssAnon (peak, MiB)"]
    text = (
        f"JPEGs of {_SIZE}x{_SIZE}. Seconds of the whole process, including imports. The limit is the time of the work "
        f"that cannot be avoided, measured in the same run.\n\n{table(head, _grow(work_path))}"
    )
    if kind() == "cpu":
        head = ["module", "images", "ours", "retired", "retired / ours"]
        text += (
            f"\n\nJPEGs of {_PHOTO_SIZE}x{_PHOTO_SIZE}. Seconds of the whole process, medians of {_NUM_ROUNDS} runs in "
            f"alternating order. Scoring uses {_NETWORK}.\n\n{table(head, _compare_with_retired(work_path))}"
        )
    write_section("companions", text)
