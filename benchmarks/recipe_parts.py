"""What each part of a recipe costs: training steps a second with it, on this machine's device.

    python -m benchmarks.recipe_parts [NETWORK …]

On a GPU, the steps are captured as CUDA graphs. It needs PyTorch and torchvision only, and prints a table.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
import torchvision

from benchmarks.results import table
from tests.small_training import Recorder
from train_pytorch_model.data.image_store import DecodedImages
from train_pytorch_model.distributed.device import choose_device
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.early_stopping import BestModel, EarlyStopping
from train_pytorch_model.training.epoch import train_epoch
from train_pytorch_model.training.graph import CapturedStep, side_stream
from train_pytorch_model.training.mixing import Mixing
from train_pytorch_model.training.plan import Plan
from train_pytorch_model.training.precision import choose_precision
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.state import TrainingState
from train_pytorch_model.training.step import TrainingStep
from train_pytorch_model.training.trivial_augment import TrivialAugment

_NETWORKS = ("resnet50", "densenet201", "resnet18")
_NUM_CLASSES = 10
_NUM_EPOCHS = 3


def _parts(size: int) -> dict[str, dict[str, Any]]:
    """Return the settings of `Plan` that each part of a recipe changes."""
    crops = Augmentation((size, size))
    trivial_augment = Augmentation(
        (size, size), operations=TrivialAugment(), erasing=RandomErasing(0.1, (124, 116, 104))
    )
    mixing = Mixing(0.2, 1.0)
    return {
        "classic": {},
        "model_ema": {"model_ema": 0.99},
        "clip_grad_norm": {"clip_grad_norm": 1.0},
        "adamw": {"optimizer": "adamw"},
        "crops": {"augmentation": crops},
        "trivialaugment": {"augmentation": trivial_augment},
        "mixup and cutmix": {"mixing": mixing},
        "all but adamw": {
            **{"model_ema": 0.99, "clip_grad_norm": 1.0, "label_smoothing": 0.1},
            **{"augmentation": trivial_augment, "mixing": mixing},
        },
    }


def _steps_per_second(name: str, values: dict[str, Any], device: torch.device) -> tuple[float, bool]:
    """Return the rate of the fastest epoch but the first, and whether its steps were captured."""
    is_gpu = device.type == "cuda"
    size, batch_size, num_steps = (224, 16, 60) if is_gpu else (64, 8, 3)
    stored, count = size + size // 7, batch_size * num_steps
    pixels = torch.randint(0, 256, (count, stored, stored, 3), dtype=torch.uint8, device=device)
    labels = torch.randint(0, _NUM_CLASSES, (count,), device=device)
    store = DecodedImages(pixels.permute(0, 3, 1, 2), labels)
    with side_stream(device):
        network = torchvision.models.get_model(name, num_classes=_NUM_CLASSES).to(device)
        precision = choose_precision("auto", device, network)
        fixed = (_NUM_CLASSES, _NUM_EPOCHS, batch_size, 0.01, 0, _NUM_EPOCHS, 1, 10, precision, torch.channels_last)
        plan = Plan(*fixed, image_size=(size, size), **values)
        step = TrainingStep(network, plan, device)
        run = CapturedStep(step, batch_size) if is_gpu else step
        seconds = []
        for epoch in range(1, _NUM_EPOCHS + 1):
            step.begin_epoch(0.01)
            started = time.perf_counter()
            state = TrainingState(step, BestModel(), EarlyStopping(_NUM_EPOCHS), epoch)
            train_epoch(state, run, store, plan, World(device=device), Recorder())
            seconds.append(time.perf_counter() - started)
    return num_steps / min(seconds[1:]), isinstance(run, CapturedStep) and run.is_captured


def main() -> None:
    """Print the table of the networks that are named, or of all."""
    device = choose_device()
    rows = []
    for name in sys.argv[1:] or _NETWORKS:
        classic = 0.0
        for part, values in _parts(224 if device.type == "cuda" else 64).items():
            rate, is_captured = _steps_per_second(name, values, device)
            classic = classic or rate
            rows.append([name, part, f"{rate:.1f}", f"{rate / classic:.2f}", "yes" if is_captured else "no"])
            print(rows[-1], flush=True)
    print(table(["network", "part", "steps a second", "of classic", "captured"], rows))


if __name__ == "__main__":
    main()
