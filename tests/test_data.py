from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from tests.making import write_class_folders
from train_pytorch_model.data.batches import derive_seed, normalised, shuffled, training_shards
from train_pytorch_model.data.decoding import UnreadableImageError, decode, read_size
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import ImageStore, decode_all
from train_pytorch_model.data.threads import ahead, in_threads

MODES = ("RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "I;16", "F")
FORMATS = {"CMYK": ("jpg", "tif"), "RGB": ("png", "jpg", "bmp", "ppm", "tif", "webp"), "F": ("tif",), "L": ("pgm",)}


@pytest.mark.parametrize("mode", MODES)
def test_pixels_equal_pillows_rgb(mode: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for extension in FORMATS.get(mode, ("png",)):
        path = tmp_path / f"image.{extension}"
        if mode == "I;16":
            image = Image.fromarray(random.integers(0, 3000, (5, 7)).astype(np.uint16))
        elif mode == "F":
            image = Image.fromarray(random.random((5, 7), dtype=np.float32))
        else:
            image = Image.fromarray(random.integers(0, 256, (5, 7, 3)).astype(np.uint8)).convert(mode)
        image.save(path)
        assert read_size(path) == (5, 7)
        with Image.open(path) as opened:
            assert np.array_equal(decode(path), np.asarray(opened.convert("RGB")))


def broken_files(folder: Path) -> dict[str, Path]:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(whole, "PNG")
    data = bytearray(whole.getvalue())
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n"
    contents = {
        "truncated": data[: len(data) // 2],
        "flipped": flipped,
        "text": b"no image",
        "empty": b"",
        "program": program,
    }
    paths = {name: folder / f"{name}.png" for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(bytes(content))
    os.mkfifo(folder / "pipe.png")
    return {**paths, "missing": folder / "missing.png", "pipe": folder / "pipe.png"}


@pytest.mark.parametrize("kind", ["truncated", "flipped", "text", "empty", "program", "missing", "pipe"])
def test_a_file_that_is_no_whole_image_is_unreadable(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError) as raised:
        decode(broken_files(tmp_path)[kind])
    assert str(raised.value)


@pytest.mark.parametrize("read", [read_size, decode])
def test_memory_that_runs_out_makes_no_image_unreadable(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, formats: object) -> None:
        raise MemoryError

    (tmp_path / "image.png").touch()
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MemoryError):
        read(tmp_path / "image.png")


PLACES = ("memory", "disk", "none")
CPU = torch.device("cpu")


def decoded(paths: list[Path], labels: list[int], place: str = "memory") -> tuple[ImageStore, dict[int, str]]:
    return decode_all(lambda index: paths[index], np.array(labels), Geometry((32, 32)), place=place)


@pytest.mark.parametrize("place", PLACES)
def test_unreadable_images_leave_no_gap_and_the_rest_keep_their_labels(place: str, tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "images", ["a"], per_class=5)
    paths = sorted((folder / "a").iterdir())
    paths[1].write_bytes(b"no image")
    store, unreadable = decoded(paths, [10, 11, 12, 13, 14], place)
    assert list(unreadable) == [1]
    assert len(store) == 4
    ((pixels, labels),) = store.batches([torch.arange(4)], CPU)
    assert labels.tolist() == [10, 12, 13, 14]
    for row, path in zip(pixels, [paths[0], *paths[2:]]):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), decode(path))


@pytest.mark.parametrize("place", PLACES)
def test_batches_hold_what_score_sees_bit_for_bit(place: str, tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "images", ["a"], per_class=4)
    paths = sorted((folder / "a").iterdir())
    store, _ = decoded(paths, [0, 1, 2, 3], place)
    assert store.size == (32, 32)
    batches = [torch.tensor([2, 0, 3]), torch.tensor([1]), torch.tensor([3, 2])]
    reference = Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    given = list(store.batches(batches, CPU))
    assert [labels.tolist() for _, labels in given] == [batch.tolist() for batch in batches]
    for (pixels, _), batch in zip(given, batches):
        expected = torch.stack([reference(Image.open(paths[index]).convert("RGB")) for index in batch])
        for memory_format in (torch.contiguous_format, torch.channels_last):
            images = normalised(pixels, memory_format)
            assert images.is_contiguous(memory_format=memory_format)
            assert torch.equal(images, expected)


def test_a_mapped_file_has_no_name_and_goes_with_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_class_folders(tmp_path / "images", ["a"], per_class=3)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    store, _ = decoded(sorted((folder / "a").iterdir()), [0, 0, 0], "disk")
    assert list(scratch.iterdir()) == []
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert any(str(scratch) in line and line.endswith("(deleted)") for line in maps.splitlines())
    assert len(store) == 3


@pytest.mark.parametrize("words", ["the file is missing", "it is 40x20, but its header said 32x32"])
def test_a_file_that_changes_after_the_check_is_named(words: str, tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "images", ["a"], per_class=3)
    paths = sorted((folder / "a").iterdir())
    store, _ = decoded(paths, [0, 0, 0], "none")
    paths[2].unlink()
    if "40x20" in words:
        Image.new("RGB", (40, 20)).save(paths[2])
    with pytest.raises(UnreadableImageError, match=rf"2\.png: {words}"):
        list(store.batches([torch.arange(3)], CPU))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 1000])
def test_threads_give_results_in_order(count: int) -> None:
    assert list(in_threads(lambda number: number * number, count, at_once=7)) == [n * n for n in range(count)]


@pytest.mark.parametrize("error", [ValueError("five"), TimeoutError("five")])  # some disks say the second themselves
def test_working_ahead_changes_neither_order_nor_errors(error: Exception) -> None:
    def work(number: int) -> int:
        if number == 5:
            raise error
        return number * number

    assert list(ahead(work, range(5))) == [0, 1, 4, 9, 16]
    with pytest.raises(type(error), match="five"):
        list(ahead(work, range(7)))
    results = ahead(work, range(7))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert torch.equal(shuffled(100, 7, 1), shuffled(100, 7, 1))
    assert not torch.equal(shuffled(100, 7, 1), shuffled(100, 7, 2))
    assert not torch.equal(shuffled(100, 7, 1), shuffled(100, 8, 1))
    assert sorted(shuffled(100, 7, 1).tolist()) == list(range(100))


@pytest.mark.parametrize("seed", [0, -1, 2**200])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert 0 <= derive_seed(seed, "order") < 2**63


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 4]), (8, 4, [4, 4]), (3, 1, [1, 1, 1]), (1, 4, [1]), (5, 8, [5])],
)
def test_the_last_batch_is_used_unless_it_is_a_single_image(count: int, batch_size: int, sizes: list[int]) -> None:
    assert [len(shard.indices) for shard in training_shards(torch.arange(count), batch_size)] == sizes
