"""A process that trains a small network with the loop: `-m tests.fit_job OUTPUT IMAGES BATCH [MICROBATCH]`."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.small_training import PARTS, Recorder, StoppedError, Stopping, make_images, make_plan
from train_pytorch_model.distributed.launch import read_launch
from train_pytorch_model.distributed.rendezvous import connected
from train_pytorch_model.training.augmentation import Augmentation
from train_pytorch_model.training.early_stopping import BestModel
from train_pytorch_model.training.loop import fit
from train_pytorch_model.training.mixing import Mixing
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.trivial_augment import TrivialAugment


def make_network() -> nn.Sequential:
    """Return a network without batch normalization and dropout, which depend on the images of one process."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


def main() -> None:
    """Train, and write the results in rank 0."""
    parser = ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("images", type=int)
    parser.add_argument("batch", type=int)
    parser.add_argument("microbatch", nargs="?", default="off")
    parser.add_argument("--parts", choices=["off", "sgd", "adamw"], default="off")
    parser.add_argument("--noisy", action="store_true", help="with batch normalization and dropout")
    parser.add_argument("--augmented", action="store_true")
    parser.add_argument("--mixed", action="store_true", help="with every part of augmentation")
    parser.add_argument("--frozen", action="store_true", help="all but the head")
    parser.add_argument("--fits-head", action="store_true")
    parser.add_argument("--freeze-epochs", type=int, default=0)
    parser.add_argument("--stop-after", type=int, default=0, help="stop after so many steps and validation batches")
    parser.add_argument("--task", default="multiclass")
    options = parser.parse_args()
    metric = "average_precision" if options.task == "multilabel" else "accuracy"
    best, recorder, network = BestModel(metric), Recorder(), make_network()
    values: dict[str, Any] = {} if options.parts == "off" else {**PARTS, "optimizer": options.parts}
    values.update(head_names=frozenset({"4.weight", "4.bias"}), task=options.task, metric_for_best_model=metric)
    if options.noisy:
        network = nn.Sequential(*network[:1], nn.BatchNorm2d(8), *network[1:4], nn.Dropout(0.3), *network[4:])
        values["head_names"] = frozenset({"6.weight", "6.bias"})
    values["freeze_epochs"] = options.freeze_epochs
    if options.frozen:
        values.update(layers_to_freeze=1, freeze_batch_norm=True)
    if options.fits_head:
        values.update(fits_head=True, freeze_batch_norm=True)
    if options.augmented:
        values["augmentation"] = Augmentation((12, 12))
    if options.mixed:
        erasing = RandomErasing(0.3, (128, 128, 128))
        values["augmentation"] = Augmentation((12, 12), operations=TrivialAugment(), erasing=erasing)
        values["mixing"] = Mixing(0.2, 1.0)
    if options.microbatch != "off":
        values["microbatch_size"] = int(options.microbatch)
    with connected(read_launch(os.environ), print) as world:
        saved = options.output.with_suffix(".snapshot")
        is_resuming = saved.exists() and not options.stop_after
        snapshot = torch.load(saved) if is_resuming and world.is_main else None
        checkpointer = Stopping(options.stop_after, snapshot, is_resuming=is_resuming)
        plan = make_plan(epochs=4, batch_size=options.batch // world.world_size, **values)
        train, valid = make_images(options.images, task=options.task), make_images(37, 1, options.task)
        try:
            fit(network, train, valid, plan, world, best, recorder, checkpointer)
        except StoppedError:
            if world.is_main:
                torch.save(checkpointer.snapshot, saved)
            return
        if world.is_main:
            torch.save(
                {
                    "best": dict(best.state),
                    "epoch": best.epoch,
                    "thresholds": best.thresholds,
                    "num_steps": len(recorder.losses),
                    "records": [asdict(record) for record in recorder.records],
                    "last": network.state_dict(),
                },
                options.output,
            )


if __name__ == "__main__":
    main()
