"""A plain PyTorch loop for several labels per image, as in tutorials: a DataLoader, `BCEWithLogitsLoss` and SGD.

It reads ImageDirectories, decodes every image in every epoch, and keeps the epoch with the best mean average precision
on the validation images. Then it predicts the test images and prints the probabilities as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

if TYPE_CHECKING:
    from collections.abc import Sequence

_NUM_WORKERS = 2
_SIZE = 224
_HALF = (0.5, 0.5, 0.5)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Images(Dataset[tuple[Any, torch.Tensor]]):
    """The images of an ImageDirectory, with a vector of 0 and 1 for the labels."""

    def __init__(self, path: Path, transform: v2.Compose | None = None) -> None:
        items = [json.loads(line) for line in (path / "images.lst").read_text(encoding="utf-8").splitlines()]
        schema = json.loads((path / "_schema.json").read_text(encoding="utf-8"))
        categories = schema["columnAttributes"][2]["properties"]["categories"]
        self.names = [category["name"] for category in categories]
        self.labels = np.array([[name in item["category"] for name in self.names] for item in items])
        self._files = [path / item["image_info"]["file_name"] for item in items]
        self._transform = transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        """Decode an image."""
        image = Image.open(self._files[index]).convert("RGB")
        pixels = self._transform(image) if self._transform else image
        return pixels, torch.tensor(self.labels[index], dtype=torch.float32)


def train(arguments: argparse.Namespace) -> tuple[list[str], np.ndarray, float]:
    """Train; return the names of the labels, the probabilities of the test images and the seconds that these took."""
    num_labels = len(Images(arguments.images / "train").names)
    network, mean, std = _network(arguments.network, num_labels, arguments.weights)
    augmented, plain = _transforms(mean, std, is_photo=arguments.weights is not None)
    train_images = Images(arguments.images / "train", augmented)
    valid, test = (Images(arguments.images / part, plain) for part in ("valid", "test"))
    optimizer = torch.optim.SGD(
        network.parameters(), lr=arguments.learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    criterion = nn.BCEWithLogitsLoss()
    best, best_state = -1.0, network.state_dict()
    for epoch in range(arguments.epochs):
        # This package's schedule, so that the results are comparable.
        optimizer.param_groups[0]["lr"] = arguments.learning_rate * (1 - epoch / arguments.epochs) ** 2
        network.train()
        for pixels, labels in DataLoader(train_images, arguments.batch_size, shuffle=True, num_workers=_NUM_WORKERS):
            optimizer.zero_grad()
            criterion(network(pixels), labels).backward()
            optimizer.step()
        probabilities = _predict(network, valid)
        present = valid.labels.any(axis=0)
        precision = average_precision_score(valid.labels[:, present], probabilities[:, present], average="macro")
        if precision > best:
            best, best_state = precision, copy.deepcopy(network.state_dict())
    network.load_state_dict(best_state)
    torch.save(best_state, arguments.model)
    written = time.perf_counter()
    return train_images.names, _predict(network, test), time.perf_counter() - written


def _transforms(mean: Sequence[float], std: Sequence[float], *, is_photo: bool) -> tuple[v2.Compose, v2.Compose]:
    """Return the transforms for training and for validation. Photos are stretched, so that nothing is cut off."""
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    if not is_photo:
        return v2.Compose(end), v2.Compose(end)
    resize = v2.Resize((_SIZE, _SIZE))
    return v2.Compose([resize, v2.RandomHorizontalFlip(), *end]), v2.Compose([resize, *end])


def _network(name: str, num_labels: int, weights: Path | None) -> tuple[Any, Sequence[float], Sequence[float]]:
    """Return a network of torchvision or timm, and the mean and standard deviation of its images."""
    if name in torchvision.models.list_models():
        network: Any = torchvision.models.get_model(name, num_classes=num_labels)
        mean, std = _MEAN, _STD
    else:
        network = timm.create_model(name, num_classes=num_labels)
        mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    if not weights:
        return network, _HALF, _HALF
    own, given = network.state_dict(), torch.load(weights, weights_only=True)
    fitting = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)  # the entries of the head have other shapes
    return network, mean, std


@torch.no_grad()
def _predict(network: Any, images: Images) -> np.ndarray:
    network.eval()
    batches = DataLoader(images, 16, num_workers=_NUM_WORKERS)
    return np.concatenate([network(pixels).sigmoid().numpy() for pixels, _ in batches])


def main() -> None:
    """Train, and print the probabilities of the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="Has train, valid and test.")
    parser.add_argument("--model", type=Path, required=True, help="The file to write.")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--random-seed", type=int, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.random_seed)
    names, probabilities, seconds = train(arguments)
    print(json.dumps({"names": names, "probabilities": probabilities.tolist(), "scoring_seconds": seconds}))


if __name__ == "__main__":
    main()
