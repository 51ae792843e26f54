"""Decodes the images of requests, with Pillow as training does, and says what data is that is not an image.

It needs only Pillow and `image_formats.py`, and is copied into each trained model.
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import re
import warnings
from urllib.parse import unquote, unquote_to_bytes

from image_formats import UnreadableImageError, open_image
from PIL import Image

# Pillow logs and warns about images without naming them. The errors below say what is wrong with which image.
logging.getLogger("PIL").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"PIL\.")

_MAX_PIXELS = 16_000_000
_MAX_SHOWN = 40
_JSON_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
_JSON_NAMES |= {dict: "an object"}


class BadImageError(Exception):
    """An invalid image; the message says why."""


def decode(data: bytes) -> Image.Image:
    """Decode an image from the content of its file.

    Raises:
        BadImageError: if it is not an image, or too large.
    """
    name = ""
    try:
        image: Image.Image = open_image(io.BytesIO(data))
        name = f"{image.format}: "
        size = image.width * image.height
        if size <= _MAX_PIXELS:
            image.load()
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(f"it is too large: {error}") from error
    except Exception as error:  # the exceptions of Pillow's decoders are not documented
        raise BadImageError(f"it is not a readable image: {name}{error}") from error
    if size > _MAX_PIXELS:
        raise BadImageError(f"it has {image.width}x{image.height} pixels, which is too large")
    return image


def decode_base64(text: object) -> Image.Image:
    """Decode an image from the base64 of its file or from a data URL.

    The base64 may be URL-safe, contain line breaks, or lack its padding.

    Raises:
        BadImageError: if it is not a string, not base64, or not an image.
    """
    if not isinstance(text, str):
        got = _JSON_NAMES.get(type(text), f"a {type(text).__name__}")
        raise BadImageError(f"expected the base64 of an image file, but got {got}")
    return decode(_bytes_of(text.strip()))


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
