"""From an image in a file to the pixels that a network sees: orientation, 8 bits, RGB, and size.

Training, scoring and served models share this module, so that all of them see the same pixels. A trained model carries
a copy of it, so it needs only Pillow and NumPy.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

import numpy as np
from PIL import Image, TiffImagePlugin

Size = tuple[int, int]
"""(height, width) in pixels."""

RESIZE_MODES = ("crop", "pad", "stretch")
GEOMETRY_FILE = "image_geometry.json"
"""The file of a trained model that contains `Geometry.to_dict`; models that see images as they are have none."""
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_SIDE = 2**13
# Crops may have a tenth of the covered size.
_MAX_COVERED_SIDE = 10 * MAX_SIDE
_ORIENTATION = 0x0112
_TURNS = {
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM},
    **{5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE},
    **{8: Image.Transpose.ROTATE_90},
}
_QUARTER_TURNS = (5, 6, 7, 8)
# The largest value of an image may exceed the range that is meant by this factor, as rounding and resampling make it.
_OVERSHOOT = 1.1
# Where Pillow finds an orientation. A TIFF has it in its tags.
_SOURCES_OF_ORIENTATION = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
# A JPEG is decoded at a reduced scale that leaves it at least this many times as large as the result.
_REDUCING_GAP = 3
# Of an image that is longer than this, relative to the covered size, only the middle is resized. It could take
# gigabytes otherwise: 1x5000 pixels cover 256x256 as 256x1280000.
_MAX_EXCESS = 16


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
    has_margin: bool = False
    """Whether the size includes a margin, so that images of exactly this size are resized as all others are."""
    averages_mirrored: bool = False
    """Whether the probabilities of an image are the mean of its own and those of its mirror image."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        values = {**asdict(self), "size": list(self.size), "cover": self.cover and list(self.cover)}
        if not self.averages_mirrored:
            del values["averages_mirrored"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Geometry:
        """Return the geometry of `to_dict`.

        Raises:
            ValueError: if the values are not those of a geometry.
        """
        try:
            cover = values.get("cover")
            covered = None if cover is None else _size(cover, _MAX_COVERED_SIDE)
            sizes = {"size": _size(values["size"], MAX_SIDE), "cover": covered}
            geometry = cls(**{**values, **sizes})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{str(values)[:200]} is no geometry of images") from error
        switches = (geometry.orients, geometry.scales_values, geometry.has_margin, geometry.averages_mirrored)
        names = (geometry.resize in ("none", *RESIZE_MODES), geometry.interpolation in tuple(_RESAMPLING))
        if not all((*names, *(isinstance(switch, bool) for switch in switches), geometry._covers())):
            raise ValueError(f"{str(values)[:200]} is no geometry of images")
        return geometry

    def _covers(self) -> bool:
        """Whether the covered size, which only crops have, is not smaller than the size."""
        if self.cover is None:
            return True
        return self.resize == "crop" and self.cover[0] >= self.size[0] and self.cover[1] >= self.size[1]

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
    def keeps_images(self) -> bool:
        """Whether images are taken as they are, as the designer's modules take them."""
        return self.resize == "none" and not (self.orients or self.scales_values or self.averages_mirrored)

    @property
    def margin(self) -> Size:
        """(rows, columns) around the size that every image has: the room for random crops."""
        rows, columns = ((covered - side) // 4 * 2 for covered, side in zip(self.cover or self.size, self.size))
        return rows, columns

    def with_margin(self) -> Geometry:
        """Return the geometry with the margin around the same centre; images of exactly the size are resized, too."""
        (height, width), (rows, columns) = self.size, self.margin
        is_wider = (rows, columns) != (0, 0)
        return replace(self, size=(height + 2 * rows, width + 2 * columns), has_margin=is_wider)


def _size(values: Any, longest: int) -> Size:
    height, width = values
    if not all(type(side) is int and 0 < side <= longest for side in values):
        raise ValueError(f"sides must be integers from 1 to {longest}")
    return height, width


def size_in_header(image: Image.Image, *, orients: bool) -> Size:
    """Return (height, width) of an opened image, which need not be decoded, in its EXIF orientation if `orients`.

    The orientation of a PNG may follow its pixels, and is known only when it is decoded.
    """
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow turns a TIFF when it decodes it, and some versions exchange its sides before.
        is_turned = image.tag_v2.get(_ORIENTATION) in _QUARTER_TURNS
        if is_turned:
            width, height = image.tag_v2[256], image.tag_v2[257]
    else:
        is_turned = orients and orientation(image) in _QUARTER_TURNS
    return (width, height) if is_turned else (height, width)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 if it has none, or damaged metadata."""
    if not any(source in image.info for source in _SOURCES_OF_ORIENTATION):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # those of damaged metadata, which are not documented, and no reason to refuse the pixels
        return 1
    return value if value in _TURNS else 1


def pixels_of(image: Image.Image, geometry: Geometry | None = None) -> np.ndarray:
    """Return the RGB pixels of an image, uint8 of shape (height, width, 3).

    Args:
        image: an opened image, which need not be decoded yet. It may be decoded at a reduced scale.
        geometry: what to do with it; None to keep its size, as the designer's modules do.

    Raises:
        Exception: those of Pillow's decoders, which are not documented.
    """
    if geometry is None:
        return np.asarray(_rgb(image))
    if isinstance(image, TiffImagePlugin.TiffImageFile) and not geometry.keeps_images:
        # Pillow maps an uncompressed file into memory if it has a name, and garbles an image that is turned.
        image.filename = ""
    if geometry.orients and image.format not in ("JPEG", "MPO"):
        image.load()  # which finds the orientation wherever it is
    size = size_in_header(image, orients=geometry.orients)
    if geometry.resize == "none" or (size == geometry.size and not geometry.has_margin):
        return np.asarray(_rgb(_prepared(image, geometry)))
    scaled = _scaled_size(size, geometry)
    resampling = _RESAMPLING[geometry.interpolation]
    turn = orientation(image) if geometry.orients else 1
    sides = scaled if turn in _QUARTER_TURNS else scaled[::-1]  # (width, height) in the orientation of the file
    if box := _reduced(image, sides):
        resized = _turned(_rgb(image).resize(sides, resampling, box), turn)
    else:
        upright = _rgb(_prepared(image, geometry))
        if geometry.resize == "crop":
            upright, scaled = _without_excess(upright, scaled, geometry)
        resized = upright.resize(scaled[::-1], resampling)
    return _placed(np.asarray(resized), geometry)


def _reduced(image: Image.Image, sides: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Let a large JPEG be decoded at a reduced scale, which takes less time and hardly changes the result.

    Args:
        image: an opened image that is not decoded.
        sides: (width, height) to which it will be resized.

    Returns:
        The part of the reduced pixels that the image is, whose last column and row it may fill partly; None for other
        images, which are decoded whole.
    """
    whole = image.size
    drafted = image.draft(image.mode, (_REDUCING_GAP * sides[0], _REDUCING_GAP * sides[1]))
    return None if drafted is None or image.size == whole else drafted[1]


def _prepared(image: Image.Image, geometry: Geometry) -> Image.Image:
    """The image with values of 8 bits, in its orientation."""
    image.load()
    turn = orientation(image) if geometry.orients else 1
    return _turned(scaled_to_8_bits(image) if geometry.scales_values else image, turn)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def _rgb(image: Image.Image) -> Image.Image:
    # Converting RGB to RGB would only copy the image.
    return image if image.mode == "RGB" else image.convert("RGB")


def scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale the values of an image with more than 8 bits a channel linearly to 8 bits; return other images unchanged.

    16-bit integers are divided by 257, so that 65535 becomes 255. 32-bit integers and floating-point numbers have no
    known range: values up to 255 and up to 65535, and floating-point numbers up to 1, are taken for such by the largest
    value of the image, which may be 10 % larger and is then clipped; larger ones are divided by it. Negative values and
    those that are not finite become 0.
    """
    if not has_wide_values(image):
        return image
    # Pillow scales the integers of PNG and PGM to 16 bits. It calls PFM, which has floating-point numbers, PPM too.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    values = np.array(image, dtype=np.float32)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(values.max(initial=0))
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    values *= 255.0 / next((top for top in tops if largest <= _OVERSHOOT * top), largest)
    return Image.fromarray(np.rint(values.clip(0, 255, out=values), out=values).astype(np.uint8))


def has_wide_values(image: Image.Image) -> bool:
    """Return whether the values of an image may need more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def _scaled_size(size: Size, geometry: Geometry) -> Size:
    """(height, width) to which an image is resized before the size is cut out of it or padded."""
    if geometry.resize == "stretch":
        return geometry.size
    (height, width), (wanted_height, wanted_width) = size, geometry.cover or geometry.size
    # As torchvision's Resize: one side is what is wanted, and the other is rounded down.
    is_relatively_wide = wanted_height * width >= wanted_width * height
    if is_relatively_wide == (geometry.resize == "crop"):
        return wanted_height, max(1, wanted_height * width // height)
    return max(1, wanted_width * height // width), wanted_width


def _without_excess(image: Image.Image, scaled: Size, geometry: Geometry) -> tuple[Image.Image, Size]:
    """Cut the ends off an extremely long image, far from its middle; return it and the size to resize it to."""
    covered = geometry.cover or geometry.size
    if all(side <= _MAX_EXCESS * wanted for side, wanted in zip(scaled, covered)):
        return image, scaled
    long = 0 if scaled[0] > covered[0] else 1
    sides = [image.height, image.width]
    length = math.ceil(_MAX_EXCESS / 2 * sides[1 - long] * covered[long] / covered[1 - long])
    first = (sides[long] - length) // 2
    length = sides[long] - 2 * first  # as much at both ends, so that the middle stays where it is
    box = (0, first, image.width, first + length) if long == 0 else (first, 0, first + length, image.height)
    sides[long] = length
    return image.crop(box), _scaled_size((sides[0], sides[1]), geometry)


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
