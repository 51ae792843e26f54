"""Decodes the images of requests, with Pillow as training does, and says what data is that is not an image.

It needs only Pillow and is copied into each trained model.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

# All formats are known from the start, because threads decode at the same time.
Image.init()
# As in training: Pillow's default rejects PNG files with long comments.
PngImagePlugin.MAX_TEXT_CHUNK = 100 * ImageFile.SAFEBLOCK

_MAX_PIXELS = 16_000_000
_MAX_SHOWN = 40
_SIGNATURES = {
    b"\x89PNG": "a damaged or incomplete PNG image",
    b"\xff\xd8\xff": "a damaged or incomplete JPEG image",
    b"GIF8": "a damaged or incomplete GIF image",
    b"II*\0": "a TIFF image that is damaged or has an unusual number of bands or bits",
    b"MM\0*": "a TIFF image that is damaged or has an unusual number of bands or bits",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript program",
    b"\xc5\xd0\xd3\xc6": "a PostScript program",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"version https://git-lfs": "a pointer of Git LFS instead of the file",
}
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"heic": "a HEIC image", b"heix": "a HEIC image"}
_BRANDS |= {b"mif1": "a HEIF image", b"msf1": "a HEIF image", b"hevc": "a HEIC image", b"heim": "a HEIC image"}
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
        image = Image.open(io.BytesIO(data))
        name = f"{image.format}: "
        size = image.width * image.height
        if image.format != "EPS" and size <= _MAX_PIXELS:  # Pillow would start Ghostscript for EPS
            image.load()
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(f"it is not a readable image: it is {kind_of(data)}") from error
    except Exception as error:  # the exceptions of Pillow's decoders are not documented
        raise BadImageError(f"it is not a readable image: {name}{error}") from error
    if image.format == "EPS":
        raise BadImageError(f"it is not a readable image: it is {kind_of(data)}")
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
    """Return whether data begins like an image that Pillow knows. The image may be damaged."""
    try:
        Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        return False
    except Exception:  # a damaged header
        return True
    return True


def kind_of(data: bytes) -> str:
    """Say what data is that Pillow cannot identify, such as "a PDF document"."""
    if not data:
        return "empty"
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an MP4 video or a file like it")
    start = " ".join(data[:1000].decode(json.detect_encoding(data), "replace").strip("\ufeff").split())
    if start.lower().startswith(("<!doctype html", "<html")):
        return "an HTML page"
    if start.startswith("<"):
        return "an SVG drawing" if "<svg" in start else "XML"
    if start and "\ufffd" not in start[:_MAX_SHOWN] and start[:_MAX_SHOWN].isprintable():
        return f"text that begins with {_shown(start)}"
    return f"data of an unknown kind that begins with the bytes {data[:8].hex(' ')}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
