"""Settings of PyTorch that a training changes in its process."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch

from train_pytorch_model.distributed.device import nondeterminism_allowed, torch_settings_restored
from train_pytorch_model.distributed.launch import Launch
from train_pytorch_model.distributed.rendezvous import connected


def settings() -> dict[str, Any]:
    """What a program may rely on staying the same."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": torch.backends.cudnn.benchmark,
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        "threads": torch.get_num_threads(),
        "variables": dict(os.environ),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
    }


@pytest.fixture
def unusual() -> Any:
    """Settings that differ from those of a training."""
    with torch_settings_restored():
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        yield


@pytest.mark.usefixtures("unusual")
@pytest.mark.parametrize("error", [None, RuntimeError("of the training")])
def test_settings_are_restored(error: Exception | None) -> None:
    before = settings()
    try:
        with torch_settings_restored(), connected(Launch(), print):
            assert torch.are_deterministic_algorithms_enabled()
            torch.set_num_threads(torch.get_num_threads() + 1)
            torch.manual_seed(1)
            random.seed(1)
            np.random.seed(1)
            os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"
            assert all(settings()[name] != value for name, value in before.items() if name != "fill")
            if error:
                raise error
    except RuntimeError:
        pass
    assert settings() == before


@pytest.mark.usefixtures("unusual")
@pytest.mark.parametrize(("is_on", "is_warn_only"), [(False, False), (True, False), (True, True)])
def test_operators_without_a_deterministic_kernel_are_errors_again_after_a_block_that_allows_them(
    is_on: bool, is_warn_only: bool
) -> None:
    torch.use_deterministic_algorithms(is_on, warn_only=is_warn_only)
    before = settings()
    inside: list[object] = []

    @nondeterminism_allowed()
    def fail() -> None:
        inside.extend(settings()[name] for name in ("deterministic", "warn only"))
        raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        fail()
    assert inside == [True, True]
    assert settings() == before
