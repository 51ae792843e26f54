"""Programs whose accuracy is compared with ours; they run in an environment with fastai.

- fastai: `vision_learner` and `fine_tune(4)` with its defaults: one epoch of the head, then four of all layers.
- loop: the loop of PyTorch's tutorial on transfer learning, which keeps the epoch with the best validation accuracy.

Both write their model, then predict the test images and print the result as JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

_SIZE = 224
_BATCH_SIZE = 16
_EPOCHS = 5
_NUM_WORKERS = 2
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Task:
    """What to train, on what."""

    network: str
    """torchvision's name, or timm's."""
    weights: Path
    images: Path
    """Has `train`, `valid` and `test`, each with a folder per class."""
    model: Path
    """The file to write."""


@dataclass(frozen=True)
class Predictions:
    """The result of a program."""

    labels: list[str]
    predicted: list[str]
    scoring_seconds: float
    """From the written model to the last prediction."""


def train_fastai(task: Task) -> Predictions:
    """Train with fastai, as its documentation does for photos."""
    from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, get_image_files, vision_learner

    loaders = ImageDataLoaders.from_folder(
        task.images, valid="valid", item_tfms=Resize(_SIZE), batch_tfms=aug_transforms(), bs=_BATCH_SIZE
    )
    with tempfile.TemporaryDirectory() as hub:
        learner = vision_learner(loaders, metrics=accuracy, **_architecture(task, Path(hub)))
    learner.fine_tune(_EPOCHS - 1)
    learner.export(task.model)
    written = time.perf_counter()
    files = sorted(get_image_files(task.images / "test"))
    probabilities, _ = learner.get_preds(dl=learner.dls.test_dl(files))
    predicted = [learner.dls.vocab[index] for index in probabilities.argmax(1)]
    return Predictions([file.parent.name for file in files], predicted, time.perf_counter() - written)


def _architecture(task: Task, hub: Path) -> dict[str, Any]:
    """Return the arguments of `vision_learner` that make it take a file of weights instead of a download."""
    if task.network not in torchvision.models.list_models():
        return {"arch": task.network, "pretrained_cfg_overlay": {"file": str(task.weights)}}
    weights = torchvision.models.get_model_weights(task.network)
    torch.hub.set_dir(str(hub))
    (hub / "checkpoints").mkdir()
    for published in weights:
        (hub / "checkpoints" / published.url.rpartition("/")[2]).symlink_to(task.weights.resolve())
    return {"arch": torchvision.models.get_model_builder(task.network), "weights": weights.DEFAULT}


def train_loop(task: Task) -> Predictions:
    """Train all layers with SGD, with a new head."""
    end = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(_MEAN, _STD)]
    augmented = v2.Compose([v2.RandomResizedCrop(_SIZE), v2.RandomHorizontalFlip(), *end])
    plain = v2.Compose([v2.Resize(256), v2.CenterCrop(_SIZE), *end])
    train = ImageFolder(str(task.images / "train"), augmented)
    valid, test = (ImageFolder(str(task.images / part), plain) for part in ("valid", "test"))
    network = _network(task, len(train.classes))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9)
    best_accuracy, best_state = -1.0, network.state_dict()
    for _ in range(_EPOCHS):
        network.train()
        for images, labels in DataLoader(train, _BATCH_SIZE, shuffle=True, num_workers=_NUM_WORKERS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        labels, predicted = _predict(network, valid)
        accuracy = sum(a == b for a, b in zip(labels, predicted)) / len(labels)
        if accuracy > best_accuracy:
            best_accuracy, best_state = accuracy, copy.deepcopy(network.state_dict())
    network.load_state_dict(best_state)
    torch.save(best_state, task.model)
    written = time.perf_counter()
    labels, predicted = _predict(network, test)
    # A folder without images of a class would shift its indices, so classes are compared by name.
    names = [test.classes[label] for label in labels]
    return Predictions(names, [train.classes[label] for label in predicted], time.perf_counter() - written)


def _network(task: Task, num_classes: int) -> nn.Module:
    is_torchvision = task.network in torchvision.models.list_models()
    build = torchvision.models.get_model if is_torchvision else timm.create_model
    network: nn.Module = build(task.network, num_classes=num_classes)
    own = network.state_dict()
    given = torch.load(task.weights, weights_only=True)
    # The entries of the head have other shapes.
    network.load_state_dict({key: v for key, v in given.items() if own[key].shape == v.shape}, strict=False)
    return network


@torch.no_grad()
def _predict(network: nn.Module, images: ImageFolder) -> tuple[list[int], list[int]]:
    network.eval()
    labels, predicted = [], []
    for pixels, of_batch in DataLoader(images, _BATCH_SIZE, num_workers=_NUM_WORKERS):
        labels += of_batch.tolist()
        predicted += network(pixels).argmax(1).tolist()
    return labels, predicted


def main() -> None:
    """Train a program's model, and print its predictions of the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", choices=["fastai", "loop"])
    for name in ("network", "weights", "images", "model"):
        parser.add_argument(f"--{name}", type=str if name == "network" else Path, required=True)
    parser.add_argument("--random-seed", type=int, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.random_seed)
    task = Task(arguments.network, arguments.weights, arguments.images, arguments.model)
    if arguments.program == "fastai":
        from fastai.torch_core import set_seed

        set_seed(arguments.random_seed)
        predictions = train_fastai(task)
    else:
        predictions = train_loop(task)
    print(json.dumps(vars(predictions)))


if __name__ == "__main__":
    main()
