"""One of several processes that train a small network with the loop itself: `-m tests.fit_job OUTPUT IMAGES BATCH`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import torch
from torch import nn

from tests.test_loop import Recorder, make_images, make_plan
from train_pytorch_model.distributed.launch import read_launch
from train_pytorch_model.distributed.world import connected
from train_pytorch_model.training.callbacks import NoCheckpointer
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import fit


def make_network() -> nn.Module:
    """Neither batch normalisation nor dropout, which depend on how many images a process sees at once."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


def main() -> None:
    """Train, and let process 0 write what came of it."""
    output, num_images, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    best, recorder = BestModel(), Recorder()
    with connected(read_launch(os.environ), print) as world:
        plan = make_plan(epochs=4, batch_size=batch_size // world.world_size)
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
