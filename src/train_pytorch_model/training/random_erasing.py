"""Random erasing: a box in some of the images is filled with one colour.

Zhong et al. 2020, "Random Erasing Data Augmentation". Which box, if any, depends on the seed, the epoch and the index
of the image alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from train_pytorch_model.data.batches import derive_seed
from train_pytorch_model.training.boxes import Size, draw_boxes, place

# As torchvision's RandomErasing, whose aspect ratio from 0.3 to 3.3 is height / width.
_SCALE = (0.02, 0.33)
_RATIO = (1 / 3.3, 1 / 0.3)


@dataclass(frozen=True)
class RandomErasing:
    """Fills random boxes with one colour."""

    probability: float
    """Of each image to lose a box, in [0, 1]."""
    colour: tuple[int, int, int]
    """Red, green and blue, in [0, 255]."""

    def draw(self, size: Size, count: int, seed: int, epoch: int) -> torch.Tensor:
        """Draw the boxes of all images for an epoch.

        Args:
            size: (height, width) of the images in pixels.
            count: the number of images in the dataset, N.
            seed: of the training.
            epoch: counted from 1.

        Returns:
            int32 of shape (N, 4): top, left, height and width in pixels; height and width are 0 for most images.
        """
        generator = torch.Generator().manual_seed(derive_seed(seed, "random erasing", epoch))
        draws = torch.rand((count, 3), generator=generator).numpy()
        largest = (size[0] - 1, size[1] - 1)  # torchvision never erases a whole side
        boxes = draw_boxes(size, np.zeros((count, 2), dtype=np.int32), _SCALE, _RATIO, largest, generator)
        boxes[draws[:, 2] >= self.probability] = 0
        return torch.from_numpy(np.concatenate((place(boxes, draws, size), boxes), axis=1))

    def apply(self, pixels: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Return images with their boxes filled.

        Args:
            pixels: uint8 of shape (B, 3, height, width).
            boxes: the rows of `draw` for these images, on the same device.
        """
        colour = torch.stack([pixels.new_full((), value) for value in self.colour]).view(3, 1, 1)
        top, left, height, width = boxes[:, :, None].unbind(1)
        rows, columns = (torch.arange(length, device=pixels.device) for length in pixels.shape[2:])
        rows_inside = (rows >= top) & (rows < top + height)
        columns_inside = (columns >= left) & (columns < left + width)
        return torch.where((rows_inside[:, :, None] & columns_inside[:, None])[:, None], colour, pixels)
