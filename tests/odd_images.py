"""Images of every kind, whole and broken, as the bytes of a file."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

SIZE = 32
FORMATS = ("png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm")
COMPRESSED_TIFF = {"compression": "tiff_adobe_deflate"}


def noise(seed: int = 0) -> Image.Image:
    """An RGB image that is like no other."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes) -> bytes:
    """A PNG by hand, of what Pillow does not write."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    parts = (header, *more, chunk(b"IDAT", zlib.compress(data, 9)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def colours_of_16_bits() -> bytes:
    """A PNG of two bytes a colour."""
    rows = np.random.default_rng(0).integers(0, 2**16, (SIZE, SIZE * 3)).astype(">u2")
    return png(SIZE, SIZE, 16, 2, b"".join(b"\0" + row.tobytes() for row in rows))


def transparent_palette() -> bytes:
    """A PNG with a palette whose colours are transparent to several degrees, of which Pillow warns."""
    return saved(noise().quantize(16), "png", transparency=bytes(range(0, 256, 16)))


def text_bomb(megabytes: int) -> bytes:
    """A PNG of few pixels and a comment that unfolds to so much."""
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(megabytes * 2**20), 9))
    return png(SIZE, SIZE, 8, 0, bytes((SIZE + 1) * SIZE), comment)


def profile_bomb(megabytes: int) -> bytes:
    """A PNG of few pixels and a colour profile that unfolds to so much."""
    profile = chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(megabytes * 2**20), 9))
    return png(SIZE, SIZE, 8, 0, bytes((SIZE + 1) * SIZE), profile)


def claiming(width: int, height: int) -> bytes:
    """A PNG of few bytes whose header says so."""
    return png(width, height, 8, 2, bytes(1000))


def bilevel(width: int, height: int) -> bytes:
    """An honest PNG of any size in few bytes."""
    return saved(Image.new("1", (width, height), 1), "png")


def rotated(size: tuple[int, int] = (32, 32)) -> bytes:
    """A JPEG that asks to be shown turned by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(noise().resize(size), "jpeg", exif=exif)


def with_exif(content: bytes) -> bytes:
    """A PNG with these EXIF metadata."""
    return saved(noise(), "png", exif=b"Exif\0\0" + content)


def with_profile() -> bytes:
    """A PNG with a colour profile of its own."""
    return saved(noise(), "png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes())


def with_comment() -> bytes:
    """A PNG with a comment of a usual size."""
    info = PngInfo()
    info.add_text("Comment", "x" * 1000, zip=True)
    return saved(noise(), "png", pnginfo=info)


def animated(kind: str) -> bytes:
    """Three images, one after another."""
    more = {"lossless": True} if kind == "webp" else {}
    return saved(noise(0), kind, save_all=True, append_images=[noise(1), noise(2)], **more)


def float_tiff() -> bytes:
    """A TIFF of numbers from 0 to 300."""
    values = np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32) * 300
    return saved(Image.fromarray(values), "tiff")


def float_tiff_of(*values: float) -> bytes:
    """A TIFF of these numbers, repeated in every row."""
    rows = np.resize(np.array(values, dtype=np.float32), (SIZE, SIZE))
    return saved(Image.fromarray(rows), "tiff")


def grey_of_16_bits(kind: str) -> bytes:
    """Numbers from 0 to 3000 in two bytes each."""
    values = np.random.default_rng(0).integers(0, 3000, (SIZE, SIZE)).astype(np.uint16)
    return saved(Image.fromarray(values), kind)


EMPTY = {
    "png": claiming(0, 0),
    "gif": b"GIF89a" + bytes(7) + b"\x2c" + bytes(9) + b"\x02\x00;",
    "bmp": b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0),
    "ppm": b"P6 0 0 255\n",
}
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n(ran) print\nshowpage\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32"/>'


def truncated(kind: str) -> bytes:
    """The first 60 % of a file."""
    data = saved(noise(), kind)
    return data[: len(data) * 6 // 10]


def flipped(data: bytes, bit: int) -> bytes:
    """The same with one bit turned round."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
