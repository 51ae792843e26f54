"""Augmentation: random crops and mirrored images, drawn anew in each epoch and computed on the training device.

What an image gets depends on the seed, the epoch and its index alone: not on where images are stored, on the other
images of its batch, on the number of processes, or on the step at which a run resumes. A CPU computes the same bits for
it in any batch, with any number of threads. A GPU may differ from a CPU by 1 in single pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from train_pytorch_model.data.batches import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from train_pytorch_model.data.image_store import Batch, ImageStore
    from train_pytorch_model.training.plan import Plan

Size = tuple[int, int]
"""(height, width) in pixels."""

# As torchvision: boxes are drawn this often before the largest one that fits is taken.
_NUM_TRIES = 10
# Images are converted to float32 in groups of at most this size, which bounds the memory for large batches.
_GROUP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Augmentation:
    """Random views of training images. Crops and mirrored images can each be switched off; colours never change."""

    size: Size
    """(height, width) of the result in pixels."""
    crops: bool = True
    """Cut a random box out of each image and resize it to `size`, as torchvision's RandomResizedCrop does."""
    flips: bool = True
    """Mirror each image horizontally with probability 0.5. Off for images of which left and right differ in meaning,
    such as text or arrows."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest area of a box, as fractions of the area of the stored image."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest aspect ratio (width / height) of a box."""

    def draw(self, stored: Size, count: int, seed: int, epoch: int) -> torch.Tensor:
        """Draw the views of all images for an epoch.

        Args:
            stored: (height, width) of the stored images in pixels, at least `size`.
            count: the number of images in the dataset, N.
            seed: of the training.
            epoch: counted from 1.

        Returns:
            int32 of shape (N, 5) on the CPU: top, left, height and width of the box to show, in pixels of the stored
            image, and 1 if it is mirrored.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "augmentation", epoch))
        places = torch.rand((count, 3), generator=generator).numpy()
        views = np.empty((count, 5), dtype=np.int32)
        views[:, 2:4] = self._draw_boxes(stored, count, generator) if self.crops else self.size
        for axis in (0, 1):
            room = stored[axis] - views[:, 2 + axis]
            if self.crops:
                np.floor(places[:, axis] * (room + 1.0), out=views[:, axis], casting="unsafe")
            else:
                views[:, axis] = room // 2
        views[:, 4] = self.flips & (places[:, 2] < 0.5)
        return torch.from_numpy(views)

    def _draw_boxes(self, stored: Size, count: int, generator: torch.Generator) -> np.ndarray:
        """Draw (height, width) of `count` boxes, int32 of shape (N, 2).

        The area and the logarithm of the aspect ratio are uniform. A box that does not fit is drawn again. If none
        fits, as in a very wide image, the box is the largest of the allowed aspect ratios. Unlike torchvision's, its
        place is random too.
        """
        boxes = np.empty((count, 2), dtype=np.int32)
        boxes[:] = _largest_box(stored, self.crop_ratio)
        rest = np.arange(count)
        lowest, highest = (math.log(ratio) for ratio in self.crop_ratio)
        for _ in range(_NUM_TRIES):
            # For all images, so that the draws of an image do not depend on those of the others.
            draws = torch.rand((count, 2), generator=generator).numpy()[rest].astype(np.float64)
            areas = stored[0] * stored[1] * (self.crop_scale[0] + draws[:, 0] * np.ptp(self.crop_scale))
            ratios = np.exp(lowest + draws[:, 1] * (highest - lowest))
            drawn = np.rint(np.sqrt(np.stack((areas / ratios, areas * ratios), axis=1))).astype(np.int32)
            fits = ((drawn > 0) & (drawn <= stored)).all(axis=1)
            boxes[rest[fits]] = drawn[fits]
            rest = rest[~fits]
        return boxes

    def apply(self, pixels: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Return the views of a batch, in the memory format of the batch.

        Boxes are resized by bilinear interpolation without antialiasing, rounded half to even. Without crops, the
        centre is shown, and its pixels are not resampled.

        Args:
            pixels: uint8 of shape (B, 3, H, W).
            views: the rows of `draw` for these images, on the same device.

        Returns:
            uint8 of shape (B, 3, height, width).
        """
        if not self.crops:
            pixels = centre(pixels, self.size)
            return torch.where(views[:, 4].bool()[:, None, None, None], pixels.flip(3), pixels)
        group = max(1, _GROUP_BYTES // (4 * pixels[0].numel()))
        parts = [_resized(*part, self.size) for part in zip(torch.split(pixels, group), torch.split(views, group))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _largest_box(stored: Size, ratios: tuple[float, float]) -> Size:
    """(height, width) of the largest box with an aspect ratio in the given range."""
    height, width = stored
    return min(height, round(width / ratios[0])), min(width, round(height * ratios[1]))


def _resized(pixels: torch.Tensor, views: torch.Tensor, size: Size) -> torch.Tensor:
    top, left, height, width, is_mirrored = views.to(torch.float32)[:, :, None].unbind(1)
    rows = _positions(size[0], top, height, pixels.shape[2])
    columns = _positions(size[1], left, width, pixels.shape[3])
    columns = torch.where(is_mirrored.bool(), columns.flip(1), columns)
    shape = (len(pixels), *size)
    grid = torch.stack((columns[:, None].expand(shape), rows[:, :, None].expand(shape)), dim=3)
    images = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    sampled = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    is_channels_last = pixels.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if is_channels_last else torch.contiguous_format
    return sampled.round_().clamp_(0, 255).to(torch.uint8).contiguous(memory_format=memory_format)


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


def centre(pixels: torch.Tensor, size: Size) -> torch.Tensor:
    """Return the centre of images without copying it.

    Args:
        pixels: of shape (B, 3, H, W).
        size: (height, width) of the centre in pixels, at most (H, W).

    Returns:
        A tensor of shape (B, 3, height, width): `pixels` itself if it has the size.
    """
    if tuple(pixels.shape[2:]) == size:
        return pixels
    top, left = ((pixels.shape[2 + axis] - size[axis]) // 2 for axis in (0, 1))
    return pixels[:, :, top : top + size[0], left : left + size[1]]


@dataclass(frozen=True)
class CentredImages:
    """The images of a store without the margin for crops: the pixels of validation and scoring. An `ImageStore`."""

    images: ImageStore
    size: Size
    """(height, width) in pixels."""

    @property
    def labels(self) -> torch.Tensor:
        """The labels of the images; see `ImageStore`."""
        return self.images.labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        """Iterate over batches; see `ImageStore`."""
        return ((centre(pixels, self.size), labels) for pixels, labels in self.images.batches(batches, device))


@dataclass(frozen=True)
class AugmentedImages:
    """The images of a store as they are shown in one epoch. An `ImageStore`."""

    images: ImageStore
    augmentation: Augmentation
    views: torch.Tensor
    """The result of `Augmentation.draw` for all images."""

    @property
    def labels(self) -> torch.Tensor:
        """The labels of the images; see `ImageStore`."""
        return self.images.labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.augmentation.size

    def batches(self, batches: Sequence[torch.Tensor], device: torch.device) -> Iterator[Batch]:
        """Iterate over batches; see `ImageStore`."""
        if not batches:  # a process may have none of a small dataset's batches
            return
        # Copied to a GPU at once, so that nothing later waits for the host.
        views = self.views[torch.cat(list(batches))]
        views = (views.pin_memory() if device.type == "cuda" else views).to(device, non_blocking=True)
        parts = torch.split(views, [len(batch) for batch in batches])
        for part, (pixels, labels) in zip(parts, self.images.batches(batches, device)):
            yield self.augmentation.apply(pixels, part), labels


def plain(images: ImageStore, size: Size | None) -> ImageStore:
    """Return images without augmentation, of the size of the network.

    Args:
        images: of at least this size.
        size: (height, width) in pixels; None for the size of the images.

    Returns:
        `images` themselves if they have the size.
    """
    return images if size is None or tuple(images.size) == size else CentredImages(images, size)


def augmented(images: ImageStore, plan: Plan, epoch: int) -> ImageStore:
    """Return the training images as the network sees them in an epoch; without augmentation, `plain` ones."""
    if plan.augmentation is None:
        return plain(images, plan.image_size)
    views = plan.augmentation.draw(images.size, len(images), plan.seed, epoch)
    return AugmentedImages(images, plan.augmentation, views)
