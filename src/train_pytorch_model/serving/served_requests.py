"""Reads the images of a request: an image file, JSON, multipart/form-data, a form, or base64 as text.

The content decides, because clients often send a wrong Content-Type. It is copied into each trained model.
"""

from __future__ import annotations

import json
import re
import zlib
from email import message_from_bytes
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, unquote_plus

from served_images import BadImageError, decode, decode_base64, is_image
from served_json import (
    EXPECTED,
    EXPLAIN,
    MAX_IMAGES,
    BadRequestError,
    asks_for_heat_maps,
    find_images,
    image_field,
    refuse_misplaced,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from image_geometry import Geometry
    from PIL import Image

_MAX_BYTES = 100 * 2**20
_CHUNK_BYTES = 2**20
# More would take much time, and no client sends so many.
_MAX_GZIP_MEMBERS = 20
_MAX_HEADER_BYTES = 2**14
_Part = tuple[str, Any]
_BODY = "the body"
_FORM = re.compile(r"[\w.%\[\]-]{1,100}=[^=\s]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16}|[A-Za-z][A-Za-z0-9+.-]+:|\w+/[\w.+-]+;base64,|b['\"]")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")


def read_body(stream: Any, encoding: str | None) -> bytes:
    """Read and decompress the body of a request.

    Args:
        stream: a file object. It is read beyond the limit, because a client that still sends does not see a response.
        encoding: the header Content-Encoding.

    Raises:
        BadRequestError: if the body is too large, or its compression is unknown or damaged.
    """
    chunks, num_bytes = [], 0
    while num_bytes < 10 * _MAX_BYTES and (chunk := stream.read(_CHUNK_BYTES)):
        num_bytes += len(chunk)
        if num_bytes <= _MAX_BYTES:
            chunks.append(chunk)
    _check_size(num_bytes)
    body = b"".join(chunks)
    for name in reversed((encoding or "").lower().replace(" ", "").split(",")):
        if name == "deflate":
            body = _inflate(body, zlib.MAX_WBITS if _is_zlib(body) else -zlib.MAX_WBITS)
        elif name in ("gzip", "x-gzip"):
            body = _gunzip(body)
        elif name not in ("", "identity"):
            raise BadRequestError(f"the body has the Content-Encoding {name[:40]!r}; send gzip, deflate or none")
    return _gunzip(body)  # clients forget the header


def _gunzip(body: bytes) -> bytes:
    """Decompress a body that begins like a gzip file. A proxy may have decompressed it without removing the header."""
    return _inflate(body, zlib.MAX_WBITS | 16) if body[:2] == b"\x1f\x8b" else body


def _is_zlib(body: bytes) -> bool:
    return len(body) > 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def _inflate(body: bytes, window_bits: int) -> bytes:
    parts, num_bytes = [], 0
    while body:
        inflater = zlib.decompressobj(window_bits)
        try:
            parts.append(inflater.decompress(body, _MAX_BYTES + 1 - num_bytes))
        except zlib.error as error:
            raise BadRequestError(f"the compressed body is damaged: {error}") from error
        num_bytes += len(parts[-1])
        _check_size(num_bytes)
        if not inflater.eof:
            raise BadRequestError("the compressed body is incomplete")
        body = inflater.unused_data.lstrip(b"\0")  # gzip files can be appended to one another
        if body and len(parts) == _MAX_GZIP_MEMBERS:
            raise BadRequestError(f"the compressed body consists of more than {_MAX_GZIP_MEMBERS} parts")
    return b"".join(parts)


def _check_size(num_bytes: int) -> None:
    if num_bytes > _MAX_BYTES:
        raise BadRequestError(f"the body is larger than {_MAX_BYTES // 2**20} MiB; send fewer or smaller images", 413)


def read_images(body: bytes, content_type: str | None, geometry: Geometry | None = None) -> Iterator[Image.Image]:
    """Iterate over the images of a request, so that not all of them are decoded in memory.

    Args:
        body: as `read_body` returns it.
        content_type: the header Content-Type.
        geometry: that of the model.

    Raises:
        BadRequestError: if the body has no known form, or an image cannot be decoded.
    """
    if not body:
        raise BadRequestError(f"the body is empty; send an image file or {EXPECTED}")
    parts = _find_images(body, content_type or "", _BODY)
    if len(parts) > MAX_IMAGES:
        raise BadRequestError(f"a request may contain at most {MAX_IMAGES} images, but this one has {len(parts)}")
    for place, value in parts:
        try:
            yield decode(value, geometry) if isinstance(value, bytes) else decode_base64(value, geometry)
        except BadImageError as error:
            expected = f"; expected an image file, or {EXPECTED}" if place == _BODY else ""
            raise BadRequestError(f"{place}: {error}{expected}") from error


def explains(body: bytes) -> bool:
    """Return whether a request in JSON asks for heat maps, by `"explain": true`.

    Args:
        body: as `read_body` returns it.

    Raises:
        BadRequestError: if "explain" is neither true nor false or of one image, or the body is JSON that is damaged.
    """
    # Nearly all requests end here, without being read twice. In UTF-16 and UTF-32, there are zeros between letters.
    plain = body.replace(b"\0", b"") if b"\0" in body[:4] else body
    return _is_json(body) and EXPLAIN.encode() in plain and asks_for_heat_maps(_read_json(body, _BODY))


def _is_json(content: bytes) -> bool:
    return content[:100].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1] in (b"[", b"{", b'"')


