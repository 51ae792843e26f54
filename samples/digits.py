"""Runs the sample pipeline on this machine with scikit-learn's handwritten digits.

Nothing is downloaded: scikit-learn contains the 1,797 digits of the UCI test set. The cloud runs the same pipeline.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

IMAGE_SIZE = 64
PIPELINE = Path(__file__).parent / "pipeline.yaml"


def write_image_folders(target: Path) -> None:
    """Write the digits as 64x64 RGB PNGs, one folder per class: 80 % to `train` and 20 % to `valid`, stratified."""
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target)
    for part, indices in zip(("train", "valid"), parts):
        for index in indices:
            folder = target / part / str(digits.target[index])
            folder.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray((digits.images[index] * (255 / 16)).astype(np.uint8))
            grey.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).convert("RGB").save(folder / f"{index}.png")


def main() -> None:
    """Write the images, run the pipeline, and print the path and the accuracy of the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--path",
        type=Path,
        default=Path("sample_run"),
        help="Working folder. It is deleted first. Default: %(default)s.",
    )
    path = parser.parse_args().path
    shutil.rmtree(path, ignore_errors=True)
    write_image_folders(path / "images")
    command = [sys.executable, "-m", "train_pytorch_model", "run-pipeline", str(PIPELINE)]
    for part in ("train", "valid"):
        command += ["--input", f"{part}_images={path / 'images' / part}"]
    command += ["--output-path", str(path / "run"), "--outputs-path", str(path / "reports")]
    print("$ python " + " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)
    report = json.loads((path / "run" / "outputs" / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    print(f"Trained model: {path / 'run' / 'outputs' / 'trained_model'}")
    print(f"Training report: {path / 'run' / 'steps' / 'train' / 'work' / 'outputs' / 'report' / 'report.html'}")
    print(f"Evaluation plots: {path / 'run' / 'outputs' / 'evaluation'}")
    print(f"Validation accuracy: {report['accuracy']:.4f}")


if __name__ == "__main__":
    main()
