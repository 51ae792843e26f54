"""Runs a sample pipeline on this machine with scikit-learn's handwritten digits.

Nothing is downloaded: scikit-learn contains the 1,797 digits of the UCI test set. The cloud runs the same pipeline.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGE_SIZE = 64
_PAIR_HEIGHT = 32
# Of five places for digits, one stays empty, so that some images have no digit.
_PLACES_PER_EMPTY_PLACE = 5
_SAMPLES = Path(__file__).parent


def write_image_folders(target: Path) -> None:
    """Write the digits as 64x64 RGB PNGs, one folder per class: 80 % to `train` and 20 % to `valid`, stratified."""
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target)
    for part, indices in zip(("train", "valid"), parts):
        for index in indices:
            folder = target / part / str(digits.target[index])
            folder.mkdir(parents=True, exist_ok=True)
            picture = _picture(digits.images[index], (IMAGE_SIZE, IMAGE_SIZE))
            picture.save(folder / f"{index}.png")


def write_pairs(target: Path, indices: Sequence[int] | None = None, seed: int = 0) -> None:
    """Write 64x32 RGB PNGs of up to two digits side by side, and `labels.csv` with the digits of each image.

    Args:
        target: gets the files.
        indices: of the digits to use, each of them once; all by default.
        seed: of the order of the digits, of the places that stay empty and of a little noise, without which images of
            no digit would be equal.
    """
    digits = load_digits()
    used: list[int | None] = [*(range(len(digits.target)) if indices is None else indices)]
    used += [None] * (len(used) // (_PLACES_PER_EMPTY_PLACE - 1))
    random = np.random.default_rng(seed)
    order = random.permutation(len(used))
    target.mkdir(parents=True, exist_ok=True)
    with (target / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["filename", "labels"])
        for number, places in enumerate(zip(order[::2], order[1::2])):
            pair = [used[place] for place in places]
            grey = np.hstack([np.zeros((8, 8)) if index is None else digits.images[index] for index in pair])
            noisy = np.minimum(grey + random.uniform(0, 1, grey.shape), 16)
            _picture(noisy, (2 * _PAIR_HEIGHT, _PAIR_HEIGHT)).save(target / f"{number}.png")
            labels = sorted({str(digits.target[index]) for index in pair if index is not None})
            rows.writerow([f"{number}.png", ";".join(labels)])


def _picture(grey: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return values from 0 to 16 as an RGB picture of a size (width, height)."""
    picture = Image.fromarray((grey * (255 / 16)).astype(np.uint8))
    return picture.resize(size, Image.Resampling.BICUBIC).convert("RGB")


def main() -> None:
    """Write the images, run the pipeline, and print the path of the model and how good it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--path",
        type=Path,
        default=Path("sample_run"),
        help="Working folder. It is deleted first. Default: %(default)s.",
    )
    parser.add_argument(
        "--multilabel", action="store_true", help="Run the pipeline for several labels, on pairs of digits."
    )
    arguments = parser.parse_args()
    path = arguments.path
    shutil.rmtree(path, ignore_errors=True)
    if arguments.multilabel:
        write_pairs(path / "pairs")
        pipeline, inputs = _SAMPLES / "pipeline_multilabel.yaml", {"images": path / "pairs"}
    else:
        write_image_folders(path / "images")
        pipeline = _SAMPLES / "pipeline.yaml"
        inputs = {f"{part}_images": path / "images" / part for part in ("train", "valid")}
    command = [sys.executable, "-m", "train_pytorch_model", "run-pipeline", str(pipeline)]
    for name, given in inputs.items():
        command += ["--input", f"{name}={given}"]
    command += ["--output-path", str(path / "run"), "--outputs-path", str(path / "reports")]
    print("$ python " + " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)
    report = json.loads((path / "run" / "outputs" / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    print(f"Trained model: {path / 'run' / 'outputs' / 'trained_model'}")
    print(f"Training report: {path / 'run' / 'steps' / 'train' / 'work' / 'outputs' / 'report' / 'report.html'}")
    print(f"Evaluation plots: {path / 'run' / 'outputs' / 'evaluation'}")
    if arguments.multilabel:
        print(f"Mean average precision on the validation images: {report['average_precision']:.4f}")
    else:
        print(f"Validation accuracy: {report['accuracy']:.4f}")


if __name__ == "__main__":
    main()
