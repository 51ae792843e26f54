from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Compose, Normalize, ToTensor

from tests.making import write_class_folders
from train_pytorch_model.data import image_store
from train_pytorch_model.data.batches import derive_seed, on_device, shuffled, training_batches
from train_pytorch_model.data.decoding import UnreadableImageError, decode, read_size
from train_pytorch_model.data.image_store import decode_all

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
    contents = {"truncated": data[: len(data) // 2], "flipped": flipped, "text": b"no image", "empty": b""}
    paths = {name: folder / f"{name}.png" for name in contents}
    for name, content in contents.items():
        paths[name].write_bytes(bytes(content))
    return {**paths, "missing": folder / "missing.png"}


@pytest.mark.parametrize("kind", ["truncated", "flipped", "text", "empty", "missing"])
def test_a_file_that_is_no_whole_image_is_unreadable(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError) as raised:
        decode(broken_files(tmp_path)[kind])
    assert str(raised.value)


def test_unreadable_images_leave_no_gap_and_the_rest_keep_their_labels(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "images", ["a"], per_class=5)
    paths = sorted((folder / "a").iterdir())
    paths[1].write_bytes(b"no image")
    store, unreadable = decode_all(paths, [10, 11, 12, 13, 14], (32, 32))
    assert list(unreadable) == [1]
    assert store.labels.tolist() == [10, 12, 13, 14]
    for row, path in zip(store.pixels, [paths[0], *paths[2:]]):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), decode(path))


def test_images_beyond_the_memory_lie_in_a_file_that_goes_with_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_class_folders(tmp_path / "images", ["a"], per_class=3)
    paths = sorted((folder / "a").iterdir())
    in_memory, _ = decode_all(paths, [0, 0, 0], (32, 32))
    monkeypatch.setattr(image_store, "_available_memory_bytes", lambda: 100.0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    in_file, _ = decode_all(paths, [0, 0, 0], (32, 32))
    assert torch.equal(in_memory.pixels, in_file.pixels)
    assert list(scratch.iterdir()) == []


def test_batches_hold_what_score_sees_bit_for_bit(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "images", ["a"], per_class=4)
    paths = sorted((folder / "a").iterdir())
    store, _ = decode_all(paths, [0, 1, 2, 3], (32, 32))
    ((images, labels),) = on_device(store, [torch.tensor([2, 0, 3])], torch.device("cpu"))
    reference = Compose([ToTensor(), Normalize([0.5] * 3, [0.5] * 3)])
    expected = torch.stack([reference(Image.open(paths[index]).convert("RGB")) for index in (2, 0, 3)])
    assert torch.equal(images, expected)
    assert labels.tolist() == [2, 0, 3]


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
    assert [len(batch) for batch in training_batches(torch.arange(count), batch_size)] == sizes
