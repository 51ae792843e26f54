"""The operations of TrivialAugment that change the colours of images and move nothing.

They compute what torchvision's `functional` computes for uint8, with a strength for each image. The strength is in
[-1, 1], from the weakest at 0 to the strongest of torchvision's TrivialAugmentWide. Operations without a direction
ignore its sign. Sums over pixels are those of integers, so that an image gets the same bits in any batch.
"""

from __future__ import annotations

from typing import Callable

import torch

ColourOperation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Returns images, uint8 of shape (B, 3, height, width), for such images and float32 of shape (B, n), whose first column
is the strength."""

_STRONGEST = 0.99
_MOST_BITS_LOST = 6


def _blended(pixels: torch.Tensor, other: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Return pixels that lie farther from another image (strength above 0), or closer to it (below 0)."""
    ratio = 1 + _STRONGEST * _strengths(drawn)
    other = other.to(torch.float32)
    return ((pixels - other) * ratio).add_(other).clamp_(0, 255).to(torch.uint8)


def _strengths(drawn: torch.Tensor) -> torch.Tensor:
    return drawn[:, :1, None, None]


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    red, green, blue = pixels.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[:, None]


def _brightness(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return _blended(pixels, torch.zeros_like(pixels), drawn)


def _saturation(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    return _blended(pixels, _grey(pixels), drawn)


def _contrast(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    grey = _grey(pixels)
    mean = grey.sum((1, 2, 3), keepdim=True).double() / grey[0].numel()
    return _blended(pixels, mean, drawn)


def _sharpness(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Blend with a blurred image: the mean of nine pixels, of which the one in the middle counts five times."""
    height, width = pixels.shape[2:]
    if height <= 2 or width <= 2:
        return pixels
    whole = pixels.to(torch.int32)
    middle = whole[:, :, 1:-1, 1:-1]
    total = 4 * middle
    for top in range(3):
        for left in range(3):
            total = total + whole[:, :, top : height - 2 + top, left : width - 2 + left]
    blurred = pixels.clone()  # the border is not blurred
    blurred[:, :, 1:-1, 1:-1] = (total.float() / 13).round_().to(torch.uint8)
    return _blended(pixels, blurred, drawn)


def _posterize(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    lost = (_strengths(drawn).abs() * _MOST_BITS_LOST).round().to(torch.int32)
    return (pixels.to(torch.int32) >> lost << lost).to(torch.uint8)


def _solarize(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    thresholds = (510 * (1 - _strengths(drawn).abs())).round() / 2  # torchvision's are multiples of 8.5
    return torch.where(pixels >= thresholds, 255 - pixels, pixels)


def _autocontrast(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Stretch each channel from 0 to 255; one of a single value stays as it is."""
    low, high = (torch.amin(pixels, (2, 3), True).float(), torch.amax(pixels, (2, 3), True).float())
    is_flat = low == high
    scale = torch.where(is_flat, 1.0, 255 / (high - low))
    return ((pixels - torch.where(is_flat, 0.0, low)) * scale).clamp_(0, 255).to(torch.uint8)


def _equalize(pixels: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Make the histogram of each channel as flat as possible, as Pillow does."""
    flat = pixels.contiguous().flatten(2)
    ordered = flat.sort(dim=2).values
    values = torch.arange(256, dtype=torch.uint8, device=pixels.device).expand(*flat.shape[:2], 256).contiguous()
    # The number of pixels below each value. A histogram by scatter_add has no deterministic kernel on GPUs.
    below = torch.searchsorted(ordered, values)
    step = below.gather(2, ordered[:, :, -1:].long()) // 255
    mapped = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255).to(torch.uint8)
    changed = torch.where(step > 0, mapped.gather(2, flat.long()), flat)
    return changed.view(pixels.shape)


COLOUR_OPERATIONS: dict[str, ColourOperation] = {
    "Brightness": _brightness,
    "Color": _saturation,
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
}
"""The operations by their names in torchvision."""
