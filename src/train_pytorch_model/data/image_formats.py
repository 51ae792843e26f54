"""Opens image files: the formats that every command and every served model reads, and what another file is.

A trained model carries a copy of this module, so it needs only Pillow.
"""

from __future__ import annotations

import codecs
import ctypes
from contextlib import suppress
from pathlib import Path
from typing import IO, Union

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError, _imaging

ImageSource = Union[Path, IO[bytes]]

# What Pillow only identifies, or decodes with another program or library, such as Ghostscript.
_NOT_DECODED = ("BUFR", "EPS", "FPX", "GRIB", "HDF5", "MIC", "MPEG", "WMF")
_NUM_BYTES = 1024
"""How much of a file is read to find out what it is."""
_CHUNK_BYTES = 2**20
# Photos of phones have up to 200 megapixels.
_MAX_JPEG_PIXELS = 2**28
_SAVE_AS = "Save it as PNG or JPEG"

# The value that designer-core sets when it is imported, so that the same PNG comments are accepted before that, too.
# Pillow also limits the total size of all comments of a file.
PngImagePlugin.MAX_TEXT_CHUNK = 100 * ImageFile.SAFEBLOCK
Image.init()  # `Image.open` with a list of formats fails for a format whose plugin is not loaded
FORMATS = tuple(name for name in Image.ID if name not in _NOT_DECODED)  # in the order in which Pillow tries them
with suppress(OSError, AttributeError):
    # libtiff would print errors without the name of the file. Pillow raises an exception for each of them.
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)

