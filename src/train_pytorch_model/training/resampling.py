"""Resampling of images on their device, with the same bits for an image in any batch on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from train_pytorch_model.training.boxes import Size

# Images are converted to float32 in groups of at most this size, which bounds the memory for large batches.
_GROUP_BYTES = 64 * 2**20


def group_size(pixels: torch.Tensor) -> int:
    """Return how many images of a batch of shape (B, 3, H, W) are converted to float32 at a time."""
    return max(1, _GROUP_BYTES // (4 * pixels[0].numel()))


def resized_boxes(pixels: torch.Tensor, views: torch.Tensor, size: Size) -> torch.Tensor:
    """Cut a box out of each image and resize it, by bilinear interpolation without antialiasing.

    Args:
        pixels: uint8 of shape (B, 3, H, W).
        views: of shape (B, 5): top, left, height and width of the box in pixels, and 1 if it is mirrored.
        size: (height, width) of the result in pixels.

    Returns:
        uint8 of shape (B, 3, height, width), in the memory format of `pixels`.
    """
    top, left, height, width, is_mirrored = views.to(torch.float32)[:, :, None].unbind(1)
    rows = _positions(size[0], top, height, pixels.shape[2])
    columns = _positions(size[1], left, width, pixels.shape[3])
    columns = torch.where(is_mirrored.bool(), columns.flip(1), columns)
    shape = (len(pixels), *size)
    grid = torch.stack((columns[:, None].expand(shape), rows[:, :, None].expand(shape)), dim=3)
    return sampled(pixels, grid, padding_mode="border")


def sampled(pixels: torch.Tensor, grid: torch.Tensor, *, padding_mode: str) -> torch.Tensor:
    """Sample images at the positions of a grid by bilinear interpolation, rounded half to even.

    Args:
        pixels: uint8 of shape (B, 3, H, W).
        grid: float32 of shape (B, height, width, 2), see `torch.nn.functional.grid_sample`.
        padding_mode: what lies outside of the images, likewise.

    Returns:
        uint8 of shape (B, 3, height, width), in the memory format of `pixels`.
    """
    images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    values = functional.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)
    is_channels_last = pixels.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if is_channels_last else torch.contiguous_format
    return values.round_().clamp_(0, 255).to(torch.uint8).contiguous(memory_format=memory_format)


def _positions(count: int, first: torch.Tensor, length: torch.Tensor, stored: int) -> torch.Tensor:
    """Where the rows or columns of a result lie in the stored images.

    Args:
        count: the number of rows or columns of the result, n.
        first: the first row or column of each box, float32 of shape (B, 1).
        length: the number of rows or columns of each box, float32 of shape (B, 1).
        stored: the number of rows or columns of the stored images.

    Returns:
        Positions as `grid_sample` wants them: float32 of shape (B, n), from -1 to 1 for the borders of stored images.
    """
    steps = torch.arange(count, dtype=torch.float32, device=first.device) + 0.5
    within = (steps * (length / count) - 0.5).clamp(min=0).minimum(length - 1)  # no pixel outside of the box counts
    return (2 * (first + within) + 1) / stored - 1
