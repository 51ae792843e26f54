from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.checking import check
from tests.making import Inputs
from tests.worlds import met
from train_pytorch_model.data import decoding_check, free_memory, placement
from train_pytorch_model.data.decoding_check import DecodingCheck
from train_pytorch_model.data.free_memory import available_memory_bytes
from train_pytorch_model.data.placement import (
    PlacementError,
    allocate,
    choose_host_place,
    choose_place,
    free_bytes,
    shared_rows,
)
from train_pytorch_model.distributed.device import fast_half_precision

CPU = torch.device("cpu")
MEBIBYTE = 2**20


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MiB of memory, 1,000 MiB of disk."""
    monkeypatch.setattr(placement, "available_memory_bytes", lambda: 100.0 * MEBIBYTE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000 * MEBIBYTE))


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(
    ("wanted", "mebibytes", "place"),
    [
        ("auto", 50, "memory"),
        ("auto", 51, "disk"),
        ("auto", 1001, "none"),
        ("memory", 99, "memory"),
        ("device", 99, "memory"),
        ("disk", 1, "disk"),
        ("none", 1, "none"),
    ],
)
def test_the_first_place_with_room_is_taken_and_logged(
    wanted: str, mebibytes: int, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert choose_place(wanted, mebibytes * MEBIBYTE, CPU) == place
    assert f"Image store {place}" in caplog.text
    assert "memory 100.0 MiB free" in caplog.text


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize(("wanted", "mebibytes"), [("memory", 101), ("device", 101), ("disk", 1001)])
def test_a_place_without_room_is_refused_with_the_sizes(wanted: str, mebibytes: int) -> None:
    with pytest.raises(PlacementError, match=rf"needs {mebibytes:,}\.0 MiB .* but {mebibytes - 1:,}\.0 MiB are free"):
        choose_place(wanted, mebibytes * MEBIBYTE, CPU)


@pytest.mark.usefixtures("room")
def test_images_for_gpus_are_staged_where_there_is_room() -> None:
    assert choose_host_place(100 * MEBIBYTE) == "memory"
    assert choose_host_place(101 * MEBIBYTE) == "disk"
    with pytest.raises(PlacementError, match=r"1,001\.0 MiB of decoded images fit neither .*--image-store none"):
        choose_host_place(1001 * MEBIBYTE)


def test_a_temporary_folder_that_is_not_there_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert free_bytes(CPU)["disk"] == 0
    with pytest.raises(PlacementError, match=r"but 0\.0 MiB are free there"):
        choose_place("disk", 1, CPU)


class Training:
    """Refers to itself, as a network with hooks may, so that only the garbage collector removes it."""

    def __init__(self) -> None:
        self.step = self


@pytest.mark.usefixtures("room")
def test_what_an_earlier_training_leaves_in_the_memory_of_a_gpu_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = weakref.ref(Training())
    gpu = SimpleNamespace(free=300 * MEBIBYTE)

    def empty_cache() -> None:
        gpu.free = 300 * MEBIBYTE if earlier() else 500 * MEBIBYTE

    monkeypatch.setattr(torch.cuda, "empty_cache", empty_cache)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gpu.free, 1000 * MEBIBYTE))
    assert choose_place("auto", 200 * MEBIBYTE, torch.device("cuda", 0)) == "device"


@pytest.fixture
def no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that is no Linux."""
    for name in ("read_text", "write_text", "is_dir", "readlink"):
        monkeypatch.setattr(Path, name, answering_no(getattr(Path, name)))
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.delattr(os, "memfd_create")


def answering_no(method: Callable[..., Any]) -> Callable[..., Any]:
    def answer(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.parts[:2] != ("/", "proc"):
            return method(path, *arguments, **named)
        if method.__name__ == "is_dir":
            return False
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    return answer


@pytest.mark.usefixtures("no_proc")
def test_elsewhere_than_on_linux_nothing_is_known_and_processes_share_a_named_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "_GROUP_FILES", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert choose_place("memory", 10**15, CPU) == "memory"
    assert fast_half_precision(CPU) is None
    assert met(monkeypatch, ("a", None), ("b", None)).node == (1,)
    with shared_rows("memory", (3, 2)) as shared:
        first, second = shared.open(), shared.open()
        first.fill_(7)
        assert second.tolist() == [[7, 7]] * 3
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_proc")
def test_elsewhere_than_on_linux_a_training_is_checked_without_its_memory(
    inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = check(inputs, capsys)
    assert code == 0
    assert [need["what"] for need in found["memory"]] == ["decoded images"]


def test_a_full_disk_is_reported_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(PlacementError, match="No space left on device"):
        allocate("disk", (3, 2), CPU)


def test_free_memory_is_what_linux_says_or_less() -> None:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    total = next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    assert 0 < available_memory_bytes() <= total


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("max", "1000000"), ("current", "700000"), ("stat", "anon 1\ninactive_file 50000\n")):
        (tmp_path / name).write_text(text)
    files = tuple(str(tmp_path / name) for name in ("max", "current", "stat"))
    monkeypatch.setattr(free_memory, "_GROUP_FILES", (files,))
    assert available_memory_bytes() == 350000
    (tmp_path / "max").write_text("max\n")
    assert available_memory_bytes() > 2**20


def test_large_images_that_are_checked_at_the_same_time_fit_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sides = [30, 10, 10, 30, 10, 60, 10, 30, 10, 10]
    for number, side in enumerate(sides):
        Image.new("RGB", (side, side)).save(tmp_path / f"{number}.png")
    (tmp_path / "10.png").write_bytes(b"no image")
    (tmp_path / "11.png").write_bytes((tmp_path / "5.png").read_bytes()[:60])
    monkeypatch.setattr(decoding_check, "available_memory_bytes", lambda: 2.0 * 16 * 32 * 32)  # half is for images
    lock, decode = threading.Lock(), decoding_check.decode
    decoding: list[int] = []
    most: list[int] = []

    def slow(path: Path) -> np.ndarray:
        number = int(path.stem)
        with lock:
            decoding.append(number)
            most.append(sum(min(32, sides[other] if other < 10 else 60) ** 2 for other in decoding))
        time.sleep(0.02)
        try:
            return decode(path)
        finally:
            with lock:
                decoding.remove(number)

    monkeypatch.setattr(decoding_check, "decode", slow)
    check = DecodingCheck()
    with ThreadPoolExecutor(6) as threads:
        faults = list(threads.map(lambda number: check.fault_of(tmp_path / f"{number}.png"), range(12)))
    assert [bool(fault) for fault in faults] == [False] * 10 + [True] * 2
    assert 2 * 10**2 <= max(most) <= 32**2
