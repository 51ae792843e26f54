"""Images that the first process of a node decodes for all that have a GPU of their own."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.making import paths_of, write_class_folders
from train_pytorch_model.console.progress import ProgressDisplay
from train_pytorch_model.data import placement
from train_pytorch_model.data.decoding import decode
from train_pytorch_model.data.image_geometry import Geometry
from train_pytorch_model.data.image_store import ImageStore
from train_pytorch_model.distributed.world import World
from train_pytorch_model.errors import FaultCollector
from train_pytorch_model.job import stores
from train_pytorch_model.job.datasets import Scanned, scan
from train_pytorch_model.job.stores import Decoding, decode_for_node
from train_pytorch_model.ports.labelled_images import read_labelled_images

CPU = torch.device("cpu")


@pytest.fixture
def scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scanned:
    """A dataset of 24 images, for which GPUs have the room."""
    monkeypatch.setattr(stores, "choose_place", lambda *_: "device")
    images = read_labelled_images(write_class_folders(tmp_path / "images"), "Training dataset")
    return replace(scan(images), geometry=Geometry((32, 32)))


def opened(scanned: Scanned, faults: FaultCollector) -> tuple[ImageStore | None, ...]:
    """The stores that a process opens, of the dataset and of an unreadable one. The CPU stands for its GPU."""
    how = Decoding(
        World(), ProgressDisplay(Console(quiet=True)), faults, skip_unreadable_images=False, outputs_path=None
    )
    with ExitStack() as files:
        decoded = decode_for_node([scanned, None], "auto", how, files).open(CPU)
    assert decoded.place == "device"
    assert [dataset is not None for dataset in decoded.datasets] == [True, False]
    return decoded.stores


@pytest.mark.parametrize("memory", [1e12, 0.0], ids=["memory", "disk"])
def test_each_process_takes_the_images_to_its_gpu(
    memory: float, scanned: Scanned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "available_memory_bytes", lambda: memory)
    faults = FaultCollector()
    store, nothing = opened(scanned, faults)
    assert (nothing, faults.faults) == (None, [])
    assert store is not None
    ((pixels, labels),) = store.batches([torch.arange(24)], CPU)
    assert labels.tolist() == scanned.images.labels.tolist()
    for row, path in zip(pixels, paths_of(scanned.images)):
        assert np.array_equal(row.permute(1, 2, 0).numpy(), decode(path))


def test_a_host_without_room_for_the_images_is_reported(scanned: Scanned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "available_memory_bytes", lambda: 0.0)
    monkeypatch.setattr(placement, "_free_of_disk", lambda: 0.0)
    faults = FaultCollector()
    opened(scanned, faults)
    (fault,) = faults.faults
    assert "0.1 MiB of decoded images fit neither in the host's memory nor on its disk" in str(fault)
