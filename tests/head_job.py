"""A process that fits the head of a small network: `-m tests.head_job OUTPUT IMAGES TASK`."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict

import torch

from tests.small_training import make_images, make_network, make_plan
from train_pytorch_model.distributed.launch import read_launch
from train_pytorch_model.distributed.rendezvous import connected
from train_pytorch_model.models.heads import Head, find_head
from train_pytorch_model.training import head_fit


def main() -> None:
    """Fit, and write the result of each rank."""
    output, num_images, task = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    calls: list[tuple[int, int]] = []
    with connected(read_launch(os.environ), print) as world:
        network = make_network()
        head = find_head(network, (12, 12))
        assert isinstance(head, Head)
        train = make_images(num_images, task=task)
        head_fit._SECONDS_BETWEEN = 0.0  # all processes answer after each block of the fit
        plan = make_plan(task=task)
        fitted = head_fit.fit_head(network, head, train, plan, world, lambda *batch: calls.append(batch))
        torch.save({**asdict(fitted), "seconds": 0.0, "calls": calls}, f"{output}.{world.rank}")


if __name__ == "__main__":
    main()
