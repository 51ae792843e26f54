"""Draws heat maps over images.

The report, Score Image Model and served models draw alike. A trained model carries a copy of this file, so it needs
only Pillow and NumPy.
"""

from __future__ import annotations

import io
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# As matplotlib's "inferno", from black over purple and orange to light yellow: lighter is more, also without colours.
_COLOURS = np.array(
    [
        *((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99)),
        *((212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)),
    ]
)
# The image stays visible under the strongest heat.
_OPACITY = 0.75
# Sides of an image in a picture, in pixels: smaller images are enlarged, larger ones reduced.
_SHORTEST_SIDE = 224
_LONGEST_SIDE = 512
_MARGIN = 8
_TEXT_SIZE = 14
_LINE = 20
_BAR = 12


def draw_heat(pixels: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Draw the heat of an image over its grey version.

    Args:
        pixels: uint8 of shape (height, width, 3).
        heat: >= 0, float of shape (height, width). Its largest value gets the lightest colour.
    """
    highest = float(heat.max())
    return Image.fromarray(_blended(pixels, heat / highest if highest > 0 else np.zeros(heat.shape)))


def draw_explanation(pixels: np.ndarray, heat: np.ndarray, title: str) -> bytes:
    """Draw an image, its heat beside it, and the scale of the heat, and encode the picture as a PNG.

    Args:
        pixels: uint8 of shape (height, width, 3).
        heat: >= 0, float of shape (height, width).
        title: the line above; "?" stands for letters that the font lacks.
    """
    image, heated = (_enlarged(picture) for picture in (Image.fromarray(pixels), draw_heat(pixels, heat)))
    side = max(image.width, _SHORTEST_SIDE)  # room for the words
    width, height = 2 * side + 3 * _MARGIN, image.height + 3 * _MARGIN + 2 * _LINE + _BAR
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(_TEXT_SIZE)
    draw.text((_MARGIN, _MARGIN // 2), _drawable(title), "black", font)
    top, right = _LINE + _MARGIN // 2, side + 2 * _MARGIN
    picture.paste(image, (_MARGIN, top))
    picture.paste(heated, (right, top))
    bar = top + image.height + _MARGIN
    picture.paste(_scale(side), (right, bar))
    draw.text((_MARGIN, bar), "What a place adds to the score:", "black", font)
    draw.text((right, bar + _BAR), "0", "black", font)
    draw.text((right + side, bar + _BAR), f"{heat.max():.2g}", "black", font, "ra")
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def _blended(pixels: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Blend colours into the grey version of an image: uint8 of shape (H, W, 3) for fractions of shape (H, W)."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float64)[..., None]
    steps = np.linspace(0, 1, len(_COLOURS))
    colours = np.stack([np.interp(fraction, steps, channel) for channel in _COLOURS.T], axis=-1)
    opacity = _OPACITY * np.sqrt(fraction)[..., None]
    blended: np.ndarray = np.rint(grey + opacity * (colours - grey)).astype(np.uint8)
    return blended


def _scale(width: int) -> Image.Image:
    fraction = np.broadcast_to(np.linspace(0, 1, width), (_BAR, width))
    return Image.fromarray(_blended(np.full((_BAR, width, 3), 128, dtype=np.uint8), fraction))


def _enlarged(image: Image.Image) -> Image.Image:
    """Enlarge a small image without interpolation, as a person would to see its pixels; reduce a large one."""
    factor = max(1, -(-_SHORTEST_SIDE // min(image.size)))
    factor = max(1, min(factor, _LONGEST_SIDE // max(image.size)))
    enlarged = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    enlarged.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return enlarged


def _drawable(text: str) -> str:
    """Return the text in the letters of the font, which are those of ASCII: é as e, others as "?"."""
    letters = (letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return "".join(letter if " " <= letter <= "~" else "?" for letter in letters)
