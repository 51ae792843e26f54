"""Every command and the served model open the same images, and name a file for what it is that they do not open."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tests import odd_images
from tests.making import run_here, write_class_folders
from tests.serving_sources import served_images
from train_pytorch_model.data.decoding import UnreadableImageError, decode


def saved(kind: str, **options: object) -> Callable[[], bytes]:
    return lambda: odd_images.saved(odd_images.noise(), kind, **options)


def tiff(num_bands: int, *, bits: int = 8, sample_format: int = 1, order: str = "<") -> bytes:
    """A TIFF without compression, by hand, of what Pillow does not write."""
    num_bytes = 32 * 32 * num_bands * bits // 8
    tags = [(256, 4, 32), (257, 4, 32), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 134), (277, 3, num_bands)]
    tags += [(278, 4, 32), (279, 4, num_bytes), (339, 3, sample_format)]
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}{'I' if kind == 4 else 'HH'}", *values)
        for tag, kind, value in tags
        for values in [(value,) if kind == 4 else (value, 0)]
    )
    mark = b"II" if order == "<" else b"MM"
    return struct.pack(f"{order}2sHIH", mark, 42, 8, len(tags)) + entries + bytes(4) + bytes(num_bytes)


def with_tags(**tags: tuple[int, object]) -> bytes:
    """A TIFF with more tags: number, type, value."""
    directory = ImageFileDirectory_v2()
    for name, (kind, value) in tags.items():
        directory.tagtype[int(name[1:])] = kind
        directory[int(name[1:])] = value
    return odd_images.saved(odd_images.noise(), "tiff", tiffinfo=directory)


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


READ: dict[str, Callable[[], bytes]] = {
    **{kind: saved(kind) for kind in (*odd_images.FORMATS, "jpeg2000", "ico", "dib", "tga", "pcx", "sgi")},
    "JPEG 2000 without a container": saved("jpeg2000", no_jp2=True),
    "lossless WebP": saved("webp", lossless=True),
    "MPO": saved("mpo", save_all=True, append_images=[odd_images.noise(1)]),
    "BigTIFF": saved("tiff", big_tiff=True),
    "an animated GIF": lambda: odd_images.animated("gif"),
    "an animated WebP": lambda: odd_images.animated("webp"),
    "a TIFF of several pages": lambda: odd_images.animated("tiff"),
    "CMYK": lambda: odd_images.saved(odd_images.noise().convert("CMYK"), "jpeg"),
    "16 bits per channel": odd_images.colours_of_16_bits,
    "16-bit grayscale": lambda: odd_images.grey_of_16_bits("tiff"),
    "floating-point grayscale": odd_images.float_tiff,
    "a palette with transparency": odd_images.transparent_palette,
    "a long comment": lambda: odd_images.text_bomb(10),
    "an orientation": odd_images.rotated,
    "a colour profile": odd_images.with_profile,
}
if features.check("avif"):
    READ["AVIF"] = saved("avif")


class Row(NamedTuple):
    """One row of docs/broken-input.md."""

    outcome: str
    make: Callable[[], bytes]
    words: str


_BOX = b"\0\0\0\x18ftyp%s\0\0\0\0mif1"
_NOT = "it is not an image but "
NOT_READ: dict[str, tuple[Callable[[], bytes], str]] = {
    "a TIFF of 13 bands": (lambda: tiff(13), "it is a TIFF image with 13 bands of 8 bits"),
    "a TIFF of 5 bands, in the other byte order": (lambda: tiff(5, order=">"), "it is a TIFF image with 5 bands of 8"),
    "a TIFF of 3 floating-point bands": (
        lambda: tiff(3, bits=32, sample_format=3),
        "it is a TIFF image with 3 bands of 32 bits, floating-point numbers",
    ),
    "a camera raw file that is a TIFF (DNG, NEF, ARW)": (
        lambda: with_tags(_50706=(1, b"\1\4\0\0")),
        "it is a camera raw file, whose first image is only a preview",
    ),
    "a TIFF whose first image is a preview": (
        lambda: with_tags(_254=(4, 1), _330=(4, 8)),
        "it is a camera raw file, whose first image is only a preview",
    ),
    "HEIC": (lambda: _BOX % b"heic", "it is a HEIC image, which cannot be read"),
    "JPEG XL": (lambda: b"\xff\x0a\xfa\x7f", "it is a JPEG XL image, which cannot be read"),
    "a Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        f"{_NOT}a Git LFS pointer",
    ),
    "an HTML page": (lambda: b"\n<!DOCTYPE html><html><body>404</body></html>", f"{_NOT}an HTML page"),
    "an XML document": (lambda: b'\xef\xbb\xbf<?xml version="1.0"?><Error/>', f"{_NOT}an XML document"),
    "JSON": (lambda: json.dumps({"error": "expired"}).encode(), f"{_NOT}JSON text"),
    "other text": (lambda: b"Too many requests\n", f"{_NOT}text that starts with 'Too'"),
    "text in UTF-16": (lambda: "words of a text".encode("utf-16"), f"{_NOT}text that starts with 'words'"),
    "a PDF document": (saved("pdf"), f"{_NOT}a PDF document"),
    "a video": (lambda: _BOX % b"isom", f"{_NOT}a video (MP4 or QuickTime)"),
    "DICOM": (lambda: bytes(128) + b"DICM\2\0", f"{_NOT}a DICOM file"),
    "a NumPy array": (npy, f"{_NOT}a NumPy array"),
    "a pickle file": (lambda: pickle.dumps([1]), f"{_NOT}a pickle file"),
    "a compressed image": (lambda: gzip.compress(odd_images.saved(odd_images.noise(), "png")), f"{_NOT}a gzip file"),
    "base64 of an image": (lambda: b"iVBORw0KGgoAAAANSUhEUg", f"{_NOT}the base64 text of a PNG image"),
    "a PNG whose line ends were converted": (
        lambda: odd_images.saved(odd_images.noise(), "png").replace(b"\r\n", b"\n"),
        f"{_NOT}a PNG image whose line ends were converted",
    ),
    "only zero bytes": (lambda: bytes(5000), "it contains only zero bytes"),
    "a file of an unknown kind": (lambda: b"\0\x91" * 700, "it cannot be identified as an image"),
}
ROWS = {f"an image file that is {given}": Row("error", make, words) for given, (make, words) in NOT_READ.items()}


@pytest.mark.filterwarnings("ignore:Palette images")
@pytest.mark.parametrize("given", READ)
def test_the_served_model_reads_the_pixels_that_training_reads(given: str, tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    file.write_bytes(READ[given]())
    with Image.open(file) as image:
        expected = np.asarray(image.convert("RGB"))
    assert (decode(file) == expected).all()
    assert (np.asarray(served_images.decode(file.read_bytes()).convert("RGB")) == expected).all()


@pytest.mark.parametrize("given", ROWS)
def test_a_file_that_is_not_read_is_named_for_what_it_is(given: str, tmp_path: Path) -> None:
    row = ROWS[given]
    file = tmp_path / "image.jpg"
    file.write_bytes(row.make())
    with pytest.raises(UnreadableImageError) as error:
        decode(file)
    assert row.words in str(error.value)
    with pytest.raises(served_images.BadImageError) as served_error:
        served_images.decode(file.read_bytes())
    assert str(error.value) in str(served_error.value)


def test_no_line_of_a_library_stands_without_the_name_of_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_class_folders(tmp_path / "in", ["cat", "dog"], per_class=3)
    damaged = bytearray(odd_images.saved(odd_images.noise(), "tiff", **odd_images.COMPRESSED_TIFF))
    damaged[100:400] = bytes(byte ^ 0x55 for byte in damaged[100:400])
    bad = {"damaged.tif": bytes(damaged), "bands.tif": tiff(13)}
    bad.update({f"{number}.jpg": row.make() for number, row in enumerate(ROWS.values())})
    for name, content in bad.items():
        (folder / "cat" / name).write_bytes(content)
    (folder / "cat" / "palette.png").write_bytes(odd_images.transparent_palette())
    paths = {"input_path": folder, "output_path": tmp_path / "out", "outputs_path": tmp_path / "outputs"}
    assert run_here("convert-to-image-directory", **paths, skip_unreadable_images=True) == 0
    listed = json.loads((tmp_path / "outputs" / "unreadable_images.json").read_text())["Input"]
    assert {entry["file_name"] for entry in listed} == {f"cat/{name}" for name in bad}
    lines = capfd.readouterr().err.splitlines()
    assert all(" INFO " in line or str(folder) in line for line in lines), lines
