"""Random boxes in images, as torchvision's RandomResizedCrop and RandomErasing draw them, for all images at once."""

from __future__ import annotations

import math

import numpy as np
import torch

Size = tuple[int, int]
"""(height, width) in pixels."""

# As torchvision: a box that does not fit is drawn again, but only so often.
_NUM_TRIES = 10


def draw_boxes(
    image: Size,
    fallback: np.ndarray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    largest: Size,
    generator: torch.Generator,
) -> np.ndarray:
    """Draw the sizes of boxes. The area and the logarithm of the aspect ratio are uniform.

    Args:
        image: (height, width) of the images in pixels.
        fallback: (height, width) of the boxes of images for which no box fits, int32 of shape (N, 2).
        scale: the smallest and the largest area, as fractions of the area of the image.
        ratio: the smallest and the largest aspect ratio (width / height).
        largest: the largest height and the largest width that fit.
        generator: draws equally often, whatever fits.

    Returns:
        (height, width) in pixels, int32 of shape (N, 2).
    """
    boxes = fallback.copy()
    rest = np.arange(len(boxes))
    lowest, highest = (math.log(bound) for bound in ratio)
    for _ in range(_NUM_TRIES):
        # For all images, so that the draws of an image do not depend on those of the others.
        draws = torch.rand((len(boxes), 2), generator=generator).numpy()[rest].astype(np.float64)
        areas = image[0] * image[1] * (scale[0] + draws[:, 0] * np.ptp(scale))
        ratios = np.exp(lowest + draws[:, 1] * (highest - lowest))
        drawn = np.rint(np.sqrt(np.stack((areas / ratios, areas * ratios), axis=1))).astype(np.int32)
        fits = ((drawn > 0) & (drawn <= largest)).all(axis=1)
        boxes[rest[fits]] = drawn[fits]
        rest = rest[~fits]
    return boxes


def place(boxes: np.ndarray, draws: np.ndarray, image: Size) -> np.ndarray:
    """Return (top, left) of boxes in images, uniform over all places, int32 of shape (N, 2).

    Args:
        boxes: (height, width) in pixels, int32 of shape (N, 2).
        draws: uniform in [0, 1), float32 of shape (N, 2).
        image: (height, width) of the images in pixels.
    """
    places = np.empty_like(boxes)
    for axis in (0, 1):
        np.floor(draws[:, axis] * (image[axis] - boxes[:, axis] + 1.0), out=places[:, axis], casting="unsafe")
    return places
