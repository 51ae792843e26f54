"""Generates the images that benchmarks train on; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from samples.digits import write_image_folders
from train_pytorch_model.designer_core import load_image_directory

NUM_CLASSES = 10
PARTS = ("train", "valid")


def make_photos(path: Path, num_train: int, num_valid: int, size: int = 224) -> Path:
    """Write photos with `write_photos`, and both parts as ImageDirectories: `train_data` and `valid_data`."""
    return _dump(write_photos(path, num_train, num_valid, size))


def make_digits(path: Path) -> Path:
    """Write digits with `write_digits`, and both parts as ImageDirectories: `train_data` and `valid_data`."""
    return _dump(write_digits(path))


def write_photos(path: Path, num_train: int, num_valid: int, size: int = 224) -> Path:
    """Write JPEGs that resemble photos, with smooth shapes and fine noise; each class has its own color and scale.

    Args:
        path: gets `train` and `valid`, each with one folder per class.
        num_train: number of images in `train`.
        num_valid: number of images in `valid`.
        size: width and height of the images in pixels.
    """
    random = np.random.default_rng(0)
    for part, count in zip(PARTS, (num_train, num_valid)):
        for index in range(count):
            folder = path / part / f"class{index % NUM_CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            _photo(random, index % NUM_CLASSES, size).save(folder / f"{index}.jpg", quality=88)
    return path


def write_digits(path: Path) -> Path:
    """Write scikit-learn's handwritten digits at 64x64 in the same layout: 1,437 for training, 360 for validation."""
    write_image_folders(path)
    return path


def _dump(path: Path) -> Path:
    for part in PARTS:
        load_image_directory(path / part).dump(str(path / f"{part}_data"))
    return path


def _photo(random: np.random.Generator, label: int, size: int) -> Image.Image:
    color = np.random.default_rng(label).integers(60, 196, 3)
    cells = 3 + label
    coarse = np.clip(color + random.normal(0, 60, (cells, cells, 3)), 0, 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray(np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8))
