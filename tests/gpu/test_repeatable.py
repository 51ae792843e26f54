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
