"""Validation: who evaluates which images, and in which batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from tests.small_training import CPU, make_images, make_network, make_plan
from train_pytorch_model.data.image_store import Batch, DecodedImages
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.validation import evaluate, validation_batch_size


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


class Hungry(torch.nn.Module):
    """Runs out of memory for more than `takes` images."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.network = make_network()
        self.takes = takes
        self.given: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.given.append(len(images))
        if len(images) > self.takes:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        result: torch.Tensor = self.network(images)
        return result


@pytest.mark.parametrize(
    ("takes", "given"), [(8, [8, 8, 5]), (5, [8, 4, 4, 4, 4, 4, 1]), (2, [8, 4, 2, *[2] * 3, *[2] * 4, 2, 2, 1])]
)
def test_a_validation_batch_that_does_not_fit_is_evaluated_in_parts(
    takes: int, given: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    network, images = Hungry(takes), make_images(21)
    calls: list[int] = []
    found = evaluate(network, images, make_plan(), World(), None, lambda batch, count: calls.append(batch))
    expected = evaluate(network.network, images, make_plan(), World())
    assert network.given == given
    assert calls == [1, 2, 3]
    assert found.num_images == 21
    assert found.top1_acc == expected.top1_acc
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert ("A validation batch does not fit in memory." in caplog.text) is (takes < 8)


def test_an_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(Hungry(0), make_images(21), make_plan(), World())


@pytest.mark.parametrize(
    ("batch_size", "num_images", "world_size", "expected"),
    [(16, 1000, 1, 63), (16, 40, 1, 40), (128, 1000, 1, 250), (16, 96, 4, 24), (16, 300, 4, 38), (16, 3, 4, 1)],
)
def test_gpus_evaluate_large_batches_and_about_the_same_number_of_images(
    batch_size: int, num_images: int, world_size: int, expected: int
) -> None:
    world = World(world_size=world_size, device=torch.device("cuda"))
    size = validation_batch_size(make_plan(batch_size=batch_size), world, num_images)
    assert size == expected
    assert size <= max(2 * batch_size, 64)
    numbers = [len(part) for part in torch.arange(num_images).split(size)]
    images = [sum(numbers[rank::world_size]) for rank in range(world_size)]
    assert max(images) <= -(-num_images // world_size) + size - 1
    assert len(numbers) <= world_size * -(-num_images // (world_size * max(2 * batch_size, 64)))


def test_a_cpu_evaluates_batches_of_the_training_size() -> None:
    assert validation_batch_size(make_plan(), World(), 1000) == 8
    assert validation_batch_size(make_plan(), World(), 1000, 3) == 3
    assert validation_batch_size(make_plan(), World(device=torch.device("cuda")), 1000, 3) == 3
