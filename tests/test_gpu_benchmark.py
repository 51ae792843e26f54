"""What `make gpu` decides before it runs."""

from __future__ import annotations

import os

import pytest
import torch

from benchmarks import gpu


@pytest.mark.parametrize(
    ("num_cores", "free_gib", "expected"), [(64, 80, 6), (4, 80, 2), (64, 15.5, 1), (64, 40, 5), (1, 80, 1), (64, 2, 1)]
)
def test_no_more_processes_test_than_cores_and_gpu_memory_allow(
    num_cores: int, free_gib: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(num_cores)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free_gib * 2**30), 80 * 2**30))
    assert gpu._num_workers() == expected
