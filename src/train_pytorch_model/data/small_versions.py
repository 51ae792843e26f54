"""Small versions of images, which tell whether two images are the same or nearly so."""

from __future__ import annotations

import torch
from torch.nn import functional

# Sides of the small versions that are compared: of all images, in grey; then of the pairs that this finds, in colour.
COARSE_SIDE = 16
FINE_SIDE = 32
# Details are the differences of the second from a version of this side, so that the same light is not the same image.
_BLURRED_SIDE = 8
# Two images are nearly identical if the cosines of both small versions and that of their details are at least so much.
# Of 180 photos of three kinds, copies as JPEG of quality 20, of half the size, or with other brightness and contrast
# had at least 0.986 and 0.938. Of 3,091 photos, 24 other pairs are found, which are two shots of one scene.
COSINE = 0.96
_DETAILS_COSINE = 0.85
# X-rays, forms and photos of a fixed camera are all alike: their differences from the mean of the images must be alike,
# too. The mean is that of so many images. All 27 pairs of the photos above have at least 0.9.
_DIFFERENCES_COSINE = 0.9
NUM_AVERAGED = 256
# Differences in grey levels that count as much as noise, so that images of one colour can be compared.
_NOISE_LEVELS = 2.0
# Images whose pixels differ less are images of one colour: without details, only identical ones are the same.
_LEAST_CONTRAST = 4.0
# How much the brightness counts relative to the differences within an image.
_BRIGHTNESS = 0.03


def small_version(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Return small versions of images, float32 of shape (B, 3, side, side).

    Args:
        pixels: uint8 of shape (B, 3, height, width).
        side: height and width of the small version.
    """
    # On a CPU, resizing bytes takes a tenth of the time; CUDA has no kernel for them.
    given = pixels if pixels.device.type == "cpu" else pixels.float()
    return functional.interpolate(given, (side, side), mode="bilinear", antialias=True).float()


def sketches_of(small: torch.Tensor) -> torch.Tensor:
    """Return a vector of length 1 for each image, whose cosines tell how similar the images are.

    It has the differences of the values from their mean, and, with little weight, this mean.

    Args:
        small: float32 of shape (B, …).
    """
    values = small.flatten(1)
    mean = values.mean(1, keepdim=True)
    noise = torch.full_like(mean, _NOISE_LEVELS)
    return functional.normalize(torch.cat([(values - mean) / values.shape[1] ** 0.5, _BRIGHTNESS * mean, noise], 1))


def _details(small: torch.Tensor) -> torch.Tensor:
    """Return the differences of small versions from a blurred version of them."""
    blurred = functional.adaptive_avg_pool2d(small, _BLURRED_SIDE)
    return small - functional.interpolate(blurred, small.shape[2:], mode="bilinear")


def similarities(first: torch.Tensor, second: torch.Tensor, typical: torch.Tensor) -> torch.Tensor:
    """Return the similarity of each pair of small versions, in [0, 1]; 0 for images that are not nearly the same."""
    cosines, details, differences = (
        (sketches_of(one) * sketches_of(other)).sum(1)
        for one, other in (
            (first, second),
            (_details(first), _details(second)),
            (first - typical, second - typical),
        )
    )
    is_near = (cosines >= COSINE) & (details >= _DETAILS_COSINE) & (differences >= _DIFFERENCES_COSINE)
    is_plain = first.std((2, 3)).amax(1) < _LEAST_CONTRAST
    return torch.minimum(cosines, details).clamp(max=1).where(is_near & ~is_plain, 0)
