"""Images on the GPU are those of every other place, and of Score Image Model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu.runs import make_store
from tests.small_training import make_plan
from train_pytorch_model.data.batches import normalised
from train_pytorch_model.training.augmentation import Augmentation, AugmentedImages, augmented
from train_pytorch_model.training.mixing import Mixing, mix_batch, mixed
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.trivial_augment import TrivialAugment

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


def test_operations_and_mixtures_have_the_same_bits_in_any_batch_and_the_host_never_waits(
    device: torch.device, tmp_path: Path
) -> None:
    erasing = RandomErasing(0.5, (124, 116, 104))
    augmentation = Augmentation((56, 56), operations=TrivialAugment(), erasing=erasing)
    plan = make_plan(image_size=(56, 56), augmentation=augmentation, mixing=Mixing(0.2, 1.0))
    cpu = torch.device("cpu")
    whole = [torch.arange(48)]
    ((expected, _),) = augmented(make_store(tmp_path, "memory", cpu), plan, 1).batches(whole, cpu)
    shown = augmented(make_store(tmp_path, "device", device), plan, 1)
    ((given, labels),) = shown.batches(whole, device)
    # A pixel that differs by 1 before an operation may differ by more after it.
    assert (given.cpu() != expected).float().mean() < 0.01
    before = torch.cuda.get_sync_debug_mode()
    for size in (16, 7, 1):
        parts = list(torch.arange(48).split(size))
        torch.cuda.set_sync_debug_mode("error")
        try:
            batches = list(shown.batches(parts, device))
            mixtures = list(mixed(iter(batches), plan, len(batches), 1, 0))
        finally:
            torch.cuda.set_sync_debug_mode(before)
        assert torch.equal(torch.cat([pixels for pixels, _ in batches]), given)
        for part, (pixels, vectors), mix in zip(parts, mixtures, Mixing(0.2, 1.0).draw(len(parts), plan.seed, 1, 0)):
            on_cpu = mix_batch(given[part.to(device)].cpu(), labels[part.to(device)].cpu(), mix, 4)
            assert (pixels.cpu().int() - on_cpu[0].int()).abs().max() <= 1
            torch.testing.assert_close(vectors.cpu(), on_cpu[1])
