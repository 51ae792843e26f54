"""Trains small networks of torchvision in this process, on its GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torchvision

from tests.making import write_class_folders
from tests.small_training import Recorder, make_plan
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import ImageStore, decode_all
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.callbacks import Checkpointer, NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import fit
from train_pytorch_model.training.precision import choose_precision

# Two epochs of six batches of 8: enough steps to capture a graph (after three) and to replay it.
NUM_PER_CLASS = 12
CLASSES = ("a", "b", "c", "d")


def make_store(path: Path, place: str, device: torch.device, size: int = 64, per_class: int = 12) -> ImageStore:
    """Images of four classes, in the order of their paths."""
    paths = sorted(write_class_folders(path, CLASSES, per_class=per_class, size=size).glob("*/*.png"))
    labels = np.array([CLASSES.index(path.parent.name) for path in paths])
    return decode_all(lambda index: paths[index], labels, Geometry((size, size)), place=place, device=device)[0]


def train(
    store: ImageStore,
    device: torch.device,
    network: str = "resnet18",
    precision: str = "auto",
    valid: ImageStore | None = None,
    world: World | None = None,
    options: dict[str, object] | None = None,
    checkpointer: Checkpointer | None = None,
    **plan: object,
) -> tuple[Recorder, BestModel]:
    """Train a new network from the same seed."""
    torch.manual_seed(0)
    built = torchvision.models.get_model(network, num_classes=len(CLASSES), **options or {}).to(device)
    values = {
        "precision": choose_precision(precision, device, built),
        "memory_format": torch.channels_last,
        "learning_rate": 0.01,
        **plan,
    }
    recorder, best = Recorder(), BestModel()
    fit(
        built,
        store,
        valid or store,
        make_plan(**values),
        world or World(device=device),
        best,
        recorder,
        checkpointer or NoCheckpointer(),
    )
    return recorder, best


def different_weights(one: BestModel, other: BestModel) -> list[str]:
    """The names of the weights whose bits differ."""
    return [name for name, value in one.state.items() if not torch.equal(other.state[name], value)]
