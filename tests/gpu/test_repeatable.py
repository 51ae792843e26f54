"""The same seed gives the same bits on the same GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.gpu.runs import different_weights, make_store, train
from tests.small_training import make_plan
from train_pytorch_model.distributed.device import require_determinism
from train_pytorch_model.job.heat_maps import ReportHeatMaps

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(
    "network",
    ["resnet50", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16", "swin_t", "convnext_tiny"],
)
def test_two_runs_give_the_same_weights(network: str, precision: str, device: torch.device, tmp_path: Path) -> None:
    store = make_store(tmp_path, "device", device, size=224)
    one, other = (train(store, device, network, precision)[1] for _ in range(2))
    assert not different_weights(one, other)


def test_tf32_changes_the_figures_of_epochs_and_the_best_weights_have_those_of_float32(
    device: torch.device, tmp_path: Path
) -> None:
    store = make_store(tmp_path, "device", device, size=224)
    (full, best), (fast, other) = (
        train(store, device, "resnet50", "bfloat16", validation_precision=name) for name in ("float32", "tf32")
    )
    assert [record.train_loss for record in fast.records] == [record.train_loss for record in full.records]
    assert all(one.valid_loss != two.valid_loss for one, two in zip(fast.records, full.records))
    assert fast.final is not None
    assert fast.final.valid_loss == full.records[other.epoch - 1].valid_loss
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
    assert best.epoch != other.epoch or not different_weights(best, other)


class Padding(torch.nn.Sequential):
    """Pads its input, of which training needs no gradient; no layer is the only way from the image to the logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(images, (1, 1, 1, 1), "reflect")
        logits: torch.Tensor = super().forward(padded)
        return logits + padded.mean()


def test_heat_maps_of_the_report_need_no_deterministic_kernel(device: torch.device) -> None:
    pytest.importorskip("captum")
    network = Padding(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).to(device)
    training: Any = SimpleNamespace(
        plan=make_plan(),
        device=device,
        prepared=SimpleNamespace(network=network, valid=range(4)),
        world_size=1,
        history=SimpleNamespace(timings=[SimpleNamespace(valid_seconds=0.001)]),
    )
    require_determinism()
    heat_maps = ReportHeatMaps(training, 1000.0)
    picture = heat_maps.jpeg(np.zeros((12, 12, 3), dtype=np.uint8), 1)
    assert (heat_maps.note, picture is None) == ("", False)
