"""The sample: scikit-learn's handwritten digits, from images to a trained model, with the commands of the module.

Nothing is downloaded: the 1,797 digits of the UCI test set come with scikit-learn.
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

from train_pytorch_model.designer_core import load_image_directory

IMAGE_SIZE = 64


def write_image_folders(target: Path) -> None:
    """Write the digits as 64x64 RGB PNGs, one folder a class: 80 % under `train`, 20 % under `valid`, stratified."""
    digits = load_digits()
    parts = train_test_split(np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target)
    for part, indices in zip(("train", "valid"), parts):
        for index in indices:
            folder = target / part / str(digits.target[index])
            folder.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray((digits.images[index] * (255 / 16)).astype(np.uint8))
            grey.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).convert("RGB").save(folder / f"{index}.png")


def run_module(*arguments: object) -> None:
    """Run one command of the module, as a pipeline does."""
    command = [sys.executable, "-m", "train_pytorch_model", *map(str, arguments)]
    print("$ python " + " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    """Make the inputs, train, and say where the model lies and how good it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", type=Path, default=Path("sample_run"), help="Folder to work in, made anew.")
    path = parser.parse_args().path
    shutil.rmtree(path, ignore_errors=True)
    write_image_folders(path / "images")
    for part in ("train", "valid"):
        load_image_directory(path / "images" / part).dump(str(path / f"{part}_data"))
    outputs = ("--outputs-path", path / "outputs")
    run_module(
        "initialize-model", "--model-name", "resnet18", "--untrained-model-path", path / "untrained_model", *outputs
    )
    run_module(
        "train",
        *("--untrained-model-path", path / "untrained_model"),
        *("--train-data-path", path / "train_data"),
        *("--valid-data-path", path / "valid_data"),
        *("--trained-model-path", path / "trained_model"),
        *("--epochs", 5, "--learning-rate", 0.02),
        *outputs,
    )
    metrics = (path / "outputs" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    best = max((json.loads(line) for line in metrics), key=lambda record: (record["top1_acc"], -record["valid_loss"]))
    print(f"Trained model: {path / 'trained_model'}")
    print(f"Validation accuracy: {best['top1_acc']:.4f} (epoch {best['epoch']})")


if __name__ == "__main__":
    main()
