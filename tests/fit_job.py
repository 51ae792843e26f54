"""A process that trains a small network: `-m tests.fit_job OUTPUT IMAGES BATCH [MICROBATCH] [augmented]`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import torch
from torch import nn

from tests.small_training import Recorder, make_images, make_plan
from train_pytorch_model.distributed.launch import read_launch
from train_pytorch_model.distributed.rendezvous import connected
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.callbacks import NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import fit


def make_network() -> nn.Module:
    """Return a network without batch normalization and dropout, which depend on the images of one process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


def main() -> None:
    """Train, and write the results in rank 0."""
    output, num_images, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    options = sys.argv[4:]
    microbatch_size = next((int(option) for option in options if option.isdigit()), "off")
    augmentation = Augmentation((12, 12)) if "augmented" in options else None
    best, recorder = BestModel(), Recorder()
    with connected(read_launch(os.environ), print) as world:
        plan = make_plan(
            epochs=4,
            batch_size=batch_size // world.world_size,
            microbatch_size=microbatch_size,
            augmentation=augmentation,
        )
        valid = make_images(37, seed=1)
        fit(make_network(), make_images(num_images), valid, plan, world, best, recorder, NoCheckpointer())
        if world.is_main:
            torch.save(
                {
                    "best": dict(best.state),
                    "epoch": best.epoch,
                    "num_steps": len(recorder.losses),
                    "records": [asdict(record) for record in recorder.records],
                },
                output,
            )


if __name__ == "__main__":
    main()
