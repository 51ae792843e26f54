"""TrivialAugment: one random operation of random strength for each image.

Müller and Hutter 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", with the operations and
ranges of torchvision's TrivialAugmentWide and its bilinear interpolation. What an image gets depends on the seed, the
epoch and its index alone, and a CPU computes the same bits for it in any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.training.colour_operations import COLOUR_OPERATIONS
from train_pytorch_model.training.resampling import group_size, sampled

if TYPE_CHECKING:
    from train_pytorch_model.training.boxes import Size

IDENTITY = "Identity"
# Those that move pixels, and their strongest values in torchvision's TrivialAugmentWide.
MOVES = {"ShearX": 0.99, "ShearY": 0.99, "TranslateX": 32.0, "TranslateY": 32.0, "Rotate": 135.0}
OPERATIONS = (IDENTITY, *MOVES, *COLOUR_OPERATIONS)
"""The names in the order of their numbers."""
NUM_BINS = 31
"""The number of strengths of an operation."""

_UNCHANGED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class TrivialAugment:
    """Draws and applies one operation for each image."""

    changes_colours: bool = True
    """Off: only operations that move pixels are drawn."""

    def draw(self, size: Size, count: int, seed: int, epoch: int) -> torch.Tensor:
        """Draw the operations of all images for an epoch.

        Args:
            size: (height, width) of the images in pixels.
            count: the number of images in the dataset, N.
            seed: of the training.
            epoch: counted from 1.

        Returns:
            float32 of shape (N, 8) on the CPU: the number of the operation; its strength, for operations that change
            colours; and the two rows of the matrix by which the others map the position of a pixel to where it was.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "trivial augment", epoch))
        draws = torch.rand((count, 3), generator=generator).numpy().astype(np.float64)
        num_operations = len(OPERATIONS) if self.changes_colours else 1 + len(MOVES)
        number, strength, sign = np.floor(draws * (num_operations, NUM_BINS, 2)).astype(np.int64).T
        return torch.from_numpy(_table(size)[number, strength, sign])

    def apply(self, pixels: torch.Tensor, drawn: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return the images after their operations, in the memory format of the batch.

        Args:
            pixels: uint8 of shape (B, 3, height, width).
            drawn: the rows of `draw` for these images, on the same device.
            numbers: the first column of `drawn` on the CPU, so that the host does not wait for the device.
        """
        order = torch.argsort(drawn[:, 0], stable=True)
        counts = torch.bincount(numbers.long(), minlength=len(OPERATIONS)).tolist()
        unchanged, moved, *coloured = torch.split(
            order, [counts[0], sum(counts[1 : 1 + len(MOVES)]), *counts[1 + len(MOVES) :]]
        )
        changed = [pixels[unchanged]]
        for rows, operation in zip((moved, *coloured), (_moved, *COLOUR_OPERATIONS.values())):
            for group in torch.split(rows, group_size(pixels)) if len(rows) else ():
                changed.append(operation(pixels[group], drawn[group, 1:]))
        # Back in their order, all at once: for a deterministic copy into a tensor, a GPU sorts the indices each time.
        return torch.empty_like(pixels).copy_(torch.cat(changed)[torch.argsort(order)])


def _table(size: Size) -> np.ndarray:
    """Return the rows of `TrivialAugment.draw` by operation, bin and sign, float32 of shape (14, 31, 2, 8)."""
    table = np.empty((len(OPERATIONS), NUM_BINS, 2, 8), dtype=np.float32)
    for number, name in enumerate(OPERATIONS):
        # As torchvision computes it: its float32 numbers are not quite evenly spaced, and some are truncated.
        for index, strength in enumerate(torch.linspace(0, MOVES.get(name, 1.0), NUM_BINS).tolist()):
            for is_negative in (0, 1):
                value = -strength if is_negative else strength
                matrix = _matrix(name, value, size) if name in MOVES else _UNCHANGED
                table[number, index, is_negative] = (number, value, *matrix)
    return table


def _matrix(name: str, value: float, size: Size) -> tuple[float, ...]:
    """Return the matrix that maps positions relative to the centre, in pixels, to those where the pixels were."""
    height, width = size
    if name == "ShearX":  # the first row stays where it is
        return 1.0, value, value * height / 2, 0.0, 1.0, 0.0
    if name == "ShearY":
        return 1.0, 0.0, 0.0, value, 1.0, value * width / 2
    if name == "TranslateX":
        return 1.0, 0.0, -math.trunc(value), 0.0, 1.0, 0.0
    if name == "TranslateY":
        return 1.0, 0.0, 0.0, 0.0, 1.0, -math.trunc(value)
    cos, sin = math.cos(math.radians(value)), math.sin(math.radians(value))
    return cos, -sin, 0.0, sin, cos, 0.0


def _moved(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Resample images; black comes in from outside."""
    height, width = pixels.shape[2:]
    y = (torch.arange(height, dtype=torch.float32, device=pixels.device) + (0.5 - height / 2)).view(1, height, 1)
    x = (torch.arange(width, dtype=torch.float32, device=pixels.device) + (0.5 - width / 2)).view(1, 1, width)
    _, xx, xy, x0, yx, yy, y0 = drawn[:, :, None, None].unbind(1)
    grid = torch.stack(((xx * x + xy * y + x0) / (width / 2), (yx * x + yy * y + y0) / (height / 2)), dim=3)
    return sampled(pixels, grid, padding_mode="zeros")
