"""Several processes, as far as one GPU can show them: a group of one process, which communicates through NCCL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.runs import different_weights, make_store, train
from train_pytorch_model.distributed.world import World
from train_pytorch_model.training.augmentation import Augmentation

pytestmark = pytest.mark.gpu


class Connected(World):
    """A process that communicates as each of several does."""

    is_alone = False  # type: ignore[assignment]


@pytest.fixture(name="world")
def _world(device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # as `connected` sets it
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", store=store, rank=0, world_size=1)
    world = Connected(device=device)
    world.join()
    yield world
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("network", ["resnet18", "squeezenet1_1"])
def test_gradients_averaged_by_nccl_train_to_the_weights_of_a_single_process(
    network: str, world: World, device: torch.device, tmp_path: Path
) -> None:
    store = make_store(tmp_path / "images", "device", device)
    alone, connected = (train(store, device, network, world=of)[1] for of in (None, world))
    assert not different_weights(alone, connected)


@pytest.mark.parametrize("parts", [{}, {"augmentation": Augmentation((64, 64))}], ids=["features", "images"])
def test_a_head_trained_alone_with_nccl_ends_with_the_weights_of_a_single_process(
    parts: dict[str, Any], world: World, device: torch.device, tmp_path: Path
) -> None:
    """Gradients of the head alone are averaged in the first epoch, and those of all layers in the second."""
    store = make_store(tmp_path / "images", "device", device)
    plan = {"freeze_epochs": 1, "head_names": frozenset({"fc.weight", "fc.bias"}), **parts}
    alone, connected = (train(store, device, world=of, **plan)[1] for of in (None, world))
    assert not different_weights(alone, connected)


@pytest.mark.parametrize("network", ["resnet18", "densenet121", "squeezenet1_1"])
def test_a_graph_with_nccl_in_it_gives_the_same_weights_as_steps_without_one(
    network: str, world: World, device: torch.device, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = make_store(tmp_path / "images", "device", device, per_class=11)  # the last batch is a partial one
    with caplog.at_level(logging.INFO):
        plain, captured = (
            train(store, device, network, world=world, cuda_graph=flag, epochs=4)[1] for flag in (False, True)
        )
    assert caplog.text.count("as a CUDA graph") == 1
    assert not different_weights(plain, captured)
