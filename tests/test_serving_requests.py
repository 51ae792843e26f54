"""The forms in which clients send images to an endpoint, and what it says of others."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from PIL import Image, features

from tests import odd_images
from tests.serving_sources import served_json, served_requests

BadRequestError = served_json.BadRequestError


def image(number: int = 0) -> Image.Image:
    """An image that is recognized by its pixels after each lossless format."""
    return odd_images.noise(number)


def png(number: int = 0) -> bytes:
    return odd_images.saved(image(number), "PNG")


def b64(number: int = 0) -> str:
    return base64.b64encode(png(number)).decode()


def read(body: bytes, content_type: str | None = None, encoding: str | None = None) -> list[Image.Image]:
    content = served_requests.read_body(io.BytesIO(body), encoding)
    return list(served_requests.read_images(content, content_type))


def check(found: list[Image.Image], *numbers: int) -> None:
    assert [picture.convert("RGB").tobytes() for picture in found] == [image(number).tobytes() for number in numbers]


def as_json(document: object, encoding: str = "utf-8") -> bytes:
    return json.dumps(document).encode(encoding)


def multipart(*parts: tuple[str, bytes], boundary: str = "XyZ", line_end: str = "\r\n") -> bytes:
    """A body of parts, each of a Content-Disposition and its data."""
    body = b""
    for disposition, data in parts:
        head = f"--{boundary}{line_end}Content-Disposition: form-data; {disposition}{line_end}{line_end}"
        body += head.encode() + data + line_end.encode()
    return body + f"--{boundary}--{line_end}".encode()


ONE = 'name="image"; filename="dog.png"'
MULTIPART = "multipart/form-data; boundary=XyZ"
FORM = "application/x-www-form-urlencoded"
FORMATS = ("PNG", "BMP", "GIF", "PPM", "TIFF", "TGA", "PCX", "SGI", "DDS", "ICO", "JPEG", "JPEG2000", "WEBP", "MPO")


@pytest.mark.parametrize("content_type", [None, "image/png", "application/json", "application/octet-stream", FORM, "x"])
@pytest.mark.parametrize("kind", FORMATS)
def test_an_image_file_may_be_the_body_whatever_its_content_type(kind: str, content_type: str | None) -> None:
    picture = image().quantize(16) if kind == "GIF" else image()
    data = odd_images.saved(picture, kind)
    (found,) = read(data, content_type)
    assert found.convert("RGB").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_whatever_it_is_sent_as() -> None:
    data = odd_images.saved(image(), "AVIF")
    assert [found.format for found in read(data, "image/jpeg")] == ["AVIF"]


TABLE: dict[str, Any] = {"columns": ["image"], "index": [0, 1], "data": [[b64(0)], [b64(1)]]}
RECORDS = [{"image": b64(0)}, {"image": b64(1)}]
TWO_IMAGES: dict[str, object] = {
    "a list of records": RECORDS,
    "a list of records with other fields": [{"id": "a", **RECORDS[0]}, {"id": "b", **RECORDS[1]}],
    "a list of text": [b64(0), b64(1)],
    "data": {"data": RECORDS},
    "data and a method": {"data": RECORDS, "method": "predict_proba"},
    "AutoML": {"input_data": TABLE},
    "AutoML without index": {"input_data": {"columns": ["image"], "data": [[b64(0)], [b64(1)]]}},
    "AutoML, list of text": {"input_data": {"columns": ["image"], "data": [b64(0), b64(1)]}},
    "AutoML, other columns": {"input_data": {"columns": ["id", "image"], "data": [["x", b64(0)], ["y", b64(1)]]}},
    "AutoML, records": {"input_data": RECORDS},
    "AutoML, text": {"input_data": [b64(0), b64(1)]},
    "AutoML, records as data": {"input_data": {"columns": ["image"], "data": RECORDS}},
    "AutoML, one column as text": {"input_data": {"columns": "image", "data": [b64(0), b64(1)]}},
    "AutoML, another column": {"input_data": {"columns": ["image_base64"], "data": [[b64(0)], [b64(1)]]}},
    "AutoML, no columns": {"input_data": {"columns": None, "data": [[b64(0)], [b64(1)]]}},
    "AutoML and parameters": {"input_data": TABLE, "params": {"threshold": 0.5}},
    "a table alone": TABLE,
    "dataframe_split": {"dataframe_split": TABLE},
    "dataframe_records": {"dataframe_records": RECORDS},
    "instances": {"instances": RECORDS},
    "instances as columns": {"instances": {"image": [b64(0), b64(1)]}},
    "inputs": {"inputs": [b64(0), b64(1)]},
    "inputs as columns": {"inputs": {"image": [b64(0), b64(1)]}},
    "inputs as rows": {"inputs": [[b64(0)], [b64(1)]]},
    "the designer": {"Inputs": {"WebServiceInput0": RECORDS}, "GlobalParameters": {}},
    "Inputs and data": {"Inputs": {"data": RECORDS}, "GlobalParameters": 1.0},
    "TensorFlow Serving": {"instances": [{"b64": b64(0)}, {"b64": b64(1)}]},
    "bytes of TensorFlow Serving": {"instances": [{"image_bytes": {"b64": b64(n)}, "key": str(n)} for n in (0, 1)]},
    "to_json of pandas": {"image": {"0": b64(0), "1": b64(1)}},
    "JSON in JSON": json.dumps(RECORDS),
    "the only other field": [{"picture": b64(0)}, {"picture": b64(1), "id": 3}],
}


@pytest.mark.parametrize("form", TWO_IMAGES)
def test_json_of_two_images(form: str) -> None:
    check(read(as_json(TWO_IMAGES[form]), "application/json"), 0, 1)


@pytest.mark.parametrize("document", [b64(), {"image": b64()}, {"data": b64()}, [[b64()]], {"image": [b64()]}])
def test_json_of_one_image(document: object) -> None:
    check(read(as_json(document)), 0)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_json_and_text_in_other_encodings(codec: str) -> None:
    check(read(as_json(RECORDS, codec), "application/json"), 0, 1)
    check(read(b64().encode(codec), "text/plain"), 0)


def test_other_fields_in_an_unknown_encoding_do_not_matter() -> None:
    check(read(b'[{"name": "caf\xe9", "image": "' + b64().encode() + b'"}]'), 0)


TEXTS = {
    "plain": b64(),
    "URL-safe": base64.urlsafe_b64encode(png()).decode(),
    "without padding": b64().rstrip("="),
    "with too much padding": b64().rstrip("=") + "====",
    "with line breaks": base64.encodebytes(png()).decode(),
    "with Windows line breaks": base64.encodebytes(png()).decode().replace("\n", "\r\n"),
    "data URL": f"data:image/png;base64,{b64()}",
    "data URL with another type": f"data:text/plain;charset=utf-8;base64,{b64()}",
    "data URL in capitals": f"DATA:image/png;BASE64,{b64()}",
    "data URL, percent-encoded base64": f"data:image/png;base64,{quote(b64(), safe='')}",
    "data URL, percent-encoded bytes": f"data:image/png,{quote(png())}",
    "half of a data URL": f"image/png;base64,{b64()}",
    "str() of bytes in Python": str(base64.b64encode(png())),
}


@pytest.mark.parametrize("name", TEXTS)
def test_base64_of_every_kind(name: str) -> None:
    text = TEXTS[name]
    check(read(as_json([{"image": text}])), 0)
    check(read(text.encode(), "text/plain"), 0)
    check(read(b'[{"image": "' + text.encode() + b'"}]'), 0)  # also with raw line breaks, which is no strict JSON


def test_no_length_of_base64_lacks_its_padding() -> None:
    for number in range(6):
        data = png() + bytes(number)  # Pillow ignores what follows the image
        check(read(as_json([base64.urlsafe_b64encode(data).decode().rstrip("=")])), 0)


MULTIPARTS: dict[str, tuple[bytes, str | None, tuple[int, ...]]] = {
    "a file": (multipart((ONE, png())), MULTIPART, (0,)),
    "a quoted boundary": (multipart((ONE, png())), 'multipart/form-data; boundary="XyZ"', (0,)),
    "no content type": (multipart((ONE, png())), None, (0,)),
    "no boundary in the type": (multipart((ONE, png())), "multipart/form-data", (0,)),
    "another boundary in the type": (multipart((ONE, png())), "multipart/form-data; boundary=ABC", (0,)),
    "the type of JSON": (multipart((ONE, png())), "application/json", (0,)),
    "files of several names, in their order": (
        multipart((ONE, png(2)), ('name="b"; filename="b.png"', png(0)), (ONE, png(1))),
        MULTIPART,
        (2, 0, 1),
    ),
    "a file and fields": (multipart(('name="id"', b"7"), (ONE, png()), ('name="note"', b"x")), MULTIPART, (0,)),
    "a file and a file that was not chosen": (multipart((ONE, png()), ('name="b"; filename=""', b"")), MULTIPART, (0,)),
    "a field of bytes": (multipart(('name="image"', png())), MULTIPART, (0,)),
    "a field of base64": (multipart(('name="image"', b64().encode())), MULTIPART, (0,)),
    "a field of JSON": (multipart(('name="data"', as_json(RECORDS))), MULTIPART, (0, 1)),
    "a file of JSON": (multipart(('name="data"; filename="a.json"', as_json(RECORDS))), MULTIPART, (0, 1)),
    "a file of base64 and its encoding": (
        multipart((f"{ONE}\r\nContent-Transfer-Encoding: base64", base64.encodebytes(png()))),
        MULTIPART,
        (0,),
    ),
    "a name in another encoding": (multipart((ONE, png())).replace(b"dog", b"caf\xe9", 1), MULTIPART, (0,)),
    "a name in UTF-8": (multipart((ONE, png())).replace(b"dog", "犬".encode(), 1), MULTIPART, (0,)),
    "line feeds only": (multipart((ONE, png()), line_end="\n"), MULTIPART, (0,)),
    "text before the first part": (b"preamble\r\n" + multipart((ONE, png())), MULTIPART, (0,)),
    "parts that are mixed": (multipart((ONE, png())), "multipart/mixed; boundary=XyZ", (0,)),
    "an image in spite of its type": (png(), MULTIPART, (0,)),
}


@pytest.mark.parametrize("name", MULTIPARTS)
def test_multipart_bodies(name: str) -> None:
    body, content_type, numbers = MULTIPARTS[name]
    check(read(body, content_type), *numbers)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r", b"\r\n", b"\n\n", b"--", b"\r\n--XyY", b"\r\n--Xy"])
def test_no_byte_of_a_file_is_lost_between_boundaries(end: bytes) -> None:
    pixels = bytes(30 - len(end)) + end
    (found,) = read(multipart((ONE, b"P6 10 1 255\n" + pixels)), MULTIPART)
    assert found.tobytes() == pixels


FORMS = {
    "raw base64": f"image={b64()}",
    "encoded": urlencode({"image": b64()}),
    "encoded with other fields": urlencode({"id": "7", "image": b64(), "name": "dog"}),
    "encoded JSON": urlencode({"data": json.dumps([{"image": b64()}])}),
    "a data URL": urlencode({"file": TEXTS["data URL"]}),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str) -> None:
    check(read(FORMS[name].encode(), FORM), 0)


def test_a_form_with_a_field_twice_has_two_images() -> None:
    check(read(f"image={b64(0)}&image={b64(1)}".encode(), FORM), 0, 1)


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


COMPRESSED: dict[str, tuple[bytes, str | None]] = {
    "gzip": (gzip.compress(png()), "gzip"),
    "x-gzip": (gzip.compress(png()), "X-GZip"),
    "gzip that is not named": (gzip.compress(png()), None),
    "gzip appended to gzip": (gzip.compress(png()[:50]) + gzip.compress(png()[50:]), "gzip"),
    "twice": (gzip.compress(zlib.compress(png())), "deflate, gzip"),
    "deflate": (zlib.compress(png()), "deflate"),
    "deflate without a header": (raw_deflate(png()), "deflate"),
    "identity": (png(), "identity"),
    "gzip that a proxy has unpacked": (png(), "gzip"),
    "JSON in gzip": (gzip.compress(as_json([b64()])), "gzip"),
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_bodies(name: str) -> None:
    body, encoding = COMPRESSED[name]
    check(read(body, None, encoding), 0)


def test_a_stream_may_give_a_few_bytes_at_a_time() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(7)

    check(list(served_requests.read_images(served_requests.read_body(Slow(png()), None), None)), 0)


BAD: dict[str, tuple[bytes, str]] = {
    "a URL": (
        as_json(["https://example.org/dog.png"]),
        "'https://example.org/dog.png' is an address. The endpoint opens",
    ),
    "a URL as text": (b"https://example.org/dog.png", "is an address"),
    "a URL of a file": (as_json([{"image": "file:///etc/passwd"}]), "is an address"),
    "a datastore": (as_json({"data": ["azureml://datastores/a/paths/b.png"]}), "is an address"),
    "a path": (as_json(["/data/dog.png"]), "'/data/dog.png' looks like a path"),
    "a path of Windows": (as_json(["C:\\dogs\\1.jpg"]), "looks like a path"),
    "a name": (as_json(["dog.png"]), "looks like a path"),
    "pixels": (as_json({"instances": [[[0, 1], [2, 3]]]}), "entry 0 is a list of 2 values instead of 1"),
    "a number": (b"3", "text that starts with '3'; expected an image file, or a list"),
    "numbers": (b"[1.5]", "entry 0: expected the base64 of an image file, but got a number"),
    "true": (b"[true]", "but got a boolean"),
    "nothing in a list": (b"[null]", "but got null"),
    "no base64": (as_json([{"image": "***"}]), '"image" of entry 0: it is not base64'),
    "an object without an image": (as_json({"foo": 1}), 'the JSON has "foo"; the field of an image is called "image"'),
    "two fields": (as_json([{"a": b64(), "b": b64()}]), 'entry 0 has "a", "b"; the field of an image is called'),
    "two lists": (as_json({"data": RECORDS, "inputs": RECORDS}), 'contains "data", "inputs", of which it should'),
    "columns without an image": (as_json({"columns": ["a", "b"], "data": [[b64(), b64()]]}), '"columns" has "a", "b"'),
    "columns of numbers": (as_json({"columns": [0], "data": [[b64()]]}), '"columns" should contain names'),
    "a column twice": (
        as_json({"columns": ["image"] * 2, "data": [[b64()] * 2]}),
        'contains "image" 2 times',
    ),
    "a short row": (as_json({"columns": ["id", "image"], "data": [[1]]}), "entry 0 is a list of 1 values instead of 2"),
    "input_data of nothing": (as_json({"input_data": {"columns": ["image"], "data": []}}), "contains no image"),
    "input_data of a number": (as_json({"input_data": 3}), "neither a list nor an object"),
    "objects in objects": (
        as_json({"data": {"data": {"data": {"data": {"data": {"data": {"data": 1}}}}}}}),
        "too deeply",
    ),
    "lines of JSON": (as_json(RECORDS[0]) + b"\n" + as_json(RECORDS[1]), "the body is not JSON: Extra data"),
    "too many": (as_json([b64()] * 1001), "at most 1000 images, but this one has 1001"),
    "too many files": (multipart(*[(ONE, b"x")] * 1001), "at most 1000 images"),
    "too many parts": (multipart(*[(ONE, b"")] * 2001), "at most 1000 images"),
    "too many fields": ("&".join(["image=x1"] * 1001).encode(), "at most 1000 images"),
    "half of a multipart body": (multipart((ONE, png()))[:-20], "the multipart body is incomplete"),
    "a multipart body without a file": (multipart((ONE, b"")), "the multipart body contains no file"),
    "a file of text": (
        multipart((ONE, b"hello")),
        'the file "dog.png": it is not a readable image: ',
    ),
    "forms in forms": (
        multipart((ONE, multipart((ONE, multipart((ONE, png()), boundary="c")), boundary="b"))),
        "forms in",
    ),
    "a form without an image": (b"a=hello&b=hello", 'the form has "a", "b"'),
    "another compression": (b"x", "the Content-Encoding 'br'; send gzip, deflate or none"),
    "half of a gzip file": (gzip.compress(png())[:-12], "the compressed body is incomplete"),
    "many gzip files in one": (gzip.compress(b"") * 21, "more than 20 parts"),
    "a part of headers only": (multipart((f"{ONE}; x={'x' * 20_000}", png())), "contains no file"),
    "a damaged gzip file": (b"\x1f\x8b" + bytes(20), "the compressed body is damaged"),
    "half of a PNG": (png()[:20], "it is not a readable image: Truncated File Read"),
    "more of a PNG": (png()[:-500], "it is not a readable image: PNG: "),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC image"),
    "a video": (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "a video (MP4 or QuickTime)"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3", "not an image but a PDF document"),
    "a ZIP archive": (b"PK\x03\x04\x14\0", "not an image but a zip archive"),
    "a web page": (b"<!DOCTYPE html>\n<html>", "not an image but an HTML page"),
    "a drawing": (odd_images.SVG, "not an image but an SVG drawing"),
    "XML": (b"<?xml version='1.0'?><a/>", "not an image but an XML document"),
    "PostScript": (odd_images.POSTSCRIPT, "not an image but a PostScript program"),
    "a Git LFS pointer instead of the file": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a Git LFS pointer instead of the file",
    ),
    "an array of NumPy": (b"\x93NUMPY\1\0v\0{'descr'", "not an image but a NumPy array"),
    "bytes": (bytes(range(1, 99)), "it cannot be identified as an image"),
    "text": (b"What is this?", "not an image but text that starts with 'What'"),
    "many pixels": (odd_images.bilevel(20_000, 1_000), "it has 20000x1000 pixels, which is too large"),
    "very many pixels": (odd_images.bilevel(20_000, 20_000), "it is too large: "),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_named(name: str) -> None:
    body, words = BAD[name]
    with pytest.raises(BadRequestError) as caught:
        read(body, None, "br" if name == "another compression" else None)
    assert words in str(caught.value)
    assert caught.value.status == 400


@pytest.mark.parametrize("body", [bytes(101 * 2**20), gzip.compress(bytes(101 * 2**20))], ids=["plain", "gzip"])
def test_a_body_that_is_too_large_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequestError, match="larger than 100 MiB") as caught:
        read(body)
    assert caught.value.status == 413
