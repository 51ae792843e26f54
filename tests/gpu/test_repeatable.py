"""The same seed gives the same bits on the same GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.gpu.runs import different_weights, make_store, train

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
