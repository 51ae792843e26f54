"""TrivialAugment and random erasing, compared with torchvision's, and to the bit in every batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandomErasing as TorchvisionErasing
from torchvision.transforms.autoaugment import TrivialAugmentWide, _apply_op
from torchvision.transforms.v2.functional import erase

from train_pytorch_model.training import resampling
from train_pytorch_model.training.random_erasing import RandomErasing
from train_pytorch_model.training.trivial_augment import MOVES, NUM_BINS, OPERATIONS, TrivialAugment, _table

FORMATS = (torch.contiguous_format, torch.channels_last)
SPACE = TrivialAugmentWide()._augmentation_space(NUM_BINS)


def make_pixels(*size: int) -> torch.Tensor:
    """A smooth image, noise, an image of one colour, and one with a dark and a bright channel."""
    generator = torch.Generator().manual_seed(1)
    smooth = functional.interpolate(torch.rand((2, 3, 6, 6), generator=generator) * 255, size, mode="bicubic")
    noise = torch.randint(0, 256, (2, 3, *size), generator=generator)
    flat = torch.full((1, 3, *size), 77)
    uneven = torch.randint(100, 131, (1, 3, *size), generator=generator)
    uneven[0, 1] = 0
    uneven[0, 2] += 120
    return torch.cat((smooth.clamp(0, 255), noise, flat, uneven)).to(torch.uint8)


def test_the_operations_are_those_of_torchvision() -> None:
    assert list(OPERATIONS) == list(SPACE)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_equals_that_of_torchvision_at_every_strength(
    name: str, memory_format: torch.memory_format
) -> None:
    for size in ((40, 56), (33, 21)):
        pixels = make_pixels(*size).contiguous(memory_format=memory_format)
        magnitudes, is_signed = SPACE[name]
        for index in range(0, NUM_BINS, 1 if size[0] == 33 else 5):
            for is_negative in (0, 1) if is_signed else (0,):
                magnitude = float(magnitudes[index]) if magnitudes.ndim else 0.0
                magnitude *= -1 if is_negative else 1
                drawn = torch.from_numpy(_table(size)[OPERATIONS.index(name), index, is_negative]).expand(6, 8)
                given = TrivialAugment().apply(pixels, drawn, drawn[:, 0])
                assert given.dtype == torch.uint8
                assert given.is_contiguous(memory_format=memory_format)
                expected = torch.stack(
                    [_apply_op(image, name, magnitude, InterpolationMode.BILINEAR, None) for image in pixels]
                )
                difference = (given.int() - expected.int()).abs()
                # torchvision truncates numbers that are whole but for the last bits of float32, as where blurring
                # changes nothing.
                assert difference.max() <= 1
                assert (difference > 0).float().mean() < (0.3 if name == "Sharpness" else 0.03)


def test_all_operations_strengths_and_directions_are_drawn_equally_often() -> None:
    drawn = TrivialAugment().draw((32, 32), 86_800, seed=1, epoch=1)
    counts = Counter(drawn[:, 0].int().tolist())
    assert len(counts) == 14
    assert all(count == pytest.approx(6200, rel=0.06) for count in counts.values())
    strengths = Counter(drawn[drawn[:, 0] == OPERATIONS.index("Contrast")][:, 1].tolist())
    assert len(strengths) == 61  # 30 in each direction, and 0 in both
    assert strengths[0.0] == pytest.approx(200, rel=0.3)
    assert sum(count for value, count in strengths.items() if value > 0) == pytest.approx(3000, rel=0.06)
    moves = TrivialAugment(changes_colours=False).draw((32, 32), 10_000, seed=1, epoch=1)
    assert set(moves[:, 0].int().tolist()) == set(range(1 + len(MOVES)))


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    drawn = TrivialAugment().draw((32, 32), 100, seed=3, epoch=1)
    torch.rand(3)  # whatever the global generator is used for
    assert torch.equal(TrivialAugment().draw((32, 32), 100, seed=3, epoch=1), drawn)
    for seed, epoch in ((3, 2), (4, 1)):
        other = TrivialAugment().draw((32, 32), 100, seed=seed, epoch=epoch)
        assert (other[:, :2] == drawn[:, :2]).all(1).sum() < 15


@pytest.mark.parametrize("memory_format", FORMATS)
def test_an_image_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(
    memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = make_pixels(40, 41).repeat(20, 1, 1, 1).contiguous(memory_format=memory_format)
    augment, erasing = TrivialAugment(), RandomErasing(0.5, (1, 2, 3))
    drawn, boxes = (part.draw((40, 41), len(pixels), 1, 1) for part in (augment, erasing))

    def apply(indices: torch.Tensor) -> torch.Tensor:
        changed = augment.apply(pixels[indices], drawn[indices], drawn[indices, 0])
        return erasing.apply(changed, boxes[indices])

    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1))
    expected = apply(torch.arange(len(pixels)))
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            for size in (1, 7, 50):
                for indices in order.split(size):
                    assert torch.equal(apply(indices), expected[indices])
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(resampling, "_GROUP_BYTES", 50_000)  # two images at a time
    assert torch.equal(apply(torch.arange(len(pixels))), expected)


def test_erased_boxes_are_those_of_torchvision_filled_with_one_colour() -> None:
    erasing, size = RandomErasing(0.3, (124, 116, 104)), (64, 48)
    boxes = erasing.draw(size, 40_000, seed=1, epoch=1)
    assert boxes.dtype == torch.int32
    is_erased = boxes[:, 2] > 0
    assert is_erased.float().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.manual_seed(0)
    drawn = torch.tensor(
        [
            TorchvisionErasing.get_params(torch.empty(3, *size), (0.02, 0.33), (0.3, 3.3), [0.0])[:4]
            for _ in range(5_000)
        ]
    ).double()
    given = boxes[is_erased].double()
    error = (drawn.var(0) * (1 / 5_000 + 1 / len(given))).sqrt()
    assert ((given.mean(0) - drawn.mean(0)).abs() <= 4 * error).all()
    assert given.std(0).tolist() == pytest.approx(drawn.std(0).tolist(), rel=0.08)
    pixels = make_pixels(*size).repeat(7, 1, 1, 1)
    rows = boxes[: len(pixels)]
    colour = torch.tensor(erasing.colour, dtype=torch.uint8).view(3, 1, 1)
    for image, given, (top, left, height, width) in zip(pixels, erasing.apply(pixels, rows), rows.tolist()):
        assert torch.equal(given, erase(image, top, left, height, width, colour))
    assert not RandomErasing(0.0, (0, 0, 0)).draw(size, 100, 1, 1)[:, 2:].any()
    assert (RandomErasing(1.0, (0, 0, 0)).draw(size, 100, 1, 1)[:, 2:] > 0).all()
    assert not RandomErasing(1.0, (0, 0, 0)).draw((1, 1), 100, 1, 1)[:, 2:].any()  # no box fits
