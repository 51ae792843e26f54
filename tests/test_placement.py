from __future__ import annotations

import errno
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from train_pytorch_model.data import placement
from train_pytorch_model.data.placement import PlacementError, allocate, available_memory_bytes, choose_place

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


def test_a_disk_that_is_full_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(placement, "_GROUP_FILES", (files,))
    assert available_memory_bytes() == 350000
    (tmp_path / "max").write_text("max\n")
    assert available_memory_bytes() > 2**20