def _find_images(content: bytes, content_type: str, place: str, depth: int = 3) -> list[_Part]:
    """List the images of a body, or of a part of it: bytes of files and base64, each with its place for messages."""
    if not depth:
        raise BadRequestError(f"{place} contains forms in forms in forms")
    boundary = _boundary_of(content, content_type)
    if boundary is not None:
        return _find_in_multipart(content, boundary, depth - 1)
    if _is_json(content):
        document = _read_json(content, place)
        if place != _BODY:
            refuse_misplaced(asks_for_heat_maps(document), place)
        found: list[_Part] = find_images(document)
        return found
    if is_image(content):
        return [(place, content)]
    try:
        text = content.decode(json.detect_encoding(content)).strip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return [(place, content)]
    if _FORM.match(text):
        return _find_in_form(text, depth - 1)
    return [(place, text if _BASE64.match(text) else content)]


def _read_json(content: bytes, place: str) -> Any:
    try:
        # Raw line breaks in strings, as in base64 that a shell has inserted, are accepted. So are other encodings:
        # base64 is ASCII.
        document = json.loads(content.decode(json.detect_encoding(content), "replace"), strict=False)
        if isinstance(document, str) and document.lstrip()[:1] in ("[", "{"):  # encoded twice
            document = json.loads(document, strict=False)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"{place} is not JSON: {error}") from error
    return document


def _find_in_form(text: str, depth: int) -> list[_Part]:
    pairs = []
    for pair in text.split("&"):
        name, _, value = pair.partition("=")
        # A plus sign is a space only if the client has encoded the value; base64 that was not encoded contains some.
        pairs.append((unquote(name), unquote_plus(value) if "%" in value else value))
    refuse_misplaced(dict(pairs).get(EXPLAIN), "a form")
    field = image_field(dict(pairs), "the form")
    images: list[_Part] = []
    for name, value in pairs:
        if name == field:
            images += _find_images(value.encode(), "", f'the field "{name[:40]}"', depth)
    return images


def _boundary_of(content: bytes, content_type: str) -> bytes | None:
    """The boundary between the parts of multipart content, from its type or, if that is wrong, from its first line."""
    if content_type.lower().lstrip().startswith("multipart/"):
        message = Message()
        message["Content-Type"] = content_type
        boundary = (message.get_boundary() or "").encode("latin-1", "replace")
        if boundary and b"--" + boundary in content:
            return boundary
    first_line = re.match(rb"\s*--([^\r\n]{1,200}?)[ \t]*\r?\nContent-", content, re.IGNORECASE)
    return first_line[1] if first_line else None


def _find_in_multipart(content: bytes, boundary: bytes, depth: int) -> list[_Part]:
    """The images of the files in multipart content; without files, those of its fields."""
    line = re.compile(rb"(?:\A|\r?\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r?\n|\Z)")
    lines = list(line.finditer(content))
    if len(lines) > 2 * MAX_IMAGES:
        raise BadRequestError(f"a request may contain at most {MAX_IMAGES} images; it has {len(lines)} parts")
    if not lines or not lines[-1][1]:
        raise BadRequestError("the multipart body is incomplete: its last boundary is missing")
    files: list[tuple[str, str, bytes]] = []
    fields: list[tuple[str, str, bytes]] = []
    for start, end in zip(lines, lines[1:]):
        blank_line = _BLANK_LINE.search(content, start.end(), end.start())
        if blank_line is None or blank_line.start() - start.end() > _MAX_HEADER_BYTES:
            continue
        headers = message_from_bytes(content[start.end() : blank_line.start()].lstrip())
        data = content[blank_line.end() : end.start()]
        name = headers.get_param("name", "", "Content-Disposition")
        file_name = headers.get_filename()
        if name == EXPLAIN:
            refuse_misplaced(data.decode("utf-8", "replace"), "a form")
            continue
        part = (
            f'the file "{file_name}"' if file_name else f'the field "{name}"',
            headers.get("Content-Type", ""),
            data,
        )
        if data:
            (fields if file_name is None else files).append(part)
    images: list[_Part] = []
    for place, content_type, data in files or fields:
        images += _find_images(data, content_type, place, depth)
    if not images:
        raise BadRequestError("the multipart body contains no file")
    return images
