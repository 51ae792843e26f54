"""Validation: who evaluates which images, and in which batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from tests.small_training import CPU, make_images, make_network, make_plan
from train_pytorch_model.data.image_store import Batch, DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.validation import evaluate


class Resident(DecodedImages):
    """Images in CPU memory that are gathered as images in GPU memory are."""

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        return self._resident(batches)


class Rank(World):
    """One of four processes, which keeps what it adds to a sum."""

    def __init__(self, rank: int) -> None:
        super().__init__(rank, rank, 4)
        self.added: list[list[float]] = []

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        self.added.append(values.tolist())
        return values.clamp(min=1)


@pytest.mark.parametrize("count", [1, 8, 20, 31, 32, 33])
def test_ranks_without_validation_images_add_nothing(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # which only a GPU has
    images = make_images(count)
    given = Resident(images.pixels, images.labels)
    network, plan = make_network(), make_plan()
    worlds = [Rank(rank) for rank in range(4)]
    for world in worlds:
        evaluate(network, given, plan, world)
    alone = evaluate(network, images, plan, World(device=CPU))
    sums = torch.tensor([world.added[0] for world in worlds]).sum(0)
    assert sums[3] == alone.num_images == count
    assert sums[0].item() / count == pytest.approx(alone.loss, rel=1e-6)
    assert sums[1].item() / count == alone.top1_acc