# The first bytes of readable images.
_READABLE = (
    *((b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"BM", "BMP"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF")),
    *((b"II*\0", "TIFF"), (b"MM\0*", "TIFF"), (b"II+\0", "TIFF"), (b"MM\0+", "TIFF")),
    *((b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"\0\0\1\0", "ICO")),
    *((b"P%d" % number, "PPM") for number in range(1, 7)),
)
# The first bytes of images that are not read.
_OTHER_IMAGES = (
    *((b"\xff\x0a", "a JPEG XL image"), (b"\0\0\0\x0cJXL ", "a JPEG XL image"), (b"v/1\x01", "an OpenEXR image")),
    *((b"#?RADIANCE", "a Radiance HDR image"), (b"gimp xcf", "a GIMP image (XCF)"), (b"AT&TFORM", "a DjVu document")),
    *((b"\xd7\xcd\xc6\x9a", "a WMF drawing"), (b"\1\0\0\0\x58\0\0\0", "an EMF drawing")),
    *((b"FUJIFILMCCD-RAW", "a camera raw file (RAF)"), (b"IIU\0", "a camera raw file (RW2)")),
    *((b"IIRO", "a camera raw file (ORF)"), (b"IIRS", "a camera raw file (ORF)"), (b"FOVb", "a camera raw file (X3F)")),
)
# The first bytes of other files.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the file: run 'git lfs pull' in the repository"),
    (b"/annex/objects/", "a git-annex pointer instead of the file: run 'git annex get' in the repository"),
    *((b"%PDF", "a PDF document"), (b"%!PS", "a PostScript program"), (b"\xc5\xd0\xd3\xc6", "a PostScript program")),
    *((b"\x93NUMPY", "a NumPy array"), (b"\x89HDF\r\n", "an HDF5 file"), (b"MATLAB 5.0", "a MATLAB file")),
    *((b"PAR1", "a Parquet file"), (b"SQLite format 3", "an SQLite database"), (b"\x80\2", "a pickle file")),
    *((b"\x80\3", "a pickle file"), (b"\x80\4\x95", "a pickle file"), (b"\x80\5\x95", "a pickle file")),
    *((b"Rar!\x1a\7", "a RAR archive"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"PK\3\4", "a zip archive")),
    *((b"\x1f\x8b", "a gzip file"), (b"BZh", "a bzip2 file"), (b"\xfd7zXZ\0", "an xz file")),
    *((b"\x28\xb5\x2f\xfd", "a Zstandard file"), (b"\x04\x22\x4d\x18", "an LZ4 file"), (b"LZIP", "an lzip file")),
    *((b"\x5d\0\0", "an LZMA file"), (b"\x1f\x9d", "a file of compress (.Z)"), (b"MSCF", "a cabinet archive")),
    *((b"!<arch>", "an ar archive"), (b"070701", "a cpio archive"), (b"\0\5\x16\7", "metadata of macOS (AppleDouble)")),
    *((b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"), (b"FLV\1", "a video (FLV)"), (b"\0\0\1\xba", "a video (MPEG)")),
    *((b"\0\0\1\xb3", "a video (MPEG)"), (b"0&\xb2u\x8ef\xcf\x11", "a video (ASF)"), (b"OggS", "an Ogg file")),
    *((b"ID3", "an MP3 file"), (b"fLaC", "a FLAC file"), (b"\xd0\xcf\x11\xe0", "a Microsoft Office document")),
    *(
        (b"\x7fELF", "a program"),
        (b"MZ\x90", "a program"),
        (b"\x89PNG\n", "a PNG image whose line ends were converted"),
    ),
    *((b"\xef\xbf\xbdPNG", "an image that was saved as text"), (b"\xef\xbf\xbd\xef\xbf\xbd", "a file saved as text")),
    *((b"iVBORw0KGgo", "the base64 text of a PNG image"), (b"/9j/", "the base64 text of a JPEG image")),
    *((b"data:image/", "the data URL of an image"), (b"{\\rtf", "an RTF document")),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "a HEIC image"),
    **dict.fromkeys((b"avif", b"avis"), "an AVIF image"),
    **{b"crx ": "a camera raw file (CR3)", b"jp2 ": "a JPEG 2000 image"},
}
_SAMPLE_FORMATS = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}
_BOM = b"\xef\xbb\xbf"


class UnreadableImageError(Exception):
    """A file is not a complete image; the message says why."""


def open_image(source: ImageSource) -> Image.Image:
    """Open an image of one of `FORMATS` and read its header. Close the result.

    Args:
        source: a file, or the bytes of one.

    Raises:
        UnreadableImageError: if it is not an image of one of the formats; the message says what it is.
        Exception: other exceptions of Pillow's decoders, which are not documented.
    """
    try:
        image = Image.open(source, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnreadableImageError(describe(source)) from error
    except Image.DecompressionBombError:
        if large := _open_large_jpeg(source):
            return large
        raise
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_camera_raw(image):
        image.close()
        raise UnreadableImageError(f"it is a camera raw file, whose first image is only a preview. {_SAVE_AS}")
    return image


def _open_large_jpeg(source: ImageSource) -> Image.Image | None:
    """Open a JPEG above Pillow's limit, such as a photo of a phone, which can be decoded at a reduced scale."""
    if not isinstance(source, Path):
        source.seek(0)
    try:
        # It opens a path itself, although its type does not say so, and closes it with the image.
        image: Image.Image = JpegImagePlugin.jpeg_factory(
            str(source) if isinstance(source, Path) else source  # type: ignore[arg-type]
        )
    except SyntaxError:  # it is not a JPEG
        return None
    if image.width * image.height > _MAX_JPEG_PIXELS:
        image.close()
        return None
    return image


def starts_as_image(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a readable format. Only `open_image` tells if it is an image."""
    return bool(_readable_name(head) or _BRANDS.get(_brand(head)))


def _is_camera_raw(image: TiffImagePlugin.TiffImageFile) -> bool:
    tags = image.tag_v2
    is_preview = bool(tags.get(254, 0) & 1) and 330 in tags  # a reduced image, with others below it: NEF, ARW
    is_canon = image.fp is not None and _head(image.fp)[8:10] == b"CR"
    return is_preview or is_canon or 50706 in tags  # DNG


def describe(source: ImageSource) -> str:
    """Return a sentence without a full stop that says what a file is that cannot be opened as an image."""
    if isinstance(source, Path):
        try:
            with source.open("rb") as file:
                return describe(file)
        except OSError as error:
            return str(error)
    head = _head(source)
    if not head:
        return "it is empty"
    if not head.strip(b"\0") and _is_all_zeros(source):
        return "it contains only zero bytes, as after an interrupted copy"
    if name := _readable_name(head):
        return (_describe_tiff(source, head) if name == "TIFF" else "") or (
            f"it cannot be identified as an image, although it starts as a {name} image does: it is damaged"
        )
    if name := _name_of(_OTHER_IMAGES, head) or _BRANDS.get(_brand(head), ""):
        return f"it is {name}, which cannot be read. {_SAVE_AS}"
    kind = _kind_of(head)
    return f"it is not an image but {kind}" if kind else "it cannot be identified as an image"


def kind_of(head: bytes) -> str:
    """Return what a file is that starts with these bytes, with an article, such as "a PDF document"."""
    if not head.strip(b"\0"):
        return "a file of zero bytes" if head else "an empty file"
    if name := _readable_name(head):
        return f"an image ({name})"
    return _name_of(_OTHER_IMAGES, head) or _BRANDS.get(_brand(head)) or _kind_of(head) or "a file of an unknown kind"


def _readable_name(head: bytes) -> str:
    return "WebP" if head[:4] + head[8:12] == b"RIFFWEBP" else _name_of(_READABLE, head)


def _brand(head: bytes) -> bytes:
    """The brand of a file in the container of MP4, which HEIC and AVIF use, too; empty for other files."""
    return head[8:12] if head[4:8] == b"ftyp" else b""


def _head(file: IO[bytes]) -> bytes:
    position = file.tell()
    file.seek(0)
    try:
        return file.read(_NUM_BYTES)
    finally:
        file.seek(position)


def _is_all_zeros(file: IO[bytes]) -> bool:
    file.seek(0)
    return not any(chunk.strip(b"\0") for chunk in iter(lambda: file.read(_CHUNK_BYTES), b""))


def _name_of(table: tuple[tuple[bytes, str], ...], head: bytes) -> str:
    return next((name for start, name in table if head.startswith(start)), "")


def _kind_of(head: bytes) -> str:
    """What a file is that is not an image, with an article; empty if it is unknown."""
    if head.startswith(b"PK") and b"[Content_Types].xml" in head:
        return "a Microsoft Office document"
    if name := _name_of(_OTHERS, head.removeprefix(_BOM)):
        return name
    if head[4:8] == b"ftyp":
        return "a video (MP4 or QuickTime)"
    if head[4:8] in (b"moov", b"mdat", b"wide"):
        return "a video (QuickTime)"
    if head.startswith(b"RIFF"):
        return {b"AVI ": "a video (AVI)", b"WAVE": "a sound (WAV)"}.get(head[8:12], "a RIFF file")
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[344:347] in (b"n+1", b"ni1"):
        return "a NIfTI file"
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> str:
    """As `_kind_of`, for text; empty for other files."""
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return ""
    if any(ord(character) < 32 and character not in "\t\n\r\f\x1b" for character in text):
        return ""
    start = text.lstrip()[:200].lower()
    if "<svg" in text.lower():
        return "an SVG drawing"
    if start.startswith(("<!doctype html", "<html", "<head", "<body", "<script")) or "<html" in text.lower():
        return "an HTML page"
    if start.startswith("<?xml") or (start.startswith("<") and ">" in start):
        return "an XML document"
    if start.startswith(("{", "[")):
        return "JSON text"
    return f"text that starts with {text.split(None, 1)[0][:20]!r}" if start else "blank text"


def _describe_tiff(file: IO[bytes], head: bytes) -> str:
    """What is unusual in the first image of a TIFF that cannot be opened; empty if that is not known."""
    if head[8:10] == b"CR":
        return f"it is a camera raw file (CR2), which cannot be read. {_SAVE_AS}"
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(head[:16] if 43 in head[2:4] else head[:8])
        file.seek(directory.next)
        directory.load(file)
        if 256 not in directory:  # the width
            return ""
        num_bands, bits = directory.get(277, 1), set(directory.get(258, (1,)))
        formats = {_SAMPLE_FORMATS[kind] for kind in directory.get(339, (1,)) if kind in _SAMPLE_FORMATS}
    except Exception:  # the exceptions of Pillow's decoders are not documented
        return ""
    bands = f"{num_bands} {'band' if num_bands == 1 else 'bands'} of {'/'.join(map(str, sorted(bits)))} bits"
    return f"it is a TIFF image with {', '.join([bands, *sorted(formats)])}, which cannot be read. {_SAVE_AS}"
