"""Decodes the images of requests, with Pillow as training does, and says what data is that is not an image.

It needs only Pillow, NumPy, `image_formats.py` and `image_geometry.py`, and is copied into each trained model.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import re
import threading
import warnings
from typing import Optional
from urllib.parse import unquote, unquote_to_bytes

from image_formats import UnreadableImageError, open_image
from image_geometry import Geometry, pixels_of
from PIL import Image

# Pillow logs and warns about images without naming them. The errors below say what is wrong with which image.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"PIL\.")

_MAX_PIXELS = 16_000_000
# Images that are resized may be larger. They are decoded one at a time, which bounds the memory of all requests.
# JPEGs may be larger still, up to the limit of `open_image`: they are decoded at a reduced scale. This saves no memory
# with progressive ones, whose coefficients (6 bytes for a pixel) are all kept until the last scan.
_MAX_RESIZED_PIXELS = 90_000_000
_REDUCIBLE = ("JPEG", "MPO")
_ONE_LARGE_IMAGE = threading.Lock()
_MAX_SHOWN = 40
_JSON_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
_JSON_NAMES |= {dict: "an object"}


class BadImageError(Exception):
    """An invalid image; the message says why."""


def decode(data: bytes, geometry: Optional[Geometry] = None) -> Image.Image:
    """Decode an image from the content of its file.

    Args:
        data: the content.
        geometry: how the image becomes what the network sees; None if the network sees it as it is.

    Raises:
        BadImageError: if it is not an image, or too large.
    """
    name = ""
    try:
        image: Image.Image = open_image(io.BytesIO(data))
        name = f"{image.format}: "
        size = image.width * image.height
        if size <= _MAX_PIXELS:
            return _decoded(image, geometry)
        is_resized = geometry is not None and geometry.resize != "none"
        is_reducible = image.format in _REDUCIBLE and not image.info.get("progressive")
        if is_resized and (size <= _MAX_RESIZED_PIXELS or is_reducible):
            with _ONE_LARGE_IMAGE:
                return _decoded(image, geometry)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"it is too large: {error}") from error
    except Exception as error:  # the exceptions of Pillow's decoders are not documented
        raise BadImageError(f"it is not a readable image: {name}{error}") from error
    raise BadImageError(f"it has {image.width}x{image.height} pixels, which is too large")


def _decoded(image: Image.Image, geometry: Optional[Geometry]) -> Image.Image:
    if geometry is not None:
        return Image.fromarray(pixels_of(image, geometry))
    image.load()
    return image


def decode_base64(text: object, geometry: Optional[Geometry] = None) -> Image.Image:
    """Decode an image from the base64 of its file or from a data URL.

    The base64 may be URL-safe, contain line breaks, or lack its padding.

    Args:
        text: the base64.
        geometry: as for `decode`.

    Raises:
        BadImageError: if it is not a string, not base64, or not an image.
    """
    if not isinstance(text, str):
        got = _JSON_NAMES.get(type(text), f"a {type(text).__name__}")
        raise BadImageError(f"expected the base64 of an image file, but got {got}")
    return decode(_bytes_of(text.strip()), geometry)


def _bytes_of(text: str) -> bytes:
    head, comma, payload = text.rpartition(",")
    if text[:5].lower() == "data:":
        head, comma, payload = text.partition(",")
        if comma and "base64" not in head.lower():
            return unquote_to_bytes(payload)
        payload = unquote(payload)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text):
        raise BadImageError(
            f"{_shown(text)} is an address. The endpoint opens no addresses and no files: send the base64 of the file"
        )
    if payload[:2] in ("b'", 'b"'):  # Python's str() of bytes
        payload = payload[2:-1]
    letters = "".join(payload.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        if re.fullmatch(r"[^\n]{0,1000}(?:[\\/][^\n]{0,1000}|\.\w{2,5})", text):
            raise BadImageError(
                f"it is not base64: {_shown(text)} looks like a path. The endpoint opens no files: "
                "send the base64 of the file"
            ) from error
        raise BadImageError(f"it is not base64: {error}") from error


def is_image(data: bytes) -> bool:
    """Return whether data begins like an image that can be read. The image may be damaged."""
    try:
        open_image(io.BytesIO(data)).close()
    except UnreadableImageError:
        return False
    except Exception:  # a damaged header
        return True
    return True


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
