"""From an image in a file to the pixels that a network sees: orientation, 8 bits, RGB, and size.

Training, scoring and served models share this module, so that all of them see the same pixels. A trained model carries
a copy of it, so it needs only Pillow and NumPy.
"""

from __future__ import annotations

import math
import operator
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

import numpy as np
from PIL import Image, ImageOps

Size = tuple[int, int]
"""(height, width) in pixels."""

RESIZE_MODES = ("crop", "pad", "stretch")
GEOMETRY_FILE = "image_geometry.json"
"""The file of a trained model that contains `Geometry.to_dict`; models that see images as they are have none."""
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# A JPEG is decoded at a reduced scale that leaves it at least this much larger than the result.
_REDUCING_GAP = 3.0


@dataclass(frozen=True)
class Geometry:
    """How images of any size become pixels of one size. An image that has the size already keeps its pixels."""

    size: Size
    """(height, width) of the result."""
    resize: str = "none"
    """`none`: every image must have the size. `crop`: resize it to cover the size and cut off what is over at the
    borders. `pad`: resize it to fit into the size, centred on black. `stretch`: change its aspect ratio."""
    cover: Optional[Size] = None
    """With `crop`: (height, width) that images are resized to cover before the size is cut out of their centre."""
    interpolation: str = "bilinear"
    """`bilinear` or `bicubic`, both with antialiasing."""
    orients: bool = False
    """Whether to apply the EXIF orientation."""
    scales_values: bool = False
    """Whether to scale values of more than 8 bits to 8 bits; otherwise they are clipped at 255, as Pillow does."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        sizes = {"size": list(self.size), "cover": self.cover and list(self.cover)}
        return {**asdict(self), **sizes}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Geometry:
        """Return the geometry of `to_dict`.

        Raises:
            ValueError: if the values are not those of a geometry.
        """
        try:
            sizes = {key: _size(values[key]) for key in ("size", "cover") if values.get(key) is not None}
            geometry = cls(**{**values, **sizes})
            is_valid = geometry.resize in ("none", *RESIZE_MODES) and geometry.interpolation in _RESAMPLING
            covers = geometry.cover or geometry.size
            if not (is_valid and min(geometry.size) > 0 and all(map(operator.ge, covers, geometry.size))):
                raise ValueError(f"{values} is no geometry of images")
        except (KeyError, TypeError) as error:
            raise ValueError(f"{values!r} is no geometry of images") from error
        return geometry

    @classmethod
    def crop(cls, size: Size, fraction: float, **others: Any) -> Geometry:
        """Return a geometry that crops.

        Args:
            size: (height, width) of the result.
            fraction: the part of the covered size that the result has, in (0, 1]. 224 pixels of 256 are 0.875.
            others: further fields.
        """
        return cls(size, "crop", cover=(round(size[0] / fraction), round(size[1] / fraction)), **others)

    @property
    def margin(self) -> Size:
        """(rows, columns) around the size that every image has: the room for random crops."""
        rows, columns = ((covered - side) // 4 * 2 for covered, side in zip(self.cover or self.size, self.size))
        return rows, columns

    def with_margin(self) -> Geometry:
        """Return the geometry of the same images with the margin around them; their centre is what it was."""
        (height, width), (rows, columns) = self.size, self.margin
        return replace(self, size=(height + 2 * rows, width + 2 * columns))


def _size(values: Any) -> Size:
    height, width = (int(value) for value in values)
    return height, width


def size_in_header(image: Image.Image, *, orients: bool) -> Size:
    """Return (height, width) of an opened image, which need not be decoded, in its EXIF orientation if `orients`."""
    is_turned = orients and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if is_turned else (image.height, image.width)


def pixels_of(image: Image.Image, geometry: Geometry | None = None) -> np.ndarray:
    """Return the RGB pixels of an image, uint8 of shape (height, width, 3).

    Args:
        image: an opened image, which need not be decoded yet. It may be decoded at a reduced scale.
        geometry: what to do with it; None to keep its size, as the designer's modules do.

    Raises:
        Exception: those of Pillow's decoders, which are not documented.
    """
    if geometry is None:
        return _rgb(image)
    turned = size_in_header(image, orients=geometry.orients)
    if geometry.resize == "none" or turned == geometry.size:
        return _rgb(_prepared(image, geometry))
    cover = _scaled_size(turned, geometry)
    is_turned = turned != (image.height, image.width)
    width, height = (math.ceil(_REDUCING_GAP * side) for side in (cover if is_turned else reversed(cover)))
    image.draft(image.mode, (width, height))  # only for JPEGs, and never smaller than asked for
    resized = Image.fromarray(_rgb(_prepared(image, geometry))).resize(
        (cover[1], cover[0]), _RESAMPLING[geometry.interpolation]
    )
    return _placed(np.asarray(resized), geometry)


def _prepared(image: Image.Image, geometry: Geometry) -> Image.Image:
    """The image in its orientation, with values of 8 bits."""
    if geometry.orients:
        image = ImageOps.exif_transpose(image)
    return scaled_to_8_bits(image) if geometry.scales_values else image


def _rgb(image: Image.Image) -> np.ndarray:
    # Converting RGB to RGB would only copy the image.
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale the values of an image with more than 8 bits a channel linearly to 8 bits; return other images unchanged.

    16-bit integers are divided by 257, so that 65535 becomes 255. 32-bit integers and floating-point numbers have no
    known range: values in [0, 1], in [0, 255] and in [0, 65535] are taken for such, by the largest value of the image,
    and larger ones are divided by it. Negative values and NaN become 0.
    """
    if not has_wide_values(image):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    largest = values.max(initial=0)
    if image.mode != "F" and image.mode.startswith("I;16"):
        top = 65535.0
    elif image.mode == "F" and largest <= 1:
        top = 1.0
    else:
        top = next((top for top in (255.0, 65535.0) if largest <= top), largest)
    return Image.fromarray(np.rint(values * (255.0 / top)).astype(np.uint8))


def has_wide_values(image: Image.Image) -> bool:
    """Return whether the values of an image may need more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def _scaled_size(size: Size, geometry: Geometry) -> Size:
    """(height, width) to which an image is resized before the size is cut out of it or padded."""
    if geometry.resize == "stretch":
        return geometry.size
    wanted = geometry.cover or geometry.size
    factors = wanted[0] / size[0], wanted[1] / size[1]
    factor = max(factors) if geometry.resize == "crop" else min(factors)
    # As torchvision's Resize: the other side is rounded down.
    scaled = [wanted[axis] if factors[axis] == factor else max(1, int(size[axis] * factor)) for axis in (0, 1)]
    if geometry.resize == "crop":
        scaled = [max(scaled[axis], wanted[axis]) for axis in (0, 1)]
    return scaled[0], scaled[1]


def _placed(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Cut the size out of the centre of the pixels, or place them in the centre of black ones."""
    height, width = geometry.size
    if geometry.resize == "pad":
        result = np.zeros((height, width, 3), dtype=np.uint8)
        top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
        result[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        return result
    top, left = _first(pixels.shape[0], height), _first(pixels.shape[1], width)
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _first(available: int, wanted: int) -> int:
    """The first row or column of a centred crop, rounded as torchvision's CenterCrop does.

    Half of the pixels round to an even number. Margins are even, so that a crop with a margin has the same centre.
    """
    return round((available - wanted) / 2)
