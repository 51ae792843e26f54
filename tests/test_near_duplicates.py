"""The search for images that are there twice, on drawn pictures and on what people do to copies of them."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from sklearn.datasets import load_digits

from train_pytorch_model.data.findings import Files
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import ImageStore, decode_all
from train_pytorch_model.data.near_duplicates import (
    MIRRORED,
    NEARLY_SAME,
    SAME_FILE,
    SAME_PIXELS,
    Duplicate,
    find_duplicates,
)

CPU = torch.device("cpu")
SIZE = 64


def picture(seed: int, size: int = SIZE) -> Image.Image:
    """A scene of a few shapes on a gradient; another seed is another scene."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, 96)
    corners = random.integers(0, 256, (2, 2, 3))
    pixels = sum(
        corners[y, x] * (ramp if y else 1 - ramp)[:, None, None] * (ramp if x else 1 - ramp)[None, :, None]
        for y in (0, 1)
        for x in (0, 1)
    )
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        left, top, width, height = random.integers(0, 70, 4).tolist()
        draw.ellipse([left, top, left + 5 + width, top + 5 + height], fill=tuple(random.integers(0, 256, 3).tolist()))
    return image.resize((size, size), Image.Resampling.LANCZOS)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image after it was saved as a JPEG."""
    written = io.BytesIO()
    image.save(written, "JPEG", quality=quality)
    return Image.open(io.BytesIO(written.getvalue())).convert("RGB")


def dataset(folder: Path, images: dict[str, Image.Image | Path]) -> tuple[ImageStore, Files]:
    folder.mkdir()
    for name, image in images.items():
        if isinstance(image, Path):
            shutil.copy(image, folder / name)
        else:
            image.save(folder / name)
    paths = [folder / name for name in images]
    geometry = Geometry((SIZE, SIZE), "stretch")
    store, unreadable = decode_all(paths.__getitem__, np.zeros(len(paths), dtype=np.int64), geometry)
    assert not unreadable
    return store, Files(paths.__getitem__, np.array([path.stat().st_size for path in paths]))


def pairs_of(found: list[Duplicate]) -> dict[tuple[int, int], str]:
    return {(pair.first, pair.second): pair.kind for pair in found}


def test_copies_are_found_within_and_across_datasets_and_nothing_else_is(tmp_path: Path) -> None:
    train = dataset(tmp_path / "train", {f"{number}.png": picture(number) for number in range(60)})
    valid = dataset(
        tmp_path / "valid",
        {
            "copy.png": tmp_path / "train" / "3.png",
            "other format.bmp": picture(4),
            "recompressed.png": jpeg(picture(5), 50),
            "smaller.png": picture(6).resize((40, 40)),
            "mirrored.png": jpeg(ImageOps.mirror(picture(8)), 80),
            "brighter.png": ImageEnhance.Brightness(picture(7)).enhance(1.15),
            **{f"{number}.png": picture(number) for number in range(100, 160)},
            "again.png": jpeg(picture(100), 70),
        },
    )
    found = find_duplicates([train, valid], np.zeros(127, dtype=np.int64), CPU, 60)
    assert pairs_of(found.found) == {
        (3, 60): SAME_FILE,
        (4, 61): SAME_PIXELS,
        (5, 62): NEARLY_SAME,
        (6, 63): NEARLY_SAME,
        (8, 64): MIRRORED,
        (7, 65): NEARLY_SAME,
        (66, 126): NEARLY_SAME,
    }
    assert [pair.kind for pair in found.found][:2] == [SAME_FILE, SAME_PIXELS]
    assert all(0.85 <= pair.similarity <= 1 for pair in found.found)
    assert (found.num_compared, found.num_images, found.unfinished) == (127, 127, "")


def test_every_image_of_many_equal_ones_is_in_a_pair_and_there_are_few_pairs(tmp_path: Path) -> None:
    black = Image.new("RGB", (SIZE, SIZE))
    store = dataset(tmp_path / "equal", {f"{number}.png": black for number in range(40)})
    labels = np.zeros(40, dtype=np.int64)
    labels[7] = 1
    found = find_duplicates([store], labels, CPU, 60).found
    assert {image for pair in found for image in (pair.first, pair.second)} == set(range(40))
    assert len(found) <= 3 * 40
    # The only one with another label is paired with one of the others.
    assert any(7 in (pair.first, pair.second) for pair in found)
    assert {pair.kind for pair in found} == {SAME_FILE}


def test_images_of_one_colour_are_the_same_only_if_their_colour_is(tmp_path: Path) -> None:
    colours = [(0, 0, 0), (255, 255, 255), (200, 30, 30), (30, 200, 30), (200, 30, 30)]
    colours += [(level, level, level) for level in range(40, 220, 5)]  # each is a little lighter than the one before
    images = {f"{number}.png": Image.new("RGB", (SIZE, SIZE), colour) for number, colour in enumerate(colours)}
    found = find_duplicates([dataset(tmp_path / "flat", images)], np.zeros(len(images), dtype=np.int64), CPU, 60).found
    assert pairs_of(found) == {(2, 4): SAME_FILE}


def test_a_search_out_of_time_says_so(tmp_path: Path) -> None:
    store = dataset(tmp_path / "some", {f"{number}.png": picture(0) for number in range(3)})
    found = find_duplicates([store], np.zeros(3, dtype=np.int64), CPU, 0)
    assert found.found == []
    assert "ran out of time after 0 of 3 images" in found.unfinished


@pytest.mark.parametrize("size", [1, 8, 300])
def test_images_of_any_size_are_compared(tmp_path: Path, size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    pixels[2] = pixels[0]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, pixels):
        Image.fromarray(image).save(path)
    store, _ = decode_all(paths.__getitem__, np.zeros(3, dtype=np.int64), Geometry((size, size), "stretch"))
    files = Files(paths.__getitem__, np.array([path.stat().st_size for path in paths]))
    found = find_duplicates([(store, files)], np.zeros(3, dtype=np.int64), CPU, 60)
    assert (0, 2) in pairs_of(found.found)


def test_pairs_that_there_is_no_time_for_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = dataset(tmp_path / "some", {f"{number}.png": picture(number // 2) for number in range(6)})
    seconds = iter([0.0] * 3)  # the start, reading and comparing
    monkeypatch.setattr("train_pytorch_model.data.near_duplicates.time.monotonic", lambda: next(seconds, 1e9))
    found = find_duplicates([store], np.zeros(6, dtype=np.int64), CPU, 60)
    assert found.found == []
    assert "ran out of time after 0 of 6 images" in found.unfinished


def test_images_of_one_kind_are_not_the_same_because_they_are_alike(tmp_path: Path) -> None:
    def form(seed: int) -> Image.Image:
        """A picture with a frame and lines that all of its kind have."""
        random = np.random.default_rng(seed)
        image = Image.new("L", (SIZE, SIZE), 240)
        draw = ImageDraw.Draw(image)
        draw.rectangle([2, 2, 61, 12], fill=60)
        for top in range(18, 60, 6):
            draw.line([4, top + 4, 60, top + 4], fill=0)
            draw.line([24, top, 24 + int(random.integers(1, 36)), top], fill=90, width=2)
        return image

    images = {f"{number}.png": form(number) for number in range(40)}
    images["copy.png"] = jpeg(form(7), 80)
    found = find_duplicates([dataset(tmp_path / "forms", images)], np.zeros(41, dtype=np.int64), CPU, 60).found
    assert pairs_of(found) == {(7, 40): NEARLY_SAME}


def test_copies_are_found_among_many_similar_images(tmp_path: Path) -> None:
    frames = {f"{number}.png": ImageEnhance.Brightness(picture(0)).enhance(1 + number / 5000) for number in range(50)}
    images = {**frames, "copy.png": frames["20.png"]}
    store = dataset(tmp_path / "frames", images)
    found = find_duplicates([store], np.arange(51) % 5, CPU, 60)
    assert pairs_of(found.found)[20, 50] == SAME_FILE


def test_digits_of_one_kind_are_not_copies_of_each_other(tmp_path: Path) -> None:
    """They are alike, but a copy is much closer to its original than digits of one kind are."""
    digits = (load_digits().images[:600] * 255 / 16).astype(np.uint8)
    images: dict[str, Image.Image | Path] = {
        f"{number}.png": Image.fromarray(digit).resize((SIZE, SIZE)) for number, digit in enumerate(digits)
    }
    copies = {f"copy{number}.png": jpeg(images[f"{number}.png"], 50) for number in range(5)}
    given = dataset(tmp_path / "images", {**images, **copies})
    found = pairs_of(find_duplicates([given], np.zeros(605, dtype=np.int64), CPU, 100).found)
    assert {(number, 600 + number) for number in range(5)} <= set(found)
    assert len(found) <= 5 + 6


def test_frames_of_a_film_are_found_however_many_they_are(tmp_path: Path) -> None:
    scene = np.asarray(picture(1), dtype=np.int16)
    noise = np.random.default_rng(0).integers(-6, 7, (20, *scene.shape))
    frames = {
        f"frame{number}.png": Image.fromarray(np.uint8((scene + of).clip(0, 255))) for number, of in enumerate(noise)
    }
    given = dataset(tmp_path / "images", {**frames, **{f"{seed}.png": picture(seed) for seed in range(2, 42)}})
    found = pairs_of(find_duplicates([given], np.zeros(60, dtype=np.int64), CPU, 100).found)
    assert {image for pair in found for image in pair} == set(range(20))
