"""Programs to compare with: a textbook PyTorch loop, and torchvision's reference recipe.

Both read one folder per class through a DataLoader with workers, and decode every image in every epoch.
`python -m benchmarks.peers textbook --path DIR --network resnet18 …` trains and prints the best validation accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor


@dataclass(frozen=True)
class Style:
    """A way to write the loop."""

    name: str
    is_mixed: bool
    """Use automatic mixed precision and channels_last, as torchvision's reference script offers; else float32."""
    is_compiled: bool = False
    """Use torch.compile."""


TEXTBOOK = Style("textbook", is_mixed=False)
RECIPE = Style("recipe", is_mixed=True)
COMPILED = Style("compiled", is_mixed=True, is_compiled=True)


class DataLoaderTraining:
    """A training loop over a DataLoader, as in tutorials."""

    def __init__(self, style: Style, network: str, path: Path, batch_size: int, learning_rate: float) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._style = style
        transform = Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
        train, valid = (ImageFolder(str(path / part), transform) for part in ("train", "valid"))
        self._train = self._loader(train, batch_size, shuffle=True)
        self._valid = self._loader(valid, batch_size, shuffle=False)
        self._network = torchvision.models.get_model(network, num_classes=len(train.classes)).to(self._device)
        if style.is_mixed:
            self._network = self._network.to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(
            self._network.parameters(), lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        dtype = torch.float16 if self._device.type == "cuda" else torch.bfloat16
        self._forward = torch.compile(self._network) if style.is_compiled else self._network
        self._autocast = torch.autocast(self._device.type, dtype=dtype, enabled=style.is_mixed)
        self._scaler = GradScaler(self._device.type, enabled=style.is_mixed and dtype == torch.float16)

    def _loader(self, images: ImageFolder, batch_size: int, *, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_size,
            shuffle=shuffle,
            num_workers=len(os.sched_getaffinity(0)),
            persistent_workers=True,
            pin_memory=self._device.type == "cuda",
        )

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next epoch."""
        self._optimizer.param_groups[0]["lr"] = learning_rate

    def epoch(self) -> int:
        """Train one epoch; return the number of steps."""
        # Torchvision's reference script lets cuDNN choose the fastest kernels, unless asked for deterministic ones.
        torch.backends.cudnn.benchmark = self._style.is_mixed
        self._network.train()
        criterion = nn.CrossEntropyLoss()
        running_loss = 0.0
        for images, labels in self._train:
            images, labels = self._move(images, labels)
            self._optimizer.zero_grad()
            with self._autocast:
                loss = criterion(self._forward(images), labels)
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            running_loss += loss.item()
        return len(self._train)

    @torch.no_grad()
    def accuracy(self) -> float:
        """Return the top-1 accuracy on the validation images, in float32."""
        self._network.eval()
        correct = count = 0
        for images, labels in self._valid:
            images, labels = self._move(images, labels)
            correct += int((self._network(images).argmax(1) == labels).sum())
            count += len(labels)
        return correct / count

    def _move(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.to(self._device, non_blocking=True)
        if self._style.is_mixed:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels.to(self._device, non_blocking=True)


def main() -> None:
    """Train, and print the best accuracy as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("style", choices=[TEXTBOOK.name, RECIPE.name])
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--network", required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--random-seed", type=int, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.random_seed)
    style = TEXTBOOK if arguments.style == TEXTBOOK.name else RECIPE
    training = DataLoaderTraining(
        style, arguments.network, arguments.path, arguments.batch_size, arguments.learning_rate
    )
    accuracies = []
    for epoch in range(arguments.epochs):
        # This package's schedule, so that accuracies are comparable.
        training.set_learning_rate(arguments.learning_rate * (1 - epoch / arguments.epochs) ** 2)
        training.epoch()
        accuracies.append(training.accuracy())
    print(json.dumps({"accuracy": max(accuracies)}))


if __name__ == "__main__":
    main()
