"""From image files of any size, orientation and kind to the network's pixels."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from train_pytorch_model.data.decoding import decode, read_header
from train_pytorch_model.data.image_formats import UnreadableImageError, open_image
from train_pytorch_model.data.image_geometry import MAX_SIDE, Geometry, pixels_of, size_in_header

ORIENTED = Geometry.crop((32, 32), 0.875, orients=True, scales_values=True)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def photo(height: int, width: int) -> Image.Image:
    """Smooth shapes and some grain, as photos have them."""
    return noise(12, 16).resize((width, height), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def with_orientation(image: Image.Image, value: Any, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return saved(image, kind, exif=exif.tobytes(), **({"quality": 95} if kind == "JPEG" else {}))


def reopened(content: bytes) -> Image.Image:
    return open_image(io.BytesIO(content))


def distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - other.astype(int))


SIZES = [
    *((32, 32), (37, 37), (64, 48), (48, 64), (33, 500), (500, 33)),
    *((9, 9), (5, 11), (1, 1), (1, 7), (255, 257), (49, 147)),
]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("fraction", [1, 0.875, 0.95, 224 / 232])
def test_crops_are_those_of_torchvision_bit_for_bit(interpolation: str, fraction: float) -> None:
    geometry = Geometry.crop((32, 32), fraction, interpolation=interpolation)
    reference = Compose([Resize(round(32 / fraction), InterpolationMode(interpolation)), CenterCrop(32)])
    random = np.random.default_rng(1)
    for height, width in [*SIZES, *random.integers(20, 300, (60, 2)).tolist()]:
        image = noise(height, width)
        expected = np.asarray(image if image.size == (32, 32) else reference(image))
        assert np.array_equal(pixels_of(image, geometry), expected), (height, width)


def test_a_crop_that_is_no_square_covers_both_sides() -> None:
    geometry = Geometry.crop((30, 60), 0.75)
    assert geometry.cover == (40, 80)
    image = noise(100, 100)
    expected = CenterCrop((30, 60))(image.resize((80, 80), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels_of(image, geometry), np.asarray(expected))
    image = noise(50, 400)
    expected = CenterCrop((30, 60))(image.resize((320, 40), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels_of(image, geometry), np.asarray(expected))


@pytest.mark.parametrize("fraction", [1, 0.875, 0.9, 0.95, 224 / 232])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (30, 61)])
def test_the_centre_of_the_pixels_with_a_margin_is_the_crop(size: tuple[int, int], fraction: float) -> None:
    geometry = Geometry.crop(size, fraction, orients=True)
    rows, columns = geometry.margin
    wider = geometry.with_margin()
    assert wider.margin != (0, 0) or fraction == 1 or geometry.cover is not None
    for height, width in [*SIZES, wider.size, geometry.cover or size]:
        if (height, width) == size:
            continue
        image = noise(height, width)
        pixels = pixels_of(image, wider)
        assert pixels.shape == (*wider.size, 3)
        centre = pixels[rows : rows + size[0], columns : columns + size[1]]
        assert np.array_equal(centre, pixels_of(image, geometry)), (height, width)


def test_an_image_that_has_the_size_keeps_its_pixels() -> None:
    image = noise(32, 32)
    for resize in ("none", "crop", "pad", "stretch"):
        assert np.array_equal(pixels_of(image, Geometry((32, 32), resize)), np.asarray(image))
    assert np.array_equal(pixels_of(image, Geometry.crop((32, 32), 0.5)), np.asarray(image))


@pytest.mark.parametrize("size", SIZES)
def test_pad_shows_the_whole_image_in_the_centre_of_black(size: tuple[int, int]) -> None:
    height, width = size
    image = Image.new("RGB", (width, height), (9, 200, 100))
    pixels = pixels_of(image, Geometry((32, 48), "pad"))
    assert pixels.shape == (32, 48, 3)
    is_image = (pixels == (9, 200, 100)).all(axis=2)
    assert (is_image | (pixels == 0).all(axis=2)).all()
    rows, columns = (np.flatnonzero(is_image.any(axis=axis)) for axis in (1, 0))
    assert is_image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    for found, side, own in ((rows, 32, height), (columns, 48, width)):
        assert abs(found[0] - (side - 1 - found[-1])) <= 1  # it is in the middle
        scale = min(32 / height, 48 / width)
        assert len(found) in (max(1, int(own * scale + 1e-9)), side)
    assert len(rows) == 32 or len(columns) == 48


def test_stretch_uses_the_whole_image() -> None:
    image = noise(40, 90)
    expected = image.resize((48, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(pixels_of(image, Geometry((32, 48), "stretch")), np.asarray(expected))


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (2, 5001), (3, 40_000), (40_000, 3), (1, 1), (2000, 1)])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_extreme_aspect_ratios_take_little_memory(
    size: tuple[int, int], resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = Geometry.crop((224, 224), 0.875) if resize == "crop" else Geometry((224, 224), resize)
    largest = []
    resized = Image.Image.resize

    def resize_noting(image: Image.Image, wanted: tuple[int, int], *others: Any) -> Image.Image:
        largest.append(wanted[0] * wanted[1])
        return resized(image, wanted, *others)

    monkeypatch.setattr(Image.Image, "resize", resize_noting)
    assert pixels_of(noise(*size), geometry).shape == (224, 224, 3)
    assert max(largest) <= 16 * 256 * 256


def test_of_a_long_image_the_middle_is_taken() -> None:
    geometry = Geometry.crop((16, 16), 0.875)
    for length in (601, 1000, 1001):
        image = noise(3, length)
        reference = Compose([Resize(18), CenterCrop(16)])
        assert np.array_equal(pixels_of(image, geometry), np.asarray(reference(image)))
        image = image.transpose(Image.Transpose.ROTATE_90)
        assert np.array_equal(pixels_of(image, geometry), np.asarray(reference(image)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("size", [(40, 64), (32, 32), (400, 320)])
def test_orientation_is_that_of_exif_transpose(kind: str, value: int, size: tuple[int, int]) -> None:
    content = with_orientation(photo(*size), value, kind)
    upright = ImageOps.exif_transpose(reopened(content)).convert("RGB")
    header = size_in_header(reopened(content), orients=True)
    assert header == (upright.height, upright.width)
    for geometry in (Geometry(header, orients=True), ORIENTED, Geometry((32, 48), "pad", orients=True)):
        differs = distance(pixels_of(reopened(content), geometry), pixels_of(upright, geometry))
        is_reduced = kind == "JPEG" and max(size) >= 3 * 64
        assert differs.mean() < 1 if is_reduced else not differs.any()
    if kind != "TIFF":  # Pillow itself turns a TIFF when it decodes it
        plain = np.asarray(reopened(content).convert("RGB"))
        assert np.array_equal(pixels_of(reopened(content), Geometry(size)), plain)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_an_uncompressed_tiff_is_turned_in_a_file_as_in_memory(mode: str, value: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    image = photo(40, 64).convert("L")
    content = saved(image if mode == "L" else Image.fromarray(np.asarray(image) * np.uint16(257)), "TIFF", exif=exif)
    (tmp_path / "image.tif").write_bytes(content)
    expected = saved(image, "PNG", exif=exif)
    for geometry in (ORIENTED, Geometry((32, 48), "stretch", orients=True, scales_values=True)):
        assert np.array_equal(decode(tmp_path / "image.tif", geometry), pixels_of(reopened(expected), geometry))


def test_an_orientation_that_follows_the_pixels_of_a_png_is_applied(tmp_path: Path) -> None:
    image = noise(40, 64)
    content = saved(image, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = io.BytesIO()
    PngImagePlugin.putchunk(chunks, b"eXIf", exif.tobytes()[6:])
    content = content[:-12] + chunks.getvalue() + content[-12:]
    upright = image.transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(pixels_of(reopened(content), ORIENTED), pixels_of(upright, ORIENTED))


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_changes_nothing(value: Any) -> None:
    image = noise(40, 64)
    exif = Image.Exif()
    exif[0x0112] = value
    content = saved(image, "PNG", exif=exif.tobytes())
    assert np.array_equal(pixels_of(reopened(content), ORIENTED), pixels_of(image, ORIENTED))


DAMAGED = (
    b"",
    b"garbage",
    b"II*\0\xff\xff\xff\xff",
    b"MM\0*\0\0\0\x08\xff\xff",
    b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\1",
)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0" + damaged for damaged in DAMAGED])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_metadata_are_no_reason_to_refuse_an_image(exif: bytes, kind: str) -> None:
    content = saved(photo(40, 64), kind, exif=exif)
    plain = reopened(content).convert("RGB")
    assert size_in_header(reopened(content), orients=True) == (40, 64)
    assert np.array_equal(pixels_of(reopened(content), ORIENTED), pixels_of(plain, ORIENTED))


RAMP = np.linspace(0, 65535, 32 * 32).reshape(32, 32)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RAMP.astype(np.uint16), "PNG"),
        (RAMP.astype(np.uint16), "TIFF"),
        (RAMP.astype(">u2"), "TIFF"),
        (RAMP.astype(np.uint16), "PPM"),
        ((RAMP / 1000).astype(np.uint16), "PNG"),  # a dark one stays dark
        (RAMP.astype(np.int32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
    ],
)
def test_16_bits_are_scaled_to_8(values: np.ndarray, kind: str, tmp_path: Path) -> None:
    expected = np.rint(values.astype(float) / 257)
    content = saved(Image.fromarray(values), kind)
    pixels = pixels_of(reopened(content), ORIENTED)
    assert np.array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))
    (tmp_path / "image").write_bytes(content)
    assert read_header(tmp_path / "image").has_wide_values
    clipped = np.asarray(reopened(content).convert("RGB"))
    assert np.array_equal(decode(tmp_path / "image"), clipped)
    assert np.array_equal(decode(tmp_path / "image", Geometry((32, 32))), clipped)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 0.25, 0.5]], np.float32), [0, 64, 128]),
        (np.array([[0, 0.5, 1.0000002]], np.float32), [0, 128, 255]),
        (np.array([[-0.1, 0.5, 1.09]], np.float32), [0, 128, 255]),
        (np.array([[0, 1, 1.2]], np.float32), [0, 1, 1]),
        (np.array([[-3, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[0, 100, 255.0001]], np.float32), [0, 100, 255]),
        (np.array([[0, 100, 270]], np.float32), [0, 100, 255]),
        (np.array([[0, 300, 65535]], np.float32), [0, 1, 255]),
        (np.array([[0, 1.2e6, 2e6]], np.float32), [0, 153, 255]),
        (np.array([[np.nan, np.inf, 1]], np.float32), [0, 0, 255]),
        (np.array([[0, 0, 0]], np.float32), [0, 0, 0]),
        (np.array([[-5, -1, -2]], np.float32), [0, 0, 0]),
        (np.array([[0, 1, 200]], np.int32), [0, 1, 200]),
        (np.array([[0, 100, 256]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-7, 0, 2**30]], np.int32), [0, 0, 255]),
    ],
)
def test_values_without_a_known_range_are_scaled_by_the_largest(values: np.ndarray, expected: list[int]) -> None:
    content = saved(Image.fromarray(values), "TIFF")
    pixels = pixels_of(reopened(content), Geometry((1, 3), scales_values=True))
    assert pixels[0].tolist() == [[value] * 3 for value in expected]


def test_a_portable_float_map_is_scaled_as_floating_point_numbers() -> None:
    content = saved(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), "PPM")
    assert content.startswith(b"Pf")
    pixels = pixels_of(reopened(content), Geometry((1, 3), scales_values=True))
    assert pixels[0].tolist() == [[value] * 3 for value in (0, 128, 255)]


def odd_kinds() -> dict[str, Image.Image]:
    image = photo(90, 70)
    alpha = noise(90, 70, 2).convert("L")
    with_alpha = image.copy()
    with_alpha.putalpha(alpha)
    return {
        "1-bit": image.convert("1"),
        "grey": image.convert("L"),
        "grey with alpha": with_alpha.convert("LA"),
        "alpha": with_alpha,
        "palette": image.quantize(64),
        "palette with alpha": with_alpha.quantize(64),
        "CMYK": image.convert("CMYK"),
        "YCbCr": image.convert("YCbCr"),
    }


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("kind", odd_kinds())
@pytest.mark.parametrize("resize", ["none", "crop", "pad", "stretch"])
def test_every_kind_is_converted_to_rgb_before_it_is_resized(kind: str, resize: str) -> None:
    image = odd_kinds()[kind]
    geometry = ORIENTED if resize == "crop" else Geometry((90, 70) if resize == "none" else (32, 48), resize)
    formats = {"CMYK": "TIFF", "YCbCr": "TIFF"}
    content = saved(image, formats.get(kind, "PNG"))
    expected = pixels_of(reopened(content).convert("RGB"), geometry)
    assert np.array_equal(pixels_of(reopened(content), geometry), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(500, 700), (701, 503), (1500, 1001), (2999, 400)])
@pytest.mark.parametrize("progressive", [True, False])
def test_large_jpegs_are_decoded_at_a_reduced_scale_alike_and_nearly_the_same(
    mode: str, size: tuple[int, int], progressive: bool, tmp_path: Path
) -> None:
    content = saved(photo(*size).convert(mode), "JPEG", quality=92, progressive=progressive)
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for geometry in (ORIENTED, Geometry((32, 48), "pad"), Geometry((48, 32), "stretch"), ORIENTED.with_margin()):
        image = reopened(content)
        pixels = pixels_of(image, geometry)
        scaled = pixels_of(reopened(content).convert("RGB"), geometry)
        assert image.size < size[::-1], "it was decoded whole"
        assert distance(pixels, scaled).mean() < 1
        assert distance(pixels, scaled).max() < 16
        assert np.array_equal(decode(path, geometry), pixels)


def test_a_truncated_jpeg_is_unreadable_at_a_reduced_scale_too(tmp_path: Path) -> None:
    content = saved(photo(1500, 1000), "JPEG")
    (tmp_path / "photo.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImageError, match="truncated"):
        decode(tmp_path / "photo.jpg", ORIENTED)


def test_an_image_of_another_size_that_must_not_be_resized_is_unreadable(tmp_path: Path) -> None:
    noise(20, 40).save(tmp_path / "image.png")
    with pytest.raises(UnreadableImageError, match="it is 40x20, but its header said 32x32"):
        decode(tmp_path / "image.png", Geometry((32, 32)))


@pytest.mark.parametrize(
    "geometry",
    [
        *(ORIENTED, ORIENTED.with_margin(), Geometry((3, 5), "pad", interpolation="bicubic")),
        Geometry.crop((MAX_SIDE, MAX_SIDE), 0.1),
    ],
)
def test_a_geometry_is_written_as_json_and_read_again(geometry: Geometry) -> None:
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


@pytest.mark.parametrize(
    "changed",
    [
        *({"size": size} for size in ([0, 3], [3], [1, 2, 3], "32", [3.5, 3], [10**9, 10**9], None, [True, True])),
        *({"resize": "tile"}, {"resize": []}, {"interpolation": "lanczos"}, {"interpolation": {}}),
        *({"cover": [31, 40]}, {"cover": "ab"}, {"resize": "pad"}, {"orients": "no"}, {"scales_values": 1}),
        *({"has_margin": None}, {"other": 1}),
    ],
)
def test_a_damaged_geometry_is_an_error(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is no geometry of images"):
        Geometry.from_dict({**ORIENTED.to_dict(), **changed})


@pytest.mark.parametrize("values", [None, [], "x", {}, 3])
def test_what_is_no_mapping_is_no_geometry(values: Any) -> None:
    with pytest.raises(ValueError, match="is no geometry of images"):
        Geometry.from_dict(values)
