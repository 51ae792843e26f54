"""Augmentation: random changes of images, drawn anew in each epoch and computed on the training device.

What an image gets depends on the seed, the epoch and its index alone: not on where images are stored, on the other
images of its batch, on the number of processes, or on the step at which a run resumes. A CPU computes the same bits for
it in any batch, with any number of threads. A GPU may differ from a CPU by 1 in single pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Callable, Optional

import numpy as np
import torch

from train_pytorch_model.data.batches import derive_seed, sent
from train_pytorch_model.training.boxes import draw_boxes, place
from train_pytorch_model.training.resampling import group_size, resized_boxes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from train_pytorch_model.data.image_store import Batch, ImageStore
    from train_pytorch_model.training.boxes import Size
    from train_pytorch_model.training.plan import Plan
    from train_pytorch_model.training.random_erasing import RandomErasing
    from train_pytorch_model.training.trivial_augment import TrivialAugment


@dataclass(frozen=True)
class Augmentation:
    """Random views of training images. Each part can be switched off."""

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
    operations: Optional[TrivialAugment] = None
    """Change each image by a random operation, after it is cropped and mirrored."""
    erasing: Optional[RandomErasing] = None
    """Erase a box of some images, at last."""

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
        draws = torch.rand((count, 3), generator=generator).numpy()
        views = np.empty((count, 5), dtype=np.int32)
        if self.crops:
            # If no box fits, as in a very wide image, the box is the largest of the allowed aspect ratios. Unlike
            # torchvision's, its place is random too.
            largest = np.tile(np.array(_largest_box(stored, self.crop_ratio), dtype=np.int32), (count, 1))
            views[:, 2:4] = draw_boxes(stored, largest, self.crop_scale, self.crop_ratio, stored, generator)
            views[:, :2] = place(views[:, 2:4], draws, stored)
        else:
            views[:, 2:4] = self.size
            views[:, :2] = [(stored[axis] - self.size[axis]) // 2 for axis in (0, 1)]
        views[:, 4] = self.flips & (draws[:, 2] < 0.5)
        return torch.from_numpy(views)

    def apply(self, pixels: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Return the views of a batch, cropped and mirrored, in the memory format of the batch.

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
        group = group_size(pixels)
        parts = [resized_boxes(*part, self.size) for part in zip(torch.split(pixels, group), torch.split(views, group))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _largest_box(stored: Size, ratios: tuple[float, float]) -> Size:
    """(height, width) of the largest box with an aspect ratio in the given range."""
    height, width = stored
    return min(height, round(width / ratios[0])), min(width, round(height * ratios[1]))


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
    """The images of a store without the margin for crops. An `ImageStore`.

    These are the pixels of validation and scoring, except for images of exactly this size, which have been resized.
    """

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


Change = Callable[[torch.Tensor], torch.Tensor]
"""Turns the stored pixels of a batch into those that the network sees."""


@dataclass(frozen=True)
class AugmentedImages:
    """The images of a store as they are shown in one epoch. An `ImageStore`."""

    images: ImageStore
    augmentation: Augmentation
    views: torch.Tensor
    """The result of `Augmentation.draw` for all images."""
    operations: Optional[tuple[TrivialAugment, torch.Tensor]] = None
    """Operations, and what they have drawn for all images."""
    erasing: Optional[tuple[RandomErasing, torch.Tensor]] = None
    """Random erasing, and what it has drawn for all images."""

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
        for change, (pixels, labels) in zip(self.changes(batches, device), self.images.batches(batches, device)):
            yield change(pixels), labels

    def changes(self, batches: Sequence[torch.Tensor], device: torch.device) -> list[Change]:
        """Return what turns the stored pixels of each batch into those that the network sees.

        Args:
            batches: indices of the images of each batch, int64 of shape (B,).
            device: of the pixels.
        """
        if not batches:  # a process may have none of a small dataset's batches
            return []
        indices, sizes = torch.cat(list(batches)), [len(batch) for batch in batches]

        def rows(table: torch.Tensor, place: torch.device) -> tuple[torch.Tensor, ...]:
            # All at once, so that nothing later waits for the host.
            return torch.split(sent(table[indices], place), sizes)

        parts: list[Iterable[Change]] = [
            [partial(self.augmentation.apply, views=views) for views in rows(self.views, device)]
        ]
        if self.operations:
            operations, drawn = self.operations
            pairs = zip(rows(drawn, device), rows(drawn[:, 0], torch.device("cpu")))
            parts.append([partial(operations.apply, drawn=on_device, numbers=numbers) for on_device, numbers in pairs])
        if self.erasing:
            erasing, boxes = self.erasing
            parts.append([partial(erasing.apply, boxes=on_device) for on_device in rows(boxes, device)])
        return [partial(_in_turn, changes) for changes in zip(*parts)]


def _in_turn(changes: Iterable[Change], pixels: torch.Tensor) -> torch.Tensor:
    for change in changes:
        pixels = change(pixels)
    return pixels


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
    augmentation = plan.augmentation
    if augmentation is None:
        return plain(images, plan.image_size)

    operations, erasing = augmentation.operations, augmentation.erasing
    what = (len(images), plan.seed, epoch)
    return AugmentedImages(
        images,
        augmentation,
        augmentation.draw(images.size, *what),
        None if operations is None else (operations, operations.draw(augmentation.size, *what)),
        None if erasing is None else (erasing, erasing.draw(augmentation.size, *what)),
    )
