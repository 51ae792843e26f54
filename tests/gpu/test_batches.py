"""Images on the GPU are those of every other place, and of Score Image Model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu.runs import make_store
from train_pytorch_model.data.batches import normalised
from train_pytorch_model.training.augmentation import Augmentation, AugmentedImages

pytestmark = pytest.mark.gpu


def test_every_image_store_gives_the_same_batches(device: torch.device, tmp_path: Path) -> None:
    batches = [torch.tensor([3, 1, 2]), torch.tensor([5])]
    given = [
        list(make_store(tmp_path, place, device).batches(batches, device))
        for place in ("device", "memory", "disk", "none")
    ]
    for other in given[1:]:
        assert len(other) == len(given[0])
        for (pixels, labels), (expected, expected_labels) in zip(other, given[0]):
            assert pixels.is_cuda
            assert torch.equal(pixels, expected)
            assert torch.equal(labels, expected_labels)


def test_normalised_pixels_equal_those_of_a_cpu_to_the_bit(device: torch.device) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    on_gpu = normalised(pixels.to(device), torch.channels_last)
    assert torch.equal(on_gpu.cpu(), normalised(pixels, torch.channels_last))


def test_pinned_batches_arrive_whole_when_the_host_runs_far_ahead(device: torch.device, tmp_path: Path) -> None:
    """The host never waits within these epochs, so a buffer that is reused too early would show other images."""
    indices = [torch.arange(start, start + 16) % 48 for start in range(0, 4_000, 7)]
    expected = make_store(tmp_path, "device", device, size=128)
    given = make_store(tmp_path, "memory", device, size=128)
    busy = torch.randn(2_000, 2_000, device=device)
    differences = torch.zeros((), dtype=torch.int64, device=device)
    for batch, (pixels, labels) in zip(indices, given.batches(indices, device)):
        busy = (busy @ busy).clamp_(-1, 1)  # keeps the GPU behind the host
        wanted, wanted_labels = next(iter(expected.batches([batch], device)))
        differences += (pixels != wanted).sum() + (labels != wanted_labels).sum()
    assert differences.item() == 0


@pytest.mark.parametrize("crops", [True, False])
def test_augmented_images_are_those_of_a_cpu_and_the_same_in_any_batch(
    crops: bool, device: torch.device, tmp_path: Path
) -> None:
    augmentation = Augmentation((56, 56), crops=crops)
    views = augmentation.draw((64, 64), 48, seed=1, epoch=1)
    cpu = torch.device("cpu")
    ((expected, _),) = AugmentedImages(make_store(tmp_path, "memory", cpu), augmentation, views).batches(
        [torch.arange(48)], cpu
    )
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    for place, size in (("device", 48), ("memory", 16), ("none", 7), ("device", 1)):
        store = AugmentedImages(make_store(tmp_path, place, device), augmentation, views)
        given = torch.cat([pixels for pixels, _ in store.batches(list(order.split(size)), device)])
        assert given.is_cuda
        assert (given.cpu().int() - expected[order].int()).abs().max() <= (1 if crops else 0)
        seen.append(given)
    assert all(torch.equal(other, seen[0]) for other in seen[1:])
