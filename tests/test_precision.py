from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torchvision
from torch.amp.grad_scaler import GradScaler

from tests.small_training import make_images, make_network, make_plan, run
from train_pytorch_model.distributed import device as hardware
from train_pytorch_model.training.precision import Precision, choose_precision
from train_pytorch_model.training.step import TrainingStep

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("network", "flags", "dtype"),
    [
        ("resnet18", {"amx_bf16"}, torch.bfloat16),
        ("resnet18", {"avx512_bf16"}, torch.bfloat16),
        ("resnet18", {"avx512f"}, torch.float32),
        ("resnext50_32x4d", {"amx_bf16"}, torch.bfloat16),
        ("mobilenet_v3_small", {"amx_bf16"}, torch.float32),
        ("efficientnet_b0", {"amx_bf16"}, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_the_cpu_is_fast_at_it(
    network: str, flags: set[str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: flags)
    assert choose_precision("auto", CPU, torchvision.models.get_model(network)).dtype == dtype


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((9, 0), torch.bfloat16),
        ((8, 0), torch.bfloat16),
        ((7, 5), torch.float16),
        ((7, 0), torch.float16),
        ((6, 1), torch.float32),
    ],
)
def test_auto_goes_by_the_generation_of_the_gpu(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda", 0), make_network()).dtype == dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_taken(name: str) -> None:
    precision = choose_precision(name, CPU, make_network())
    assert str(precision) == name
    assert precision.make_scaler().is_enabled() is (name == "float16")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_what_float32_learns(dtype: torch.dtype) -> None:
    network, train, valid = make_network(), make_images(80), make_images(21, seed=1)
    given: dict[torch.dtype, Any] = {}
    for each in (torch.float32, dtype):
        copied = copy.deepcopy(network)
        given[each] = run(copied, make_plan(precision=Precision(each, "cpu")), train, valid)[0]
        assert all(value.dtype == torch.float32 for value in copied.parameters())
    assert given[dtype].losses == pytest.approx(given[torch.float32].losses, rel=0.05)
    assert given[dtype].losses != given[torch.float32].losses
    # The weights differ by little, and what is computed from them on the validation images not at all by rounding.
    assert given[dtype].records[-1].valid_loss == pytest.approx(given[torch.float32].records[-1].valid_loss, rel=0.02)


def test_a_step_skipped_for_infinite_gradients_does_not_change_the_weights() -> None:
    network = make_network()
    fresh = copy.deepcopy(network)
    precision, images = Precision(torch.float16, "cpu"), make_images(8)
    interrupted = TrainingStep(network, make_plan(precision=precision), CPU)
    interrupted.begin_epoch(0.1)
    interrupted.scaler = GradScaler("cpu", init_scale=2.0**100)
    before = [value.clone() for value in network.parameters()]
    interrupted(images.pixels, images.labels)
    assert all(torch.equal(value, old) for value, old in zip(network.parameters(), before))
    interrupted.scaler.update(1024.0)
    expected = TrainingStep(fresh, make_plan(precision=precision), CPU)
    expected.begin_epoch(0.1)
    for step in (interrupted, expected):
        step(images.pixels, images.labels)
    assert all(torch.equal(value, other) for value, other in zip(network.parameters(), fresh.parameters()))
    assert not all(torch.equal(value, old) for value, old in zip(network.parameters(), before))
