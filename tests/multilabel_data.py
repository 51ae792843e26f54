"""Makes datasets of several labels per image, and models without training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from train_pytorch_model.models.description import describe
from train_pytorch_model.ports.image_directory import ImageDirectoryWriter, make_schema
from train_pytorch_model.ports.labelled_images import read_labelled_images
from train_pytorch_model.ports.trained_model import write_trained_model

LABELS = ("cat", "dog", "owl")


def write_multilabel_directory(
    path: Path,
    labels: Sequence[str] = LABELS,
    num_images: int = 12,
    size: int = 32,
    seed: int = 0,
    rows: Sequence[Sequence[str] | None] | None = None,
) -> Path:
    """Noisy images with a bright stripe for each label that they have; the labels are random if `rows` is None."""
    random = np.random.default_rng(seed)
    if rows is None:
        rows = [[label for label in labels if random.random() < 0.5] for _ in range(num_images)]
    (path / "image").mkdir(parents=True)
    with ImageDirectoryWriter(path, make_schema(labels, multilabel=True)) as writer:
        for number, row in enumerate(rows):
            pixels = random.normal(60, 30, (size, size, 3))
            for label in row or ():
                place = list(labels).index(label) if label in labels else 0
                pixels[:, place * size // len(labels) : (place + 1) * size // len(labels)] += 120
            name = f"image/{number}.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path / name)
            item: dict[str, Any] = {"image_info": {"file_name": name}, "id": number}
            writer.add(item if row is None else {**item, "category": list(row)})
    return path


def write_multilabel_model(path: Path, data: Path, network: str = "shufflenet_v2_x0_5", **how: Any) -> Path:
    """A model of random weights for the labels of a dataset."""
    images = read_labelled_images(data, "Training dataset")
    torch.manual_seed(0)
    description = describe("torchvision.models", network, {"num_classes": len(images.classes)})
    built = description.build()
    *_, weight, _ = built.parameters()
    torch.nn.init.normal_(weight, std=100)  # of the head: far more than usual, so that images get different scores
    values = {"is_cuda": False, "include_samples": False, **how}
    write_trained_model(path, built, description, images, (32, 32), **values)
    return path
